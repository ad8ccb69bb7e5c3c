"""Positions: rotary angles along one axis, and a learned table of a grid's rows and columns."""

import jax
import jax.numpy as jnp
from flax import nnx


def rotary(x_BSHK: jax.Array, positions_S: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Rotates pairs of features by angles that grow with position (RoFormer, arXiv 2104.09864, section 3.2).

    Args:
      x_BSHK: queries or keys; K is even. positions_S: integer positions, of any length and origin.
    """
    half = x_BSHK.shape[-1] // 2
    frequency_K = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_S1K = (positions_S[:, None].astype(jnp.float32) * frequency_K)[:, None, :]
    sin, cos = jnp.sin(angle_S1K), jnp.cos(angle_S1K)
    first, second = jnp.split(x_BSHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BSHK.dtype)


class GridPositions(nnx.Module):
    """A learned embedding for each place of a token grid, the sum of one table an axis: call -> [axis sizes…, D]."""

    def __init__(self, sizes: tuple[int, ...], embed_dim: int, *, rngs: nnx.Rngs):
        self.sizes = tuple(sizes)
        init = nnx.initializers.normal(0.02)
        for axis, size in enumerate(sizes):
            table = nnx.Param(init(rngs.params(), (size, embed_dim)), axes=(None, "embed"))
            setattr(self, f"axis_{axis}", table)

    def __call__(self, *counts: int) -> jax.Array:
        """The first `counts` places along each axis (all of them where none are given)."""
        counts = counts or self.sizes
        total = 0.0
        for axis, count in enumerate(counts):
            shape = [1] * len(counts) + [-1]
            shape[axis] = count
            total = total + getattr(self, f"axis_{axis}")[...][:count].reshape(shape)
        return total
