"""Matrix products: in the precision of their operands, or of operands rounded to bfloat16 with sums in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint


def kernel(rngs: nnx.Rngs, shape: tuple[int, int], axes: tuple[str, str], scale: float = 1.0) -> nnx.Param:
    """A [fan in, fan out] matrix of variance scale / fan in, named by T5X's logical axes."""
    init = nnx.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
    return nnx.Param(init(rngs.params(), shape), axes=axes)


def project(x: jax.Array, matrix: nnx.Param | jax.Array) -> jax.Array:
    """x [..., D] times a [D, N] matrix, in x's dtype.

    All leading axes are one row axis for the product: on CPUs XLA's gradient of a product of higher rank takes twice as
    long. Where x is bfloat16, or JAX's default matmul precision is "bfloat16", it is `rounded_product`.
    """
    rows = x.reshape(-1, x.shape[-1])
    if rounds(x.dtype):
        rows = rounded_product(rows, matrix[...])
    else:
        rows = rows @ matrix[...].astype(x.dtype)
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


def rounds(dtype) -> bool:
    """Whether factors of this dtype are rounded to bfloat16: that, or any under JAX's matmul precision "bfloat16"."""
    return dtype == jnp.bfloat16 or jax.config.jax_default_matmul_precision == "bfloat16"


@jax.custom_vjp
def rounded_product(x_ND: jax.Array, matrix_DM: jax.Array) -> jax.Array:
    """x times a matrix, both rounded to bfloat16, in x's dtype; gradients are made of rounded factors alike.

    It is what TPUs make of float32 factors by default. XLA for CPUs takes no notice of a precision and widens products
    of bfloat16 to float32, unless the sums are asked for in float32 and all three arrays are row-major: then a
    processor with AMX is three times as fast (docs/benchmarks.md), and so the factors are laid out here.
    """
    return _forward(x_ND, matrix_DM)[0]


def _forward(x_ND, matrix_DM):
    rounded_ND = x_ND.astype(jnp.bfloat16)
    return _dot(rounded_ND, matrix_DM.astype(jnp.bfloat16), 0, x_ND.dtype), (rounded_ND, matrix_DM)


def _backward(saved, dy_NM):
    x_ND, matrix_DM = saved
    g_NM = dy_NM.astype(jnp.bfloat16)
    dx_ND = _dot(g_NM, matrix_DM.astype(jnp.bfloat16), 1, dy_NM.dtype)
    return dx_ND, _row_product(x_ND, g_NM, matrix_DM.dtype)


rounded_product.defvjp(_forward, _backward)


def _dot(a, b, axis: int, dtype) -> jax.Array:
    """a [N, K] times b, [K, M] (axis 0) or [M, K] (axis 1)."""
    return jax.lax.platform_dependent(
        a, b, cpu=lambda a, b: _cpu_dot(a, b, axis, dtype), default=lambda a, b: _contract(a, 1, b, axis, dtype))


def _row_product(x_ND, g_NM, dtype) -> jax.Array:
    """x^T g: [D, M]."""
    def on_cpu(x, g):  # the narrower factor is the one to be turned
        if x.shape[1] <= g.shape[1]:
            return _cpu_dot(_row_major(x.T), g, 0, dtype)
        return _cpu_dot(_row_major(g.T), x, 0, dtype).T

    return jax.lax.platform_dependent(x_ND, g_NM, cpu=on_cpu, default=lambda x, g: _contract(x, 0, g, 0, dtype))


def _cpu_dot(a, b, axis: int, dtype) -> jax.Array:
    return _row_major(_contract(a, 1, b, axis, jnp.float32)).astype(dtype)


def _contract(a, of_a: int, b, of_b: int, dtype) -> jax.Array:
    return jax.lax.dot_general(a, b, (((of_a,), (of_b,)), ((), ())), preferred_element_type=dtype)


def _row_major(x: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier(with_layout_constraint(x, Layout((0, 1))))
