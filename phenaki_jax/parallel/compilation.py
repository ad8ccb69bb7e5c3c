"""Compiled programs: kept between runs, what compiling leaves behind, and what they compute."""

import contextlib
import ctypes
import math
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import partial_eval


def enable_compilation_cache() -> None:
    """Keep compiled programs on the disk: in $JAX_COMPILATION_CACHE_DIR, else in ~/.cache/phenaki_jax."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/phenaki_jax"))


def free_unused_memory() -> None:
    """Hands freed memory back to the system, where glibc is the C library; a compiler leaves much of it behind."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def flops_of(function: Callable, *shapes: Any, only_kernels: bool = False) -> int:
    """`product_flops` of function(*shapes), without what its results do not need; nothing is computed."""
    jaxpr = jax.make_jaxpr(function)(*shapes).jaxpr
    return product_flops(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0], only_kernels)


def product_flops(jaxpr: Any, only_kernels: bool = False) -> int:
    """Floating-point operations, 2 a multiplication and addition, of the matrix products and convolutions in a jaxpr.

    A scan's body counts as often as it runs, a Pallas kernel's for each place of its grid, a while loop's once (XLA's
    cost analysis counts either once, and kernels not at all), and of a choice the dearest branch.

    only_kernels: those of Pallas kernels alone.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general" and not only_kernels:
            (contracted, _), _ = parameters["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * depth
        elif name == "conv_general_dilated" and not only_kernels:
            kernel = equation.invars[1].aval.shape
            features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features
        in_kernel = name == "pallas_call"
        inner = [product_flops(getattr(value, "jaxpr", value), only_kernels and not in_kernel)
                 for parameter in parameters.values()
                 for value in (parameter if isinstance(parameter, (tuple, list)) else (parameter,))
                 if hasattr(getattr(value, "jaxpr", value), "eqns")]
        times = parameters["length"] if name == "scan" else math.prod(parameters["grid_mapping"].grid) if (
            in_kernel) else 1
        total += max(inner) if name == "cond" else times * sum(inner)
    return total
