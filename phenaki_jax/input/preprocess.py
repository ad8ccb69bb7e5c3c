"""From a record to a row of a batch, in NumPy: cut a window, turn its caption into ids.

A step takes (record, lengths) and returns a new record. lengths: {"video": frames, "text": ids}, as seqio's
`sequence_length`. record["seed"] is an integer that chooses what is random. The loader calls the steps as they are;
`seqio_source.NumpyStep` makes seqio preprocessors of the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.input import order, text
from phenaki_jax.input.records import BadRecord
from phenaki_jax.input.schema import KNOWN_FRAMES, TEXT_LENGTH, to_text

FRAMES = 11
AT_THE_SEAM = 0.5  # share of windows whose caption changes right after the known frames: what telling a story asks for


def cut_clip(record: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """A clip of exactly lengths["video"] frames; {video, caption, fps, known_frames = 0}."""
    frames = lengths.get("video", FRAMES)
    if len(record["video"]) != frames:
        raise UserError(f"A clip has {len(record['video'])} frames, but tokenizer.frames={frames} is asked for.")
    return _row(record, record["video"], record["caption"], 0)


def cut_image(record: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """An image, which is a record of one frame; {video, caption, fps, known_frames = 0}."""
    del lengths
    if len(record["video"]) != 1:
        raise UserError(f"An image record has {len(record['video'])} frames; it needs to have 1.")
    return _row(record, record["video"], record["caption"], 0)


def cut_story(record: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """A window of a story, with the caption of its last frame; {video, caption, fps, known_frames = KNOWN_FRAMES}.

    The caption may change at frames 1 to KNOWN_FRAMES of the window, so all frames to predict are told of.
    """
    frames = lengths.get("video", FRAMES)
    starts = np.asarray(record["starts"])
    choices, seams = story_windows(len(record["video"]), starts, frames)
    if not len(choices):
        raise UserError(f"A story of {len(record['video'])} frames with scenes from {starts.tolist()} has no window of "
                        f"tokenizer.frames={frames}, whose caption changes at frame {KNOWN_FRAMES} at the latest.")
    seed = int(record["seed"])
    if len(seams) and order.uniform(seed, "seam") < AT_THE_SEAM:
        choices = seams
    return _window(record, int(choices[order.hash64(seed, "window") % len(choices)]), frames)


def every_window(record: Mapping[str, Any], lengths: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """All windows that `cut_story` may cut, whatever the seed, in the order of their first frames."""
    frames = lengths.get("video", FRAMES)
    for first in story_windows(len(record["video"]), np.asarray(record["starts"]), frames)[0]:
        yield _window(record, int(first), frames)


cut_story.every = every_window


def slide_image(record: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """A clip made of an image that slides at a constant velocity, or rests; its edges are continued.

    For a tokenizer, which has to carry in motion what only images show. Its caption does not speak of the motion, so it
    is nothing for a generator. Velocity: uniform within 1 / 25 of the frame's width a frame along each axis; one in
    five rests.
    """
    from scipy import ndimage
    frames, image, seed = lengths.get("video", FRAMES), record["video"][0], int(record["seed"])
    velocity = (2 * np.array([order.uniform(seed, "y"), order.uniform(seed, "x")]) - 1) * image.shape[1] / 25
    if order.uniform(seed, "rest") < 0.2:
        velocity *= 0.0
    offsets = (np.arange(frames) - (frames - 1) / 2)[:, None] * velocity
    slid = [ndimage.shift(image.astype(np.float32), (*offset, 0), order=1, mode="nearest") for offset in offsets]
    return _row(record, np.rint(slid).astype(np.uint8), record["caption"], 0)


slide_image.endless = True


def fit(record: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """A row of an ingested record at the size that is asked for, if one is: the largest middle part of its aspect."""
    if "height" not in lengths:
        return dict(record)
    return record | {"video": media.fit(record["video"], lengths["height"], lengths["width"])}


def cut_window(record: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """A window of lengths["video"] frames anywhere in an ingested clip, or of a story as `cut_story` does.

    With lengths["fps"], of every second frame where the record has twice as many a second, and so on.

    Raises: BadRecord where the record has fewer frames, or its rate is no multiple.
    """
    record, frames = _thinned(record, lengths), lengths.get("video", FRAMES)
    if len(record.get("captions", ())) > 1:
        if not len(story_windows(len(record["video"]), np.asarray(record["starts"]), frames)[0]):
            raise BadRecord("no window of its story", f"scenes from {list(record['starts'])} of {len(record['video'])}")
        return cut_story(record, lengths)
    first = order.hash64(int(record["seed"]), "window") % (len(record["video"]) - frames + 1)
    return _row(record, record["video"][first:first + frames], record["caption"], 0)


def every_cut(record: Mapping[str, Any], lengths: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """All windows that `cut_window` may cut, whatever the seed."""
    record, frames = _thinned(record, lengths), lengths.get("video", FRAMES)
    if len(record.get("captions", ())) > 1:
        yield from every_window(record, lengths)
        return
    for first in range(len(record["video"]) - frames + 1):
        yield _row(record, record["video"][first:first + frames], record["caption"], 0)


def whole_stride(rate: float, fps: float) -> int:
    """rate / fps where that is a whole number, up to float32's rounding; else 0."""
    stride = round(rate / fps)
    return stride if stride and abs(rate / fps - stride) < 1e-4 else 0


class _Thinned:
    """Every stride-th frame of a video, looked up when they are asked for."""

    def __init__(self, video: Any, stride: int):
        self._video, self._stride = video, stride

    def __len__(self) -> int:
        return -(-len(self._video) // self._stride)

    def __getitem__(self, index: slice) -> np.ndarray:
        frames = range(len(self))[index]
        return self._video[frames[0] * self._stride:frames[-1] * self._stride + 1][::self._stride]


def _thinned(record: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """A record at lengths["fps"] frames a second, with enough of them."""
    record, fps = dict(record), lengths.get("fps")
    if fps and record["fps"] != np.float32(fps):
        stride = whole_stride(float(record["fps"]), fps)
        if not stride:
            raise BadRecord("frame rate", f"{record['fps']:g} a second, {fps:g} are asked for")
        record |= {"video": _Thinned(record["video"], stride), "fps": np.float32(fps)}
        if "starts" in record:
            record["starts"] = -(-np.asarray(record["starts"]) // stride)
    if len(record["video"]) < (frames := lengths.get("video", FRAMES)):
        raise BadRecord("clip too short", f"{len(record['video'])} frames, tokenizer.frames={frames}")
    return record


cut_window.every = every_cut


def check_sizes(sizes: Sequence[tuple[int, int, int]], full: tuple[int, int, int]) -> None:
    """Raises: UserError where clips of the full (frames, height, width) cannot be shrunk to one of the sizes."""
    frames, height, width = full
    for size in sizes:
        whole = isinstance(size, tuple) and len(size) == 3 and all(type(n) is int and n > 0 for n in size)
        if not whole or size[0] > frames or height % size[1] or width % size[2]:
            raise UserError(f"data.sizes has {size!r}; each has to be (frames, height, width), at most "
                            f"tokenizer.frames={frames}, and divisors of {height} x {width}, as in "
                            "(5,32,32),(11,32,32).")


def shrink(video: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """uint8 [F, Y, X, 3], its first frames, averaged over whole blocks of pixels: [frames, height, width, 3]."""
    frames, height, width = size
    video = video[:frames]
    rows, columns = video.shape[1] // height, video.shape[2] // width
    if (rows, columns) == (1, 1):
        return video
    blocks = video.reshape(len(video), height, rows, width, columns, 3).astype(np.float32)
    return np.rint(blocks.mean((2, 4))).astype(np.uint8)


def story_windows(total: int, starts: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """First frames of a story's windows: of all that may be cut, and of those that change at frame KNOWN_FRAMES.

    Args:
      total: frames of the story; starts: first frame of each scene, int [n], the first of them 0.
    """
    firsts = np.arange(max(0, total - frames + 1))
    change = starts[None, 1:] - firsts[:, None]  # where in the window each later scene begins
    inside = (change > 0) & (change < frames)
    fits = ~(inside & (change > KNOWN_FRAMES)).any(axis=1)
    return firsts[fits], firsts[fits & (change == KNOWN_FRAMES).any(axis=1)]


def tokenize(record: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """Ids for the caption, with their end mark and without padding: {video, text, fps, known_frames}."""
    ids = text.encode_cut(to_text(record["caption"]), lengths.get("text", TEXT_LENGTH))
    return {"text": ids, **{name: record[name] for name in ("video", "fps", "known_frames")}}


def every_row(steps: Sequence[Callable], record: Mapping[str, Any],
              lengths: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """All rows that a task's steps can make of a record, whatever the seed.

    A step that draws has an attribute `every`, (record, lengths) -> all that it can give, as `cut_story` has.

    Raises: Endless where a step draws from more than can be told.
    """
    if not steps:
        yield record
        return
    first, *rest = steps
    if getattr(first, "endless", False):
        raise Endless
    for row in first.every(record, lengths) if hasattr(first, "every") else [first(record, lengths)]:
        yield from every_row(rest, row, lengths)


class Endless(Exception):
    """A task's rows cannot be listed."""


def _window(record: Mapping[str, Any], first: int, frames: int) -> dict[str, Any]:
    scene = int(np.searchsorted(np.asarray(record["starts"]), first + frames - 1, side="right")) - 1
    return _row(record, record["video"][first:first + frames], record["captions"][scene], KNOWN_FRAMES)


def _row(record: Mapping[str, Any], video: np.ndarray, caption: str | bytes, known_frames: int) -> dict[str, Any]:
    return {"video": video, "caption": caption, "fps": np.float32(record["fps"]),
            "known_frames": np.int32(known_frames)}
