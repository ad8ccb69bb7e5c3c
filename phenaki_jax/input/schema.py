"""The two forms that data takes before the device: a record and a batch."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

STREAMS = ("video", "image")
KNOWN_FRAMES = 5  # frames at the head of a story's window that are given, not predicted
TEXT_LENGTH = 96


class Record(TypedDict):
    """One video or image (a record of one frame) with its text.

    video: uint8 [F, Y, X, 3]; caption: what it shows, for a story its first scene; fps: frames a second;
    source: the data set; key: names the record within it.
    captions, starts: of a video whose caption changes: one caption a scene, and the first frame of each, int32 [n].
    facts: JSON, a list of one object a scene with what it shows, where that is known.
    """

    video: np.ndarray
    caption: str
    fps: float
    source: str
    key: str
    captions: NotRequired[list[str]]
    starts: NotRequired[np.ndarray]
    facts: NotRequired[str]


class Stream(TypedDict):
    """Rows of one kind: video uint8 [B, F, Y, X, 3] (images: F = 1), text int32 [B, P] (ids, 0 pads), known_frames
    int32 [B]: so many frames at the head of a row are given and not predicted (windows of stories), else 0.

    For a generator that is told them, fps and motion float32 [B]: frames a second, and how much moves
    (`motion.motion_score`), both NaN for images.
    With caches also text_embeds [B, P, E], float32 or bfloat16 (zeros where text is padding), and tokens int32
    [B, T, H, W] of the video. Where a stream is of several data sets also sources uint8 [B, N], 1 at the row's own.
    """

    video: np.ndarray
    text: np.ndarray
    known_frames: np.ndarray
    fps: NotRequired[np.ndarray]
    motion: NotRequired[np.ndarray]
    text_embeds: NotRequired[np.ndarray]
    tokens: NotRequired[np.ndarray]
    sources: NotRequired[np.ndarray]


Batch = dict[str, Stream]  # by stream, "video" and "image"; a stream without rows is absent


def batch_shapes(rows: Mapping[str, int], *, frames: int, height: int, width: int, text_length: int = TEXT_LENGTH,
                 told: Sequence[str] = (), embeddings: tuple[int, np.dtype] | None = None,
                 token_grid: tuple[int, int, int] | None = None,
                 sources: Mapping[str, Sequence[str]] | None = None) -> dict[str, dict[str, tuple[tuple, np.dtype]]]:
    """The (shape, dtype) of every array of a batch with `rows` rows a stream.

    told: names of numbers beside the text. embeddings: width and dtype of a text cache's. token_grid: [T, H, W] of a
    clip's cached tokens. sources: `mix.sources_of`.
    """
    shapes = {}
    for stream, count in rows.items():
        if not count:
            continue
        shapes[stream] = {
            "video": ((count, frames if stream == "video" else 1, height, width, 3), np.dtype(np.uint8)),
            "text": ((count, text_length), np.dtype(np.int32)),
            "known_frames": ((count,), np.dtype(np.int32)),
        } | {name: ((count,), np.dtype(np.float32)) for name in told}
        if embeddings:
            shapes[stream]["text_embeds"] = (count, text_length, embeddings[0]), embeddings[1]
        if token_grid:
            steps = token_grid[0] if stream == "video" else 1
            shapes[stream]["tokens"] = (count, steps, *token_grid[1:]), np.dtype(np.int32)
        if sources and stream in sources:
            shapes[stream]["sources"] = (count, len(sources[stream])), np.dtype(np.uint8)
    return shapes


def to_text(value: Any) -> str:
    """A str of a str or of the bytes that TensorFlow and TFDS give for one."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def to_record(raw: Mapping[str, Any]) -> Record:
    """A record of what TFDS reads: str for bytes, float for NumPy's scalars; arrays stay as they are."""
    record = {name: to_text(raw[name]) for name in ("caption", "source", "key", "facts") if name in raw}
    record |= {"video": raw["video"], "fps": float(raw["fps"])}
    if "captions" in raw:
        record |= {"captions": [to_text(c) for c in raw["captions"]], "starts": np.asarray(raw["starts"], np.int32)}
    return record
