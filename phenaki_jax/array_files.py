"""Arrays of pretrained checkpoints, by name and a slice at a time: Hugging Face's safetensors, and T5X's zarr."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phenaki_jax.errors import UserError

Index = tuple[slice, ...]


class StoredArray(NamedTuple):
    """An array in a file: its shape, and `read`, which loads the part of an index of slices."""
    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]


def open_safetensors(folder: Path) -> dict[str, StoredArray]:
    """The arrays of model.safetensors, or of the files that model.safetensors.index.json names.

    Raises: UserError where there are none, a file is missing or broken, or the package safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise UserError(f"{folder} holds safetensors; reading them needs pip install 'phenaki_jax[text]'") from None
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise UserError(f"{index} has no weight_map from arrays to files")
        files = sorted(set(places.values()))
    else:
        files = ["model.safetensors"]
    found = {}
    for name in files:
        try:
            file = safe_open(folder / name, framework="numpy")
        except FileNotFoundError:
            raise UserError(f"{folder} has no {name}; weights as model.safetensors are needed") from None
        except SafetensorError as error:
            raise UserError(f"{folder / name} is no safetensors file ({error})") from None
        for key in file.keys():
            part = file.get_slice(key)
            found[key] = StoredArray(tuple(part.get_shape()), part.__getitem__)
    return found


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
