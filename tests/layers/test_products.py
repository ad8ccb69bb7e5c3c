"""Products of rounded factors: against the closed form, wherever and in whatever way their result is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenaki_jax.layers.products import project

SHAPES = [(24, 8, 40), (24, 40, 8), (1, 16, 16), (33, 7, 5), (64, 48, 1)]


def factors(rows, width, columns, dtype="float32"):
    x, matrix, dy = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(
        [(rows, width), (width, columns), (rows, columns)]))
    return x.astype(dtype), matrix, dy.astype(dtype)


def rounded(x):
    return np.asarray(x.astype(jnp.bfloat16), np.float64)


def with_gradients(x, matrix, dy):
    with jax.default_matmul_precision("bfloat16"):
        y, pull = jax.vjp(project, x, matrix)
        return y, *pull(dy)


@pytest.mark.parametrize("dtype, close", [("float32", 2e-6), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_factors_are_rounded_and_sums_are_not(shape, dtype, close):
    x, matrix, dy = factors(*shape, dtype)
    y, dx, dmatrix = jax.jit(with_gradients)(x, matrix, dy)
    a, b, g = map(rounded, (x, matrix, dy))
    for found, wanted, kind in ((y, a @ b, dtype), (dx, g @ b.T, dtype), (dmatrix, a.T @ g, "float32")):
        assert found.dtype == kind
        np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=close, atol=close * np.abs(wanted).max())


def test_every_precision_but_bfloat16_leaves_float32_alone():
    x, matrix, _ = factors(24, 8, 40)
    exact = np.asarray(x, np.float64) @ np.asarray(matrix, np.float64)
    for precision in (None, "float32", "highest"):
        with jax.default_matmul_precision(precision):
            np.testing.assert_allclose(project(x, matrix), exact, rtol=1e-5, atol=1e-5)
    with jax.default_matmul_precision("bfloat16"):
        assert np.abs(project(x, matrix) - exact).max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("use", [
    lambda x, m: project(x, m).T,
    lambda x, m: project(x.T.T, m.T.T).reshape(-1, 1, x.shape[0]).transpose(2, 1, 0),
    lambda x, m: jax.lax.scan(lambda c, layer: (c + project(c, layer) @ layer.T, None), x, jnp.stack([m, m]))[0],
    lambda x, m: jax.vmap(project, (None, 0))(x, jnp.stack([m, 2 * m])),
    lambda x, m: jax.vmap(project, (0, None))(jnp.stack([x, 2 * x]), m),
], ids=["turned", "turned twice", "scanned", "vmapped matrices", "vmapped rows"])
def test_programs_around_it_compile_and_agree(use, shape):
    """XLA may lay out factors and results as their neighbours like it; on CPUs not every layout has a product."""
    x, matrix, _ = factors(*shape)

    def value_and_gradients(x, m):
        return jax.value_and_grad(lambda x, m: jnp.sum(jnp.sin(use(x, m))), (0, 1))(x, m)

    with jax.default_matmul_precision("bfloat16"):
        found, alone = jax.jit(value_and_gradients)(x, matrix), value_and_gradients(x, matrix)  # alone: op by op
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone)):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * float(jnp.abs(b).max()))
