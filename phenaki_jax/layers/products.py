"""Matrix products: in the precision of their operands, or of operands rounded to bfloat16 with sums in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint

from phenaki_jax.parallel import device_count, platform


def kernel(rngs: nnx.Rngs, shape: tuple[int, int], axes: tuple[str, str], scale: float = 1.0) -> nnx.Param:
    """A [fan in, fan out] matrix of variance scale / fan in, named by T5X's logical axes."""
    init = nnx.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
    return nnx.Param(init(rngs.params(), shape), axes=axes)


def project(x: jax.Array, matrix: nnx.Param | jax.Array) -> jax.Array:
    """x [..., D] times a [D, N] matrix, in x's dtype.

    Where x is bfloat16, or JAX's default matmul precision is "bfloat16", it is `rounded_product`.
    """
    if rounds(x.dtype):
        return rounded_product(x, matrix[...])
    y = _rows(x) @ matrix[...].astype(x.dtype)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _rows(x: jax.Array) -> jax.Array:
    """x with all leading axes as one on a CPU, where XLA's gradient of a product of higher rank takes twice as long.

    On a mesh they stay apart: the devices share them in blocks of each.
    """
    return x.reshape(-1, x.shape[-1]) if platform() in ("cpu", "any") and device_count() == 1 else x


def rounds(dtype) -> bool:
    """Whether factors of this dtype are rounded to bfloat16: that, or any under JAX's matmul precision "bfloat16"."""
    return dtype == jnp.bfloat16 or jax.config.jax_default_matmul_precision == "bfloat16"


@jax.custom_vjp
def rounded_product(x: jax.Array, matrix_DM: jax.Array) -> jax.Array:
    """x [..., D] times a matrix, both rounded to bfloat16, in x's dtype; gradients are made of rounded factors alike,
    that of the matrix in its own dtype.

    It is what TPUs make of float32 factors by default. XLA for CPUs takes no notice of a precision and widens products
    of bfloat16 to float32, unless the sums are asked for in float32 and all three arrays are row-major: then a
    processor with AMX is three times as fast (docs/benchmarks.md), and so the factors are laid out here.
    """
    return _forward(x, matrix_DM)[0]


def _forward(x, matrix_DM):
    rounded = x.astype(jnp.bfloat16)
    return _dot(rounded, matrix_DM.astype(jnp.bfloat16), 0, x.dtype), (rounded, matrix_DM)


def _backward(saved, dy):
    x, matrix_DM = saved
    g = dy.astype(jnp.bfloat16)
    dx = _dot(g, matrix_DM.astype(jnp.bfloat16), 1, dy.dtype)
    return dx, _row_product(x, g, matrix_DM.dtype)


rounded_product.defvjp(_forward, _backward)


def _dot(a, b, axis: int, dtype) -> jax.Array:
    """a [..., K] times b, [K, M] (axis 0) or [M, K] (axis 1)."""
    def elsewhere(a, b):
        return _contract(a, (a.ndim - 1,), b, (axis,), dtype)

    def on_cpu(a, b):
        return _cpu_dot(a.reshape(-1, a.shape[-1]), b, axis, dtype).reshape(*a.shape[:-1], b.shape[1 - axis])

    if platform() == "any":
        return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=elsewhere)
    return on_cpu(a, b) if platform() == "cpu" else elsewhere(a, b)


def _row_product(x, g, dtype) -> jax.Array:
    """x^T g, summed over all rows: [D, M]."""
    rows = tuple(range(x.ndim - 1))
    if platform() != "cpu":
        return _contract(x, rows, g, rows, dtype)
    x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    if x.shape[1] <= g.shape[1]:  # the narrower factor is the one to be turned
        return _cpu_dot(_row_major(x.T), g, 0, dtype)
    return _cpu_dot(_row_major(g.T), x, 0, dtype).T


def _cpu_dot(a, b, axis: int, dtype) -> jax.Array:
    return _row_major(_contract(a, (1,), b, (axis,), jnp.float32)).astype(dtype)


def _contract(a, of_a: tuple[int, ...], b, of_b: tuple[int, ...], dtype) -> jax.Array:
    return jax.lax.dot_general(a, b, ((of_a, of_b), ((), ())), preferred_element_type=dtype)


def _row_major(x: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier(with_layout_constraint(x, Layout((0, 1))))
