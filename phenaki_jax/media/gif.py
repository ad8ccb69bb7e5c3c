"""Gifs, frame for frame.

Pillow's own writer of animations merges equal neighbours, so that a clip at rest would lose frames; here each frame is
written as an image of its own. Format: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np


@contextlib.contextmanager
def open_gif(path: pathlib.Path, fps: float, comment: bytes = b"") -> Iterator[Callable[[np.ndarray], None]]:
    """Yields the function that appends frames uint8 [F, Y, X, 3] to a gif that loops for ever."""
    from PIL import Image
    from PIL.GifImagePlugin import getdata
    with open(path, "wb") as file:
        written = 0

        def append(frames: np.ndarray) -> None:
            nonlocal written
            if not written:  # no global table; loops for ever
                file.write(b"GIF89a" + np.array([frames.shape[2], frames.shape[1]], "<u2").tobytes() + b"\x70\x00\x00"
                           + b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
                if comment:
                    file.write(b"\x21\xfe" + _blocks(comment))
            for indices, palette in _indexed(frames):
                image = Image.fromarray(indices)
                image.putpalette(palette.tobytes())
                duration = round(100 * (written + 1) / fps) - round(100 * written / fps)
                file.write(b"\x21\xf9\x04\x00" + np.array(duration, "<u2").tobytes() + b"\x00\x00")
                file.writelines(getdata(image, include_color_table=True))
                written += 1

        yield append
        file.write(b"\x3b")


def _blocks(data: bytes) -> bytes:
    parts = [data[i:i + 255] for i in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\x00"


def _indexed(frames: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each frame as (indices uint8 [Y, X], palette uint8 [N <= 256, 3])."""
    from PIL import Image
    codes = frames.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours = [np.unique(c) for c in codes]
    together = np.unique(np.concatenate(colours))
    shared = None
    if max(map(len, colours)) > 256:  # one palette for all that need it, so that still parts do not flicker
        known = np.stack([together >> 16, together >> 8 & 255, together & 255], -1).astype(np.uint8)
        flat = Image.fromarray(frames.reshape(-1, frames.shape[2], 3))
        shared = flat.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        palette = np.frombuffer(bytes(shared.getpalette()), np.uint8).reshape(-1, 3)
        nearest = np.concatenate([((block[:, None].astype(np.int32) - palette.astype(np.int32)) ** 2).sum(-1).argmin(1)
                                  for block in np.array_split(known, len(known) // 4096 + 1)]).astype(np.uint8)
    for code, own in zip(codes, colours):
        if len(own) > 256:
            yield nearest[np.searchsorted(together, code)], palette
        else:
            table = together if len(together) <= 256 else own
            yield (np.searchsorted(table, code).astype(np.uint8),
                   np.stack([table >> 16, table >> 8 & 255, table & 255], -1).astype(np.uint8))
