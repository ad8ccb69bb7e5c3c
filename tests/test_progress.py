"""The progress line: what it says, how often, and that it fits."""

import io
import math

from phenaki_jax import progress
from phenaki_jax.progress import Progress, duration


def test_the_progress_line(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    line = Progress("tokenizer", 200, file=out, plain_seconds=20.0)
    line.update(0)
    now[0] += 30.0
    line.update(1)
    line.start_clock()
    for step in range(2, 102):
        now[0] += 0.5
        line.update(step, f"loss {1 / step:.3f}")
    lines = out.getvalue().splitlines()
    assert lines[0] == "tokenizer   0% · 0/200 · compiling"
    assert len(lines) == 4  # 0, then one every 20 seconds, not one every step
    assert line.line() == "tokenizer  50% · 101/200 · 2.00 steps/s · 0:50 left · loss 0.010"


def test_waiting_for_data_is_a_share_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    line = Progress("tokenizer", 10, file=io.StringIO())
    line.waited(100.0)  # before the clock: compiling
    line.start_clock()
    now[0] += 10.0
    line.waited(2.5)
    line.update(5)
    assert line.timing()["data_wait"] == 0.25
    assert line.timing()["steps_per_second"] == 0.5


def test_a_terminal_gets_one_line_that_fits():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    line = Progress("generator", 10, file=out)
    line.update(5, "loss 1")
    line.close()
    text = out.getvalue()
    assert text.count("\n") == 1 and "█" in text and "\r" in text
    assert all(len(part) < 90 for part in text.split("\r"))


def test_durations():
    assert [duration(s) for s in (0, 75, 3700.2, math.nan)] == ["0:00", "1:15", "1:01:40", "?"]
