"""From a video's frames to clips of one size: cut where the scene changes, brought to the nearest of the sizes."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from phenaki_jax.input import order
from phenaki_jax.media import resize

BINS = 16  # of each colour, in the histograms that are compared


def histogram(frame: np.ndarray) -> np.ndarray:
    """Shares of BINS levels of each colour, float [3, BINS], of at most some thousands of pixels."""
    step = max(1, max(frame.shape[:2]) // 64)
    levels = frame[::step, ::step].reshape(-1, 3) // (256 // BINS)
    return np.stack([np.bincount(levels[:, c], minlength=BINS) for c in range(3)]) / len(levels)


def scenes(frames: Iterable[np.ndarray], threshold: float, longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts a video: (its first frame's number, uint8 [F, Y, X, 3]) of each part, F of at most `longest`.

    A scene changes where the histograms of two frames have less than 1 - `threshold` in common, the mean over the
    colours; at a threshold of 1 nowhere. Only one part is in memory.
    """
    part: list[np.ndarray] = []
    first, before = 0, None
    for number, frame in enumerate(frames):
        now = histogram(frame) if threshold < 1 else None
        changed = before is not None and 1 - np.minimum(before, now).sum(1).mean() > threshold
        if part and (changed or len(part) == longest):
            yield first, np.stack(part)
            part, first = [], number
        part.append(frame)
        before = now
    if part:
        yield first, np.stack(part)


def nearest_size(height: int, width: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) of `sizes` whose aspect is most alike; of equal ones the first."""
    return min(sizes, key=lambda size: abs(np.log(size[1] / size[0] * height / width)))


def to_size(frames: np.ndarray, size: tuple[int, int], where: float | None = None) -> np.ndarray:
    """The largest part of [F, Y, X, 3] that has the size's aspect, resized to it.

    Args:
      where: from 0 (top or left) to 1, where along the longer side that part lies; None for the middle.
    """
    Y, X = frames.shape[1:3]
    rows = min(Y, max(1, round(X * size[0] / size[1])))
    columns = min(X, max(1, round(Y * size[1] / size[0])))
    where = 0.5 if where is None else where
    top, left = (int(where * (whole - part + 0.999)) if where != 0.5 else (whole - part) // 2
                 for whole, part in ((Y, rows), (X, columns)))
    return resize(frames[:, top:top + rows, left:left + columns], *size)


def crop_of(how: str, key: str) -> float | None:
    """`where` of `to_size` for a sample: 'centre', or 'random', another for each key and always the same for it."""
    return None if how == "centre" else order.uniform("crop", key)
