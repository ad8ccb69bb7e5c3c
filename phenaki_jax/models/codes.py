"""Codes and tokens as pure functions: gradients past a choice, digits, entropies, what counts say, k-means."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError


def normalise(z: jax.Array) -> jax.Array:
    """Vectors [..., E] at length 1; 0 stays 0."""
    return z * jax.lax.rsqrt(jnp.sum(z * z, axis=-1, keepdims=True) + 1e-12)


def straight_through(x: jax.Array, quantized: jax.Array) -> jax.Array:
    """The value of `quantized` with the gradient of x."""
    return x + jax.lax.stop_gradient(quantized - x)


def rotation(x: jax.Array, quantized: jax.Array) -> jax.Array:
    """The value of `quantized`; its gradient is turned and scaled on the way to x.

    quantized = |quantized| / |x| R x; the factor and the rotation R count as constants, so the gradient has to x the
    angle that it had to quantized (the rotation trick, arXiv 2410.06424, section 4). R = I - 2 r r^T + 2 q u^T, with u
    and q the directions of x and quantized and r that of u + q. Where either vector is shorter than 1e-6 and has no
    direction, the gradient passes straight; between opposite vectors R becomes a reflection and stays bounded.
    """
    x_fixed, quantized = jax.lax.stop_gradient((x, quantized))
    norm = lambda v: jnp.linalg.norm(v, axis=-1, keepdims=True)
    dot = lambda v: jnp.sum(v * x, axis=-1, keepdims=True)
    x_norm, q_norm = norm(x_fixed), norm(quantized)
    directed = jnp.minimum(x_norm, q_norm) > 1e-6
    u, q = x_fixed / jnp.where(directed, x_norm, 1.0), quantized / jnp.where(directed, q_norm, 1.0)
    r = (u + q) / jnp.maximum(norm(u + q), 1e-6)
    turned = q_norm / jnp.where(directed, x_norm, 1.0) * (x - 2 * r * dot(r) + 2 * q * dot(u))
    return straight_through(jnp.where(directed, turned, x), quantized)


GRADIENTS = {"straight_through": straight_through, "rotation": rotation}


def entropy(p: jax.Array) -> jax.Array:
    """Entropy in nats of the probabilities p, of any shape."""
    return -jnp.sum(p * jnp.log(p + 1e-12))


def dead_codes(counts_V: jax.Array) -> jax.Array:
    """True for codes whose running count is under 2 % of the mean count."""
    return counts_V < 0.02 * counts_V.mean()


def usage_metrics(counts_V: jax.Array) -> dict[str, jax.Array]:
    """What running counts say of the codes.

    codebook_usage: share of codes whose count is over 2 ** -7. codebook_perplexity: exp(entropy) of the counts, from
    1 to V. codebook_dead: number of `dead_codes`.
    """
    return {"codebook_usage": jnp.mean(counts_V > 2.0 ** -7),
            "codebook_perplexity": jnp.exp(entropy(counts_V / jnp.maximum(counts_V.sum(), 1e-9))),
            "codebook_dead": jnp.sum(dead_codes(counts_V), dtype=jnp.float32)}


def split_tokens(tokens: jax.Array, factors: tuple[int, ...]) -> jax.Array:
    """The digits of tokens, the lowest first: int32 [...] in [0, product of factors) -> int32 [..., n].

    Digit i is in [0, factors[i]). With it one prediction over a big codebook is n over small ones (MAGVIT-v2,
    arXiv 2310.05737, section 3.1: 2 x 2^9 for 2^18 codes).
    """
    return tokens[..., None] // _places(factors) % np.asarray(factors, np.int32)


def join_tokens(digits: jax.Array, factors: tuple[int, ...]) -> jax.Array:
    """The inverse of `split_tokens`: int32 [..., n] -> int32 [...]."""
    return jnp.sum(digits * _places(factors), axis=-1, dtype=jnp.int32)


def _places(factors: tuple[int, ...]) -> np.ndarray:
    """What one of each digit is worth."""
    return np.cumprod((1, *factors[:-1])).astype(np.int32)


def code_bits(codebook_size: int) -> int:
    """log2 of the codebook's size. Raises: UserError where it is no power of two from 2 up."""
    bits = max(int(codebook_size).bit_length() - 1, 1)
    if 2 ** bits != codebook_size:
        raise UserError(f"tokenizer.codebook_size={codebook_size} is no power of two, as the codes of lfq and bsq are; "
                        f"{2 ** bits} or {2 ** (bits + 1)} would do")
    return bits


def bit_groups(bits: int) -> tuple[int, ...]:
    """Sizes of the fewest even groups of at most 9 bits: 18 -> (9, 9), 10 -> (5, 5)."""
    count = math.ceil(bits / 9)
    return tuple((bits + i) // count for i in reversed(range(count)))


def bit_entropies(logits_NL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Entropies in nats of codes whose bits are independent given a vector, with log odds logits_NL.

    Returns (E[H(q|z)], H(E[q])), E over the N vectors. The first is exact: a sum over bits. The second is exact within
    each of `bit_groups` and summed over the groups, hence exact up to 9 bits and an upper bound beyond; it counts
    dependences inside a group only. The largest array is N x 32: a group's mean probabilities are the product of those
    of its halves.
    """
    p_NL, p_not_NL = jax.nn.sigmoid(logits_NL), jax.nn.sigmoid(-logits_NL)
    sample_entropy = -jnp.mean(jnp.sum(
        p_NL * jax.nn.log_sigmoid(logits_NL) + p_not_NL * jax.nn.log_sigmoid(-logits_NL), axis=-1))

    def patterns(first: int, last: int) -> jax.Array:
        """Probability of each pattern of bits first to last: [N, 2 ** (last - first)]."""
        joint = jnp.ones((logits_NL.shape[0], 1))
        for bit in range(first, last):
            joint = jnp.concatenate([joint * p_not_NL[:, bit, None], joint * p_NL[:, bit, None]], axis=-1)
        return joint

    batch_entropy, first = 0.0, 0
    for size in bit_groups(logits_NL.shape[-1]):
        low, high = patterns(first, first + size // 2), patterns(first + size // 2, first + size)
        batch_entropy += entropy(jnp.matmul(low.T, high, precision="highest") / logits_NL.shape[0])
        first += size
    return sample_entropy, batch_entropy


def spherical_kmeans(z_NE: jax.Array, size: int, key: jax.Array, steps: int = 10) -> jax.Array:
    """Centres of unit vectors by Lloyd's iterations with cosines: [N, E] -> [size, E], each of length 1.

    They begin as vectors drawn without repetition (where N < size, each as often as any other); a centre that is
    nearest to nothing stays where it is.
    """
    N = len(z_NE)
    start_VE = z_NE[jax.random.permutation(key, N)[jnp.arange(size) % N]]

    def step(_, centres_VE):
        nearest_N = jnp.argmax(z_NE @ centres_VE.T, axis=-1)
        sums_VE = jnp.zeros_like(centres_VE).at[nearest_N].add(z_NE)
        used_V = jnp.zeros(size, bool).at[nearest_N].set(True)
        return jnp.where(used_V[:, None], normalise(sums_VE), centres_VE)

    return jax.lax.fori_loop(0, steps, step, start_VE)
