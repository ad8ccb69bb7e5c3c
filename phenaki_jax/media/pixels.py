"""Frames as arrays: their range, their size, which way up they are, and what lies behind them."""

from collections.abc import Sequence

import numpy as np

from phenaki_jax.errors import UserError

BLACK = (0, 0, 0)
# How a picture comes to another ratio of its sides: where the part lies that is kept, or that all of it is.
RULES = ("centre", "top", "bottom", "left", "right", "pad", "stretch")


def to_float(video):
    """uint8 0..255 -> float32 -1..1; NumPy and JAX arrays alike."""
    return video.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def to_uint8(video) -> np.ndarray:
    """float -1..1 -> uint8 0..255, rounded and clipped."""
    return np.clip(np.rint((np.asarray(video) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Repeats every pixel of [..., Y, X, 3] `scale` times in rows and columns."""
    if scale < 1 or scale != int(scale):
        raise UserError(f"scale={scale!r} is not a whole number of 1 or more.")
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [F, Y, X, 3] -> [F, height, width, 3], by Pillow's bicubic filter, which does not alias when shrinking."""
    from PIL import Image
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames])


def fit(frames: np.ndarray, height: int, width: int, rule: str = "centre",
        background: Sequence[int] = BLACK) -> np.ndarray:
    """uint8 [F, Y, X, 3] -> [F, height, width, 3], by `resize`.

    Args:
      rule: one of RULES. "centre": the largest middle part that has the sides' ratio; "top", "bottom", "left" and
        "right": the part of that size which lies there, and in the middle of the other direction. "pad": the whole
        picture in the middle of `background`. "stretch": the whole picture, whatever its ratio.
      background: red, green and blue, 0 to 255.

    Raises:
      UserError: another rule.
    """
    if rule not in RULES:
        raise UserError(f"rule={rule!r} is unknown; it should be one of {', '.join(RULES)}.")
    Y, X = frames.shape[1:3]
    if (Y, X) == (height, width) or rule == "stretch":
        return resize(frames, height, width)
    if rule == "pad":
        rows, columns = min(height, max(1, round(Y * width / X))), min(width, max(1, round(X * height / Y)))
        top, left = (height - rows) // 2, (width - columns) // 2
        canvas = np.empty((len(frames), height, width, 3), np.uint8)
        canvas[:] = background
        canvas[:, top:top + rows, left:left + columns] = resize(frames, rows, columns)
        return canvas
    rows, columns = min(Y, max(1, round(X * height / width))), min(X, max(1, round(Y * width / height)))
    top = {"top": 0, "bottom": Y - rows}.get(rule, (Y - rows) // 2)
    left = {"left": 0, "right": X - columns}.get(rule, (X - columns) // 2)
    return resize(frames[:, top:top + rows, left:left + columns], height, width)


def over(rgba: np.ndarray, background: Sequence[int]) -> np.ndarray:
    """uint8 [Y, X, 4] of straight alpha, laid on a colour: uint8 [Y, X, 3]."""
    colour, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3:].astype(np.float32)
    return np.rint((colour * alpha + np.asarray(background, np.float32) * (255 - alpha)) / 255).astype(np.uint8)


def turned(pixels: np.ndarray, transposed: bool, upside_down: bool, mirrored: bool) -> np.ndarray:
    """[Y, X, 3] with rows and columns exchanged, then the rows reversed, then the columns, as each is asked for."""
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    return np.ascontiguousarray(pixels[::-1 if upside_down else 1, ::-1 if mirrored else 1])
