"""`phenaki ingest`: units handed to worker processes, gone on from after a kill, with a manifest at the end.

A worker that dies or stalls is replaced and its unit begun anew; a sample at which that happens twice is dropped as
what it is ("crashed the reader", "stalled the reader"), so that no file of a source can end or hang the whole.
"""

import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from phenaki_jax.digest import digest
from phenaki_jax.errors import UserError, at_least
from phenaki_jax.ingest import places
from phenaki_jax.ingest.manifest import write_manifest
from phenaki_jax.ingest.prepare import Settings
from phenaki_jax.ingest.samples import Unit
from phenaki_jax.ingest.unit import KEY_BYTES, file_of, ingest_unit, is_damage, short
from phenaki_jax.input.records import MANIFEST

JOB = "job.json"  # what the data set is made of and how; another source or other settings are another data set
TRIES = 2  # times that a sample may end or stall its worker before it is dropped
BETWEEN = 10  # times the patience that a source, or an upload, may take between two samples
LOOK = 0.5  # seconds between two looks at the workers
ENOUGH = 200  # samples before the share of damaged ones counts


def ingest(units: Sequence[Unit], settings: Settings, output: str, *, source: str, workers: int | None = None,
           max_bad: float = 0.2, patience: float = 60.0, host: int = 0, hosts: int = 1) -> dict[str, Any] | None:
    """Makes a data set, or goes on with one.

    Args:
      output: its folder, here or remote.
      source: what it is made of, for the manifest.
      workers: processes (default: as many as cores); 0 works in this process.
      max_bad: share of damaged samples above which it stops.
      patience: seconds that one sample may take.
      host, hosts: of several machines each makes every hosts-th unit; the last one to finish writes the manifest.

    Returns:
      The manifest; None where other hosts are not done yet.

    Raises: UserError where the folder has another data set, or too many samples are damaged.
    """
    workers = os.cpu_count() if workers is None else workers
    at_least("--workers", workers, 0)
    at_least("--hosts", hosts, 1)
    at_least("--host", host, 0)
    if host >= hosts:
        raise UserError(f"--host={host} has to be below --hosts={hosts}")
    if not 0 <= max_bad <= 1 or patience <= 0:
        raise UserError(f"--max_bad={max_bad} has to be from 0 to 1, and --patience={patience} above 0")
    about = {"source": source, "settings": _plain(settings), "units": len(units),
             "digest": digest([list(unit) for unit in units], _plain(settings))}
    _check_job(output, about)
    done = _done(output, units)
    mine = [number for number in range(len(units)) if number % hosts == host and number not in done]
    progress = _Progress(len(units) if hosts == 1 else len(range(host, len(units), hosts)), max_bad,
                         [result for number, result in done.items() if number % hosts == host])
    scratch = _scratch(output, host)
    try:
        if workers:
            with _Workers(min(workers, max(1, len(mine))), settings, output, scratch, patience) as pool:
                pool.run({number: units[number] for number in mine}, progress)
        else:
            for number in mine:
                progress.add(ingest_unit(units[number], number, settings, output, scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    progress.end()
    done = _done(output, units)
    if len(done) < len(units):
        print(f"{len(units) - len(done)} units are other hosts'; the last to finish writes the manifest", flush=True)
        return None
    return write_manifest(output, about, [done[number] for number in range(len(units))], settings.duplicates)


def _scratch(output: str, host: int) -> Path:
    """A folder for what is not finished, on the file system of the output if that is this machine's."""
    if places.is_remote(output):
        return Path(tempfile.mkdtemp(prefix="phenaki-ingest-"))
    for left in Path(output).glob(f".unfinished-{host}-*"):  # by a run of this host's that was killed
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f".unfinished-{host}-", dir=output))


def _plain(settings: Settings) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _check_job(output: str, about: dict[str, Any]) -> None:
    """Notes what the folder is made of. Raises: UserError where it is made of something else."""
    path = places.join(output, JOB)
    if not places.exists(path):
        if places.exists(places.join(output, MANIFEST)) or (places.exists(output) and places.is_file(output)):
            raise UserError(f"--output={output!r} has something else; give a new folder")
        return places.write(path, (json.dumps(about, indent=1) + "\n").encode())
    known = json.loads(places.read(path))
    for name, new in {"source": about["source"], **about["settings"]}.items():
        old = known["source"] if name == "source" else known["settings"].get(name)
        if old != new:
            raise UserError(f"--output={output!r} was begun with --{name}={old!r}, and not {new!r}; give another "
                            "folder, or what it was begun with")
    if known["digest"] != about["digest"]:
        raise UserError(f"--output={output!r} was begun with other files in --source={about['source']!r}; give another "
                        "folder")


def _done(output: str, units: Sequence[Unit]) -> dict[int, dict]:
    """What is finished, by the units' numbers."""
    folder = places.join(output, "units")
    if not places.exists(folder):
        return {}
    names = [name for name in places.files(folder) if name.endswith(".json")]
    with ThreadPoolExecutor(16) as pool:  # a bucket answers slowly, but many at once
        texts = pool.map(lambda name: places.read(places.join(folder, name)), names)
        return {int(name.partition(".")[0]): json.loads(text) for name, text in zip(names, texts)}


class _Progress:
    """Counts, a line on the terminal, and the word that too much is damaged."""

    def __init__(self, total: int, max_bad: float, done: Sequence[dict]):
        self.total, self.max_bad, self.begun = total, max_bad, time.monotonic()
        self.units = self.samples = self.kept = self.bad = 0
        self.reasons: dict[str, int] = {}
        self.before = 0
        for result in done:
            self._count(result)
        self.before = self.samples
        if done:
            print(f"goes on after {len(done)} of {total} units", flush=True)

    def _count(self, result: dict) -> None:
        self.units += 1
        self.samples += result["in"]
        self.kept += result["kept"]
        for reason, count in result["dropped"].items():
            self.bad += count * is_damage(reason)
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    def add(self, result: dict) -> None:
        self._count(result)
        if self.samples >= ENOUGH and self.bad > self.max_bad * self.samples:
            worst = max((reason for reason in self.reasons if is_damage(reason)), key=self.reasons.get)
            raise UserError(f"{self.bad} of {self.samples} samples are damaged, more than --max_bad={self.max_bad:g}; "
                            f"most often {worst!r} ({self.reasons[worst]}), see units/*.dropped.jsonl")
        spent = time.monotonic() - self.begun
        rate = (self.samples - self.before) / max(spent, 1e-3)
        share = self.units / max(self.total, 1)
        left = rate and (self.samples / self.units) * (self.total - self.units) / rate
        print(f"ingest {share:4.0%} · {self.units}/{self.total} units · {self.kept:,} kept · "
              f"{self.samples - self.kept:,} dropped · {rate:,.0f} samples/s · "
              f"{int(left) // 60}:{int(left) % 60:02} left", flush=True)

    def end(self) -> None:
        for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1]):
            print(f"  {count:8,} {reason}", flush=True)


# ------------------------------------------------------------------------------------------------- workers

def _work(pipe: Any, key: Any, beats: Any, settings: Settings, output: str, scratch: Path) -> None:
    """A worker: units come through the pipe, what became of them goes back; the key that it is at stands in `key`."""
    parent = os.getppid()

    def watch(name: str) -> None:
        if os.getppid() != parent:  # it was killed; who goes on in its place begins this unit anew
            os._exit(1)
        data = short(name).encode()
        key.raw = data + b"\0" * (KEY_BYTES - len(data))
        beats.value += 1

    scratch.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            number, unit, crashed = pipe.recv()
        except EOFError:
            return
        watch("")
        try:
            pipe.send(ingest_unit(unit, number, settings, output, scratch, crashed, watch))
        except (UserError, OSError) as error:
            pipe.send(f"{unit.name}: {error}")


class _Worker:
    def __init__(self, number: int, settings: Settings, output: str, scratch: Path):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.key, self._beats = context.RawArray("c", KEY_BYTES), context.RawValue("Q", 0)
        self.process = context.Process(target=_work, daemon=True,
                                       args=(theirs, self.key, self._beats, settings, output, scratch / str(number)))
        self.process.start()
        theirs.close()
        self.task: tuple[int, Unit, dict[str, str]] | None = None
        self._seen, self._since = -1, time.monotonic()

    def give(self, number: int, unit: Unit, crashed: dict[str, str]) -> None:
        self.task = number, unit, crashed
        self._since = time.monotonic()
        self.pipe.send(self.task)

    def stalled(self, patience: float) -> bool:
        """Whether it has been at one sample for longer."""
        now = self._beats.value
        if self.task is None or now != self._seen:
            self._seen, self._since = now, time.monotonic()
        return time.monotonic() - self._since > patience * (1 if self.sample else BETWEEN)

    @property
    def sample(self) -> str:
        return self.key.value.decode("utf-8", "replace")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class _Workers:
    """Processes that take units as they become free."""

    def __init__(self, count: int, settings: Settings, output: str, scratch: Path, patience: float):
        self._make = lambda number: _Worker(number, settings, output, scratch)
        self._output, self._patience, self._count = output, patience, count
        self._workers: list[_Worker] = []
        self._failed: dict[tuple[int, str], int] = {}

    def __enter__(self):
        return self

    def __exit__(self, *error: Any) -> None:
        for worker in self._workers:
            worker.stop()

    def run(self, units: dict[int, Unit], progress: _Progress) -> None:
        """Until all are done, in whatever order."""
        folder = places.join(self._output, "units")
        there = set(places.files(folder)) if units and places.exists(folder) else set()
        waiting = [(number, unit, self._crashed(number, there)) for number, unit in units.items()][::-1]
        self._workers = [self._make(index) for index in range(self._count)] if units else []
        left = len(units)
        while left:
            for worker in self._workers:
                if worker.task is None and waiting:
                    worker.give(*waiting.pop())
            multiprocessing.connection.wait([w.pipe for w in self._workers if w.task] +
                                            [w.process.sentinel for w in self._workers], LOOK)
            for index, worker in enumerate(self._workers):
                try:
                    if worker.task and worker.pipe.poll():
                        answer = worker.pipe.recv()
                        if isinstance(answer, str):
                            raise UserError(answer)
                        worker.task, left = None, left - 1
                        progress.add(answer)
                        continue
                    ended = "stalled the reader" if worker.stalled(self._patience) else (
                        None if worker.process.is_alive() else "crashed the reader")
                except EOFError:
                    ended = "crashed the reader"
                if ended:
                    if worker.task:
                        waiting.append(self._after(worker, ended))
                    worker.stop()
                    self._workers[index] = self._make(index)

    def _after(self, worker: _Worker, reason: str) -> tuple[int, Unit, dict[str, str]]:
        """The unit that a worker ended with, the second time without the sample that it had."""
        number, unit, crashed = worker.task
        self._failed[number, worker.sample] = failures = self._failed.get((number, worker.sample), 0) + 1
        if worker.sample and failures < TRIES and worker.sample not in crashed:
            print(f"{unit.name}: {worker.sample} {reason}; its unit begins anew", flush=True)
            return worker.task  # it may not have been the sample's fault
        if not worker.sample or worker.sample in crashed:
            raise UserError(f"{unit.path} {reason} between two samples of {unit.name}; it may be out of reach, or "
                            "there is too little memory for so many --workers")
        crashed = crashed | {worker.sample: reason}
        print(f"{unit.name}: {worker.sample} {reason}; its unit begins anew without it", flush=True)
        places.write(places.join(self._output, file_of(number, "crashed")), json.dumps(crashed).encode())
        return number, unit, crashed

    def _crashed(self, number: int, there: set[str]) -> dict[str, str]:
        name = file_of(number, "crashed")
        known = name.rpartition("/")[2] in there
        return json.loads(places.read(places.join(self._output, name))) if known else {}
