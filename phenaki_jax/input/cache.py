"""What was computed before training: embeddings of captions and tokens of clips, found by what they were made of.

A cache is a folder of NumPy's own files, without pickles. index.json says what it holds and by which model it was made;
each shard is a folder, 00000, 00001, ..., with keys.npy (hexadecimal digests, S32 [n]), ends.npy (int64 [n]) and
values.npy [sum of lengths, ...], where the array of key i ends at ends[i]; bfloat16 is kept as its bits, uint16.
done.json names the mixtures and splits of which all is there.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax import media
from phenaki_jax.array_files import read_json
from phenaki_jax.digest import digest
from phenaki_jax.errors import UserError
from phenaki_jax.input.text import Vocabulary

INDEX, DONE = "index.json", "done.json"
KEYS, ENDS, VALUES = "keys.npy", "ends.npy", "values.npy"
FIELDS = {"text": "text.cache", "tokens": "data.token_cache"}  # of a config, by what is kept there


class Cache:
    """A cache, read: its keys are in memory, its arrays stay on the disk.

    Args:
      folder: that `phenaki precompute --output` was given.
      what: "text" or "tokens".

    Attributes:
      about: what index.json says. done: {mixture: splits} of which all is there.
      dtype: of the arrays. shape: theirs without the first dimension, in which they differ.

    Raises:
      UserError: there is no such cache.
    """

    def __init__(self, folder: str | os.PathLike, what: str):
        self.given, self.what, self.folder = os.fspath(folder), what, Path(folder) / what
        if not (self.folder / INDEX).is_file():
            raise UserError(f"{FIELDS[what]}={self.given!r} holds no {what}; make it with "
                            f"`phenaki precompute --what={what} --output={self.given}`")
        self.about = read_json(self.folder / INDEX)
        self.done = read_json(self.folder / DONE) if (self.folder / DONE).is_file() else {}
        self.dtype, self.shape = np.dtype(self.about["dtype"]), tuple(self.about["shape"])
        keys, places, self._values = [np.zeros(0, "S32")], [np.zeros((0, 3), np.int64)], []
        for number, shard in enumerate(_shards(self.folder)):
            ends = np.load(shard / ENDS)
            keys.append(np.load(shard / KEYS))
            self._values.append(np.load(shard / VALUES, mmap_mode="r"))
            places.append(np.stack([np.full(len(ends), number), np.append(0, ends[:-1]), ends], axis=1))
        every_key = np.concatenate(keys)
        order = np.argsort(every_key)
        self._keys, self._places = every_key[order], np.concatenate(places)[order]

    def __reduce__(self):
        """Pickled it is its place: another process maps the same files."""
        return Cache, (self.given, self.what)

    def get(self, key: str) -> np.ndarray | None:
        """The array [n, *shape] of a key, or None."""
        index = int(np.searchsorted(self._keys, key.encode()))
        if index == len(self._keys) or self._keys[index] != key.encode():
            return None
        shard, begin, end = self._places[index]
        return np.array(self._values[shard][begin:end]).view(self.dtype)

    def embeddings(self, ids: np.ndarray, vocabulary: Vocabulary, at: Any = None) -> np.ndarray:
        """Embeddings [n, E] of a caption's n ids, whatever record's. Raises: UserError where they are not there."""
        return self._found(text_key(ids), f"the caption {vocabulary.decode(ids)!r}")

    def tokens(self, video: np.ndarray, at: Any = None) -> np.ndarray:
        """Tokens [T, H, W] of uint8 [F, Y, X, 3], whatever record's. Raises: UserError where they are not there."""
        return self._found(video_key(video), "a clip of data.mixture")

    def _found(self, key: str, of: str) -> np.ndarray:
        found = self.get(key)
        if found is None:
            raise UserError(f"{FIELDS[self.what]}={self.given!r} has no {self.what} of {of}; the records have changed "
                            f"since `phenaki precompute --what={self.what}`, which adds what is missing")
        return found


class Writer:
    """A cache, written shard by shard; each is there whole or not at all, so what a kill leaves can be gone on from.

    Args:
      folder: its own, created where it is missing.
      about: for index.json: "what", "dtype", "shape" and by what the arrays were made.

    Attributes:
      known: the keys that are there, to which its user adds those that it is about to write. about.

    Raises:
      UserError: the folder has a cache of something else.
    """

    def __init__(self, folder: str | os.PathLike, about: Mapping[str, Any]):
        self.folder, self.about = Path(folder), dict(about)
        self.folder.mkdir(parents=True, exist_ok=True)
        index = self.folder / INDEX
        if index.is_file() and read_json(index) != json.loads(json.dumps(self.about)):
            raise UserError(f"{str(self.folder)!r} holds {about['what']} made by another model or at other sizes; give "
                            "another --output")
        media.write_text(index, json.dumps(self.about, indent=1) + "\n")
        self.known = {key.decode() for shard in _shards(self.folder) for key in np.load(shard / KEYS)}

    def write(self, keys: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
        """One shard: arrays [n, *shape], a key each."""
        values = np.concatenate(arrays).astype(self.about["dtype"])
        assert values.shape[1:] == tuple(self.about["shape"])
        stored = values.view(np.uint16) if self.about["dtype"] == "bfloat16" else values
        place = self.folder / f"{len(_shards(self.folder)):05}"
        begun = place.with_suffix(".begun")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir()
        np.save(begun / KEYS, np.array(keys, "S32"))
        np.save(begun / ENDS, np.cumsum([len(array) for array in arrays], dtype=np.int64))
        np.save(begun / VALUES, stored)
        begun.rename(place)

    def finish(self, mixture: str, splits: Sequence[str]) -> None:
        """Notes that all of a mixture's splits is there."""
        path = self.folder / DONE
        done = read_json(path) if path.is_file() else {}
        done[mixture] = sorted({*done.get(mixture, ()), *splits})
        media.write_text(path, json.dumps(done, indent=1) + "\n")


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.suffix == "")


def text_key(ids: np.ndarray) -> str:
    """Of a caption: its ids without padding, int32."""
    return digest(ids)


def video_key(video: np.ndarray) -> str:
    """Of a clip or an image: its pixels, uint8 [F, Y, X, 3]."""
    return digest(video)
