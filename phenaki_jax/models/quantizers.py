"""Vector quantizers, chosen by name: from vectors to tokens and back, with a gradient that passes through.

Every quantizer maps [..., D] to codes of the same width, tokens int32 [...], and back; while training it returns its
loss and keeps running code counts, from which usage (share of codes in use), perplexity and dead codes are reported.
`vq` learns its codebook; those of `fsq`, `lfq` and `bsq` are grids, whose tokens are digits and may number millions.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.products import kernel, project
from phenaki_jax.models.codes import (GRADIENTS, bit_entropies, code_bits, dead_codes, join_tokens, normalise,
                                      spherical_kmeans, split_tokens, straight_through, usage_metrics)


class CodeStatistic(nnx.Variable):
    """An array that training updates without a gradient: running code counts, a codebook kept by averages."""


@dataclasses.dataclass
class Quantized:
    """codes [..., D] whose gradient passes to the vectors, tokens int32 [...], loss scalar, metrics by name."""
    codes: jax.Array
    tokens: jax.Array
    loss: jax.Array
    metrics: dict[str, jax.Array]


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
        """The code vector of each token: int32 [...] -> [..., D]."""
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
        tokens = join_tokens((rounded + half_width).astype(jnp.int32), self.levels)
        if train:
            self._observe(tokens)
        codes = project((rounded / half_width).astype(x.dtype), self.project_out)
        return Quantized(codes, tokens, jnp.zeros(()), usage_metrics(self.counts[...]))

    def codes(self, tokens):
        half_width = np.asarray([level // 2 for level in self.levels], np.float32)
        return project((split_tokens(tokens, self.levels) - half_width) / half_width, self.project_out)


class LFQ(Quantizer):
    """Lookup-free quantization (MAGVIT-v2, arXiv 2310.05737, section 3.1): the sign of each of log2(V) channels.

    The loss is entropy_weight (E[H(q|z)] - diversity H(E[q])) + commitment E|z - code|^2, with the soft assignment
    q(c|z) = softmax over codes c of -inverse_temperature |z - c|^2: each vector is to be sure of its code, the batch is
    to use them all. Nothing here is a table: see `bit_entropies`.
    """

    def __init__(self, embed_dim: int, codebook_size: int, commitment: float, *, entropy_weight: float = 0.5,
                 diversity: float = 1.0, inverse_temperature: float = 1.0, gradient: str = "straight_through",
                 rngs: nnx.Rngs):
        super().__init__(codebook_size)
        bits = code_bits(codebook_size)
        self.levels = (2,) * bits
        self.commitment, self.gradient = commitment, gradient
        self.entropy_weight, self.diversity, self.inverse_temperature = entropy_weight, diversity, inverse_temperature
        self.project_in = kernel(rngs, (embed_dim, bits), ("embed", None))
        self.project_out = kernel(rngs, (bits, embed_dim), (None, "embed"))

    @property
    def _size(self) -> float:
        """Of each channel of a code."""
        return 1.0

    def _bound(self, z: jax.Array) -> jax.Array:
        return z

    def __call__(self, x, *, train=False, key=None):
        z = self._bound(project(x, self.project_in).astype(jnp.float32))
        tokens = join_tokens((z > 0).astype(jnp.int32), self.levels)
        quantized = self._size * jnp.where(z > 0, 1.0, -1.0)
        # |z - c|^2 of a code and of the one that differs in bit i are 4 z_i size apart; they count in sizes squared.
        logits = 4 * self.inverse_temperature * z / self._size
        sample_entropy, batch_entropy = bit_entropies(logits.reshape(-1, len(self.levels)))
        loss = self.entropy_weight * (sample_entropy - self.diversity * batch_entropy)
        loss += self.commitment * jnp.mean(jnp.sum((z - quantized) ** 2, axis=-1))
        if train:
            self._observe(tokens)
        codes = project(GRADIENTS[self.gradient](z, quantized).astype(x.dtype), self.project_out)
        metrics = {"codebook_sample_entropy": sample_entropy, "codebook_batch_entropy": batch_entropy}
        return Quantized(codes, tokens, loss, metrics | usage_metrics(self.counts[...]))

    def codes(self, tokens):
        return project(self._size * (2.0 * split_tokens(tokens, self.levels) - 1.0), self.project_out)


class BSQ(LFQ):
    """Binary spherical quantization (arXiv 2406.07548, section 4): signs of unit vectors, codes of length 1.

    As LFQ on the unit sphere, where a code is sign(z) / sqrt(L) and no further than sqrt(2 - 2 / sqrt(L)) away, so
    commitment may be 0. The soft assignment is that of vectors and codes brought to lfq's size, L |z - c|^2: else no
    vector could be sure of its code. The paper approximates H(E[q]) bit by bit; `bit_entropies` is tighter.
    """

    @property
    def _size(self) -> float:
        return len(self.levels) ** -0.5

    def _bound(self, z):
        return normalise(z)


class VQ(Quantizer):
    """Factorised, l2-normalised vector quantization (ViT-VQGAN, arXiv 2110.04627, section 3.2).

    Vectors are projected to E dimensions and normalised, the nearest code is the one of largest cosine. A code that is
    hardly ever chosen is moved onto a vector of the batch.

    codebook_update: 'ema', codes follow their vectors by exponential averages; or 'gradient', the optimizer moves them
      by E|sg(z) - code|^2, which joins the loss (VQ-VAE, arXiv 1711.00937, section 3.2).
    kmeans_start: the first batch of training sets the codebook to `spherical_kmeans` of its vectors.
    gradient: a name of GRADIENTS, how the reconstruction's gradient reaches the vectors.
    """

    decay = 0.98

    def __init__(self, embed_dim: int, codebook_size: int, code_dim: int, commitment: float, *,
                 codebook_update: str = "ema", kmeans_start: bool = False, gradient: str = "straight_through",
                 rngs: nnx.Rngs):
        super().__init__(codebook_size)
        self.commitment, self.kmeans_start, self.gradient = commitment, kmeans_start, gradient
        self.project_in = kernel(rngs, (embed_dim, code_dim), ("embed", None))
        self.project_out = kernel(rngs, (code_dim, embed_dim), (None, "embed"))
        table = normalise(jax.random.normal(rngs.params(), (codebook_size, code_dim)))
        learned = codebook_update == "gradient"
        self.codebook = (nnx.Param if learned else CodeStatistic)(table, axes=("vocab", None))
        # A loss cannot write a parameter: what moves a learned code at once, revival or k-means, is added to it.
        self.shift = CodeStatistic(jnp.zeros_like(table), axes=("vocab", None)) if learned else None

    def _table(self) -> jax.Array:
        """The code vectors as they are now, [V, E], of length 1."""
        return self.codebook[...] if self.shift is None else normalise(self.codebook[...] + self.shift[...])

    def _replace(self, chosen: jax.Array, vectors_VE: jax.Array) -> None:
        """Sets the codes for which `chosen`, which broadcasts to [V, E], is True."""
        if self.shift is None:
            self.codebook[...] = jnp.where(chosen, vectors_VE, self.codebook[...])
        else:
            learned_VE = jax.lax.stop_gradient(self.codebook[...])
            self.shift[...] = jnp.where(chosen, vectors_VE - learned_VE, self.shift[...])

    def __call__(self, x, *, train=False, key=None):
        z = normalise(project(x, self.project_in).astype(jnp.float32))
        z_NE = z.reshape(-1, z.shape[-1])
        if train and self.kmeans_start:
            self._start(jax.lax.stop_gradient(z_NE), jax.random.fold_in(key, 2))
        table_VE = self._table()
        tokens_N = jnp.argmax(z_NE @ table_VE.T, axis=-1).astype(jnp.int32)
        quantized = table_VE[tokens_N].reshape(z.shape)
        loss = self.commitment * jnp.mean(jnp.sum((z - jax.lax.stop_gradient(quantized)) ** 2, axis=-1))
        if self.shift is not None:
            loss += jnp.mean(jnp.sum((jax.lax.stop_gradient(z) - quantized) ** 2, axis=-1))
        dead = self._follow(jax.lax.stop_gradient(z_NE), tokens_N, key) if train else {}
        codes = project(GRADIENTS[self.gradient](z, quantized).astype(x.dtype), self.project_out)
        return Quantized(codes, tokens_N.reshape(z.shape[:-1]), loss, usage_metrics(self.counts[...]) | dead)

    def _start(self, z_NE: jax.Array, key: jax.Array) -> None:
        """Before anything was counted, k-means; afterwards nothing, and at no cost."""
        fresh = self.counts[...].sum() == 0
        self._replace(fresh, jax.lax.cond(fresh, lambda: spherical_kmeans(z_NE, self.codebook_size, key),
                                          lambda: jnp.zeros_like(self.codebook[...])))

    def _follow(self, z_NE: jax.Array, tokens_N: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """One step of the codebook: averages for the codes that were chosen, revival for those that are dead.

        Returns the metric of how many were dead; after it none are.
        """
        batch_V = self._observe(tokens_N)
        if self.shift is None:
            sums_VE = jnp.zeros_like(self.codebook[...]).at[tokens_N].add(z_NE)
            rate_V1 = jnp.where(batch_V > 0, 1 - self.decay, 0.0)[:, None]
            mean_VE = sums_VE / jnp.maximum(batch_V, 1.0)[:, None]
            self.codebook[...] = normalise(self.codebook[...] * (1 - rate_V1) + mean_VE * rate_V1)
        counts_V = self.counts[...]
        dead_V = dead_codes(counts_V)
        chosen_V = jax.random.randint(key, (self.codebook_size,), 0, z_NE.shape[0])
        self._replace(dead_V[:, None], z_NE[chosen_V])
        self.counts[...] = jnp.where(dead_V, 0.08 * counts_V.mean(), counts_V)
        return {"codebook_dead": jnp.sum(dead_V, dtype=jnp.float32)}

    def codes(self, tokens):
        return project(self._table()[tokens], self.project_out)


# What a config may say of each quantizer beside its sizes.
OPTIONS = {
    "fsq": (),
    "vq": ("codebook_update", "kmeans_start", "gradient"),
    "lfq": ("entropy_weight", "diversity", "inverse_temperature"),
    "bsq": ("entropy_weight", "diversity", "inverse_temperature", "gradient"),
}


def _check(config) -> None:
    for name, known in {"quantizer": OPTIONS, "codebook_update": ("ema", "gradient"), "gradient": GRADIENTS}.items():
        value = getattr(config, name, None)
        if value is not None and value not in known:
            raise UserError(f"tokenizer.{name}={value!r} is unknown; it is one of {', '.join(known)}")
    if getattr(config, "gradient", "straight_through") == "rotation" and "gradient" not in OPTIONS[config.quantizer]:
        raise UserError(f"tokenizer.gradient='rotation' turns vectors on a sphere, as vq and bsq have them; "
                        f"tokenizer.quantizer={config.quantizer!r} takes 'straight_through'")
    for name in ("entropy_weight", "diversity"):
        if getattr(config, name, 0) < 0:
            raise UserError(f"tokenizer.{name}={getattr(config, name)} must be 0 or more")
    if getattr(config, "inverse_temperature", 1) <= 0:
        raise UserError(f"tokenizer.inverse_temperature={config.inverse_temperature} must be over 0")


def make_quantizer(config, *, rngs: nnx.Rngs) -> Quantizer:
    """The quantizer that `config.quantizer` names; of its OPTIONS, those that config does not have are the defaults.

    Raises: UserError for an unknown name, a value out of range, or a size that does not fit.
    """
    _check(config)
    name, D, V = config.quantizer, config.embed_dim, config.codebook_size
    options = {option: getattr(config, option) for option in OPTIONS[name] if hasattr(config, option)}
    if name == "fsq":
        if int(np.prod(config.levels)) != V:
            raise UserError(f"tokenizer.levels={tuple(config.levels)} make {int(np.prod(config.levels))} codes; "
                            f"tokenizer.codebook_size={V} must be that number")
        return FSQ(D, config.levels, rngs=rngs)
    if name == "vq":
        return VQ(D, V, config.code_dim, config.commitment, **options, rngs=rngs)
    return {"lfq": LFQ, "bsq": BSQ}[name](D, V, config.commitment, **options, rngs=rngs)
