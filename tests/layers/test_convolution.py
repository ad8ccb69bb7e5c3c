"""Causal convolutions against a loop over their taps."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.layers.convolution import CausalConv


def test_convolutions_see_what_lies_around_and_before():
    """Against a loop over the taps, at a video's start and going on."""
    conv = CausalConv(3, 4, 5, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 5, 4)).astype(np.float32)
    taps = np.asarray(conv.kernel[...]).reshape(3, 3, 3, 4, 5)  # row, column, frame
    padded = np.pad(x, ((0, 0), (2, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(padded[:, t:t + 4, y:y + 3, x_:x_ + 5] @ taps[y, x_, t]
                   for t in range(3) for y in range(3) for x_ in range(3))
    y, past = conv(jnp.asarray(x[:, :1]))
    z, past = conv(jnp.asarray(x[:, 1:]), past)
    np.testing.assert_allclose(jnp.concatenate([y, z], 1), expected, atol=1e-5)
    np.testing.assert_array_equal(past, x[:, 2:])
