"""What a program of several steps has done and how long each took, in a file, so that both outlast a restart."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping

from phenaki_jax import media
from phenaki_jax.evaluation.report import peak_memory_gb


class Ledger:
    """What is done and how long each step took, in seconds, kept in a JSON file."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.book: dict = {"seconds": {}, "done": {}, "peak_gb": 0.0, "running": None}
        with contextlib.suppress(OSError, ValueError):
            self.book |= json.loads(self.path.read_text())
        if self.book["running"]:  # killed in the midst of a step: its time counts up to its last sign of life
            step, start, folder = self.book["running"]
            signs = [p.stat().st_mtime for p in pathlib.Path(folder).rglob("*")] if folder else []
            self._add(step, max([0.0, *(s - start for s in signs)]))

    def _add(self, step: str, seconds: float) -> None:
        self.book["seconds"][step] = self.book["seconds"].get(step, 0.0) + seconds
        self.book["peak_gb"] = max(self.book["peak_gb"], peak_memory_gb())
        self.book["running"] = None
        self._write()

    def _write(self) -> None:
        media.write_text(self.path, json.dumps(self.book, indent=1) + "\n")

    @contextlib.contextmanager
    def timed(self, step: str, folder: os.PathLike | None = None) -> Iterator[None]:
        """Adds the time that passes to the step's; `folder` is where a killed step leaves its signs of life."""
        begin = time.monotonic()
        self.book["running"] = [step, time.time(), str(folder) if folder else None]
        self._write()
        try:
            yield
        finally:
            self._add(step, time.monotonic() - begin)

    def done(self, step: str, made_by: Mapping) -> None:
        """Notes that a step is done and what its results were made by."""
        self.book["done"][step] = dict(made_by)
        self._write()

    def is_done(self, step: str, made_by: Mapping, files: list[pathlib.Path]) -> bool:
        """Whether the files are there and were made by just that."""
        return self.book["done"].get(step) == json.loads(json.dumps(made_by)) and all(f.is_file() for f in files)

    @property
    def seconds(self) -> float:
        """Of all steps together."""
        return sum(self.book["seconds"].values())

    @property
    def peak_gb(self) -> float:
        """Most memory that any of the processes held, in GB."""
        return self.book["peak_gb"]
