"""T5's encoder (arXiv 1910.10683): relative position biases, RMS norms, no biases, unscaled attention."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.transformer import Stack
from phenaki_jax.models.t5_checkpoints import T5Checkpoint
from phenaki_jax.models.tree import Pure, Tree
from phenaki_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of a T5 encoder. `vocab_size` is 384 for ByT5's ids; 1.1 and later gate their MLP with a gelu.

    local: the bias, before training, of head h for the key h places before its query; 0 for T5's random biases. An
      encoder over bytes must first put letters together, and with 6 it begins by doing so: it reads captions of the
      sprite world after a quarter of the steps (docs/results/quickstart.md).
    """
    vocab_size: int = 384
    embed_dim: int = 128
    layers: int = 2
    heads: int = 4
    head_dim: int = 32
    mlp_dim: int = 256
    gated: bool = True
    activation: str = "gelu"
    buckets: int = 32
    max_distance: int = 128
    local: float = 0.0
    unroll: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        if self.local and self.heads > self.buckets // 4:
            raise UserError(f"text.local={self.local} wants a distance of its own for each of text.heads={self.heads}; "
                            f"text.buckets={self.buckets} has {self.buckets // 4}")


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """T5's bidirectional bucket of each (query, key) pair: int32 [length, length].

    Half of the buckets are for keys after the query; near distances have one each, far ones share by their logarithm.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    away = np.abs(distance)
    spread = np.log(np.maximum(away, 1) / exact) / np.log(max_distance / exact) * (half - exact)
    far = np.minimum(exact + spread.astype(np.int32), half - 1)
    return (half * (distance > 0) + np.where(away < exact, away, far)).astype(np.int32)


class T5Encoder(nnx.Module):
    """Token ids int32 [B, P], 0 = padding -> embeddings [B, P, E].

    What stands at the places of padding means nothing. A call is compiled, once a shape of ids.
    """

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        normal = nnx.initializers.normal
        self.embedding = nnx.Param(normal(1.0)(rngs.params(), (config.vocab_size, config.embed_dim)),
                                   axes=("vocab", "embed"))
        bias = normal(0.3)(rngs.params(), (config.buckets, config.heads))
        if config.local:
            bias = config.local * jnp.eye(config.buckets, config.heads)  # bucket h is the key h places back
        self.relative_bias = nnx.Param(bias, axes=(None, "heads"))
        self.stack = Stack(config.layers, config.embed_dim, config.heads, config.mlp_dim, head_dim=config.head_dim,
                           scale=1.0, activation=getattr(jax.nn, config.activation), gated=config.gated,
                           unroll=config.unroll, rngs=rngs)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: str = "float32", mesh: jax.sharding.Mesh | None = None,
                        activation: str | None = None) -> "T5Encoder":
        """The encoder of a pretrained T5, its decoder left out.

        Args:
          path: a folder of Hugging Face's (config.json and model.safetensors, in one file or several), or a T5X
            checkpoint (arrays named target.…, or a folder of checkpoint_STEP).
          dtype: in which its parameters are kept and its activations computed, "float32" or "bfloat16" (norms and
            softmax are float32 in any case).
          mesh: lays the parameters on it by parallel/rules.py, each device's part read from the files alone.
          activation: "relu", "gated-gelu" or "gated-silu". Hugging Face's config.json says which; T5X's arrays show
            only whether the MLPs are gated, so for UL2 and Flan-UL2 "gated-silu" has to be given.

        Raises:
          UserError: no such folder, or one of another model.
        """
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        where = (lambda axes, shape: one) if mesh is None else functools.partial(sharding, mesh)
        pure, params = pretrained(path, dtype=dtype, activation=activation, where=where)
        return pure.bind(params, {})

    @jax.jit
    def __call__(self, ids_BP: jax.Array) -> jax.Array:
        config = self.config
        x_BPE = self.embedding[...][ids_BP].astype(config.dtype)
        bucket_PP = relative_buckets(ids_BP.shape[1], config.buckets, config.max_distance)
        bias_1HPP = self.relative_bias[...][bucket_PP].transpose(2, 0, 1)[None]
        return self.stack(x_BPE, mask=(ids_BP > 0)[:, None, None, :], bias=bias_1HPP)


def pretrained(path: str | Path, *, dtype: str = "float32", activation: str | None = None,
               where: Callable[[tuple, tuple[int, ...]], jax.sharding.Sharding | None] = lambda axes, shape: None,
               ) -> tuple[Pure, Tree]:
    """The encoder of a pretrained T5 as pure functions, and its parameters.

    Args:
      path, dtype, activation: as in `T5Encoder.from_pretrained`.
      where: (logical axes, shape) of a parameter -> how it is laid out; None is on the host, as NumPy's array.

    Raises:
      UserError: no such folder, or one of another model.
    """
    checkpoint = T5Checkpoint(Path(path), activation)
    config = T5Config(**checkpoint.sizes, dtype=dtype)
    pure = Pure(lambda rngs: T5Encoder(config, rngs=rngs), config)
    shapes, _ = jax.eval_shape(pure.init, jax.random.key(0))

    def read(keys, leaf, axes):
        return checkpoint.array(".".join(key.key for key in keys), leaf.shape, dtype, where(axes, leaf.shape))

    return pure, jax.tree_util.tree_map_with_path(read, shapes, pure.axes)
