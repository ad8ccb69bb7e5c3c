"""Vector quantizers, chosen by name: from vectors to tokens and back, straight-through.

Every quantizer maps [..., D] to codes of its own width, tokens int32 [...], and back; while training it returns its
loss and keeps running code counts, from which usage (share of codes in use) and perplexity are reported.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.attention import kernel, project


class CodeStatistic(nnx.Variable):
    """An array that training updates without a gradient: running code counts, a codebook kept by averages."""


@dataclasses.dataclass
class Quantized:
    """codes [..., E] with the straight-through gradient, tokens int32 [...], loss scalar, metrics by name."""
    codes: jax.Array
    tokens: jax.Array
    loss: jax.Array
    metrics: dict[str, jax.Array]


def straight_through(x: jax.Array, quantized: jax.Array) -> jax.Array:
    """The value of `quantized` with the gradient of x."""
    return x + jax.lax.stop_gradient(quantized - x)


def usage_metrics(counts_V: jax.Array) -> dict[str, jax.Array]:
    """Share of codes that a running count of 2 ** -7 or more says are in use, and exp(entropy) of the counts."""
    p = counts_V / jnp.maximum(counts_V.sum(), 1e-9)
    entropy = -jnp.sum(p * jnp.log(p + 1e-12))
    return {"codebook_usage": jnp.mean(counts_V > 2.0 ** -7), "codebook_perplexity": jnp.exp(entropy)}


def swap_codes(codes_BTHWE: jax.Array, key: jax.Array, share: float) -> jax.Array:
    """Puts codes of other places and clips of the batch where codes stood, so that a decoder learns to mend tokens.

    A generator's tokens are not all right; a decoder that has met wrong ones paints what most of them say (training
    on disturbed latents: arXiv 2507.15856). A quarter of the clips stay whole; in the others up to `share` of the
    places is swapped, uniformly.
    """
    share_key, place_key, order_key = jax.random.split(key, 3)
    share_B111 = share * jnp.maximum(jax.random.uniform(share_key, (len(codes_BTHWE), 1, 1, 1), minval=-1 / 3), 0)
    swapped_BTHW = jax.random.uniform(place_key, codes_BTHWE.shape[:-1]) < share_B111
    others_NE = jax.random.permutation(order_key, codes_BTHWE.reshape(-1, codes_BTHWE.shape[-1]))
    return jnp.where(swapped_BTHW[..., None], others_NE.reshape(codes_BTHWE.shape), codes_BTHWE)


class Quantizer(nnx.Module):
    """What all quantizers share: running counts of how often each code was chosen."""

    count_decay = 0.99

    def __init__(self, codebook_size: int):
        self.codebook_size = codebook_size
        self.counts = CodeStatistic(jnp.zeros((codebook_size,)), axes=(None,))

    def _observe(self, tokens: jax.Array) -> jax.Array:
        """Moves the running counts towards this batch's; returns the batch's counts [V]."""
        batch_V = jnp.zeros((self.codebook_size,)).at[tokens.reshape(-1)].add(1.0)
        self.counts[...] = self.count_decay * self.counts[...] + (1 - self.count_decay) * batch_V
        return batch_V

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> Quantized:
        raise NotImplementedError

    def codes(self, tokens: jax.Array) -> jax.Array:
        """The code vector of each token: int32 [...] -> [..., E]."""
        raise NotImplementedError


class FSQ(Quantizer):
    """Finite scalar quantization (arXiv 2309.15505, section 3): each of E channels is rounded to one of its levels.

    No codebook and no auxiliary loss; the codebook's size is the product of the levels.
    """

    def __init__(self, embed_dim: int, levels: tuple[int, ...], *, rngs: nnx.Rngs):
        super().__init__(int(np.prod(levels)))
        self.levels = tuple(int(level) for level in levels)
        self.project_in = kernel(rngs, (embed_dim, len(levels)), ("embed", None))
        self.project_out = kernel(rngs, (len(levels), embed_dim), (None, "embed"))

    @property
    def _basis(self) -> np.ndarray:
        return np.cumprod((1, *self.levels[:-1])).astype(np.int32)

    def _round(self, z: jax.Array) -> jax.Array:
        """Bounds each channel and rounds it to an integer in [-(L // 2), (L - 1) // 2], straight-through."""
        levels = np.asarray(self.levels, np.float32)
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)
        bounded = jnp.tanh(z + np.arctanh(offset / half)) * half - offset
        return straight_through(bounded, jnp.round(bounded))

    def __call__(self, x, *, train=False, key=None):
        rounded = self._round(project(x, self.project_in).astype(jnp.float32))
        half_width = np.asarray([level // 2 for level in self.levels], np.float32)
        digits = (rounded + half_width).astype(jnp.int32)
        tokens = jnp.sum(digits * self._basis, axis=-1, dtype=jnp.int32)
        if train:
            self._observe(tokens)
        codes = project((rounded / half_width).astype(x.dtype), self.project_out)
        return Quantized(codes, tokens, jnp.zeros(()), usage_metrics(self.counts[...]))

    def codes(self, tokens):
        digits = (tokens[..., None] // self._basis) % np.asarray(self.levels, np.int32)
        half_width = np.asarray([level // 2 for level in self.levels], np.float32)
        return project((digits - half_width) / half_width, self.project_out)


class VQ(Quantizer):
    """Factorised, l2-normalised vector quantization (ViT-VQGAN, arXiv 2110.04627, section 3.2).

    Vectors are projected to E dimensions and normalised, the nearest code is the one of largest cosine. The codebook
    follows the vectors by exponential averages; a code that is hardly ever chosen is moved onto a vector of the batch.
    """

    decay = 0.98
    dead_below = 0.02  # a running count under this share of the mean count is dead

    def __init__(self, embed_dim: int, codebook_size: int, code_dim: int, commitment: float, *, rngs: nnx.Rngs):
        super().__init__(codebook_size)
        self.commitment = commitment
        self.project_in = kernel(rngs, (embed_dim, code_dim), ("embed", None))
        self.project_out = kernel(rngs, (code_dim, embed_dim), (None, "embed"))
        table = jax.random.normal(rngs.params(), (codebook_size, code_dim))
        self.codebook = CodeStatistic(_normalise(table), axes=("vocab", None))

    def __call__(self, x, *, train=False, key=None):
        z = _normalise(project(x, self.project_in).astype(jnp.float32))
        z_NE = z.reshape(-1, z.shape[-1])
        tokens_N = jnp.argmax(z_NE @ self.codebook[...].T, axis=-1).astype(jnp.int32)
        quantized = self.codebook[...][tokens_N].reshape(z.shape)
        loss = self.commitment * jnp.mean(jnp.sum((z - jax.lax.stop_gradient(quantized)) ** 2, axis=-1))
        if train:
            self._follow(jax.lax.stop_gradient(z_NE), tokens_N, key)
        codes = project(straight_through(z, quantized).astype(x.dtype), self.project_out)
        return Quantized(codes, tokens_N.reshape(z.shape[:-1]), loss, usage_metrics(self.counts[...]))

    def _follow(self, z_NE: jax.Array, tokens_N: jax.Array, key: jax.Array) -> None:
        """One step of the codebook: averages for the codes that were chosen, revival for those that are dead."""
        batch_V = self._observe(tokens_N)
        sums_VE = jnp.zeros_like(self.codebook[...]).at[tokens_N].add(z_NE)
        rate_V1 = jnp.where(batch_V > 0, 1 - self.decay, 0.0)[:, None]
        mean_VE = sums_VE / jnp.maximum(batch_V, 1.0)[:, None]
        moved_VE = _normalise(self.codebook[...] * (1 - rate_V1) + mean_VE * rate_V1)
        counts_V = self.counts[...]
        dead_V = counts_V < self.dead_below * counts_V.mean()
        chosen_V = jax.random.randint(key, (self.codebook_size,), 0, z_NE.shape[0])
        self.codebook[...] = jnp.where(dead_V[:, None], z_NE[chosen_V], moved_VE)
        self.counts[...] = jnp.where(dead_V, counts_V.mean() * self.dead_below * 4, counts_V)

    def codes(self, tokens):
        return project(self.codebook[...][tokens], self.project_out)


def _normalise(z: jax.Array) -> jax.Array:
    return z * jax.lax.rsqrt(jnp.sum(z * z, axis=-1, keepdims=True) + 1e-12)


def make_quantizer(config, *, rngs: nnx.Rngs) -> Quantizer:
    """The quantizer that `config.quantizer` names; UserError for an unknown name or a size that does not fit."""
    if config.quantizer == "fsq":
        if int(np.prod(config.levels)) != config.codebook_size:
            raise UserError(f"tokenizer.levels={tuple(config.levels)} make {int(np.prod(config.levels))} codes; "
                            f"tokenizer.codebook_size={config.codebook_size} must be that number")
        return FSQ(config.embed_dim, config.levels, rngs=rngs)
    if config.quantizer == "vq":
        return VQ(config.embed_dim, config.codebook_size, config.code_dim, config.commitment, rngs=rngs)
    raise UserError(f"tokenizer.quantizer={config.quantizer!r} is unknown; it is one of fsq, vq")
