"""The facts of the sprite world: its palette, its words, its geometry, its speeds.

`data/sprite_stories` draws with this table and `evaluation/attributes.py` judges by it, so that a caption is a
fact about pixels. Lengths are in pixels of a 32 x 32 frame; a frame of another size scales all of them by size / 32.
"""

import functools

import numpy as np

COLOURS = {
    "red": (230, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 235), "yellow": (240, 220, 40),
    "magenta": (200, 60, 220), "cyan": (60, 210, 220), "orange": (245, 140, 30), "white": (245, 245, 245),
}
BACKGROUNDS = {"black": (10, 10, 10), "gray": (95, 95, 95), "navy": (20, 35, 75)}
SHAPES = ("circle", "square", "triangle", "cross")
DIGITS = tuple(str(d) for d in range(10))
STYLES = ("solid", "outlined", "striped")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # (x, y), y downward
SPEEDS = {"slowly": 0.4, "quickly": 1.2}  # pixels a frame
STILL = "still"

RADIUS = (6.75, 7.75)  # half the extent of an object, smallest and largest
MARGIN = 1.0  # background kept between an object and the frame's edge
LINE = 2.0  # width of an outline
DIGIT_LINE = 0.9  # the same of a digit, whose strokes are thin: two outlines and a gap must fit; wants 64 x 64
STRIPE = 2.5  # width of a stripe and of the gap between two

IMAGE_ONLY = {"style": "outlined", "colour": "orange"}  # what no video-text record shows


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance to the outline of a shape of half extent `radius` centred at 0; negative inside, same shape as x."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius
    if shape == "triangle":  # apex at (0, -radius), base from (-radius, radius) to (radius, radius)
        side = (2 * np.abs(x) - y - radius) / np.sqrt(5.0)
        return np.maximum(side, y - radius)
    if shape == "cross":
        arm = 0.43 * radius
        across = np.maximum(np.abs(x) - radius, np.abs(y) - arm)
        upright = np.maximum(np.abs(x) - arm, np.abs(y) - radius)
        return np.minimum(across, upright)
    raise ValueError(f"shape={shape!r} is unknown; it is one of {', '.join(SHAPES)}")


def apply_style(style: str, distance: np.ndarray, y: np.ndarray, scale: float, line: float = LINE) -> np.ndarray:
    """Coverage in [0, 1] of a shape given by its signed distance, filled as `style` says, with one-pixel anti-aliasing.

    Args:
      distance: signed distance in pixels of the frame; y: rows relative to the object's centre, same shape.
      scale: pixels of the frame per pixel of a 32 x 32 frame.
      line: width of an outline in pixels of a 32 x 32 frame.
    """
    inside = np.clip(0.5 - distance, 0.0, 1.0)
    if style == "solid":
        return inside
    if style == "outlined":
        return inside * np.clip(0.5 + distance + line * scale, 0.0, 1.0)
    if style == "striped":
        period = 2 * STRIPE * scale
        band = np.abs((y + period / 2) % period - period / 2) - STRIPE * scale / 2
        return inside * np.clip(0.5 - band, 0.0, 1.0)
    raise ValueError(f"style={style!r} is unknown; it is one of {', '.join(STYLES)}")


def coverage(shape: str, style: str, centre: tuple[float, float], radius: float, size: int) -> np.ndarray:
    """Coverage [size, size] in [0, 1] of one geometric shape; centre (x, y) and radius in pixels of the frame."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64)
    x, y = columns - centre[0], rows - centre[1]
    return apply_style(style, signed_distance(shape, x, y, radius), y, size / 32)


@functools.cache
def digit_images(split: str) -> dict[str, np.ndarray]:
    """Handwritten 8 x 8 digits of scikit-learn, uint8 [N, 8, 8] in 0..16 by digit; four of five images are 'train'."""
    from sklearn.datasets import load_digits
    bunch = load_digits()
    test = np.arange(len(bunch.images)) % 5 == 0
    chosen = ~test if split == "train" else test
    return {d: bunch.images[chosen & (bunch.target == int(d))].astype(np.uint8) for d in DIGITS}


def digit_distance(image: np.ndarray, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """An approximate signed distance to the ink's edge of an 8 x 8 digit scaled to half extent `radius`."""
    from scipy import ndimage
    fine = 8
    ink = ndimage.zoom(np.pad(image.astype(np.float64) / 16, 1), fine, order=1, grid_mode=True, mode="grid-constant")
    filled = ink > 0.4
    outside, inside = ndimage.distance_transform_edt(~filled), ndimage.distance_transform_edt(filled)
    field = np.where(filled, 0.5 - inside, outside - 0.5)
    unit = radius / (4 * fine)  # pixels of the frame per pixel of the field: the digit's 8 rows span 2 * radius
    centre = (field.shape[0] - 1) / 2
    return ndimage.map_coordinates(field, [y / unit + centre, x / unit + centre], order=1, mode="nearest") * unit
