"""One unit of a source: its samples become shards, and a list of what was dropped. A pure function of its source.

A unit's files are, NUMBER being its place among the source's units:

    train-64x64/NUMBER.array_record   its records, a shard for each split and size
    units/NUMBER.json           what it had and has; written last, so that with it all of the unit is there
    units/NUMBER.dropped.jsonl  a line for each sample that was dropped: key, reason, detail
    units/NUMBER.media.npy      with the filter `duplicate`: for each kept sample a hash of its media, the number of its
                                shard among the unit's, its first record there and how many it has; int64 [samples, 4]
"""

import collections
import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.ingest import places
from phenaki_jax.ingest.prepare import Settings, records_of
from phenaki_jax.ingest.samples import Sample, Unit, broken, readable
from phenaki_jax.ingest.sources import read_samples
from phenaki_jax.input.records import WRITER_OPTIONS, BadRecord, pack

SPLITS = ("train", "test")
KEY_BYTES = 512  # of a key, as a worker tells it, with a zero at its end
SHOWN = 5  # examples of each reason in a manifest
# Reasons that do not mean that a record is damaged, but that it is not wanted.
UNWANTED = ("filter: ", "missing: ", "not downloaded", "not an image", "not a video", "too small", "clip too short",
            "no caption", "duplicate")


def file_of(number: int, what: str) -> str:
    """The name of one of a unit's files in units/: what is "json", "dropped.jsonl", "media.npy" or "crashed"."""
    return f"units/{number:05}.{what}"


def shard_of(number: int, split: str, size: tuple[int, int]) -> str:
    """The name of a unit's shard of a split and a size."""
    return f"{split}-{size[0]}x{size[1]}/{number:05}.array_record"


def short(key: str) -> str:
    """A key as a worker tells it: what of it fits."""
    return key.encode("utf-8", "replace")[:KEY_BYTES - 1].decode("utf-8", "ignore")


def is_damage(reason: str) -> bool:
    return not reason.startswith(UNWANTED)


class _Shard:
    """A unit's records of a split and a size, written to a temporary file."""

    def __init__(self, number: int, split: str, size: tuple[int, int], scratch: Path):
        from array_record.python import array_record_module
        scratch.mkdir(parents=True, exist_ok=True)
        self.file, self.split, self.size, self.records = shard_of(number, split, size), split, size, 0
        self.temporary = temporary = scratch / self.file.replace("/", "-")
        self._writer = array_record_module.ArrayRecordWriter(str(temporary), WRITER_OPTIONS)

    def write(self, header: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
        data = pack(header, blobs)
        try:
            self._writer.write(data)
        except (RuntimeError, ValueError) as error:
            raise OSError(f"{self.temporary} cannot be written: {error}") from None
        self.records += 1

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._writer.close()

    def finish(self, output: str) -> dict[str, Any]:
        """Moves it to its place; gives its entry in a manifest."""
        self._writer.close()
        digest = hashlib.blake2b(digest_size=16)
        with open(self.temporary, "rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
        size = self.temporary.stat().st_size
        places.put(self.temporary, places.join(output, self.file))
        return {"file": self.file, "split": self.split, "size": list(self.size), "records": self.records,
                "bytes": size, "checksum": digest.hexdigest()}


def ingest_unit(unit: Unit, number: int, settings: Settings, output: str, scratch: Path,
                crashed: Mapping[str, str] | None = None, watch: Callable[[str], None] = lambda key: None) -> dict:
    """Reads a unit and writes its files.

    Args:
      output: the data set's folder, here or remote. scratch: a folder of this machine for what is not finished.
      crashed: {`short` key: reason} of samples that are not tried, for they ended a worker.
      watch: told the key of each sample before anything is done with it.

    Returns:
      units/NUMBER.json.
    """
    shards: dict[tuple[str, tuple[int, int]], _Shard] = {}
    dropped: list[tuple[str, BadRecord]] = []
    lost: collections.Counter = collections.Counter()
    media: list[tuple[int, int, int, int]] = []
    count = kept = 0
    keys: set[str] = set()
    try:
        for sample in _to_the_end(unit):
            sample.key = readable(sample.key)
            count += 1
            watch(sample.key)
            try:
                if short(sample.key) in (crashed or {}):
                    raise BadRecord(crashed[short(sample.key)])
                if sample.key in keys:
                    raise BadRecord("key twice")
                keys.add(sample.key)
                split = settings.split(f"{unit.name}/{sample.key}")
                # All of a sample or nothing of it: a video that breaks off late leaves no clips of its beginning.
                made = _made(sample, settings, lost, watch)
            except BadRecord as error:
                dropped.append((sample.key, error))
                watch("")
                continue
            size = made[0][0]["height"], made[0][0]["width"]  # all clips of a sample have one
            if (split, size) not in shards:
                shards[split, size] = _Shard(number, split, size, scratch)
            shard = shards[split, size]
            if settings.duplicates:
                media.append((_media_hash(sample), list(shards).index((split, size)), shard.records, len(made)))
            for header, blobs in made:
                shard.write(header | {"key": f"{unit.name}/{header['key']}"}, blobs)
            kept += 1
            watch("")  # from here to the next sample it is the source that may stall
        entries = []
        for shard in shards.values():
            watch("")
            entries.append(shard.finish(output))
    finally:
        for shard in shards.values():
            shard.close()
            shard.temporary.unlink(missing_ok=True)
    lines = [json.dumps({"key": key, "reason": error.reason, "detail": error.detail}, ensure_ascii=True)
             for key, error in dropped]
    places.write(places.join(output, file_of(number, "dropped.jsonl")), "".join(f"{x}\n" for x in lines).encode())
    if settings.duplicates:
        buffer = io.BytesIO()
        np.save(buffer, np.array(media, np.int64).reshape(-1, 4))
        places.write(places.join(output, file_of(number, "media.npy")), buffer.getvalue())
    result = {"unit": unit.name, "number": number, "in": count, "kept": kept, "dropped": counts(dropped),
              "clips_dropped": dict(sorted(lost.items())), "shards": entries, "examples": examples(dropped)}
    places.write(places.join(output, file_of(number, "json")), json.dumps(result, indent=1).encode())
    return result


def _to_the_end(unit: Unit) -> Iterator[Sample]:
    """The samples of a unit; where its source fails in a way that its reader does not know, that is the last one."""
    try:
        yield from read_samples(unit)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  whatever a library says of a broken file
        yield broken(f"{unit.name}[…]", "damaged shard", f"{type(error).__name__}: {error}")


def _made(sample: Sample, settings: Settings, lost: collections.Counter,
          watch: Callable[[str], None]) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
    """The records of a sample. Raises: BadRecord, also for whatever a library says of a broken file."""
    made = []
    try:
        for one in records_of(sample, settings, lost):
            made.append(one)
            watch(sample.key)  # a long video is not a stalled one
    except (BadRecord, UserError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001
        raise BadRecord("unusable", f"{type(error).__name__}: {error}") from None
    return made


def counts(dropped: list[tuple[str, BadRecord]]) -> dict[str, int]:
    return dict(sorted(collections.Counter(error.reason for _, error in dropped).items()))


def examples(dropped: list[tuple[str, BadRecord]]) -> dict[str, list]:
    """The first few [key, detail] of each reason: where to look when a number is too high."""
    found: dict[str, list] = {}
    for key, error in dropped:
        if len(found.setdefault(error.reason, [])) < SHOWN:
            found[error.reason].append([key, error.detail[:200]])
    return dict(sorted(found.items()))


def _media_hash(sample: Sample) -> int:
    """Of a sample's media, within int64."""
    data = sample.media if isinstance(sample.media, bytes) else np.ascontiguousarray(sample.media).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
