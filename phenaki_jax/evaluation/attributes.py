"""The judge: which colour, shape, style, motion, speed and background a clip of the sprite world shows.

Nothing here is learned. A clip is explained by the table of `sprite_world`:
  1. the background is the palette entry nearest to the median of the frames' border;
  2. the colour is the palette entry whose line from the background explains the differing pixels best, and the
     position of a pixel on that line is its coverage, alpha;
  3. the track is the centroid of alpha in each frame, the velocity the median slope over all pairs of frames;
  4. shape and style are those of the drawn template that correlates best with alpha, averaged along the track.
"""

import dataclasses
import functools
from typing import Mapping, Sequence

import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import sprite_world as sw

EMPTY = "empty"  # no object in at least half of the frames
DIAGONAL = "diagonal"  # moves, along neither axis
UNSTEADY = "unsteady"  # jumps or turns: no straight line fits the track

ATTRIBUTES = ("colour", "shape", "style", "motion", "speed", "background")  # what `agreement` compares

SLOWEST = sw.SPEEDS["slowly"] / 2  # pixels a frame in a 32 x 32 frame; below: still
QUICKEST = (sw.SPEEDS["slowly"] + sw.SPEEDS["quickly"]) / 2  # above: quickly
SLANT = 0.6  # smaller over larger velocity component from which a motion is diagonal
UNSTEADINESS = 1.2  # mean distance from the straight track, in pixels of a 32 x 32 frame
LEAST_CONTRAST = 40.0  # distance in RGB from which a pixel may belong to an object
LEAST_AREA = 8.0  # pixels of a 32 x 32 frame that an object covers at least
LEAST_CORRELATION = 0.5  # with the best template; below, shape and style are None
REACH = 10  # half width of the window that holds an object, in pixels of a 32 x 32 frame


@dataclasses.dataclass(frozen=True, eq=False)
class Attributes:
    """What a clip shows.

    Attributes:
      colour, shape, style: a name of `sprite_world`, or None when the clip is empty (shape and style also when no
        shape resembles what is seen).
      direction: left, right, up, down, still, empty, or, for what no caption says, diagonal and unsteady.
        None for a single image that is not empty.
      speed: slowly or quickly; None unless the direction is left, right, up or down.
      background: a name of `sprite_world`.
      centre: [F, 2] centroid (x, y) of what is seen, in pixels of a 32 x 32 frame; NaN where a frame is empty.
      velocity: [2] (x, y) in pixels a frame of a 32 x 32 frame; 0 for an image.
      present: whether at least half of the frames show an object.
      correlation: with the best template, -1 to 1.
    """
    colour: str | None
    shape: str | None
    style: str | None
    direction: str | None
    speed: str | None
    background: str
    centre: np.ndarray
    velocity: np.ndarray
    present: bool
    correlation: float

    @property
    def motion(self) -> str | None:
        """Direction and speed in words: "left slowly", "still", "empty"; None for an image."""
        return self.direction if self.speed is None else f"{self.direction} {self.speed}"


def judge(video: np.ndarray, *, objects: Sequence[str] = sw.SHAPES) -> Attributes:
    """Judges one clip.

    Args:
      video: uint8 [F, Y, X, 3] with square frames of at least 16 pixels; F = 1 is an image.
      objects: the shapes and digits to choose from. Digits want frames of 64 x 64 and scikit-learn.
    """
    return judge_many([video], objects=objects)[0]


def judge_many(videos: np.ndarray | Sequence[np.ndarray], *, objects: Sequence[str] = sw.SHAPES) -> list[Attributes]:
    """Judges clips, uint8 [N, F, Y, X, 3] or a sequence of [F, Y, X, 3] of any lengths; see `judge`."""
    found: list[Attributes | None] = [None] * len(videos)
    groups: dict[tuple, list[int]] = {}
    for i, video in enumerate(videos):
        groups.setdefault(np.shape(video), []).append(i)
    for shape, members in groups.items():
        if len(shape) != 4 or shape[0] < 1 or shape[3] != 3 or shape[1] != shape[2] or shape[1] < 16:
            raise UserError(f"video has shape {shape}; the judge wants [F, Y, X, 3] with square frames of at least 16")
        for start in range(0, len(members), 32):  # bounds memory
            chunk = members[start:start + 32]
            stack = np.stack([np.asarray(videos[i]) for i in chunk])
            if stack.dtype != np.uint8:
                raise UserError(f"video has dtype {stack.dtype}; the judge wants uint8")
            for i, attributes in zip(chunk, _judge_stack(stack, tuple(objects))):
                found[i] = attributes
    return found


def agreement(attributes: Attributes, facts: Mapping) -> dict[str, bool]:
    """Which of the facts the clip shows.

    Args:
      facts: any of the keys colour, shape, style, direction, speed, background; missing ones and None are not asked.

    Returns:
      {name: whether it agrees} over `ATTRIBUTES` as far as the facts say them; "motion" compares the direction.
      An image (direction None) is not asked for its motion and speed.
    """
    result = {}
    for name in ATTRIBUTES:
        key = "direction" if name == "motion" else name
        wanted = facts.get(key)
        if wanted is None or (name in ("motion", "speed") and attributes.direction is None):
            continue
        result[name] = getattr(attributes, key) == wanted
    return result


# ---------------------------------------------------------------------------------------------- one stack of clips

def _judge_stack(videos: np.ndarray, objects: tuple[str, ...]) -> list[Attributes]:
    """Judges uint8 [N, F, Y, Y, 3]."""
    pixels = videos.astype(np.float32)
    while pixels.shape[2] >= 128 and pixels.shape[2] % 2 == 0:  # more detail tells nothing more
        n, f, y, x, c = pixels.shape
        pixels = pixels.reshape(n, f, y // 2, 2, x // 2, 2, c).mean(axis=(3, 5))
    n, f, size = pixels.shape[:3]
    scale = size / 32

    ground, background = _background(pixels)
    difference = pixels - ground[:, None, None, None]
    colour, line = _colour(difference, background)
    alpha = np.einsum("nfyxc,nc->nfyx", difference, line / np.sum(line ** 2, axis=1, keepdims=True))
    alpha = np.clip(alpha, 0.0, 1.2)

    seen = ((alpha > 0.3) & (np.linalg.norm(difference, axis=-1) > LEAST_CONTRAST)).sum(axis=(2, 3))
    seen = seen >= LEAST_AREA * scale ** 2
    present = seen.mean(axis=1) >= 0.5
    centre = _centroid(alpha.reshape(n * f, size, size), scale).reshape(n, f, 2)
    centre = np.where(seen[..., None], centre, np.nan)
    velocity, deviation = _slope((centre + 0.5) / scale - 0.5)

    patch = _aligned_mean(alpha, centre, scale)
    shape, style, correlation = _best_template(patch, scale, objects)

    result = []
    for i in range(n):
        track = (centre[i] + 0.5) / scale - 0.5
        if not present[i]:
            result.append(Attributes(None, None, None, EMPTY, None, background[i], track, np.zeros(2), False, 0.0))
            continue
        direction, speed = (None, None) if f == 1 else _motion(velocity[i], deviation[i])
        clear = correlation[i] >= LEAST_CORRELATION
        result.append(Attributes(colour[i], shape[i] if clear else None, style[i] if clear else None, direction, speed,
                                 background[i], track, velocity[i], True, float(correlation[i])))
    return result


def _background(pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Median RGB of the frames' outermost pixels [N, 3] and the nearest palette entries."""
    n = len(pixels)
    ring = np.concatenate([pixels[:, :, 0], pixels[:, :, -1], pixels[:, :, 1:-1, 0], pixels[:, :, 1:-1, -1]], axis=2)
    ground = np.median(ring.reshape(n, -1, 3), axis=1)
    names, palette = list(sw.BACKGROUNDS), np.array(list(sw.BACKGROUNDS.values()), np.float32)
    nearest = np.argmin(np.linalg.norm(ground[:, None] - palette, axis=-1), axis=1)
    return ground, [names[i] for i in nearest]


def _colour(difference: np.ndarray, background: list[str]) -> tuple[list[str], np.ndarray]:
    """Names of the colours and their differences [N, 3] from the background.

    Of each colour's line from the background to itself, the residual of the pixels that differ most is summed.
    """
    names, palette = list(sw.COLOURS), np.array(list(sw.COLOURS.values()), np.float32)
    chosen, lines = [], []
    for pixels, ground in zip(difference.reshape(len(difference), -1, 3), background):
        distance = np.linalg.norm(pixels, axis=1)
        threshold = max(LEAST_CONTRAST, 0.5 * np.quantile(distance, 0.99))
        pixels = pixels[distance > threshold]
        candidates = palette - np.array(sw.BACKGROUNDS[ground], np.float32)
        # An upper bound on alpha lets brightness count, not the hue alone.
        alpha = np.clip(pixels @ (candidates / np.sum(candidates ** 2, axis=1, keepdims=True)).T, 0.0, 1.1)
        residual = np.sum((pixels[:, None] - alpha[..., None] * candidates) ** 2, axis=(0, 2))
        best = int(np.argmin(residual))
        chosen.append(names[best])
        lines.append(candidates[best])
    return chosen, np.array(lines)


def _centroid(alpha: np.ndarray, scale: float) -> np.ndarray:
    """Centroid [M, 2] (x, y) in pixels of alpha [M, Y, X]: found coarsely, then within a window around it."""
    grid = np.arange(alpha.shape[1], dtype=np.float32)

    def mean(weight):
        total = np.maximum(weight.sum(axis=(1, 2)), 1e-6)
        return np.stack([weight.sum(axis=1) @ grid, weight.sum(axis=2) @ grid], axis=1) / total[:, None]

    coarse = mean(np.clip((alpha - 0.3) / 0.4, 0.0, 1.0))
    near = np.abs(grid - coarse[:, :, None]) <= REACH * scale  # [M, 2, size]
    window = near[:, 1, :, None] & near[:, 0, None, :]
    return mean(np.where(window, np.maximum(alpha - 0.1, 0.0), 0.0))


def _slope(track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Theil-Sen velocity [N, 2] of tracks [N, F, 2] with gaps (NaN), and the mean distance [N] from that line."""
    n, frames = track.shape[:2]
    velocity, deviation = np.zeros((n, 2)), np.zeros(n)
    first, second = np.triu_indices(frames, 1)
    times = np.arange(frames)
    for i in range(n):
        slopes = (track[i, second] - track[i, first]) / (second - first)[:, None]
        slopes = slopes[~np.isnan(slopes[:, 0])]
        if len(slopes):
            velocity[i] = np.median(slopes, axis=0)
            rest = track[i] - times[:, None] * velocity[i]
            rest = rest[~np.isnan(rest[:, 0])]
            deviation[i] = np.mean(np.linalg.norm(rest - np.median(rest, axis=0), axis=1))
    return velocity, deviation


def _motion(velocity: np.ndarray, deviation: float) -> tuple[str, str | None]:
    """Direction and speed of a velocity in pixels a frame of a 32 x 32 frame."""
    if deviation > UNSTEADINESS:
        return UNSTEADY, None
    small, large = np.sort(np.abs(velocity))
    if large < SLOWEST:
        return sw.STILL, None
    if small > SLANT * large:
        return DIAGONAL, None
    direction = max(sw.DIRECTIONS, key=lambda name: float(velocity @ np.array(sw.DIRECTIONS[name])))
    return direction, "slowly" if large < QUICKEST else "quickly"


# ---------------------------------------------------------------------------------------------- shape and style

def _offsets(scale: float) -> np.ndarray:
    """Pixel offsets from the centroid at which patches are sampled."""
    reach = int(round(REACH * scale))
    return np.arange(-reach, reach + 1, dtype=np.float32)


def _aligned_mean(alpha: np.ndarray, centre: np.ndarray, scale: float) -> np.ndarray:
    """Mean over the frames of alpha [N, F, Y, Y] around its centroid [N, F, 2], [N, P, P]; bilinear, 0 outside."""
    n, f, size = alpha.shape[:3]
    offsets = _offsets(scale)
    seen = ~np.isnan(centre[..., 0])
    pad = len(offsets) + 1
    padded = np.pad(alpha, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    where = np.where(seen[..., None], centre, size / 2)
    corner = np.floor(where).astype(int)
    fraction = (where - corner).astype(np.float32)[..., None, None]
    span = np.arange(offsets[0], offsets[-1] + 2).astype(int) + pad
    clip, frame = np.arange(n)[:, None, None, None], np.arange(f)[None, :, None, None]
    rows, columns = corner[..., 1, None, None] + span[:, None], corner[..., 0, None, None] + span
    block = padded[clip, frame, rows, columns]  # [N, F, P + 1, P + 1]
    fx, fy = fraction[:, :, 0], fraction[:, :, 1]
    block = block[..., :-1] * (1 - fx) + block[..., 1:] * fx
    block = block[..., :-1, :] * (1 - fy) + block[..., 1:, :] * fy
    weight = seen / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    return np.einsum("nfyx,nf->nyx", block, weight)


def _best_template(patch: np.ndarray, scale: float, objects: tuple[str, ...]):
    """Names of shape and style and the correlation of the template nearest to each patch [N, P, P]."""
    labels, templates = _templates(scale, objects)
    flat = patch.reshape(len(patch), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    scores = flat.astype(np.float32) @ templates.T
    best = np.argmax(scores, axis=1)
    return [labels[i][0] for i in best], [labels[i][1] for i in best], scores[np.arange(len(best)), best]


@functools.lru_cache(maxsize=8)
def _templates(scale: float, objects: tuple[str, ...]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Labels (shape, style) and templates [M, P * P], each of zero mean and unit norm, around its own centroid."""
    from scipy import ndimage
    offsets = _offsets(scale)
    size = len(offsets) + int(4 * scale)
    labels, pictures, shifts = [], [], []
    for name in objects:
        # Handwriting varies by more than a shift does: its examples make up for the shifts.
        around = ((0, 0), (0, -0.4), (0, 0.4), (-0.4, 0), (0.4, 0)) if name in sw.SHAPES else ((0, 0),)
        for style, picture in _drawings(name, scale, size):
            for blur in (0.0, 0.6, 1.0) if name in sw.SHAPES else (0.2, 0.7):
                soft = ndimage.gaussian_filter(picture, blur * scale).astype(np.float32)
                for shift in around:
                    labels.append((name, style))
                    pictures.append(soft)
                    shifts.append(shift)
    flat = []
    for start in range(0, len(labels), 512):  # bounds memory
        part = np.array(pictures[start:start + 512])
        centre = _centroid(part, scale) + np.array(shifts[start:start + 512]) * scale
        flat.append(_aligned_mean(part[:, None], centre[:, None], scale).reshape(len(part), -1).astype(np.float32))
    flat = np.concatenate(flat)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return labels, flat


def _drawings(name: str, scale: float, size: int):
    """Yields (style, coverage [size, size]) of one object: a shape in several sizes, or a digit in all its hands."""
    rows, columns = np.mgrid[0:size, 0:size] - (size - 1) / 2
    if name in sw.SHAPES:
        radii = np.arange(sw.RADIUS[0] - 0.25, sw.RADIUS[1] + 0.26, 0.25) * scale
        distances = [sw.signed_distance(name, columns, rows, radius) for radius in radii]
    else:
        radius = sum(sw.RADIUS) / 2 * scale
        distances = [sw.digit_distance(image, columns, rows, radius) for image in sw.digit_images("train")[name]]
    line = sw.LINE if name in sw.SHAPES else sw.DIGIT_LINE
    for style in sw.STYLES:
        for distance in distances:
            yield style, sw.apply_style(style, distance, rows, scale, line)
