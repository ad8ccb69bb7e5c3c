"""The TPU's kernel in Pallas's interpreter, against the formula: results and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenaki_jax.layers.attention import attend
from phenaki_jax.layers.fast_attention import largest_block, splash


@pytest.mark.parametrize("S, U, masked", [(256, 256, False), (200, 140, False), (150, 256, True)])
def test_splash_is_the_formula(S, U, masked):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, length, 2, 64)) for i, length in enumerate((S, U, U)))
    keys_BU = jax.random.uniform(jax.random.key(3), (2, U)) > 0.3 if masked else None
    mask = None if keys_BU is None else keys_BU[:, None, None]
    fast = lambda q, k, v: splash(q, k, v, keys_BU, scale=0.2, block=128, interpret=True)
    plain = lambda q, k, v: attend(q, k, v, mask=mask, scale=0.2)
    np.testing.assert_allclose(fast(q, k, v), plain(q, k, v), atol=2e-6)
    found, wanted = (jax.grad(lambda *x: jnp.sum(jnp.sin(f(*x))), (0, 1, 2))(q, k, v) for f in (fast, plain))
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("length, most, block", [(1536, 512, 512), (1536, 1000, 768), (256, 512, 256), (384, 100, 128)])
def test_blocks_divide_a_length(length, most, block):
    assert largest_block(length, most) == block
