"""How many tokens are masked, and which: in training, and step by step in decoding."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from phenaki_jax.errors import UserError


def latent_steps(frames, patch_frames: int):
    """Latent steps that `frames` given frames decide completely: 0 for none, else 1 + (frames - 1) // patch_frames.

    For integers and integer arrays alike.
    """
    return (frames > 0) * (1 + (frames - 1) // patch_frames)


def masked_counts(steps: int, free: int, schedule: str = "cosine") -> np.ndarray:
    """Tokens still masked after each decoding step, int32 [steps]: ceil(free * ratio(s / steps)), at last 0.

    Ratios: 'cosine', cos(pi/2 t), is MaskGIT's choice (arXiv 2202.04200, section 3.3), slow at first; so is 'square',
    1 - t^2. 'linear' is 1 - t; 'arccos', 2/pi arccos(t), is quick at the end as well.
    """
    t = np.arange(1, steps + 1) / steps
    ratio = {"cosine": np.cos(np.pi / 2 * t), "arccos": 2 / np.pi * np.arccos(t), "linear": 1 - t,
             "square": 1 - t**2}[schedule]
    counts = np.ceil(ratio * free - 1e-6).astype(np.int32)
    counts[-1] = 0
    return np.minimum(counts, free)


def remasked_counts(counts: np.ndarray, free: int, share: float) -> np.ndarray:
    """Tokens decided before each step that it makes anew, int32 like `counts` (of `masked_counts`).

    floor(share * decided so far), and no more than stay masked, for remasked tokens are counted among those.
    """
    decided = free - np.concatenate([[free], counts[:-1]])
    return np.minimum(np.floor(share * decided + 1e-6), counts).astype(np.int32)


def halton_ranks(grid: tuple[int, int, int]) -> np.ndarray:
    """The order in which a low-discrepancy sequence visits the cells of a grid (T, H, W): int32 [T H W], a permutation.

    Halton's points in bases 2, 3 and 5 for rows, columns and time; cells that are met again are passed over. Tokens
    that are decided together then lie far apart, and tell least of one another (arXiv 2503.17076).
    """
    T, H, W = grid
    cells, count = T * H * W, 4 * T * H * W
    seen: dict[int, None] = {}
    while len(seen) < cells:
        points = [_van_der_corput(count, base) for base in (5, 2, 3)]
        index = [np.minimum((point * size).astype(int), size - 1) for point, size in zip(points, grid)]
        seen = dict.fromkeys(np.ravel_multi_index(index, grid).tolist())
        count *= 2
    ranks = np.empty(cells, np.int32)
    ranks[list(seen)] = np.arange(cells)
    return ranks


def _van_der_corput(count: int, base: int) -> np.ndarray:
    """The first points of the sequence in [0, 1): the digits of 1, 2, ... in a base, behind the point in reverse."""
    number, result, unit = np.arange(1, count + 1), np.zeros(count), 1.0
    while number.any():
        unit /= base
        result += unit * (number % base)
        number = number // base
    return result


LOG_SPAN = 400.0  # 'log' lets the visible share fall evenly over this range of orders before it is 0


def masked_share(u: jax.Array, schedule: str) -> jax.Array:
    """The share gamma in [0, 1] of masked tokens in training, from u uniform in [0, 1].

    'uniform' is the paper's (section 2.2); 'cosine' = cos(pi/2 u) is what decoding by `masked_counts` will meet, and
    shows the model almost empty grids, where the text decides, three times as often (MaskGIT, section 3.3).
    'log' draws the logarithm of the visible share evenly, so one grid in ten shows less than half a percent: with the
    others a few visible tokens tell background and colour, and the text is hardly learned from.
    'mixed' is log in half of the draws and uniform in the other half, where outlines are learned.
    'arccos' = 2/pi arccos(u). 'truncated' is a normal of mean 1 and deviation 0.25, cut to [0.7, 1] (MAR, arXiv
    2406.11838, section 4.2).
    """
    if schedule == "uniform":
        return u
    if schedule == "cosine":
        return jnp.cos(jnp.pi / 2 * u)
    if schedule == "log":
        return 1 - jnp.expm1(u * jnp.log(LOG_SPAN)) / (LOG_SPAN - 1)
    if schedule == "mixed":
        return jnp.where(u < 0.5, masked_share(jnp.minimum(2 * u, 1), "log"), 2 * u - 1)
    if schedule == "arccos":
        return 2 / jnp.pi * jnp.arccos(u)
    if schedule == "truncated":
        low = ndtr((0.7 - 1) / 0.25)
        return jnp.clip(1 + 0.25 * ndtri(low + u * (0.5 - low)), 0.7, 1.0)
    raise UserError(f"train.mask_schedule={schedule!r} is unknown; it is one of uniform, cosine, arccos, truncated, "
                    "log, mixed")


def random_mask(key: jax.Array, free_BS: jax.Array, schedule: str = "uniform") -> jax.Array:
    """Draws gamma for each row and masks ceil(gamma * N) of its N free positions (Phenaki, section 2.2).

    Args:
      free_BS: boolean, True where a position may be masked. schedule: see `masked_share`.

    Returns:
      Boolean [B, S], True where masked; at least one position of a row that has a free one.
    """
    ratio_key, order_key = jax.random.split(key)
    count_B1 = jnp.sum(free_BS, axis=1, keepdims=True)
    gamma_B1 = masked_share(jax.random.uniform(ratio_key, count_B1.shape), schedule)
    masked_B1 = jnp.maximum(jnp.ceil(gamma_B1 * count_B1).astype(jnp.int32), 1)
    score_BS = jnp.where(free_BS, jax.random.uniform(order_key, free_BS.shape), 2.0)
    limit_B1 = jnp.take_along_axis(jnp.sort(score_BS, axis=1), masked_B1 - 1, axis=1)
    return (score_BS <= limit_B1) & free_BS
