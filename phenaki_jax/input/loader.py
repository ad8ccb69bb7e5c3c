"""Batches of a seqio mixture as a pure function of (seed, step), read by position.

Resuming costs one batch, on any number of hosts: nothing is remembered between batches but decoded records.
"""

import collections
import fractions
import importlib
import itertools
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError
from phenaki_jax.input import order, preprocess
from phenaki_jax.input.cache import Cache
from phenaki_jax.input.motion import TOLD
from phenaki_jax.input.schema import STREAMS, TEXT_LENGTH, Batch, Record, batch_shapes, to_record
from phenaki_jax.input.text import BYTES, Vocabulary, encode_cut

MODULES = ("data.mixtures",)
CACHE_BYTES = 1 << 30
LEFT_TO_PREDICT = 2  # frames of a shortened window at least
CAPTION_BYTES = 1 << 16  # of a caption, where they are only read to be encoded anew


# ------------------------------------------------------------------------------------------- names to tasks

def find_mixture(name: str, modules: Sequence[str] = MODULES,
                 field: str = "data.mixture") -> tuple[list[Any], dict[str, float]]:
    """The seqio tasks of a registered mixture (or the task of that name), and {task name: rate}.

    Args:
      modules: imported first; they register.
      field: where the name stands, for the sentence that says it is unknown.
    """
    import seqio
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(f"{error.name}.")):
                raise UserError(f"data.modules has {module!r}, which is no Python module here.") from None
            raise
    if name in seqio.TaskRegistry.names():
        return [seqio.TaskRegistry.get(name)], {name: 1.0}
    if name not in seqio.MixtureRegistry.names():
        raise UserError(f"{field}={name!r} is not registered by {', '.join(modules)}; "
                        f"there are {', '.join(sorted(seqio.MixtureRegistry.names()))}.")
    mixture = seqio.MixtureRegistry.get(name)
    return list(mixture.tasks), {task.name: mixture.get_rate(task) for task in mixture.tasks}


def prepare(mixture_name: str, data_dir: str | os.PathLike, *, modules: Sequence[str] = MODULES,
            log: Callable[[str], None] = print, field: str = "data.mixture") -> None:
    """Builds the records that a mixture or task needs and `data_dir` lacks; returns at once if it lacks none."""
    for task in find_mixture(mixture_name, modules, field)[0]:
        task.source.build(os.fspath(data_dir), log)


def prepare_run(config: Any, log: Callable[[str], None] = print) -> None:
    """`prepare` for every mixture that a run's config names."""
    data = config.data
    for _, mixture in configs.mixtures(config):
        prepare(mixture, data.data_dir, modules=tuple(data.modules), log=log, field=_field(config))


def _field(config: Any) -> str:
    return "data.schedule" if config.data.get("schedule") else "data.mixture"


def eval_records(name: str, split: str, n: int, *, data_dir: str | os.PathLike,
                 modules: Sequence[str] = MODULES) -> list[Record]:
    """The first n records (fewer if the split has fewer) of a task, for example "sprite_clips_32", as NumPy."""
    tasks, _ = find_mixture(name, modules)
    if len(tasks) != 1:
        raise UserError(f"{name!r} is a mixture; name one of its tasks: {', '.join(t.name for t in tasks)}.")
    records = tasks[0].source.records(split, os.fspath(data_dir))
    return [to_record(records[i]) for i in range(min(n, len(records)))]


def make_loader(config: Any, train: bool = True) -> "Loader | Schedule":
    """The loader that a config asks for: its train split, or its eval split; this process's rows of each batch.

    With `data.schedule` it is a `Schedule` of a loader a phase, whose streams run on from one phase to the next.
    """
    import jax

    from phenaki_jax.input.encoder import vocabulary_of
    data, loaders, cache, vocabulary = config.data, [], _Cache(CACHE_BYTES), vocabulary_of(config)
    told = () if config.get("stage") == "tokenizer" else (config.get("generator") or {}).get("conditions", ())
    embeddings = Cache(config.text.cache, "text") if config.text.get("cache") else None
    tokens = Cache(data.token_cache, "tokens") if train and data.get("token_cache") else None
    for first, mixture in configs.mixtures(config):
        loaders.append(Loader(
            mixture, batch_size=config.batch_size, seed=config.seed,
            split=data.split if train else data.eval_split,
            frames=config.tokenizer.frames, height=config.tokenizer.height, width=config.tokenizer.width,
            text_length=config.text.length, sizes=data.get("sizes", ()) if train else (), told=told,
            fps=None if "fps" in told else data.fps,
            data_dir=data.data_dir, modules=tuple(data.modules),
            host=jax.process_index(), hosts=jax.process_count(), cache=cache, field=_field(config),
            vocabulary=vocabulary, embeddings=embeddings, tokens=tokens,
            start=first, before=loaders[-1].positions(first) if loaders else {}))
    return loaders[0] if len(loaders) == 1 else Schedule(loaders)


# ------------------------------------------------------------------------------------------- shares of a batch

def stream_shares(streams: Mapping[str, str], rates: Mapping[str, float]) -> dict[str, fractions.Fraction]:
    """What share of a batch's rows each stream has, exactly. streams: {task: stream}; rates: {task: rate}."""
    exact = {task: fractions.Fraction(rate).limit_denominator(10**6) for task, rate in rates.items()}
    total = sum(exact.values())
    shares = {stream: sum((exact[t] for t in rates if streams[t] == stream), fractions.Fraction()) / total
              for stream in STREAMS}
    return {stream: share for stream, share in shares.items() if share}


def stream_rows(shares: Mapping[str, fractions.Fraction], batch_size: int, mixture: str = "",
                field: str = "data.mixture") -> dict[str, int]:
    """Rows of each stream in a batch; UserError if they are no whole numbers."""
    unit = math.lcm(*(share.denominator for share in shares.values()))
    if batch_size < 1 or batch_size % unit:
        lower = batch_size // unit * unit
        near = [n for n in (lower, lower + unit) if n > 0]
        parts = ", ".join(f"{share} {stream}" for stream, share in shares.items())
        raise UserError(f"batch_size={batch_size} cannot be divided as {field}={mixture!r} asks ({parts}); "
                        f"{' or '.join(map(str, near))} can.")
    return {stream: int(batch_size * share) for stream, share in shares.items()}


class _Cache:
    """Decoded records, the least recently used thrown out when they pass `limit` bytes."""

    def __init__(self, limit: int):
        self._limit, self._bytes = limit, 0
        self._kept: collections.OrderedDict[Any, dict[str, Any]] = collections.OrderedDict()
        self._lock = threading.Lock()

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


# ------------------------------------------------------------------------------------------- the loader

class Loader:
    """Batches of a mixture, see `schema.Batch`; the same for the same (seed, step), wherever and whenever asked.

    Row r of a stream in step s stands at position before + (s - start) * rows + r of that stream. A hash of (seed,
    position) chooses its task by the tasks' rates, a permutation of the task's records, another one in each epoch,
    chooses the record.

    Args:
      mixture: name of a seqio mixture or task that `modules` register.
      batch_size: rows a step on all hosts, all streams together.
      frames, height, width: of a row of the video stream; images have one frame.
      text_length: ids of a caption, with its end mark.
      fps: if given, the frame rate that the records must have.
      told: which numbers rows have: motion, fps (others are not of the data).
      sizes: (frames, height, width) that steps have by turns, drawn anew for each; () for always the full size. Rows
        are cut to their first frames and shrunk by whole factors, so that one model learns clips of several lengths and
        resolutions; of frames that are given at least the last two are left to predict.
      data_dir: TFDS's folder, with the records already built (`prepare`).
      host, hosts: which contiguous share of each stream's rows `batch` gives.
      cache_bytes: how many bytes of decoded video may be kept; `cache` instead shares what another loader keeps.
      start, before: the step that it begins with, and how many positions of each stream were used up by then.
      field: the config's field that names the mixture, for sentences about it.
      vocabulary: of the ids in a batch; tasks give bytes, which are read and encoded anew where it is another.
      embeddings, tokens: caches; batches have "text_embeds" and "tokens" of them.

    Raises:
      UserError: an unknown mixture or split, no records, other sizes than asked for, shares that are no whole rows.
    """

    def __init__(self, mixture: str, *, batch_size: int, seed: int, split: str = "train", frames: int, height: int,
                 width: int, text_length: int = TEXT_LENGTH, fps: float | None = None,
                 sizes: Sequence[tuple[int, int, int]] = (), told: Sequence[str] = (), data_dir: str | os.PathLike,
                 modules: Sequence[str] = MODULES, host: int = 0, hosts: int = 1, cache_bytes: int = CACHE_BYTES,
                 cache: "_Cache | None" = None, start: int = 0, before: Mapping[str, int] | None = None,
                 field: str = "data.mixture", vocabulary: Vocabulary = BYTES, embeddings: Cache | None = None,
                 tokens: Cache | None = None):
        tasks, self._rates = find_mixture(mixture, modules, field)
        self.seed, self.host, self.hosts = seed, host, hosts
        self.mixture, self.start, self._before = mixture, start, dict(before or {})
        self._text_length, self._vocabulary = text_length, vocabulary
        self._embeddings, self._tokens = embeddings, tokens
        self._lengths = {"video": frames, "text": text_length if vocabulary is BYTES else CAPTION_BYTES}
        self._tasks = {task.name: task for task in tasks}
        self._records = {task.name: task.source.records(split, os.fspath(data_dir)) for task in tasks}
        self._steps = {task.name: _numpy_steps(task) for task in tasks}
        self._keys = {task.name: order.source_key(seed, task.source.name) for task in tasks}
        self._cache = cache or _Cache(cache_bytes)
        for task in tasks:
            self._check(task, split, data_dir, (height, width), fps)
        self.streams = {task.name: task.source.stream for task in tasks}
        self.rows = stream_rows(stream_shares(self.streams, self._rates), batch_size, mixture, field)
        self._told = [name for name in told if name in TOLD]
        self._full, self._sizes = (frames, height, width), tuple(sizes) or ((frames, height, width),)
        preprocess.check_sizes(self._sizes, self._full)
        if tokens and self._sizes != (self._full,):
            raise UserError(f"data.sizes={tuple(sizes)} and data.token_cache do not go together: cached tokens are of "
                            "whole clips; leave one of them out.")
        self._check_hosts(hosts)

    def _check(self, task: Any, split: str, data_dir: Any, size: tuple[int, int], fps: float | None) -> None:
        count, height, width, _ = task.source.video_shape(split, os.fspath(data_dir))
        if (height, width) != size:
            raise UserError(f"tokenizer.height={size[0]} and tokenizer.width={size[1]} do not fit the records of "
                            f"{task.source.name}, which are {height} x {width}.")
        wanted = 1 if task.source.stream == "image" else self._lengths["video"]
        if count not in (None, 1, wanted):  # a task may make clips of images
            raise UserError(f"tokenizer.frames={wanted} does not fit the records of {task.source.name}, "
                            f"which have {count} frames.")
        if not len(self._records[task.name]):
            raise UserError(f"data.split={split!r} of {task.source.name} has no records.")
        found = float(self._records[task.name][0]["fps"])
        if fps is not None and count != 1 and found != fps:
            raise UserError(f"data.fps={fps:g} does not fit the records of {task.source.name}, "
                            f"which have {found:g} frames a second.")

    def _check_hosts(self, hosts: int) -> None:
        for stream, count in self.rows.items():
            if count % hosts:
                raise UserError(f"batch_size gives {count} rows a step to the {stream} stream, "
                                f"which {hosts} hosts cannot share evenly; it needs to be a multiple of {hosts}.")

    def positions(self, step: int) -> dict[str, int]:
        """How many positions of each stream the steps before `step` use up, those before `start` among them."""
        used = {stream: (step - self.start) * count for stream, count in self.rows.items()}
        return {stream: self._before.get(stream, 0) + used.get(stream, 0) for stream in {**self._before, **used}}

    def task_at(self, stream: str, position: int) -> str:
        """The name of the task that the row at a position of a stream is drawn from."""
        names = [name for name in self._tasks if self.streams[name] == stream]
        bounds = list(itertools.accumulate(self._rates[name] for name in names))
        draw = order.uniform(self.seed, "task", stream, position) * bounds[-1]
        return next((name for name, bound in zip(names, bounds) if draw < bound), names[-1])

    def example(self, task: str, position: int) -> dict[str, np.ndarray]:
        """What a task gives at a position: {video, text (unpadded), fps, known_frames}; as seqio gives it there."""
        key, records = self._keys[task], self._records[task]
        index = order.record_index(key, position, len(records))
        record = {**self._cache.get((task, index), lambda: records[index]), "seed": order.example_seed(key, position)}
        for step in self._steps[task]:
            record = step(record, self._lengths)
        return record

    def ids(self, example: Mapping[str, np.ndarray]) -> np.ndarray:
        """A row's caption as ids of the loader's vocabulary, int32 [at most text_length], unpadded."""
        if self._vocabulary is BYTES:
            return example["text"]
        return encode_cut(BYTES.decode(example["text"]), self._text_length, self._vocabulary)

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(task, record) of every record of the split, one after the other."""
        for name, records in self._records.items():
            for index in range(len(records)):
                yield name, records[index]

    def every_row(self, task: str, record: Mapping[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        """All that `example` can give of a record, whatever the position.

        Raises: UserError where the task draws from endlessly many.
        """
        try:
            yield from preprocess.every_row(self._steps[task], record, self._lengths)
        except KeyError as error:
            if error.args != ("seed",):
                raise
            raise UserError(f"the task {task!r} of {self.mixture!r} draws its clips anew each time, so that no cache "
                            "can hold them; precompute another mixture") from None

    def shapes(self, size: tuple[int, int, int] | None = None) -> dict[str, dict[str, tuple]]:
        """The (shape, dtype) of every array of a batch of all hosts, of clips of (frames, height, width)."""
        frames, height, width = size or self._full
        shapes = batch_shapes(self.rows, frames=frames, height=height, width=width, text_length=self._text_length)
        for stream, count in self.rows.items():
            shapes[stream] |= {name: ((count,), np.dtype(np.float32)) for name in self._told}
            if self._embeddings:
                shapes[stream]["text_embeds"] = ((count, self._text_length, *self._embeddings.shape),
                                                 self._embeddings.dtype)
            if self._tokens:
                steps = self._tokens.about["grid"][0] if stream == "video" else 1
                shapes[stream]["tokens"] = (count, steps, *self._tokens.shape), np.dtype(np.int32)
        return shapes

    def batch(self, step: int, host: int | None = None, hosts: int | None = None) -> Batch:
        """The rows of one step: all of them, or with hosts > 1 the contiguous share of `host` of each stream."""
        host, hosts = self.host if host is None else host, self.hosts if hosts is None else hosts
        self._check_hosts(hosts)
        batch: Batch = {}
        first = self.positions(step)
        size = self._sizes[order.hash64(self.seed, "size", step) % len(self._sizes)]
        shapes = self.shapes(size)
        for stream, count in self.rows.items():
            share = count // hosts
            out = {name: np.zeros((share, *shape[1:]), dtype) for name, (shape, dtype) in shapes[stream].items()}
            for row in range(share):
                position = first[stream] + host * share + row
                example = self.example(self.task_at(stream, position), position)
                ids = self.ids(example)
                video = example["video"] if size == self._full else preprocess.shrink(example["video"], size)
                out["video"][row] = video
                out["text"][row, :len(ids)] = ids
                out["known_frames"][row] = min(int(example["known_frames"]), max(len(video) - LEFT_TO_PREDICT, 0))
                for name in self._told:
                    out[name][row] = TOLD[name](video, float(example["fps"]))
                if self._embeddings:
                    out["text_embeds"][row, :len(ids)] = self._embeddings.embeddings(ids, self._vocabulary)
                if self._tokens:
                    out["tokens"][row] = self._tokens.tokens(example["video"])
            batch[stream] = out
        return batch

    def iterate(self, start_step: int = 0, prefetch: int = 2) -> Iterator[Batch]:
        """Batches from a step on, endlessly; a thread makes `prefetch` of them ahead."""
        return _ahead(self.batch, start_step, prefetch)


class Schedule:
    """Loaders that take turns, each from its `start` to the next one's; what it gives at a step has that one's streams.

    A stream that two of them have runs on from one to the other: where the first ends in its order of records, the
    second goes on, so that no record comes again early and a phase begins with none that are special. A batch is a
    function of (seed, step) and the phases before it; two phases of one mixture are that mixture alone.

    Args:
      loaders: in the order of their `start`, each with the `before` that the one before it leaves (`make_loader`).
    """

    def __init__(self, loaders: Sequence[Loader]):
        self.loaders = tuple(loaders)

    def at(self, step: int) -> Loader:
        """The loader whose turn it is."""
        return next(loader for loader in reversed(self.loaders) if loader.start <= step)

    def batch(self, step: int, host: int | None = None, hosts: int | None = None) -> Batch:
        """As `Loader.batch`."""
        return self.at(step).batch(step, host, hosts)

    def iterate(self, start_step: int = 0, prefetch: int = 2) -> Iterator[Batch]:
        """As `Loader.iterate`."""
        return _ahead(self.batch, start_step, prefetch)


def _ahead(batch: Callable[[int], Batch], start_step: int, prefetch: int) -> Iterator[Batch]:
    """batch(start_step), batch(start_step + 1), ..., made ahead by a thread that ends with the iterator."""
    ready: queue.Queue = queue.Queue(maxsize=prefetch)
    stopped = threading.Event()

    def hand(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for step in itertools.count(start_step):
                if not hand(batch(step)):
                    return
        except BaseException as error:  # noqa: BLE001  raised again where the batch is awaited
            hand(error)

    threading.Thread(target=work, name="loader", daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def _numpy_steps(task: Any) -> list[Callable[..., dict[str, Any]]]:
    from phenaki_jax.input.seqio_source import NumpyStep, RandomAccessSource, number_records
    others = [step for step in task.preprocessors if step is not number_records and not isinstance(step, NumpyStep)]
    if not isinstance(task.source, RandomAccessSource) or others:
        raise UserError(f"The task {task.name!r} cannot be read by position: it needs a RandomAccessSource and "
                        "no preprocessors but number_records and NumpySteps.")
    return [step.function for step in task.preprocessors if isinstance(step, NumpyStep)]
