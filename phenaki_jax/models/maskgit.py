"""The masked transformer of Phenaki's second stage (arXiv 2210.02399, section 2.2; MaskGIT, arXiv 2202.04200)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.positions import GridPositions, grid_places
from phenaki_jax.layers.products import kernel, project
from phenaki_jax.layers.transformer import Stack
from phenaki_jax.models.stem import to_patches
from phenaki_jax.models.t5 import T5Config, T5Encoder


@dataclasses.dataclass(frozen=True)
class MaskGITConfig:
    """Sizes of a generator.

    codebook_size: of its tokenizer; the id codebook_size itself is the mask.
    grid: (T, H, W) of the clips it is trained on.
    text_dim: width of the text embeddings; 0 for a model without text.
    levels: of the digits of codes, where they have some (FSQ, LFQ, BSQ): codes are embedded and scored by the sum of
      what their digits say and a part of their own, so that what is learned of a code reaches its neighbours; else ().
    group: rows and columns of tokens that share one position of the transformer, which reads and predicts them all; the
      paper's is (1, 1). Four tokens a position make it four times cheaper.
    neighbours: width in which each position also reads the tokens around its group, one place further in time, rows
      and columns; 0 for none. What continues or repeats a neighbour is then a linear map, not a thing to search for.
    rotary: turn queries and keys by their place in time, rows and columns, beside the learned positions.
    attention: 'full' over all tokens (the paper), or 'factorised' in space and time.
    """
    codebook_size: int
    grid: tuple[int, int, int]
    text_dim: int
    levels: tuple[int, ...] = ()
    embed_dim: int = 2048
    layers: int = 24
    heads: int = 32
    mlp_dim: int = 8192
    group: tuple[int, int] = (1, 1)
    neighbours: int = 0
    rotary: bool = False
    attention: str = "full"
    dropout: float = 0.0
    qk_norm: bool = False
    unroll: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        if self.attention not in ("full", "factorised"):
            raise UserError(f"generator.attention={self.attention!r} is unknown; it is one of full, factorised")
        if len(self.group) != 2 or min(self.group) < 1 or self.grid[1] % self.group[0] or self.grid[2] % self.group[1]:
            raise UserError(f"generator.group={self.group} must be rows and columns that divide the "
                            f"{self.grid[1]} x {self.grid[2]} tokens of a latent step")
        if self.neighbours < 0:
            raise UserError(f"generator.neighbours={self.neighbours} must be a width, or 0 for none")
        if self.heads < 1 or self.embed_dim % (2 * self.heads):
            raise UserError(f"generator.embed_dim={self.embed_dim} is no multiple of twice "
                            f"generator.heads={self.heads}; make it one")
        if self.rotary and self.embed_dim // self.heads < 6:
            raise UserError(f"generator.heads={self.heads} leaves {self.embed_dim // self.heads} features a head; "
                            "generator.rotary needs 6, a pair for each of time, rows and columns")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"generator.dtype={self.dtype!r} is unknown; it is one of float32, bfloat16")


def code_digits(levels: tuple[int, ...]) -> np.ndarray:
    """Which digits each code has: float32 [V, sum of levels], a one in the place of each channel's digit."""
    codes, columns, base = np.arange(np.prod(levels)), [], 1
    for level in levels:
        columns.append(np.eye(level, dtype=np.float32)[codes // base % level])
        base *= level
    return np.concatenate(columns, axis=1)


class CodeTable(nnx.Module):
    """Vectors of codes, [slots, size, K], with what their digits say where they have digits.

    slots: tables side by side, one for each token of a group. size: codes, and the mask where it needs a vector too.
    """

    def __init__(self, slots: int, size: int, levels: tuple[int, ...], features: int, std: float, *, rngs: nnx.Rngs):
        self.levels = levels
        self.own = nnx.Param(std * jax.random.normal(rngs.params(), (slots, size, features)),
                             axes=(None, "vocab", "embed"))
        self.digits = nnx.Param(std * jax.random.normal(rngs.params(), (slots, sum(levels), features)),
                                axes=(None, None, "embed")) if levels else None

    def __call__(self) -> jax.Array:
        if self.digits is None:
            return self.own[...]
        digits_VL = code_digits(self.levels)
        return self.own[...].at[:, :len(digits_VL)].add(digits_VL @ self.digits[...])


def surroundings(x_BTHWK: jax.Array, group: tuple[int, int]) -> jax.Array:
    """What each group of tokens has in and around it, one place further in time, rows and columns; zeros outside.

    [B, T, H, W, K] -> [B, T, H / rows, W / columns, 3 (rows + 2) (columns + 2) K].
    """
    (_, T, H, W, _), (rows, columns) = x_BTHWK.shape, group
    x = jnp.pad(x_BTHWK, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([x[:, t:t + T, y:y + H:rows, z:z + W:columns]
                            for t, y, z in np.ndindex(3, rows + 2, columns + 2)], axis=-1)


class Text(NamedTuple):
    """What every layer of a MaskGIT reads of a text: keys, values [layers, B, 1 + P, H, K]; mask, boolean [B, 1 + P].

    The first position is the null vector, which always counts.
    """
    keys: jax.Array
    values: jax.Array
    mask: jax.Array


class MaskGIT(nnx.Module):
    """Bidirectional over all tokens, with cross-attention to text: tokens with masks -> logits for every token.

    A learned null vector is prepended to the text; where the text is dropped it is all that can be attended to, which
    is the unconditional model that guidance needs.
    """

    def __init__(self, config: MaskGITConfig, *, rngs: nnx.Rngs):
        self.config = config
        V, D, E, K = config.codebook_size, config.embed_dim, config.text_dim, config.neighbours
        (T, H, W), (rows, columns) = config.grid, config.group
        tables = dict(levels=config.levels, rngs=rngs)
        self.embedding = CodeTable(rows * columns, V + 1, features=D, std=0.05, **tables)
        self.near = CodeTable(1, V + 1, features=K, std=0.3, **tables) if K else None
        self.read_near = kernel(rngs, (3 * (rows + 2) * (columns + 2) * K, D), ("joined_kv", "embed")) if K else None
        self.positions = GridPositions((T, H // rows, W // columns), D, rngs=rngs)
        self.null = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (1, E)), axes=(None, "embed")) if E else None
        self.stack = Stack(config.layers, D, config.heads, config.mlp_dim, context_dim=E or None,
                           factorised=config.attention == "factorised", qk_norm=config.qk_norm,
                           dropout_rate=config.dropout, unroll=config.unroll, remat=config.remat, rngs=rngs)
        self.head = CodeTable(rows * columns, V, features=D, std=D ** -0.5, **tables)
        self.head_bias = nnx.Param(jnp.zeros((rows * columns, V)), axes=(None, "vocab"))

    @property
    def mask_id(self) -> int:
        return self.config.codebook_size

    def read(self, text_BPE: jax.Array, text_mask_BP: jax.Array) -> Text | None:
        """What `__call__` wants of a text, to be made once for many calls; None for a model without text.

        Args:
          text_BPE: text embeddings. text_mask_BP: boolean, True where a text position counts; all False drops it.
        """
        if self.null is None:
            return None
        B = len(text_BPE)
        null_B1E = jnp.broadcast_to(self.null[...], (B, 1, self.config.text_dim)).astype(text_BPE.dtype)
        context = jnp.concatenate([null_B1E, text_BPE], axis=1).astype(self.config.dtype)
        return Text(*self.stack.read(context), jnp.concatenate([jnp.ones((B, 1), bool), text_mask_BP], axis=1))

    def __call__(self, tokens_BTHW: jax.Array, text: Text | None = None, *, key: jax.Array | None = None) -> jax.Array:
        """Logits float32 [B, T, H, W, V].

        Args:
          tokens_BTHW: int32; `mask_id` where a token is to be predicted. T, H, W up to those of config.grid; an image
            has T = 1.
          text: what `read` made of it.
          key: turns dropout on.
        """
        config, (B, T, H, W) = self.config, tokens_BTHW.shape
        rows, columns = config.group
        grid, slots, D = (T, H // rows, W // columns), np.arange(rows * columns), config.embed_dim
        groups_BTHWG = to_patches(tokens_BTHW[..., None], (1, rows, columns))
        x = jnp.sum(self.embedding()[slots, groups_BTHWG], axis=-2) + self.positions(*grid)
        if self.near is not None:
            x = x + project(surroundings(self.near()[0][tokens_BTHW], config.group), self.read_near)
        context, mask = (None, None) if text is None else (text[:2], text.mask[:, None, None, :])
        places = grid_places(grid[1:] if config.attention == "factorised" else grid)
        x = self.stack(x.reshape(B, -1, D).astype(config.dtype), context=context, context_mask=mask, grid=grid,
                       positions_S=jnp.asarray(places) if config.rotary else None, key=key)
        head_DN = self.head().reshape(-1, D).T
        logits = project(x, head_DN).astype(jnp.float32) + self.head_bias[...].reshape(-1)
        logits = logits.reshape(B, *grid, rows, columns, -1).transpose(0, 1, 2, 4, 3, 5, 6)
        return logits.reshape(B, T, H, W, -1)


class Generator(nnx.Module):
    """A text encoder, trained along or absent, and the masked transformer over its embeddings."""

    def __init__(self, config: MaskGITConfig, text: T5Config | None, *, rngs: nnx.Rngs):
        self.text = T5Encoder(text, rngs=rngs) if text is not None else None
        self.transformer = MaskGIT(config, rngs=rngs)

    def read(self, text: jax.Array, mask_BP: jax.Array) -> Text | None:
        """Ids int32 [B, P], or embeddings [B, P, E] of a pretrained encoder -> what the transformer wants of them."""
        return self.transformer.read(self.text(text) if self.text is not None else text, mask_BP)
