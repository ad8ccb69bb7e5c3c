"""When frames are shown: all of them with their mean rate, or those of a steady rate."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np

LONGEST_GAP = 600  # seconds from one frame to the next: more is a damaged time stamp


class Shown(NamedTuple):
    """A frame: when it appears and how long it stays, in seconds, and what makes its uint8 [Y, X, 3]."""
    time: Fraction
    duration: Fraction
    pixels: Callable[[], np.ndarray]


class Film(NamedTuple):
    """What a file shows.

    Attributes:
      frames: in their order. unit: seconds to which its times are told. rate: frames a second that it states, or None.
    """
    frames: Iterator[Shown]
    unit: Fraction
    rate: Fraction | None = None


def span(film: Film, count: int, seconds: Fraction) -> Fraction:
    """How long `count` frames last, of which the file's times say `seconds`: by its stated rate, or else a whole one,
    where those times could be that rate's, rounded."""
    whole = Fraction(max(1, round(count / seconds))) if seconds > 0 else None
    for rate, slack in ((film.rate, film.unit), (whole, film.unit / 2)):
        if rate and abs(count / rate - seconds) <= slack:
            return count / rate
    return seconds


def mean_rate(film: Film, times: list[tuple[Fraction, Fraction]]) -> float:
    """Frames a second, of the (beginning, end) of each; 0 where no time goes by."""
    seconds = span(film, len(times), times[-1][1] - times[0][0])
    return float(len(times) / seconds) if seconds > 0 else 0.0


def at_rate(film: Film, fps: float) -> Iterator[np.ndarray]:
    """The frames that are shown at 0, 1 / fps, 2 / fps, … seconds after the first appears.

    That is the last whose time stamp is not later. Stamps may be rounded by half of the film's unit, unless its stated
    rate is a whole number of units a frame. It ends when the last frame's own duration does, after one frame at least.

    Raises: ValueError where more than LONGEST_GAP lies between two frames.
    """
    step = 1 / (Fraction(float(fps)).limit_denominator(1001) or Fraction(float(fps)))
    slack = Fraction(0) if film.rate and (1 / film.rate / film.unit).denominator == 1 else film.unit / 2
    held, first, given, count = None, Fraction(0), 0, 0

    def until(end: Fraction) -> Iterator[np.ndarray]:
        nonlocal given
        pixels = None
        while given * step < end - slack:
            pixels = held.pixels() if pixels is None else pixels
            yield pixels
            given += 1

    for shown in film.frames:
        if held is None:
            first = shown.time
        elif abs(shown.time - held.time) > LONGEST_GAP:
            raise ValueError(f"its time leaps by {float(shown.time - held.time):.0f} seconds after {count} frames")
        else:
            yield from until(shown.time - first)
        held, count = shown, count + 1
    if held is not None:
        end = span(film, count, held.time - first + min(held.duration, Fraction(LONGEST_GAP)))
        yield from until(max(end, film.unit))
