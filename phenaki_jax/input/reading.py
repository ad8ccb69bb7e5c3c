"""What reading records by position needs: seqio's tasks without seqio, decoded records kept, bad ones counted."""

import collections
import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phenaki_jax.errors import DataError, UserError
from phenaki_jax.input.preprocess import whole_stride
from phenaki_jax.input.records import BadRecord

ENOUGH = 1000  # records that are read before the share of bad ones counts
SHOWN = 5  # names of bad records that are kept for each reason


class Kept:
    """Decoded records, the least recently used thrown out when they pass `limit` bytes; pickled it is empty."""

    def __init__(self, limit: int):
        self._limit, self._bytes = limit, 0
        self._kept: collections.OrderedDict[Any, dict[str, Any]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self):
        return Kept, (self._limit,)

    def get(self, key: Any, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            record = self._kept[key] = read()
            self._bytes += record["video"].nbytes
            while self._bytes > self._limit and self._kept:
                self._bytes -= self._kept.popitem(last=False)[1]["video"].nbytes
            return record


class BadRecords:
    """Records that could not be used: how many, by reason, and some of them by name.

    Attributes: read: records asked for; counts: {reason: number}; examples: {reason: names}.
    """

    def __init__(self, most: float):
        self.most, self.read = most, 0
        self.counts: collections.Counter = collections.Counter()
        self.examples: dict[str, list[str]] = {}

    def note(self, name: str, error: BadRecord) -> None:
        """Raises: DataError where they are more than a share `most` of what was read."""
        self.counts[error.reason] += 1
        shown = self.examples.setdefault(error.reason, [])
        if len(shown) < SHOWN:
            shown.append(f"{name}: {error.detail}")
        self._check()

    def _check(self) -> None:
        bad = self.counts.total()
        if self.read >= ENOUGH and bad > self.most * self.read:
            reason = self.counts.most_common(1)[0][0]
            raise DataError(f"{bad} of {self.read} records are bad, more than data.max_bad={self.most:g}; most often "
                            f"{reason!r}, as in {self.examples[reason][0]}")

    def taken(self) -> "BadRecords":
        """What was noted since the last call."""
        taken = BadRecords(self.most)
        taken.read, taken.counts, taken.examples = self.read, self.counts.copy(), dict(self.examples)
        self.read, self.counts, self.examples = 0, collections.Counter(), {}
        return taken

    def merge(self, other: "BadRecords | None") -> None:
        """Adds what another process has noted. Raises: DataError as `note`."""
        if other:
            self.read += other.read
            self.counts.update(other.counts)
            for reason, names in other.examples.items():
                shown = self.examples.setdefault(reason, [])
                shown.extend(names[:SHOWN - len(shown)])
            if other.counts:
                self._check()


@dataclasses.dataclass(frozen=True)
class ReadTask:
    """A seqio task without seqio: what it takes to read it by position.

    records: by the bucket of a batch; {None: all} without any.
    """
    name: str
    stream: str
    source: str
    steps: tuple[Callable[..., dict[str, Any]], ...]
    records: Mapping[tuple[int, int] | None, Sequence[Mapping[str, Any]]]


def read_task(task: Any, split: str, data_dir: str, buckets: Sequence[tuple[int, int]], full: tuple[int, int, int],
          fps: float | None) -> ReadTask:
    """Raises: UserError where the task's records do not serve."""
    source, (frames, height, width) = task.source, full
    steps, ingested = _numpy_steps(task), hasattr(source, "of_size")
    if buckets and not ingested:
        raise UserError(f"data.buckets={buckets} needs data sets of `phenaki ingest`; {source.name} is none.")
    if ingested:  # its records are brought to what is asked for
        records = {size: source.of_size(split, data_dir, size) for size in buckets or (None,)}
    else:
        records = {None: source.records(split, data_dir)}
        count, *size, _ = source.video_shape(split, data_dir)
        if tuple(size) != (height, width):
            raise UserError(f"tokenizer.height={height} and tokenizer.width={width} do not fit the records of "
                            f"{source.name}, which are {size[0]} x {size[1]}.")
        wanted = 1 if source.stream == "image" else frames
        if count not in (None, 1, wanted):  # a task may make clips of images
            raise UserError(f"tokenizer.frames={wanted} does not fit the records of {source.name}, "
                            f"which have {count} frames.")
    for size, found in records.items():
        if not len(found):
            of = "" if size is None else f" of {size[0]} x {size[1]}"
            raise UserError(f"data.split={split!r} of {source.name} has no records{of}.")
    rate = source.fps(split, data_dir) if ingested else float(records[None][0]["fps"])
    still = source.stream == "image" or (not ingested and count == 1)
    if fps and not still and rate != fps and not (ingested and whole_stride(rate, fps)):
        raise UserError(f"data.fps={fps:g} does not fit the records of {source.name}, "
                        f"which have {rate:g} frames a second.")
    return ReadTask(task.name, source.stream, source.name, tuple(steps), records)


def name_of(task: ReadTask, records: Any, index: int) -> str:
    file = f" in {records.file(index)}" if hasattr(records, "file") else ""
    return f"record {index} of {task.name}{file}"


def _numpy_steps(task: Any) -> list[Callable[..., dict[str, Any]]]:
    from phenaki_jax.input.seqio_source import NumpyStep, RandomAccessSource, number_records
    others = [step for step in task.preprocessors if step is not number_records and not isinstance(step, NumpyStep)]
    if not isinstance(task.source, RandomAccessSource) or others:
        raise UserError(f"The task {task.name!r} cannot be read by position: it needs a RandomAccessSource and "
                        "no preprocessors but number_records and NumpySteps.")
    return [step.function for step in task.preprocessors if isinstance(step, NumpyStep)]
