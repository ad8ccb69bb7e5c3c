"""The masked transformer of Phenaki's second stage (arXiv 2210.02399, section 2.2; MaskGIT, arXiv 2202.04200)."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.positions import GridPositions, grid_places
from phenaki_jax.layers.products import kernel, project
from phenaki_jax.layers.transformer import Stack, check_computing, laid_out
from phenaki_jax.models.codes import split_tokens
from phenaki_jax.models.conditions import Conditions, check_conditions
from phenaki_jax.models.stem import to_patches
from phenaki_jax.models.t5 import T5Config, T5Encoder
from phenaki_jax.parallel import constrain


@dataclasses.dataclass(frozen=True)
class MaskGITConfig:
    """Sizes of a generator.

    codebook_size: of its tokenizer; the id codebook_size itself is the mask.
    grid: (T, H, W) of the clips it is trained on.
    text_dim: width of the text embeddings; 0 for a model without text.
    levels: of the digits of codes, where they have some (FSQ, LFQ, BSQ): codes are embedded and scored by the sum of
      what their digits say and a part of their own, so that what is learned of a code reaches its neighbours; else ().
    factors: of codes that are several digits of a big codebook, their sizes (LFQ's 2^18 are (512, 512)): each digit is
      embedded and predicted by itself, so no matrix is as large as the codebook; else ().
    conditions: numbers beside the text that it is told, names of `conditions.CONDITIONS`.
    group: rows and columns of tokens that share one position of the transformer, which reads and predicts them all; the
      paper's is (1, 1). Four tokens a position make it four times cheaper.
    neighbours: width in which each position also reads the tokens around its group, one place further in time, rows
      and columns; 0 for none. What continues or repeats a neighbour is then a linear map, not a thing to search for.
    rotary: turn queries and keys by their place in time, rows and columns, beside the learned positions.
    attention: 'full' over all tokens (the paper), or 'factorised' in space and time.
    unroll, remat, attention_block: how layers are computed, as of a `CViViTConfig`.
    """
    codebook_size: int
    grid: tuple[int, int, int]
    text_dim: int
    levels: tuple[int, ...] = ()
    factors: tuple[int, ...] = ()
    conditions: tuple[str, ...] = ()
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
    remat: str = "none"
    attention_block: int = 512
    dtype: str = "float32"

    def __post_init__(self):
        check_computing("generator", self.remat, self.attention_block)
        check_conditions(self.conditions)
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

    @property
    def digits(self) -> tuple[int, ...]:
        """Sizes of the digits that are predicted: one, the codebook's size, but for `factors`."""
        return self.factors or (self.codebook_size,)

    @property
    def is_told(self) -> bool:
        """Whether there is something beside the tokens, text or conditions, that guidance can weigh."""
        return bool(self.text_dim or self.conditions)


def code_digits(levels: tuple[int, ...]) -> np.ndarray:
    """Which digits each code has: float32 [V, sum of levels], a one in the place of each channel's digit."""
    codes, columns, base = np.arange(np.prod(levels)), [], 1
    for level in levels:
        columns.append(np.eye(level, dtype=np.float32)[codes // base % level])
        base *= level
    return np.concatenate(columns, axis=1)


def split_logits(logits: jax.Array, digits: tuple[int, ...]) -> list[jax.Array]:
    """Logits [..., sum of digits] -> those of each digit, [..., size]."""
    return jnp.split(logits, np.cumsum(digits)[:-1], axis=-1)


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

    def lookup(self, tokens: jax.Array) -> jax.Array:
        """int32 [..., slots] -> [..., slots, K]."""
        return constrain(self(), None, "vocab", "features")[np.arange(tokens.shape[-1]), tokens]


def surroundings(x_BTHWK: jax.Array, group: tuple[int, int]) -> jax.Array:
    """What each group of tokens has in and around it, one place further in time, rows and columns; zeros outside.

    [B, T, H, W, K] -> [B, T, H / rows, W / columns, 3 (rows + 2) (columns + 2) K].
    """
    (_, T, H, W, _), (rows, columns) = x_BTHWK.shape, group
    x = jnp.pad(x_BTHWK, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([x[:, t:t + T, y:y + H:rows, z:z + W:columns]
                            for t, y, z in np.ndindex(3, rows + 2, columns + 2)], axis=-1)


class FactorTable(nnx.Module):
    """Vectors of codes that are digits, for codebooks too large for a table: the sum of one vector a digit.

    The id after the last code is the mask, with a vector of its own.
    """

    def __init__(self, slots: int, factors: tuple[int, ...], features: int, std: float, *, rngs: nnx.Rngs):
        self.factors, self.size = factors, int(np.prod(factors))
        self.own = nnx.Param(std * jax.random.normal(rngs.params(), (slots, sum(factors) + 1, features)),
                             axes=(None, "vocab", "embed"))

    def lookup(self, tokens: jax.Array) -> jax.Array:
        """int32 [..., slots] -> [..., slots, K]."""
        table, slots = constrain(self.own[...], None, "vocab", "features"), np.arange(tokens.shape[-1])
        first = np.cumsum((0, *self.factors[:-1]))
        digits = split_tokens(jnp.where(tokens < self.size, tokens, 0), self.factors) + first
        vectors = jnp.sum(table[slots[:, None], digits], axis=-2)
        return jnp.where((tokens < self.size)[..., None], vectors, table[slots, -1])


class Reading(NamedTuple):
    """What a transformer over tokens is told beside them, made once for many calls; None for what it is never told.

    keys, values [layers, B, 1 + P, H, K] and mask, boolean [B, 1 + P]: of the text, for every layer. The first position
    is the null vector, which always counts. conditions [B, D]: what is added to every position.
    """
    keys: jax.Array | None
    values: jax.Array | None
    mask: jax.Array | None
    conditions: jax.Array | None

    def nothing(self) -> "Reading":
        """The same rows told nothing."""
        return self._replace(mask=None if self.mask is None else self.mask.at[:, 1:].set(False),
                             conditions=None if self.conditions is None else jnp.zeros_like(self.conditions))

    @classmethod
    def join(cls, parts: Sequence["Reading"]) -> "Reading":
        """The rows of all parts, one part after the other."""
        return cls(*(None if values[0] is None else jnp.concatenate(values, axis)
                     for values, axis in zip(zip(*parts), (1, 1, 0, 0))))


class TokenTransformer(nnx.Module):
    """Bidirectional over all tokens of a grid, with cross-attention to text; conditions are added to every position.

    A learned null vector is prepended to the text; where the text is dropped it is all that can be attended to, which
    is the unconditional model that guidance needs.
    """

    def __init__(self, config: MaskGITConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, E, K = config.embed_dim, config.text_dim, config.neighbours
        (T, H, W), (rows, columns) = config.grid, config.group
        self.embedding = self._table(rows * columns, D, 0.05, rngs)
        self.near = self._table(1, K, 0.3, rngs) if K else None
        self.read_near = kernel(rngs, (3 * (rows + 2) * (columns + 2) * K, D), ("joined_kv", "embed")) if K else None
        self.positions = GridPositions((T, H // rows, W // columns), D, rngs=rngs)
        self.null = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (1, E)), axes=(None, "embed")) if E else None
        self.conditions = Conditions(config.conditions, D, rngs=rngs) if config.conditions else None
        self.stack = Stack(config.layers, D, config.heads, config.mlp_dim, context_dim=E or None,
                           factorised=config.attention == "factorised", qk_norm=config.qk_norm,
                           dropout_rate=config.dropout, unroll=config.unroll, remat=config.remat,
                           block=config.attention_block, rngs=rngs)

    def _table(self, slots: int, features: int, std: float, rngs: nnx.Rngs) -> "CodeTable | FactorTable":
        config = self.config
        if config.factors:
            return FactorTable(slots, config.factors, features, std, rngs=rngs)
        return CodeTable(slots, config.codebook_size + 1, config.levels, features, std, rngs=rngs)

    @property
    def mask_id(self) -> int:
        return self.config.codebook_size

    def read(self, text_BPE: jax.Array | None, text_mask_BP: jax.Array | None,
             conditions_BN: jax.Array | None = None) -> Reading | None:
        """What `features` wants of a text and conditions, to be made once for many calls; None where there are neither.

        Args:
          text_BPE: text embeddings; None for a model without text.
          text_mask_BP: boolean, True where a text position counts; all False drops it.
          conditions_BN: float32, in the order of config.conditions, NaN where nothing is said; by default nothing is.
        """
        keys = values = mask = vector = None
        if self.null is not None:
            null_B1E = jnp.broadcast_to(self.null[...][None], (text_BPE.shape[0], 1, self.config.text_dim))
            context = jnp.concatenate([null_B1E.astype(text_BPE.dtype), text_BPE], axis=1)
            keys, values = self.stack.read(context.astype(self.config.dtype))
            mask = jnp.pad(text_mask_BP, ((0, 0), (1, 0)), constant_values=True)
        if self.conditions is not None:
            if conditions_BN is None:
                conditions_BN = jnp.full((text_BPE.shape[0], len(self.config.conditions)), jnp.nan)
            vector = self.conditions(conditions_BN)
        return Reading(keys, values, mask, vector) if self.config.is_told else None

    def features(self, tokens_BTHW: jax.Array, told: Reading | None = None, *,
                 key: jax.Array | None = None) -> jax.Array:
        """[B, positions, D]; a position is a group of tokens.

        Args:
          tokens_BTHW: int32; `mask_id` where a token is unknown. T, H, W up to those of config.grid; an image has
            T = 1.
          told: what `read` made of text and conditions.
          key: turns dropout on.
        """
        config, (B, T, H, W) = self.config, tokens_BTHW.shape
        rows, columns = config.group
        grid, D = (T, H // rows, W // columns), config.embed_dim
        groups_BTHWG = to_patches(tokens_BTHW[..., None], (1, rows, columns))
        x = jnp.sum(self.embedding.lookup(groups_BTHWG), axis=-2) + self.positions(*grid)
        if self.near is not None:
            near = self.near.lookup(tokens_BTHW[..., None])[..., 0, :]
            x = x + project(surroundings(near, config.group), self.read_near)
        context = mask = None
        if told is not None and told.keys is not None:
            context, mask = told[:2], told.mask[:, None, None, :]
        if told is not None and told.conditions is not None:
            x = x + told.conditions[:, None, None, None, :]
        places = grid_places(grid[1:] if config.attention == "factorised" else grid)
        x = laid_out(x.reshape(B, -1, D).astype(config.dtype))
        return self.stack(x, context=context, context_mask=mask, grid=grid,
                          positions_S=jnp.asarray(places) if config.rotary else None, key=key)

    def ungroup(self, x: jax.Array, grid: tuple[int, int, int]) -> jax.Array:
        """What is said of groups [B, positions, G n] -> of their tokens [B, T, H, W, n]."""
        (T, H, W), (rows, columns) = grid, self.config.group
        x = x.reshape(x.shape[0], T, H // rows, W // columns, rows, columns, -1).transpose(0, 1, 2, 4, 3, 5, 6)
        return x.reshape(x.shape[0], T, H, W, -1)


class MaskGIT(TokenTransformer):
    """Tokens with masks -> logits for every token."""

    def __init__(self, config: MaskGITConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        slots, V, D = int(np.prod(config.group)), sum(config.digits), config.embed_dim
        self.head = CodeTable(slots, V, config.levels, D, D ** -0.5, rngs=rngs)
        self.head_bias = nnx.Param(jnp.zeros((slots, V)), axes=(None, "vocab"))

    def __call__(self, tokens_BTHW: jax.Array, told: Reading | None = None, *,
                 key: jax.Array | None = None) -> jax.Array:
        """Logits float32 [B, T, H, W, V]; those of the digits in a row where codes have `factors` (V is their sum).

        Arguments as of `features`.
        """
        x = self.features(tokens_BTHW, told, key=key)
        logits = project(x, self.head().reshape(-1, x.shape[-1]).T).astype(jnp.float32)
        logits = constrain(logits + self.head_bias[...].reshape(-1), "batch", "length", "vocab")
        return self.ungroup(logits, tokens_BTHW.shape[1:])


class Critic(TokenTransformer):
    """Complete tokens -> for every token a logit of its being a model's and not the data's.

    Token-Critic (arXiv 2209.04439): what decides in sampling which tokens stay, in place of the generator's confidence.
    """

    def __init__(self, config: MaskGITConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        slots = int(np.prod(config.group))
        self.head = kernel(rngs, (config.embed_dim, slots), ("embed", None))
        self.head_bias = nnx.Param(jnp.zeros((slots,)), axes=(None,))

    def __call__(self, tokens_BTHW: jax.Array, told: Reading | None = None, *,
                 key: jax.Array | None = None) -> jax.Array:
        """float32 [B, T, H, W]. Arguments as of `features`."""
        x = self.features(tokens_BTHW, told, key=key)
        logits = project(x, self.head).astype(jnp.float32) + self.head_bias[...]
        return self.ungroup(logits, tokens_BTHW.shape[1:])[..., 0]


class Generator(nnx.Module):
    """A text encoder, trained along or absent, and the masked transformer over its embeddings."""

    def __init__(self, config: MaskGITConfig, text: T5Config | None, *, rngs: nnx.Rngs):
        self.text = T5Encoder(text, rngs=rngs) if text is not None else None
        self.transformer = MaskGIT(config, rngs=rngs)

    def embed(self, text: jax.Array | None) -> jax.Array | None:
        """Ids int32 [B, P], or embeddings [B, P, E] of a pretrained encoder -> embeddings."""
        return self.text(text) if self.text is not None else text

    def read(self, text: jax.Array | None, mask_BP: jax.Array | None,
             conditions_BN: jax.Array | None = None) -> Reading | None:
        """Text as of `embed` -> what the transformer wants of it; see `TokenTransformer.read`."""
        return self.transformer.read(self.embed(text), mask_BP, conditions_BN)
