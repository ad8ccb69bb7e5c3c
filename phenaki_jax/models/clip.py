"""CLIP (Radford et al. 2021, arXiv 2103.00020): a text and a vision transformer whose outputs share one space.

The form of Hugging Face's CLIPModel, so of ViT-B/32, B/16, L/14 and OpenCLIP's converted ones; inference, in float32.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.attention import attend
from phenaki_jax.layers.products import kernel, project
from phenaki_jax.models.clip_checkpoints import ClipCheckpoint, ClipTokenizer
from phenaki_jax.models.stem import to_patches
from phenaki_jax.models.tree import Pure, Tree

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of pixels from 0 to 1
ACTIVATIONS = {"quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x), "gelu": lambda x: jax.nn.gelu(x, False)}
LEGACY_END = 2  # what OpenAI's own files give as the id of the end, by mistake


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Sizes of one transformer; `activation` is one of ACTIVATIONS, `eps` of its layer norms."""
    width: int
    layers: int
    heads: int
    mlp_dim: int
    activation: str
    eps: float


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """`side` and `patch` in pixels; `positions`: the most ids of a text; `end`: the id whose first place stands for the
    text, or 2, where it is the place of the largest id."""
    text: TowerConfig
    vision: TowerConfig
    vocab_size: int
    positions: int
    end: int
    side: int
    patch: int
    features: int


class Linear(nnx.Module):
    """x times a matrix, plus a bias."""

    def __init__(self, fan_in: int, fan_out: int, axes: tuple[str, str], *, rngs: nnx.Rngs):
        self.kernel = kernel(rngs, (fan_in, fan_out), axes)
        self.bias = nnx.Param(jnp.zeros((fan_out,)), axes=axes[1:])

    def __call__(self, x: jax.Array) -> jax.Array:
        return project(x, self.kernel) + self.bias[...]


class LayerNorm(nnx.Module):
    """(x - mean) / deviation * scale + bias over the last axis."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones((width,)), axes=("embed",))
        self.bias = nnx.Param(jnp.zeros((width,)), axes=("embed",))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps) * self.scale[...] + self.bias[...]


class Layer(nnx.Module):
    """x + attention(norm x), then x + mlp(norm x), all with biases."""

    def __init__(self, config: TowerConfig, *, rngs: nnx.Rngs):
        self.config, width = config, config.width
        self.attention_norm = LayerNorm(width, config.eps)
        for name in ("query", "key", "value"):
            setattr(self, name, Linear(width, width, ("embed", "joined_kv"), rngs=rngs))
        self.out = Linear(width, width, ("joined_kv", "embed"), rngs=rngs)
        self.mlp_norm = LayerNorm(width, config.eps)
        self.wi = Linear(width, config.mlp_dim, ("embed", "mlp"), rngs=rngs)
        self.wo = Linear(config.mlp_dim, width, ("mlp", "embed"), rngs=rngs)

    def __call__(self, x_BSD: jax.Array, mask: jax.Array | None) -> jax.Array:
        y = self.attention_norm(x_BSD)
        q, k, v = (linear(y).reshape(*y.shape[:2], self.config.heads, -1)
                   for linear in (self.query, self.key, self.value))
        x_BSD = x_BSD + self.out(attend(q, k, v, mask=mask).reshape(y.shape))
        return x_BSD + self.wo(ACTIVATIONS[self.config.activation](self.wi(self.mlp_norm(x_BSD))))


class Tower(nnx.Module):
    """The layers, whose parameters are stacked, and a last norm: [B, S, D] -> [B, S, D]."""

    def __init__(self, config: TowerConfig, *, rngs: nnx.Rngs):
        make = nnx.vmap(lambda r: Layer(config, rngs=r), transform_metadata={nnx.PARTITION_NAME: "layers"})
        self.layers = make(rngs.split(config.layers))
        self.norm = LayerNorm(config.width, config.eps)

    def __call__(self, x_BSD: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        graphdef, params = nnx.split(self.layers)
        return self.norm(jax.lax.scan(lambda x, layer: (nnx.merge(graphdef, layer)(x, mask), None), x_BSD, params)[0])


class ClipText(nnx.Module):
    """Texts as unit vectors: int32 ids [B, P] of `ClipTokenizer` -> float32 [B, E]; all behind the end is unseen."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        self.end, width, normal = config.end, config.text.width, nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(normal(rngs.params(), (config.vocab_size, width)), axes=("vocab", "embed"))
        self.positions = nnx.Param(normal(rngs.params(), (config.positions, width)), axes=(None, "embed"))
        self.tower = Tower(config.text, rngs=rngs)
        self.projection = kernel(rngs, (width, config.features), ("embed", None))

    def __call__(self, ids_BP: jax.Array) -> jax.Array:
        P = ids_BP.shape[1]
        x_BPD = self.embedding[...][ids_BP] + self.positions[...][:P]
        x_BPD = self.tower(x_BPD, jnp.tril(jnp.ones((P, P), bool))[None, None])
        end_B = jnp.argmax(ids_BP if self.end == LEGACY_END else ids_BP == self.end, axis=1)
        return _unit(project(x_BPD[jnp.arange(len(ids_BP)), end_B], self.projection))


class ClipVision(nnx.Module):
    """Images as unit vectors: [N, side, side, 3] from 0 to 255 -> float32 [N, E].

    Raises:
      UserError: images of another size.
    """

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        self.side, self.patch, width, eps = config.side, config.patch, config.vision.width, config.vision.eps
        normal, places = nnx.initializers.normal(0.02), (config.side // config.patch) ** 2 + 1
        self.patches = kernel(rngs, (3 * config.patch ** 2, width), (None, "embed"))
        self.first = nnx.Param(normal(rngs.params(), (width,)), axes=("embed",))
        self.positions = nnx.Param(normal(rngs.params(), (places, width)), axes=(None, "embed"))
        self.norm = LayerNorm(width, eps)
        self.tower = Tower(config.vision, rngs=rngs)
        self.projection = kernel(rngs, (width, config.features), ("embed", None))

    def __call__(self, images_NYXC: jax.Array) -> jax.Array:
        side, patch = self.side, self.patch
        if images_NYXC.shape[1:] != (side, side, 3):
            raise UserError(f"images are {list(images_NYXC.shape[1:])}; this CLIP wants [{side}, {side}, 3]")
        x = (images_NYXC.astype(jnp.float32) / 255 - jnp.array(_MEAN)) / jnp.array(_DEVIATION)
        whole = side // patch * patch  # what is left over at the right and below is not looked at
        x_NSD = project(to_patches(x[:, None, :whole, :whole], (1, patch, patch)), self.patches)
        x_NSD = x_NSD.reshape(len(x), -1, x_NSD.shape[-1])
        first_N1D = jnp.broadcast_to(self.first[...], (len(x), 1, x_NSD.shape[-1]))
        x_NSD = self.norm(jnp.concatenate([first_N1D, x_NSD], axis=1) + self.positions[...])
        return _unit(project(self.tower(x_NSD)[:, 0], self.projection))


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


class LoadedClip(NamedTuple):
    """A pretrained CLIP: both networks as pure functions with their parameters on the host, and the tokenizer.

    The scalar product of what `text` and `vision` give is how well a text and an image fit, from -1 to 1.
    """
    config: ClipConfig
    tokenizer: ClipTokenizer
    text: Pure
    text_params: Tree
    vision: Pure
    vision_params: Tree


def load_clip(folder: str | Path) -> LoadedClip:
    """CLIP from a folder of Hugging Face's: config.json, model.safetensors, and tokenizer.json or vocab.json and
    merges.txt. Nothing is ever downloaded.

    Raises:
      UserError: no such folder, a file is missing, or it is one of another model.
    """
    checkpoint = ClipCheckpoint(Path(folder))
    sizes = dict(checkpoint.sizes)
    for tower in ("text", "vision"):
        sizes[tower] = TowerConfig(**sizes[tower])
        if (activation := sizes[tower].activation) not in ACTIVATIONS:
            raise UserError(f"{checkpoint.folder / 'config.json'} has hidden_act={activation!r}; it has to be one of "
                            f"{', '.join(ACTIVATIONS)}")
    config, parts = ClipConfig(**sizes), []
    for kind, make in (("text", ClipText), ("vision", ClipVision)):
        pure = Pure(lambda rngs, make=make: make(config, rngs=rngs), config)

        def read(keys, leaf, kind=kind) -> np.ndarray:
            return checkpoint.array(kind, tuple(key.key for key in keys), leaf.shape)

        parts += [pure, jax.tree_util.tree_map_with_path(read, jax.eval_shape(pure.init, jax.random.key(0))[0])]
    return LoadedClip(config, checkpoint.tokenizer(config.positions), *parts)
