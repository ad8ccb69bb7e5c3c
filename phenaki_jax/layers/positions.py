"""Positions: rotary angles along one axis, and a learned table of a grid's rows and columns."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def rotary(x_BSHK: jax.Array, positions: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Rotates pairs of features by angles that grow with position (RoFormer, arXiv 2104.09864, section 3.2).

    Args:
      x_BSHK: queries or keys; K is even.
      positions: integers, of any length and origin: [S], or [S, A] for places of a grid of A axes, each of which
        turns a share of the pairs (K / 2 of them, dealt out in turn).
    """
    half, positions_SA = x_BSHK.shape[-1] // 2, positions.reshape(positions.shape[0], -1)
    axes = positions_SA.shape[1]
    axis_K = np.arange(half) % axes
    rank_K = np.arange(half) // axes
    frequency_K = base ** (-rank_K * axes / half)
    angle_S1K = (positions_SA[:, axis_K].astype(jnp.float32) * frequency_K)[:, None, :]
    sin, cos = jnp.sin(angle_S1K), jnp.cos(angle_S1K)
    first, second = jnp.split(x_BSHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BSHK.dtype)


def grid_places(grid: tuple[int, ...]) -> np.ndarray:
    """The place along each axis of each token of a grid in raster order: int32 [S, axes]."""
    return np.stack([axis.reshape(-1) for axis in np.indices(grid)], axis=1).astype(np.int32)


class GridPositions(nnx.Module):
    """A learned embedding for each place of a token grid, the sum of one table an axis: call -> [axis sizes…, D].

    stretch: another count along an axis spreads the table evenly over it, by linear interpolation between the centres
    of its places, so a model reads pictures of other sizes; without it the first places are taken.
    """

    def __init__(self, sizes: tuple[int, ...], embed_dim: int, *, stretch: bool = False, rngs: nnx.Rngs):
        self.sizes, self.stretch = tuple(sizes), stretch
        init = nnx.initializers.normal(0.02)
        for axis, size in enumerate(sizes):
            table = nnx.Param(init(rngs.params(), (size, embed_dim)), axes=(None, "embed"))
            setattr(self, f"axis_{axis}", table)

    def __call__(self, *counts: int) -> jax.Array:
        """`counts` places along each axis (those of the tables where none are given)."""
        counts = counts or self.sizes
        total = 0.0
        for axis, (size, count) in enumerate(zip(self.sizes, counts)):
            table_ND = getattr(self, f"axis_{axis}")[...]
            if self.stretch and count != size:
                table_ND = jax.image.resize(table_ND, (count, table_ND.shape[1]), "linear", antialias=False)
            shape = [1] * len(counts) + [-1]
            shape[axis] = count
            total = total + table_ND[:count].reshape(shape)
        return total
