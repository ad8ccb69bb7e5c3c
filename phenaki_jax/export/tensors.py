"""Arrays in files of the safetensors format: 8 bytes that say how long the header is, a JSON header, the arrays' bytes.

https://huggingface.co/docs/safetensors. Reading is `array_files.open_safetensors`, which maps the files.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from phenaki_jax.array_files import SAFETENSORS, open_safetensors

NAMES = {np.dtype(dtype): name for name, dtype in SAFETENSORS.items()}
ALIGNMENT = 8  # bytes, of the first array in a file


def write(folder: Path, arrays: Mapping[str, np.ndarray], stem: str = "model",
          shard_bytes: int = 5 * 10**9) -> list[str]:
    """Writes arrays into STEM.safetensors, or, where they are more than `shard_bytes`, into several files.

    Those are STEM-00001-of-00003.safetensors and so on, in the order of `arrays`, with STEM.safetensors.index.json as
    Hugging Face has it; none is larger than `shard_bytes` unless one array is (the header is not counted).

    Returns: the names of the files, the index last.
    """
    shards, size = [[]], 0
    for name, array in arrays.items():
        if shards[-1] and size + array.nbytes > shard_bytes:
            shards, size = [*shards, []], 0
        shards[-1].append(name)
        size += array.nbytes
    files = [f"{stem}.safetensors"] if len(shards) == 1 else [
        f"{stem}-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for file, names in zip(files, shards):
        _write_file(folder / file, {name: arrays[name] for name in names})
    if len(files) == 1:
        return files
    index = {"metadata": {"total_size": sum(array.nbytes for array in arrays.values())},
             "weight_map": {name: file for file, names in zip(files, shards) for name in names}}
    name = f"{stem}.safetensors.index.json"
    (folder / name).write_text(json.dumps(index, indent=1) + "\n")
    return [*files, name]


def read(folder: Path, stem: str = "model") -> dict[str, np.ndarray]:
    """What `write` wrote, read-only: the files are mapped, and bytes come from the disk when they are looked at.

    bfloat16 and the eight-bit floats are those of ml_dtypes.

    Raises: UserError where a file is missing or broken.
    """
    return {name: stored.read((...,)) for name, stored in open_safetensors(folder, stem).items()}


def _write_file(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """One file; wide types come first, so that every array lies at a multiple of its items' size."""
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header, end = {"__metadata__": {"format": "np"}}, 0
    for name in names:
        array = arrays[name]
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape),
                        "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8))
