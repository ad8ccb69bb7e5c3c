"""Arrays of pretrained checkpoints, by name and a slice at a time: Hugging Face's safetensors, and T5X's zarr."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from phenaki_jax.errors import UserError

Index = tuple[slice, ...]
SAFETENSORS = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F32": np.float32, "F64": np.float64, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}


class StoredArray(NamedTuple):
    """An array in a file: its shape, and `read`, which loads the part of an index of slices."""
    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]


def open_safetensors(folder: Path, stem: str = "model") -> dict[str, StoredArray]:
    """The arrays of STEM.safetensors, or of the files that STEM.safetensors.index.json names; the files are mapped.

    https://huggingface.co/docs/safetensors: 8 bytes, how long the header is, little-endian; the header, JSON; then the
    arrays' bytes, row-major and little-endian. bfloat16 and the eight-bit floats are those of ml_dtypes.

    Raises: UserError where there are none, or a file is missing or broken.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return _open_file(folder, f"{stem}.safetensors")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index} has no weight_map from arrays to files")
    found = {}
    for name in sorted(set(places.values())):
        found |= _open_file(folder, name)
    return found


def _open_file(folder: Path, name: str) -> dict[str, StoredArray]:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder} has no {name}; weights as model.safetensors are needed")
    data = np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.zeros(0, np.uint8)
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    try:
        if not 8 < begin <= len(data):
            raise ValueError("its header is cut off")
        header = json.loads(data[8:begin].tobytes())
        return {key: _stored(data[begin:], **about) for key, about in header.items() if key != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no safetensors file ({error})") from None


def _stored(data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> StoredArray:
    begin, end = data_offsets
    if not 0 <= begin <= end <= len(data):
        raise ValueError(f"it ends before the bytes {begin} to {end} of its arrays")
    array = data[begin:end].view(SAFETENSORS[dtype]).reshape(shape)
    return StoredArray(array.shape, array.__getitem__)


def open_t5x(folder: Path) -> dict[str, StoredArray]:
    """The arrays of a T5X checkpoint, a folder of zarr arrays such as target.encoder.encoder_norm.scale.

    Raises: UserError where one of them cannot be opened.
    """
    import tensorstore

    opening = {path.name: tensorstore.open({"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/"}})
               for path in sorted(folder.glob("target.*")) if path.is_dir()}
    found = {}
    for name, opened in opening.items():
        try:
            store = opened.result()
        except ValueError as error:
            raise UserError(f"{folder / name} is no zarr array ({str(error).splitlines()[0]})") from None
        found[name] = StoredArray(store.shape, lambda index, store=store: store[index].read().result())
    return found


def read_json(path: Path) -> dict:
    """The object that a JSON file holds. Raises: UserError where it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} has to hold a JSON object")
    return content
