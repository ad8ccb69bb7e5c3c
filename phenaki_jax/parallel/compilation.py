"""Compiled programs, kept between runs, and what compiling leaves behind."""

import contextlib
import ctypes
import os

import jax


def enable_compilation_cache() -> None:
    """Keep compiled programs on the disk: in $JAX_COMPILATION_CACHE_DIR, else in ~/.cache/phenaki_jax."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/phenaki_jax"))


def free_unused_memory() -> None:
    """Hands freed memory back to the system, where glibc is the C library; a compiler leaves much of it behind."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
