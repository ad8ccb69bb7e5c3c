"""What Pillow reads: images, and animations of the formats that are images too."""

import contextlib
import pathlib
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from phenaki_jax.media.pixels import over, turned
from phenaki_jax.media.timing import Film, Shown

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")  # others may start programs (EPS)
_STARTS = re.compile(rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]|GIF8|....ftyp(avi[fs]|m[is]f1)",
                     re.DOTALL)
# (rows and columns exchanged, rows reversed, columns reversed) of EXIF's tag Orientation (EXIF 2.32, 4.6.4).
_TURNS = {1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
          5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False)}


def is_image(path: pathlib.Path) -> bool:
    """Whether a file begins as Pillow's formats do."""
    with open(path, "rb") as file:
        return bool(_STARTS.match(file.read(16)))


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator:
    """Yields Pillow's image of a file."""
    from PIL import Image
    with Image.open(path, formats=FORMATS) as image:
        yield image


def is_animation(image) -> bool:
    """Whether an image has frames in time: every gif has, pages of a tiff and a camera's previews are none."""
    return image.format == "GIF" or (image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "n_frames", 1) > 1)


def rgb(image, background: Sequence[int]) -> np.ndarray:
    """The current frame as uint8 [Y, X, 3], upright, on a background.

    16 bits of grey are rounded to 8. Colours are taken as they are, whatever profile they come with.
    """
    image.load()
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel of one channel, and 8 or 16 can be read")
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float32)
        pixels = np.rint(values / 257)[..., None].repeat(3, -1).astype(np.uint8)
        if "transparency" in image.info:
            alpha = np.uint8(255) * (values != image.info["transparency"])
            pixels = over(np.concatenate([pixels, alpha[..., None]], -1), background)
    elif image.has_transparency_data:
        pixels = over(np.asarray(image.convert("RGBA")), background)
    else:
        pixels = np.array(image.convert("RGB"))
    turn = _turn(image)
    return turned(pixels, *turn) if any(turn) else pixels


def _turn(image) -> tuple[bool, bool, bool]:
    try:
        return _TURNS[image.getexif().get(0x0112, 1)]
    except Exception:  # noqa: BLE001  EXIF that is none says nothing
        return _TURNS[1]


def film(image, background: Sequence[int]) -> Film:
    """An animation; players show frames of no duration for 0.1 s."""
    from PIL import ImageSequence

    def frames() -> Iterator[Shown]:
        time = Fraction(0)
        for index, frame in enumerate(ImageSequence.Iterator(image)):
            if index == 0 and getattr(image, "default_image", False):  # a png's, for those who know no animation
                continue
            pixels = rgb(frame, background)  # now, for the next frame takes its place; a webp tells its duration then
            duration = Fraction(frame.info.get("duration", 0) or 100).limit_denominator(1000) / 1000
            yield Shown(time, duration, lambda pixels=pixels: pixels)
            time += duration

    return Film(frames(), Fraction(1, 100 if image.format == "GIF" else 1000))
