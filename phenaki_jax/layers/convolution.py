"""Convolutions over rows, columns and frames; those of a tokenizer are causal in time and exact in stretches."""

import jax
import jax.numpy as jnp
from flax import nnx

from phenaki_jax.layers.attention import RMSNorm
from phenaki_jax.layers.products import kernel

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x * kernel, with zeros beyond the border of rows and columns.

    Over time it is a convolution of pictures whose channels are all that its window sees: on CPUs XLA takes five to ten
    times as long for one of three dimensions.

    Args:
      x: pictures [N, Y, X, C], or clips [N, F + K - 1, Y, X, C] that are padded in time already.
      kernel: [3, 3, C, D], or for clips [3, 3, K, C, D]: rows, columns, frames.

    Returns:
      [N, Y, X, D] or [N, F, Y, X, D].
    """
    if x.ndim == 5:
        N, F, Y, X, C = x.shape
        K = kernel.shape[2]
        beside = jnp.concatenate([x[:, k:F - K + 1 + k] for k in range(K)], axis=-1).reshape(-1, Y, X, K * C)
        return convolve(beside, kernel.reshape(3, 3, K * C, -1)).reshape(N, F - K + 1, Y, X, -1)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


class CausalConv(nnx.Module):
    """A 3 x 3 convolution of each frame and the `frames` - 1 before it.

    Zeros stand outside, and before the first frame too, or with `repeat` that frame itself.
    """

    def __init__(self, frames: int, inputs: int, outputs: int, *, repeat: bool = False, rngs: nnx.Rngs):
        self.frames, self.repeat = frames, repeat
        self.kernel = kernel(rngs, (9 * frames * inputs, outputs), ("embed", "mlp"))  # a matrix, for Muon's sake

    def __call__(self, x_BFYXC: jax.Array, past: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """([B, F, Y, X, outputs], the last `frames` - 1 frames, which are the `past` of what comes next).

        past: None at a video's start.
        """
        B, F, Y, X, C = x_BFYXC.shape
        if past is None:
            first = x_BFYXC[:, :1] if self.repeat else jnp.zeros((B, 1, Y, X, C), x_BFYXC.dtype)
            past = jnp.repeat(first, self.frames - 1, axis=1)
        x = jnp.concatenate([past, x_BFYXC], axis=1)
        return convolve(x, self.kernel[...].astype(x.dtype).reshape(3, 3, self.frames, C, -1)), x[:, F:]


class ResidualBlocks(nnx.Module):
    """`count` times x + conv(silu(norm(conv(silu(norm x))))).

    Norms are of each place alone, so nothing is learned of later frames. `repeat`: as of `CausalConv`.
    """

    def __init__(self, count: int, frames: int, channels: int, *, repeat: bool = False, rngs: nnx.Rngs):
        self.norms = nnx.List([RMSNorm(channels) for _ in range(2 * count)])
        self.convs = nnx.List([CausalConv(frames, channels, channels, repeat=repeat, rngs=rngs)
                               for _ in range(2 * count)])

    def __call__(self, x_BFYXC: jax.Array,
                 past: tuple[jax.Array, ...] | None = None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The same shape, and the past of the convolutions for what comes next; past None at a video's start."""
        y, present = x_BFYXC, []
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs)):
            y, after = conv(jax.nn.silu(norm(y)), None if past is None else past[i])
            present.append(after)
            if i % 2:
                y = x_BFYXC = x_BFYXC + y
        return y, tuple(present)
