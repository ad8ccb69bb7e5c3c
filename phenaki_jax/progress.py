"""The line that says how far a program is."""

import collections
import math
import shutil
import sys
import time
from typing import TextIO

from phenaki_jax.evaluation.report import peak_memory_gb


def duration(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """A line that says what runs, how far it is, how fast, how long it will take, and a note.

    On a terminal the line is redrawn in place; in a log a plain line is written every ``plain_seconds``.
    """

    def __init__(self, name: str, total: int, start: int = 0, file: TextIO | None = None, plain_seconds: float = 20.0,
                 unit: str = "steps"):
        self.name, self.total, self.step, self.unit = name, total, start, unit
        self.file = sys.stderr if file is None else file
        self._tty = self.file.isatty()
        self._every = 0.2 if self._tty else plain_seconds
        self._note, self._drawn, self._begun, self._waited = "", -math.inf, math.inf, 0.0
        self._clock: collections.deque[tuple[float, int]] = collections.deque(maxlen=60)

    @property
    def steps_per_second(self) -> float:
        """Over the last half minute or so; NaN before there is anything to divide."""
        if not self._clock or self.step == self._clock[0][1]:
            return math.nan
        return (self.step - self._clock[0][1]) / (time.monotonic() - self._clock[0][0])

    def update(self, step: int, note: str | None = None) -> None:
        """step: how many are done. note: what to say at the end of the line, such as "loss 0.031"."""
        self.step = step
        self._note = self._note if note is None else note
        now = time.monotonic()
        if self._clock and now - self._clock[-1][0] >= 0.5:
            self._clock.append((now, step))
        if now - self._drawn >= self._every:
            self._drawn = now
            self._draw()

    def start_clock(self) -> None:
        """Compiling is over, from here on steps are timed."""
        self._begun = time.monotonic()
        self._clock.append((self._begun, self.step))

    def waited(self, seconds: float) -> None:
        """The device had nothing to do for so long, because the next batch was not there."""
        if self._clock:
            self._waited += seconds

    def timing(self) -> dict[str, float]:
        """steps_per_second, data_wait (share of the time), peak_memory_gb."""
        elapsed = time.monotonic() - self._begun
        return {
            "steps_per_second": self.steps_per_second,
            "data_wait": self._waited / elapsed if self._clock and elapsed > 0 else 0.0,
            "peak_memory_gb": peak_memory_gb(),
        }

    def line(self) -> str:
        speed = self.steps_per_second
        left = (self.total - self.step) / speed if speed > 0 else math.nan
        pace = f"{speed:.2f} {self.unit}/s" if speed < 10 else f"{speed:.0f} {self.unit}/s"
        if math.isnan(speed):
            pace = "" if self._clock else "compiling"
        parts = [f"{self.step}/{self.total}", pace, f"{duration(left)} left" if speed > 0 else "", self._note]
        tail = " · ".join(part for part in parts if part)
        share = self.step / max(self.total, 1)
        if not self._tty:
            return f"{self.name} {share:4.0%} · {tail}"
        width = min(30, shutil.get_terminal_size().columns - len(self.name) - len(tail) - 12)
        full = int(width * share)
        bar = f" {'█' * full}{'░' * (width - full)}" if width >= 8 else ""
        return f"{self.name}{bar} {share:4.0%} · {tail}"

    def _draw(self) -> None:
        line = self.line()
        if self._tty:
            self.file.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
        else:
            self.file.write(line + "\n")
        self.file.flush()

    def say(self, text: str) -> None:
        """A line of its own above the bar."""
        self.file.write(("\r\x1b[K" if self._tty else "") + text + "\n")
        self.file.flush()

    def close(self) -> None:
        self._draw()
        if self._tty:
            self.file.write("\n")
            self.file.flush()
