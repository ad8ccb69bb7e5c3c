"""Compiled programs, kept between runs."""

import os

import jax


def enable_compilation_cache() -> None:
    """Keep compiled programs on the disk: in $JAX_COMPILATION_CACHE_DIR, else in ~/.cache/phenaki_jax."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/phenaki_jax"))
