"""Attention one head at a time, against all heads at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenaki_jax.layers import attention

B, S, U, H, K = 2, 5, 7, 3, 4


def value_and_gradients(arrays, more, weight):
    def loss(arrays, bias):
        bias = {"bias": bias} if bias is not None else {}
        out = attention.attend(*arrays, **bias, **{k: v for k, v in more.items() if k != "bias"})
        return jnp.sum(out.astype(jnp.float32) * weight), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(arrays, more.get("bias"))
    return out, gradients


@pytest.mark.parametrize("mask, bias, dtype, close", [
    (None, None, "float32", 1e-6),
    ((B, 1, 1, U), (H, S, U), "float32", 1e-6),
    ((S, U), (B, H, S, U), "float32", 1e-6),
    (None, None, "bfloat16", 2e-2),
])
def test_one_head_at_a_time_is_all_heads_at_once(monkeypatch, mask, bias, dtype, close):
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), dtype)
    arrays, more = (draw(B, S, H, K), draw(B, U, H, K), draw(B, U, H, K)), {"scale": 0.7}
    if mask:
        more["mask"] = jnp.asarray(random.random(mask) < 0.7).at[..., 0].set(True)
        more["bias"] = jnp.asarray(random.normal(size=bias), jnp.float32)
    weight = random.normal(size=(B, S, H, K))
    expected = value_and_gradients(arrays, more, weight)
    monkeypatch.setattr(attention, "LARGE", S * U)
    program = jax.make_jaxpr(lambda arrays: attention.attend(*arrays, **more))(arrays)
    assert "scan" in str(program)
    found = value_and_gradients(arrays, more, weight)
    assert found[0].dtype == dtype
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a, "float32"), np.asarray(b, "float32"),
                                                         atol=close * 4, rtol=close), found, expected)


def test_heads_that_are_spread_over_a_mesh_stay_together(monkeypatch):
    monkeypatch.setattr(attention, "LARGE", 1)
    x = jnp.ones((B, S, H, K))
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert "scan" not in str(jax.make_jaxpr(attention.attend)(x, x, x))
