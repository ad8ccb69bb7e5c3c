"""Further fields of ingested records: what was computed of them, in shards of its own beside theirs.

A data set's folder has, for each model that computed something,

    columns/text-0123456789ab/about.json                     what it is and by which model, as a cache's index.json
    columns/text-0123456789ab/train-64x64/00012.array_record  record i is of record i of train-64x64/00012.array_record

so that who reads a record reads what belongs to it from the same place, and no table of keys is in anybody's memory. A
record's field holds the arrays of all that training may make of it, each by what it was made of (`cache.text_key`,
`cache.video_key`): all captions of a story, all windows of a clip. A shard is there whole or not at all.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax.array_files import read_json
from phenaki_jax.digest import digest
from phenaki_jax.errors import UserError
from phenaki_jax.input.cache import FIELDS, text_key, video_key
from phenaki_jax.input.records import WRITER_OPTIONS, BadRecord, Records, Shards, pack, unpack
from phenaki_jax.input.text import Vocabulary
from phenaki_jax.media import atomic_path, write_text

COLUMNS, ABOUT = "columns", "about.json"
Place = tuple[tuple[str, tuple[int, int] | None], int]  # (task, bucket) and the record's number there
Rows = list[tuple[str, np.ndarray]]  # keys, and what goes through a model


def is_column(value: str) -> bool:
    """Whether text.cache or data.token_cache means fields of the records themselves."""
    return value.startswith(f"{COLUMNS}/")


def column_name(about: Mapping[str, Any]) -> str:
    """The value of text.cache or data.token_cache that means the fields of `about`."""
    return f"{COLUMNS}/{about['what']}-{digest(json.loads(json.dumps(about)))[:12]}"


class Columns:
    """Fields of the records of some tasks, as a `Cache` is read.

    Args:
      name: as of `column_name`. what: "text" or "tokens".
      records: {(task, bucket): its records}.

    Raises: UserError where a data set does not have them, or not for all of its records.
    """

    def __init__(self, name: str, what: str, records: Mapping[tuple[str, tuple[int, int] | None], Any]):
        self.given, self.what = name, what
        self.about, self._shards = {}, {}
        for place, found in records.items():
            if not isinstance(found, Records):
                raise UserError(f"{FIELDS[what]}={name!r} is for data sets of `phenaki ingest`; {place[0]!r} is none")
            folder = found.folder / name
            if not (folder / ABOUT).is_file():
                raise UserError(f"{FIELDS[what]}={name!r} is not there in {str(found.folder)!r}; make it with `phenaki "
                                f"precompute --what={what} --columns`")
            self.about = read_json(folder / ABOUT)
            shards = [(folder / Path(path).relative_to(found.folder), count, out) for path, count, out in found.shards]
            missing = sum(not path.is_file() for path, _, _ in shards)
            if missing:
                raise UserError(f"{FIELDS[what]}={name!r} lacks {missing} of {len(shards)} shards of "
                                f"{str(found.folder)!r}; `phenaki precompute --what={what} --columns` goes on")
            self._shards[place] = Shards(shards)
        self.dtype, self.shape = np.dtype(self.about["dtype"]), tuple(self.about["shape"])

    def embeddings(self, ids: np.ndarray, vocabulary: Vocabulary, at: Place) -> np.ndarray:
        """Embeddings [n, E] of the n ids of a record's caption. Raises: BadRecord where they are not there."""
        return self._found(text_key(ids), at)

    def tokens(self, video: np.ndarray, at: Place) -> np.ndarray:
        """Tokens [T, H, W] of a record's clip, uint8 [F, Y, X, 3]. Raises: BadRecord where they are not there."""
        return self._found(video_key(video), at)

    def _found(self, key: str, at: Place) -> np.ndarray:
        place, index = at
        header, blobs = unpack(self._shards[place][index])
        begin = 0
        for name, length in header["arrays"]:
            if name == key:
                values = np.frombuffer(blobs["values"], np.uint16 if self.about["dtype"] == "bfloat16" else self.dtype)
                return values.reshape(-1, *self.shape)[begin:begin + length].view(self.dtype)
            begin += length
        raise BadRecord(f"no {self.what} of it", f"{self.given} of record {index} of {place[0]}")


def write_columns(records: Records, about: Mapping[str, Any], rows_of: Callable[[Mapping[str, Any]], Rows],
                  compute: Callable[[np.ndarray], Sequence[np.ndarray]], batch: int, host: int, hosts: int,
                  say: Callable[[str], None] = print) -> None:
    """Adds to a data set what its records lack of a field; of several hosts each makes every hosts-th shard.

    Args:
      rows_of: of a record, what is computed of it. compute: at most `batch` of these -> an array [n, *shape] each.
    """
    folder = records.folder / column_name(about)
    write_text(folder / ABOUT, json.dumps(about, indent=1) + "\n")
    for number, (path, count, _) in enumerate(records.shards):
        target = folder / Path(path).relative_to(records.folder)
        if number % hosts != host or target.is_file():
            continue
        one = Records.of_shard(records, path, count)
        _write_shard(target, _arrays(one, rows_of, compute, batch), about)
        say(f"{count} records, written to {target}")


def _arrays(records: Sequence[Mapping[str, Any]], rows_of: Callable[[Mapping[str, Any]], Rows],
            compute: Callable[[np.ndarray], Sequence[np.ndarray]], batch: int) -> Iterable[Rows]:
    """(key, array) of what is computed of each record, in their order; none of one that is bad."""
    waiting: list[Rows] = []

    def computed() -> Iterable[Rows]:
        flat = [value for rows in waiting for _, value in rows]
        parts = (compute(np.stack(flat[first:first + batch])) for first in range(0, len(flat), batch))
        arrays = itertools.chain.from_iterable(parts)
        for rows in waiting:
            yield [(key, next(arrays)) for key, _ in rows]

    for index in range(len(records)):
        try:
            waiting.append(rows_of(records[index]))
        except BadRecord:
            waiting.append([])
        if sum(map(len, waiting)) >= batch:
            yield from computed()
            waiting = []
    yield from computed()


def _write_shard(path: Path, records: Iterable[Rows], about: Mapping[str, Any]) -> None:
    from array_record.python import array_record_module
    with atomic_path(path) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        for rows in records:
            arrays = [np.asarray(array).astype(about["dtype"]) for _, array in rows]
            values = b"".join(array.tobytes() for array in arrays)
            writer.write(pack({"arrays": [[key, len(array)] for (key, _), array in zip(rows, arrays)]},
                              {"values": values}))
        writer.close()
