"""Batches of a seqio mixture as a pure function of (seed, step), read by position.

Resuming costs one batch, on any number of hosts: nothing is remembered between batches but decoded records.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax import config as configs
from phenaki_jax.errors import DataError, UserError
from phenaki_jax.input import ahead, order, preprocess
from phenaki_jax.input.cache import Cache
from phenaki_jax.input.columns import Columns, Place, is_column
from phenaki_jax.input.mix import MODULES, Draws, field_of, find_mixture, sources_of, stream_rows, stream_shares
from phenaki_jax.input.motion import TOLD
from phenaki_jax.input.reading import BadRecords, Kept, name_of, read_task
from phenaki_jax.input.records import BadRecord
from phenaki_jax.input.schema import TEXT_LENGTH, Batch, batch_shapes
from phenaki_jax.input.text import BYTES, Vocabulary, encode_cut

CACHE_BYTES = 1 << 30
LEFT_TO_PREDICT = 2  # frames of a shortened window at least
CAPTION_BYTES = 1 << 16  # of a caption, where they are only read to be encoded anew
INSTEAD = 100  # records that are tried in place of a bad one


def make_loader(config: Any, train: bool = True) -> "Loader | Schedule":
    """The loader that a config asks for: its train split, or its eval split; this process's rows of each batch.

    With `data.schedule` it is a `Schedule` of a loader a phase, whose streams run on from one phase to the next.
    """
    import jax

    from phenaki_jax.input.encoder import vocabulary_of
    data, loaders, vocabulary = config.data, [], vocabulary_of(config)
    cache = Kept(CACHE_BYTES // max(1, data.get("workers", 0)))  # all processes together
    told = () if config.get("stage") == "tokenizer" else (config.get("generator") or {}).get("conditions", ())
    embeddings, tokens = config.text.get("cache"), train and data.get("token_cache")
    embeddings = Cache(embeddings, "text") if embeddings and not is_column(embeddings) else embeddings or None
    tokens = Cache(tokens, "tokens") if tokens and not is_column(tokens) else tokens or None
    for first, mixture in configs.mixtures(config):
        loaders.append(Loader(
            mixture, batch_size=config.batch_size, seed=config.seed,
            split=data.split if train else data.eval_split,
            frames=config.tokenizer.frames, height=config.tokenizer.height, width=config.tokenizer.width,
            text_length=config.text.length, sizes=data.get("sizes", ()) if train else (), told=told,
            fps=None if "fps" in told else data.fps,
            buckets=data.get("buckets", ()) if train else (),
            data_dir=data.data_dir, modules=tuple(data.modules), max_bad=data.get("max_bad", 0.01),
            workers=data.get("workers", 0) if train else 0, patience=data.get("patience", ahead.PATIENCE),
            host=jax.process_index(), hosts=jax.process_count(), cache=cache, field=field_of(config),
            vocabulary=vocabulary, embeddings=embeddings, tokens=tokens,
            start=first, after=loaders[-1] if loaders else None))
    return loaders[0] if len(loaders) == 1 else Schedule(loaders)


class Loader:
    """Batches of a mixture, see `schema.Batch`; the same for the same (seed, step), wherever and whenever asked.

    Row r of a stream in step s stands at position before + (s - start) * rows + r of that stream. `mix.Draws` gives
    its task and the number of the task's record, a permutation of the task's records, another one in each epoch, the
    record; where that cannot be used, a hash of (seed, number, attempt) chooses another.

    Args:
      mixture: name of a mixture, see `mix.find_mixture`.
      batch_size: rows a step on all hosts, all streams together.
      frames, height, width: of a row of the video stream; images have one frame.
      text_length: ids of a caption, with its end mark.
      fps: if given, the frame rate that clips have.
      told: which numbers rows have: motion, fps (others are not of the data).
      sizes: (frames, height, width) that steps have by turns, drawn anew for each; () for always the full size. Rows
        are cut to their first frames and shrunk by whole factors, so that one model learns clips of several lengths and
        resolutions; of frames that are given at least the last two are left to predict.
      buckets: (height, width) that steps have by turns instead, as often as records have them; rows are of records of
        that very size (`phenaki ingest --size=64x64,48x80`).
      data_dir: where the data sets lie, already built (`mix.prepare`).
      host, hosts: which contiguous share of each stream's rows `batch` gives.
      cache_bytes: how many bytes of decoded video may be kept; `cache` instead shares what another loader keeps.
      start, after: the step that it begins with, and the loader whose turn it was before.
      field: the config's field that names the mixture, for sentences about it.
      vocabulary: of the ids in a batch; tasks give bytes, which are read and encoded anew where it is another.
      embeddings, tokens: caches, or names of fields of the records (`columns`); batches have "text_embeds" and "tokens"
        of them.
      max_bad: share of records that cannot be used above which `batch` raises DataError.
      workers, patience: of `iterate`: processes that make batches, 0 for a thread; seconds that a record may take.

    Raises:
      UserError: an unknown mixture or split, no records, other sizes than asked for, shares that are no whole rows.
    """

    def __init__(self, mixture: str, *, batch_size: int, seed: int, split: str = "train", frames: int, height: int,
                 width: int, text_length: int = TEXT_LENGTH, fps: float | None = None,
                 sizes: Sequence[tuple[int, int, int]] = (), buckets: Sequence[tuple[int, int]] = (),
                 told: Sequence[str] = (), data_dir: str | os.PathLike,
                 modules: Sequence[str] = MODULES, host: int = 0, hosts: int = 1, cache_bytes: int = CACHE_BYTES,
                 cache: Kept | None = None, start: int = 0, after: "Loader | None" = None,
                 field: str = "data.mixture", vocabulary: Vocabulary = BYTES, embeddings: Cache | str | None = None,
                 tokens: Cache | str | None = None, max_bad: float = 0.01, workers: int = 0,
                 patience: float = ahead.PATIENCE):
        tasks, self._rates = find_mixture(mixture, modules, field, data_dir)
        self.seed, self.host, self.hosts = seed, host, hosts
        self.mixture, self.start = mixture, start
        self._before = after.positions(start) if after else {}
        self._text_length, self._vocabulary = text_length, vocabulary
        self._workers, self._patience, self.bad = workers, patience, BadRecords(max_bad)
        self._cache = cache or Kept(cache_bytes)
        self._full, self._sizes = (frames, height, width), tuple(sizes) or ((frames, height, width),)
        preprocess.check_sizes(self._sizes, self._full)
        self._buckets = tuple(buckets)
        if self._buckets and sizes:
            raise UserError(f"data.sizes={tuple(sizes)} and data.buckets={self._buckets} do not go together; leave one "
                            "of them out.")
        self._tasks = {task.name: read_task(task, split, os.fspath(data_dir), self._buckets, self._full, fps)
                       for task in tasks}
        self._lengths = {"video": frames, "text": text_length if vocabulary is BYTES else CAPTION_BYTES, "fps": fps,
                         "height": height, "width": width}
        self.streams = {task.name: task.stream for task in self._tasks.values()}
        self._sources = sources_of(self.streams)
        self._embeddings, self._tokens = (
            Columns(kept, what, {(name, size): records for name, task in self._tasks.items()
                                 for size, records in task.records.items()}) if isinstance(kept, str) else kept
            for kept, what in ((embeddings, "text"), (tokens, "tokens")))
        self._draws = Draws(self.streams, self._rates, seed, after and after._draws, self._before)
        self._weights = [sum(len(task.records[size]) for task in self._tasks.values()) for size in self._buckets]
        self.rows = stream_rows(stream_shares(self.streams, self._rates), batch_size, mixture, field)
        self._told = [name for name in told if name in TOLD]
        if tokens and (self._sizes != (self._full,) or self._buckets):
            raise UserError(f"data.sizes={tuple(sizes)}, data.buckets={self._buckets} and data.token_cache do not go "
                            "together: cached tokens are of whole clips; leave one of them out.")
        self._check_hosts(hosts)

    def _check_hosts(self, hosts: int) -> None:
        for stream, count in self.rows.items():
            if count % hosts:
                raise UserError(f"batch_size gives {count} rows a step to the {stream} stream, "
                                f"which {hosts} hosts cannot share evenly; it needs to be a multiple of {hosts}.")

    def positions(self, step: int) -> dict[str, int]:
        """How many positions of each stream the steps before `step` use up, those before `start` among them."""
        used = {stream: (step - self.start) * count for stream, count in self.rows.items()}
        return {stream: self._before.get(stream, 0) + used.get(stream, 0) for stream in {**self._before, **used}}

    def draw(self, stream: str, position: int) -> tuple[str, int]:
        """The task of the row at a position of a stream, and the number that `example` wants."""
        return self._draws.at(stream, position)

    def sources_at(self, step: int) -> dict[str, tuple[str, ...]]:
        """`mix.sources_of` a step's mixture."""
        return self._sources

    def bucket_at(self, step: int) -> tuple[int, int] | None:
        """The (height, width) that a step's records have; None without buckets."""
        if not self._buckets:
            return None
        draw = order.uniform(self.seed, "bucket", step) * sum(self._weights)
        bounds = itertools.accumulate(self._weights)
        return next((size for size, bound in zip(self._buckets, bounds) if draw < bound), self._buckets[-1])

    def example(self, task: str, number: int, bucket: tuple[int, int] | None = None,
                watch: Callable[[str], None] | None = None) -> dict[str, np.ndarray]:
        """A task's n-th row, over all epochs: {video, text (unpadded), fps, known_frames}; as seqio gives it.

        Raises: DataError where there are too many bad records.
        """
        found = self._tasks[task]
        records, key = found.records[bucket], order.source_key(self.seed, found.source)
        key = key if bucket is None else order.source_key(key, f"{bucket}")
        index = order.record_index(key, number, len(records))
        lengths = self._lengths if bucket is None else self._lengths | {"height": bucket[0], "width": bucket[1]}
        for attempt in range(1, INSTEAD + 1):
            if watch:
                watch(name_of(found, records, index))
            self.bad.read += 1
            try:
                record = {**self._cache.get((task, bucket, index), lambda: records[index]),
                          "seed": order.example_seed(key, number)}
                for step in found.steps:
                    record = step(record, lengths)
                return self._with_columns(record, ((task, bucket), index))
            except BadRecord as error:
                self.bad.note(name_of(found, records, index), error)
            index = order.hash64(key, "instead", number, attempt) % len(records)
        raise DataError(f"{INSTEAD} records of {task!r}, one after the other, cannot be used; "
                        f"{self.bad.counts.most_common(1)[0][0]!r} is why, most often.")

    def _with_columns(self, example: dict[str, np.ndarray], at: Place) -> dict[str, np.ndarray]:
        """An example with what is kept of it. at: the record that it was made of."""
        if self._embeddings:
            example["text_embeds"] = self._embeddings.embeddings(self.ids(example), self._vocabulary, at)
        if self._tokens:
            example["tokens"] = self._tokens.tokens(example["video"], at)
        return example

    def ids(self, example: Mapping[str, np.ndarray]) -> np.ndarray:
        """A row's caption as ids of the loader's vocabulary, int32 [at most text_length], unpadded."""
        if self._vocabulary is BYTES:
            return example["text"]
        return encode_cut(BYTES.decode(example["text"]), self._text_length, self._vocabulary)

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(task, record) of every record of the split, one after the other; bad ones are left out, and noted."""
        for name, records in self.all_records():
            for index in range(len(records)):
                try:
                    yield name, records[index]
                except BadRecord as error:
                    self.bad.note(name_of(self._tasks[name], records, index), error)

    def all_records(self) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
        """(task, its records), of each bucket by themselves."""
        for name, task in self._tasks.items():
            for records in task.records.values():
                yield name, records

    def every_row(self, task: str, record: Mapping[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        """All that `example` can give of a record, whatever the position.

        Raises: UserError where the task draws from endlessly many.
        """
        try:
            yield from preprocess.every_row(self._tasks[task].steps, record, self._lengths)
        except preprocess.Endless:
            raise UserError(f"the task {task!r} of {self.mixture!r} draws its clips anew each time, so that no cache "
                            "can hold them; precompute another mixture") from None

    def shapes(self, size: tuple[int, int, int] | None = None) -> dict[str, dict[str, tuple]]:
        """The (shape, dtype) of every array of a batch of all hosts, of clips of (frames, height, width)."""
        frames, height, width = size or self._full
        return batch_shapes(
            self.rows, frames=frames, height=height, width=width, text_length=self._text_length, told=self._told,
            embeddings=(*self._embeddings.shape, self._embeddings.dtype) if self._embeddings else None,
            token_grid=tuple(self._tokens.about["grid"]) if self._tokens else None, sources=self._sources)

    @property
    def nbytes(self) -> int:
        """What a batch of this host takes at most, each array rounded up."""
        largest = [(self._full[0], *size) for size in self._buckets] or [self._full]
        return max(sum(math.prod(shape) // self.hosts * dtype.itemsize + ahead.ALIGNED for arrays in self.shapes(
            size).values() for shape, dtype in arrays.values()) for size in largest)

    def batch(self, step: int, host: int | None = None, hosts: int | None = None, *,
              watch: Callable[[str], None] | None = None) -> Batch:
        """The rows of one step: all of them, or with hosts > 1 the contiguous share of `host` of each stream.

        watch: told which record is read, before it is.
        """
        host, hosts = self.host if host is None else host, self.hosts if hosts is None else hosts
        self._check_hosts(hosts)
        batch: Batch = {}
        first, bucket = self.positions(step), self.bucket_at(step)
        whole = self._full if bucket is None else (self._full[0], *bucket)
        size = whole if bucket else self._sizes[order.hash64(self.seed, "size", step) % len(self._sizes)]
        shapes = self.shapes(size)
        for stream, count in self.rows.items():
            share = count // hosts
            out = {name: np.zeros((share, *shape[1:]), dtype) for name, (shape, dtype) in shapes[stream].items()}
            for row in range(share):
                position = first[stream] + host * share + row
                task, number = self.draw(stream, position)
                example = self.example(task, number, bucket, watch)
                ids = self.ids(example)
                video = example["video"] if size == whole else preprocess.shrink(example["video"], size)
                out["video"][row] = video
                out["text"][row, :len(ids)] = ids
                out["known_frames"][row] = min(int(example["known_frames"]), max(len(video) - LEFT_TO_PREDICT, 0))
                if stream in self._sources:
                    out["sources"][row, self._sources[stream].index(task)] = 1
                for name in self._told:
                    out[name][row] = TOLD[name](video, float(example["fps"]))
                if self._embeddings:
                    out["text_embeds"][row, :len(ids)] = example["text_embeds"]
                if self._tokens:
                    out["tokens"][row] = example["tokens"]
            batch[stream] = out
        return batch

    def iterate(self, start_step: int = 0, prefetch: int = 2) -> Iterator[Batch]:
        """Batches from a step on, endlessly, made ahead by a thread or by processes (`workers`).

        Raises: DataError where reading stalls or dies, or too many records are bad.
        """
        return _iterate(self, start_step, prefetch, self._workers, self._patience)


def _iterate(loader: Any, start: int, prefetch: int, workers: int, patience: float) -> Iterator[Batch]:
    if workers:
        return ahead.by_processes(loader, start, workers, patience)
    return ahead.by_thread(lambda step, watch: loader.batch(step, watch=watch), start, prefetch, patience)


class Schedule:
    """Loaders that take turns, each from its `start` to the next one's; what it gives at a step has that one's streams.

    A stream that two of them have runs on from one to the other: where the first ends in its order of records, the
    second goes on, so that no record comes again early and a phase begins with none that are special. A batch is a
    function of (seed, step) and the phases before it; two phases of one mixture are that mixture alone.

    Args:
      loaders: in the order of their `start`, each `after` the one before it.
    """

    def __init__(self, loaders: Sequence[Loader]):
        self.loaders, self.bad = tuple(loaders), loaders[0].bad
        for loader in self.loaders:  # they are one stream of data
            loader.bad = self.bad

    def at(self, step: int) -> Loader:
        """The loader whose turn it is."""
        return next(loader for loader in reversed(self.loaders) if loader.start <= step)

    def sources_at(self, step: int) -> dict[str, tuple[str, ...]]:
        """As `Loader.sources_at`."""
        return self.at(step).sources_at(step)

    @property
    def nbytes(self) -> int:
        """What a batch of this host takes at most."""
        return max(loader.nbytes for loader in self.loaders)

    def batch(self, step: int, host: int | None = None, hosts: int | None = None, *,
              watch: Callable[[str], None] | None = None) -> Batch:
        """As `Loader.batch`."""
        return self.at(step).batch(step, host, hosts, watch=watch)

    def iterate(self, start_step: int = 0, prefetch: int = 2) -> Iterator[Batch]:
        """As `Loader.iterate`."""
        first = self.loaders[0]
        return _iterate(self, start_step, prefetch, first._workers, first._patience)
