"""From a mixture's name to its tasks, and from their rates to the rows of a batch.

A name is one that `data.modules` register with seqio, of a mixture or a task; or that of a data set in data.data_dir,
as `phenaki ingest` made it; or several of these with their rates, "webvid:0.8,laion:0.2".
"""

import fractions
import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError
from phenaki_jax.input import order
from phenaki_jax.input.records import MANIFEST
from phenaki_jax.input.schema import STREAMS, Record, to_record

MODULES = ("data.mixtures",)
LONGEST = 1 << 16  # positions of a block in which tasks have their rates exactly


def find_mixture(name: str, modules: Sequence[str] = MODULES, field: str = "data.mixture",
                 data_dir: str | os.PathLike | None = None) -> tuple[list[Any], dict[str, float]]:
    """The seqio tasks of a mixture's name, and {task name: rate}.

    Args:
      modules: imported first; they register.
      field: where the name stands, for the sentence that says it is unknown.
      data_dir: where ingested data sets lie.
    """
    import seqio
    if str(configs.CHECKOUT) not in sys.path:
        sys.path.append(str(configs.CHECKOUT))  # where data/ lies
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(f"{error.name}.")):
                raise UserError(f"data.modules has {module!r}, which is no Python module here.") from None
            raise
    if ":" in name:
        tasks, rates = [], {}
        for part, rate in _inline(name, field).items():
            found, inner = find_mixture(part, modules, field, data_dir)
            tasks += [task for task in found if task.name not in rates]
            for task, share in inner.items():
                rates[task] = rates.get(task, 0.0) + rate * share / sum(inner.values())
        return tasks, rates
    if name in seqio.TaskRegistry.names():
        return [seqio.TaskRegistry.get(name)], {name: 1.0}
    if name in seqio.MixtureRegistry.names():
        mixture = seqio.MixtureRegistry.get(name)
        return list(mixture.tasks), {task.name: mixture.get_rate(task) for task in mixture.tasks}
    if data_dir and (Path(data_dir) / name / MANIFEST).is_file():
        from phenaki_jax.input.seqio_source import add_folder
        task = add_folder(name, data_dir=os.fspath(data_dir))
        return [task], {task.name: 1.0}
    raise UserError(f"{field}={name!r} is not registered by {', '.join(modules)}; there are "
                    f"{', '.join(sorted(seqio.MixtureRegistry.names()))}; nor is it a data set in "
                    f"data.data_dir={os.fspath(data_dir or '')!r}.")


def _inline(name: str, field: str) -> dict[str, float]:
    """ "a:0.8,b:0.2" (or with + for commas) -> {"a": 0.8, "b": 0.2}. Raises: UserError."""
    found: dict[str, float] = {}
    for part in name.replace("+", ",").split(","):
        one, colon, rate = part.strip().rpartition(":")
        try:
            found[one] = float(rate)
        except ValueError:
            colon = ""
        if not colon or not one or not 0 < found[one] < math.inf:
            raise UserError(f"{field}={name!r} has {part.strip()!r}; write NAME:RATE, several with a comma, each rate "
                            "above 0.")
    return found


def prepare(mixture_name: str, data_dir: str | os.PathLike, *, modules: Sequence[str] = MODULES,
            log: Callable[[str], None] = print, field: str = "data.mixture") -> None:
    """Builds the records that a mixture or task needs and `data_dir` lacks; returns at once if it lacks none."""
    for task in find_mixture(mixture_name, modules, field, data_dir)[0]:
        task.source.build(os.fspath(data_dir), log)


def prepare_run(config: Any, log: Callable[[str], None] = print) -> None:
    """`prepare` for every mixture that a run's config names."""
    data = config.data
    for _, mixture in configs.mixtures(config):
        prepare(mixture, data.data_dir, modules=tuple(data.modules), log=log, field=field_of(config))


def field_of(config: Any) -> str:
    """The config's field that names its mixtures."""
    return "data.schedule" if config.data.get("schedule") else "data.mixture"


def eval_records(name: str, split: str, n: int, *, data_dir: str | os.PathLike,
                 modules: Sequence[str] = MODULES) -> list[Record]:
    """The first n records (fewer if the split has fewer) of a task, for example "sprite_clips_32", as NumPy."""
    tasks, _ = find_mixture(name, modules, data_dir=data_dir)
    if len(tasks) != 1:
        raise UserError(f"{name!r} is a mixture; name one of its tasks: {', '.join(t.name for t in tasks)}.")
    records = tasks[0].source.records(split, os.fspath(data_dir))
    return [to_record(records[i]) for i in range(min(n, len(records)))]


def stream_shares(streams: Mapping[str, str], rates: Mapping[str, float]) -> dict[str, fractions.Fraction]:
    """What share of a batch's rows each stream has, exactly. streams: {task: stream}; rates: {task: rate}."""
    exact = {task: _exact(rate) for task, rate in rates.items()}
    total = sum(exact.values())
    shares = {stream: sum((exact[t] for t in rates if streams[t] == stream), fractions.Fraction()) / total
              for stream in STREAMS}
    return {stream: share for stream, share in shares.items() if share}


def _exact(rate: float) -> fractions.Fraction:
    return fractions.Fraction(rate).limit_denominator(10**6)


def sources_of(streams: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The tasks of each stream that has several, in the order of a batch's `sources`. streams: task -> stream."""
    tasks = {stream: tuple(sorted(task for task, its in streams.items() if its == stream))
             for stream in sorted(set(streams.values()))}
    return {stream: names for stream, names in tasks.items() if len(names) > 1}


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


class Draws:
    """Which task the row at a position of a stream is drawn from, and which of its records in their order.

    A stream's positions come in blocks in which each task has its rate exactly, at places that a permutation keyed by
    (seed, stream, block) chooses; the n-th position that a task has, counted by blocks, is for its n-th record. So
    rates hold over every stretch of training, and an epoch of a task shows each record once, in whatever mixture.

    Args:
      streams: {task: stream}. rates: {task: rate}.
      after, used: the draws of the phase of training before, and how many positions of each stream were used up by its
        end; a task goes on in its order of records, but for what is left of a block.
    """

    def __init__(self, streams: Mapping[str, str], rates: Mapping[str, float], seed: int, after: "Draws | None" = None,
                 used: Mapping[str, int] | None = None):
        self._seed, used = seed, used or {}
        self._counts = {stream: _counts({task: rates[task] for task in streams if streams[task] == stream})
                        for stream in dict.fromkeys(streams.values())}
        self._sizes = {stream: sum(counts.values()) for stream, counts in self._counts.items()}
        # Records of each task that were shown by the end of the phase before, and the number of this one's first block.
        self._shown = after._all_shown(used) if after else {}
        self._first = {}
        for stream, counts in self._counts.items():
            goes_on = after and after._counts.get(stream) == counts
            for task, count in counts.items():
                self._first[task] = after._first[task] if goes_on else (
                    self._shown.get(task, 0) - used.get(stream, 0) // self._sizes[stream] * count)

    def _all_shown(self, used: Mapping[str, int]) -> dict[str, int]:
        blocks = {stream: -(-used[stream] // size) for stream, size in self._sizes.items()}
        return self._shown | {task: self._first[task] + blocks[stream] * count
                              for stream, counts in self._counts.items() for task, count in counts.items()}

    def at(self, stream: str, position: int) -> tuple[str, int]:
        """(task, number of its record)."""
        size = self._sizes[stream]
        block, place = divmod(position, size)
        if size > 1:
            place = order.permute(place, size, self._seed, "task", stream, block)
        for task, count in self._counts[stream].items():
            if place < count:
                break
            place -= count
        return task, self._first[task] + block * count + place


def _counts(rates: Mapping[str, float]) -> dict[str, int]:
    """How many positions of a block each task has."""
    total = sum(_exact(rate) for rate in rates.values())
    shares = {task: _exact(rate) / total for task, rate in rates.items()}
    size = math.lcm(*(share.denominator for share in shares.values()))
    return {task: max(1, round(share * min(size, LONGEST))) for task, share in shares.items()}
