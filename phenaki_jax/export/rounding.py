"""Weights in fewer bytes: all of them in bfloat16, or the products' kernels and the tables in int8.

int8 is of the weights alone and symmetric: w is kept as round(w / scale), -127 to 127, with one scale = max |w| / 127
for each output channel of a kernel (its last axis), for each row of a table of codes or of text ids, and for each layer
of a stack, so that no weight moves by more than half a scale. What is no kernel and no table stays float32: scales,
biases, positions, and the quantizer, whose roundings decide the tokens.
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

DTYPES = ("float32", "bfloat16", "int8")
SCALE = ".scale"  # behind the name of an int8 array: its scales, of the shape that multiplies it
STACK = "layers"  # in the name of an array whose first axis is the layers
TABLES = ("embedding", "own")  # one row a text id, one a code
EXACT = ("positions", "quantizer", "relative_bias", "digits", "null", "head_bias")
LARGEST = 127


def rounded(arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """float32 arrays by name -> what is stored, in one of DTYPES; arrays of other types stay as they are."""
    stored = {}
    for name, array in arrays.items():
        if array.dtype != np.float32 or dtype == "float32":
            stored[name] = array
        elif dtype == "bfloat16":
            stored[name] = array.astype(ml_dtypes.bfloat16)
        elif axes := summed(name, array.ndim):
            stored[name], stored[name + SCALE] = _quantise(array, axes)
        else:
            stored[name] = array
    return stored


def restored(stored: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """What `rounded` gave -> arrays of the first names, float32."""
    if dtype == "bfloat16":
        return {name: array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
                for name, array in stored.items()}
    scales = {name + SCALE for name in stored} & stored.keys()
    return {name: array * stored[name + SCALE] if name + SCALE in scales else array
            for name, array in stored.items() if name not in scales}


def summed(name: str, rank: int) -> tuple[int, ...]:
    """The axes over which an array's weights share a scale; () for one that int8 leaves as it is."""
    parts = name.split(".")
    first = 1 if STACK in parts else 0
    if parts[1] != "params" or rank - first < 2 or any(part in EXACT for part in parts):
        return ()
    return (rank - 1,) if parts[-1] in TABLES else tuple(range(first, rank - 1))


def _quantise(array: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    scale = np.abs(array).max(axes, keepdims=True) / np.float32(LARGEST)
    scale[scale == 0] = 1  # of nothing but zeros
    return np.clip(np.rint(array / scale), -LARGEST, LARGEST).astype(np.int8), scale
