"""The masked transformer of Phenaki's second stage (arXiv 2210.02399, section 2.2; MaskGIT, arXiv 2202.04200)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.attention import kernel, project
from phenaki_jax.layers.positions import GridPositions
from phenaki_jax.layers.transformer import Stack
from phenaki_jax.models.t5 import T5Config, T5Encoder


@dataclasses.dataclass(frozen=True)
class MaskGITConfig:
    """Sizes of a generator.

    codebook_size: of its tokenizer; the id codebook_size itself is the mask.
    grid: (T, H, W) of the clips it is trained on.
    text_dim: width of the text embeddings; 0 for a model without text.
    levels: of an FSQ tokenizer: codes are embedded and scored by the sum of what their digits say and a part of their
      own, so that what is learned of a code reaches its neighbours; () for codes without structure.
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
    attention: str = "full"
    dropout: float = 0.0
    qk_norm: bool = False
    unroll: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        if self.attention not in ("full", "factorised"):
            raise UserError(f"generator.attention={self.attention!r} is unknown; it is one of full, factorised")
        if self.heads < 1 or self.embed_dim % (2 * self.heads):
            raise UserError(f"generator.embed_dim={self.embed_dim} is no multiple of twice "
                            f"generator.heads={self.heads}; make it one")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"generator.dtype={self.dtype!r} is unknown; it is one of float32, bfloat16")


def code_digits(levels: tuple[int, ...]) -> np.ndarray:
    """Which digits each FSQ code has: float32 [V, sum of levels], a one in the place of each channel's digit."""
    codes, columns, base = np.arange(np.prod(levels)), [], 1
    for level in levels:
        columns.append(np.eye(level, dtype=np.float32)[codes // base % level])
        base *= level
    return np.concatenate(columns, axis=1)


class MaskGIT(nnx.Module):
    """Bidirectional over all tokens, with cross-attention to text: tokens with masks -> logits for every token.

    A learned null vector is prepended to the text; where the text is dropped it is all that can be attended to, which
    is the unconditional model that guidance needs.
    """

    def __init__(self, config: MaskGITConfig, *, rngs: nnx.Rngs):
        self.config = config
        V, D, E = config.codebook_size, config.embed_dim, config.text_dim
        normal = nnx.initializers.normal
        self.embedding = nnx.Param(normal(0.05)(rngs.params(), (V + 1, D)), axes=("vocab", "embed"))
        self.digit_embedding = self._digits(0.05, rngs) if config.levels else None
        self.digit_head = self._digits(D ** -0.5, rngs) if config.levels else None
        self.positions = GridPositions(config.grid, D, rngs=rngs)
        self.null = nnx.Param(normal(1.0)(rngs.params(), (1, E)), axes=(None, "embed")) if E else None
        self.stack = Stack(config.layers, D, config.heads, config.mlp_dim, context_dim=E or None,
                           factorised=config.attention == "factorised", qk_norm=config.qk_norm,
                           dropout_rate=config.dropout, unroll=config.unroll, remat=config.remat, rngs=rngs)
        self.head = kernel(rngs, (D, V), ("embed", "vocab"))
        self.head_bias = nnx.Param(jnp.zeros((V,)), axes=("vocab",))

    def _digits(self, std: float, rngs: nnx.Rngs) -> nnx.Param:
        shape = (sum(self.config.levels), self.config.embed_dim)
        return nnx.Param(std * jax.random.normal(rngs.params(), shape), axes=(None, "embed"))

    @property
    def mask_id(self) -> int:
        return self.config.codebook_size

    def __call__(self, tokens_BTHW: jax.Array, text_BPE: jax.Array | None = None,
                 text_mask_BP: jax.Array | None = None, *, key: jax.Array | None = None) -> jax.Array:
        """Logits float32 [B, T, H, W, V].

        Args:
          tokens_BTHW: int32; `mask_id` where a token is to be predicted. T, H, W up to those of config.grid; an image
            has T = 1.
          text_BPE: text embeddings. text_mask_BP: boolean, True where a text position counts; all False drops it.
          key: turns dropout on.
        """
        config, grid = self.config, tokens_BTHW.shape[1:]
        B = tokens_BTHW.shape[0]
        embedding_UD, head_DV = self.embedding[...], self.head[...]
        if config.levels:
            digits_VL = code_digits(config.levels)
            embedding_UD = embedding_UD.at[:-1].add(digits_VL @ self.digit_embedding[...])
            head_DV = head_DV + (digits_VL @ self.digit_head[...]).T
        x = embedding_UD[tokens_BTHW] + self.positions(*grid)
        context = mask = None
        if self.null is not None:
            null_B1E = jnp.broadcast_to(self.null[...], (B, 1, config.text_dim)).astype(text_BPE.dtype)
            context = jnp.concatenate([null_B1E, text_BPE], axis=1).astype(config.dtype)
            mask = jnp.concatenate([jnp.ones((B, 1), bool), text_mask_BP], axis=1)[:, None, None, :]
        x = self.stack(x.reshape(B, -1, config.embed_dim).astype(config.dtype), context_BPE=context,
                       context_mask=mask, grid=grid, key=key)
        logits = project(x, head_DV)
        return (logits.astype(jnp.float32) + self.head_bias[...]).reshape(B, *grid, -1)


class Generator(nnx.Module):
    """A text encoder, trained along or absent, and the masked transformer over its embeddings."""

    def __init__(self, config: MaskGITConfig, text: T5Config | None, *, rngs: nnx.Rngs):
        self.text = T5Encoder(text, rngs=rngs) if text is not None else None
        self.transformer = MaskGIT(config, rngs=rngs)

    def embed(self, text: jax.Array) -> jax.Array:
        """Ids int32 [B, P] -> embeddings [B, P, E]; embeddings of a pretrained encoder pass as they are."""
        return self.text(text) if self.text is not None else text
