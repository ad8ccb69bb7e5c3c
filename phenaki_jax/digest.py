"""Names made of content: equal names, equal arrays and settings."""

import hashlib
import json
from typing import Any

import jax
import numpy as np


def digest(*parts: Any) -> str:
    """32 hexadecimal digits of arrays (values, dtype and shape) and of what JSON can hold, or has a `repr`."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, (np.ndarray, jax.Array)):
            part = np.ascontiguousarray(part)
            state.update(f"{part.dtype.name} {part.shape} ".encode())
            state.update(part.reshape(-1).view(np.uint8))
        else:
            state.update(f"{json.dumps(part, sort_keys=True, default=repr)} ".encode())
    return state.hexdigest()


def tree_digest(tree: Any, *more: Any) -> str:
    """`digest` of all arrays of a tree, with their names, and of more."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return digest(*(part for path, leaf in leaves for part in (jax.tree_util.keystr(path), leaf)), *more)
