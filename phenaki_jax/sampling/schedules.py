"""How many tokens are masked, and which: in training, and step by step in decoding."""

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError


def latent_steps(frames, patch_frames: int):
    """Latent steps that `frames` given frames decide completely: 0 for none, else 1 + (frames - 1) // patch_frames.

    For integers and integer arrays alike.
    """
    return (frames > 0) * (1 + (frames - 1) // patch_frames)


def masked_counts(steps: int, free: int) -> np.ndarray:
    """Tokens still masked after each decoding step, int32 [steps]: ceil(free * cos(pi/2 * s / steps)), at last 0.

    MaskGIT's cosine schedule (arXiv 2202.04200, section 3.3).
    """
    ratio = np.cos(np.pi / 2 * np.arange(1, steps + 1) / steps)
    counts = np.ceil(ratio * free - 1e-6).astype(np.int32)
    counts[-1] = 0
    return np.minimum(counts, free)


LOG_SPAN = 400.0  # 'log' lets the visible share fall evenly over this range of orders before it is 0


def masked_share(u: jax.Array, schedule: str) -> jax.Array:
    """The share gamma in [0, 1] of masked tokens in training, from u uniform in [0, 1].

    'uniform' is the paper's (section 2.2); 'cosine' = cos(pi/2 u) is what decoding by `masked_counts` will meet, and
    shows the model almost empty grids, where the text decides, three times as often (MaskGIT, section 3.3).
    'log' draws the logarithm of the visible share evenly, so one grid in ten shows less than half a percent: with the
    others a few visible tokens tell background and colour, and the text is hardly learned from.
    'mixed' is log in half of the draws and uniform in the other half, where outlines are learned.
    """
    if schedule == "uniform":
        return u
    if schedule == "cosine":
        return jnp.cos(jnp.pi / 2 * u)
    if schedule == "log":
        return 1 - jnp.expm1(u * jnp.log(LOG_SPAN)) / (LOG_SPAN - 1)
    if schedule == "mixed":
        return jnp.where(u < 0.5, masked_share(jnp.minimum(2 * u, 1), "log"), 2 * u - 1)
    raise UserError(f"train.mask_schedule={schedule!r} is unknown; it is one of uniform, cosine, log, mixed")


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
