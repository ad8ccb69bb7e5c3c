"""Pictures for people: grids, labelled sheets, captioned stories. uint8 arrays in, uint8 arrays out."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from phenaki_jax.media import enlarge

PAPER, INK, FAINT = (255, 255, 255), (25, 25, 30), (125, 125, 135)


def grid(rows: Sequence[Sequence[np.ndarray]], gap: int = 2, background: Sequence[int] = PAPER) -> np.ndarray:
    """Lays pictures out in rows, each column as wide as its widest, each row as high as its highest.

    Args:
      rows: images uint8 [Y, X, 3], or clips uint8 [F, Y, X, 3] (mixed as you like; sizes may differ).
      gap: pixels between neighbours and around the whole.

    Returns:
      uint8 [Y', X', 3]; with any clip among them [F', Y', X', 3], where F' is the longest and an ended clip rests on
      its last frame.

    Raises:
      ValueError: nothing to show, or an element of another rank or type.
    """
    cells = [[_clip(item) for item in row] for row in rows]
    if not any(cells):
        raise ValueError("rows is empty; a grid needs at least one picture.")
    moving = any(np.ndim(item) == 4 for row in rows for item in row)
    length = max(len(cell) for row in cells for cell in row)
    heights = [max((cell.shape[1] for cell in row), default=0) for row in cells]
    columns = max(map(len, cells))
    widths = [max(row[c].shape[2] for row in cells if c < len(row)) for c in range(columns)]
    shape = (length, sum(heights) + gap * (len(heights) + 1), sum(widths) + gap * (columns + 1), 3)
    canvas = np.empty(shape, np.uint8)
    canvas[:] = background
    top = gap
    for row, height in zip(cells, heights):
        left = gap
        for cell, width in zip(row, widths):
            padded = cell[np.minimum(np.arange(length), len(cell) - 1)]
            canvas[:, top:top + cell.shape[1], left:left + cell.shape[2]] = padded
            left += width + gap
        top += height + gap
    return canvas if moving else canvas[0]


def _clip(item: np.ndarray) -> np.ndarray:
    item = np.asarray(item)
    if item.dtype != np.uint8 or item.ndim not in (3, 4) or item.shape[-1] != 3 or item.size == 0:
        raise ValueError(f"{item.dtype} {list(item.shape)} is no picture; it should be uint8 [Y, X, 3] or [F, Y, X, 3]")
    return item if item.ndim == 4 else item[None]


@functools.cache
def _font(size: int):
    from PIL import ImageFont
    return ImageFont.load_default(size)


def wrap(text: str, width: int, size: int = 14) -> list[str]:
    """Breaks a text between words into lines of at most `width` pixels; a word that is too long stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def label(text: str, width: int, size: int = 14, lines: int | None = None, colour: Sequence[int] = INK,
          background: Sequence[int] = PAPER) -> np.ndarray:
    """Text as a picture uint8 [Y, width, 3], wrapped between words, in Pillow's default font.

    Args:
      size: of the font, in pixels; lines: the height to make, in lines of text (default: what the text needs).
    """
    from PIL import Image, ImageDraw
    wrapped = wrap(text, width - 4, size)
    count = max(1, len(wrapped)) if lines is None else lines
    image = Image.new("RGB", (width, round(count * size * 1.35) + 4), tuple(background))
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(wrapped[:count]):
        draw.text((2, 1 + round(index * size * 1.35)), line, fill=tuple(colour), font=_font(size))
    return np.array(image)


def spread(count: int, shown: int) -> np.ndarray:
    """Indices of `shown` of `count` frames, evenly from the first to the last; of all if there are no more."""
    return np.unique(np.rint(np.linspace(0, count - 1, min(shown, count))).astype(int))


def sheet(columns: Mapping[str, np.ndarray], frames: int | Sequence[int] = 4, captions: Sequence[str] | None = None,
          scale: int = 2) -> np.ndarray:
    """One labelled picture of clips side by side: a row an example, a column a source, in it some frames.

    Args:
      columns: title -> clips uint8 [N, F, Y, X, 3], the same N; for example truth, reconstruction, generated.
      frames: how many frames to show of each clip, spread evenly, or which.
      captions: N texts, one above each row.
      scale: every pixel becomes scale x scale of them.

    Returns:
      uint8 [Y', X', 3].
    """
    counts = {title: len(clips) for title, clips in columns.items()}
    if len(set(counts.values())) != 1 or (captions is not None and len(captions) != len(next(iter(columns.values())))):
        raise ValueError(f"the columns differ in their number of clips ({counts}), or the captions from them.")
    strips = {}
    for title, clips in columns.items():
        chosen = spread(clips.shape[1], frames) if isinstance(frames, int) else np.asarray(frames)
        strips[title] = [grid([list(enlarge(clip[chosen], scale))], gap=1) for clip in clips]
    picture = [grid([[label(title, parts[0].shape[1], 16) for title, parts in strips.items()]], gap=6)]
    for index in range(len(next(iter(strips.values())))):
        row = grid([[parts[index] for parts in strips.values()]], gap=6)
        if captions is not None:
            picture.append(label(captions[index], row.shape[1] - 12, 13, colour=FAINT))
        picture.append(row)
    margin = 6 if captions is not None else 0
    return _stack(picture, margin)


def _stack(pictures: Sequence[np.ndarray], indent: int = 0) -> np.ndarray:
    """Pictures below each other; those narrower than the widest stand `indent` pixels from the left."""
    width = max(p.shape[1] for p in pictures)
    parts = []
    for picture in pictures:
        canvas = np.empty((picture.shape[0], width, 3), np.uint8)
        canvas[:] = PAPER
        left = min(indent, width - picture.shape[1])
        canvas[:, left:left + picture.shape[1]] = picture
        parts.append(canvas)
    return np.concatenate(parts)


# ------------------------------------------------------------------------------------------------- stories

def _scenes(frames: np.ndarray, captions: Sequence[str], starts: Sequence[int]) -> list[tuple[str, np.ndarray]]:
    starts = [int(s) for s in starts]
    if len(captions) != len(starts) or not starts or starts[0] != 0 or sorted(set(starts)) != starts \
            or starts[-1] >= len(frames):
        raise ValueError(f"starts={starts} should be the first frame of each of {len(captions)} scenes, rising from 0, "
                         f"within {len(frames)} frames.")
    return [(caption, frames[start:end]) for caption, start, end in zip(captions, starts, [*starts[1:], len(frames)])]


def captioned(frames: np.ndarray, captions: Sequence[str], starts: Sequence[int], scale: int = 8) -> np.ndarray:
    """A story with the caption of its scene under every frame.

    Args:
      frames: uint8 [F, Y, X, 3]; captions: one a scene; starts: the first frame of each scene, the first being 0.

    Returns:
      uint8 [F, Y', X', 3], enlarged by `scale`; the sides are even, as mp4 wants them.
    """
    scenes = _scenes(frames, captions, starts)
    width = frames.shape[2] * scale
    size = max(11, width // 18)
    lines = max(len(wrap(caption, width - 4, size)) for caption in captions)
    parts = []
    for caption, scene in scenes:
        text = label(caption, width, size, lines)
        big = enlarge(scene, scale)
        parts.append(np.concatenate([big, np.broadcast_to(text, (len(big), *text.shape))], axis=1))
    clip = np.concatenate(parts)
    odd = [(0, 0), (0, clip.shape[1] % 2), (0, clip.shape[2] % 2), (0, 0)]
    return np.pad(clip, odd, mode="edge")


def story_strip(frames: np.ndarray, captions: Sequence[str], starts: Sequence[int], shown: int = 6,
                scale: int = 3) -> np.ndarray:
    """A story as one picture, a row a scene: `shown` of its frames, evenly spread, and its caption under them.

    Takes what `captioned` takes; returns uint8 [Y', X', 3].
    """
    rows = []
    for caption, scene in _scenes(frames, captions, starts):
        row = grid([list(enlarge(scene[spread(len(scene), shown)], scale))], gap=3)
        rows += [row, label(caption, row.shape[1], 13)]
    return _stack(rows)
