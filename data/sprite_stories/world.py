"""Draws the sprite world: clips, images and stories whose captions are facts about their pixels. NumPy only.

Everything is a pure function of an integer seed path, so record i of a split is the same on every machine.
"""

import dataclasses

import numpy as np

from phenaki_jax.evaluation import sprite_world as sw

HELD_OUT_SHARE = 8  # one combination of colour, shape, style and motion in eight is shown by no training video


@dataclasses.dataclass(frozen=True)
class Facts:
    """What one scene shows. `direction` is left, right, up, down or still; `speed` is None when still."""
    colour: str
    shape: str
    style: str
    direction: str
    speed: str | None
    background: str

    @property
    def motion(self) -> str:
        return self.direction if self.speed is None else f"{self.direction} {self.speed}"

    @property
    def velocity(self) -> np.ndarray:
        """Pixels a frame, (x, y), in a 32 x 32 frame."""
        if self.speed is None:
            return np.zeros(2)
        return np.array(sw.DIRECTIONS[self.direction]) * sw.SPEEDS[self.speed]


MOTIONS = tuple((d, s) for d in sw.DIRECTIONS for s in sw.SPEEDS) + ((sw.STILL, None),)


def is_held_out(facts: Facts) -> bool:
    """Whether the combination colour x shape x style x motion is kept from all training videos.

    A Latin-square rule: every value of every attribute, and every pair of values, still occurs in training.
    """
    shapes = sw.SHAPES + sw.DIGITS
    index = (list(sw.COLOURS).index(facts.colour) + 3 * shapes.index(facts.shape)
             + 5 * sw.STYLES.index(facts.style) + 7 * MOTIONS.index((facts.direction, facts.speed)))
    return index % HELD_OUT_SHARE == 0


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def sample_facts(rng: np.random.Generator, *, objects=sw.SHAPES, held_out: bool | None = False,
                 image_only: bool = False) -> Facts:
    """Facts of one scene.

    Args:
      held_out: True: only held-out combinations; False: none of them; None: either.
      image_only: whether the values that no video shows (outlined, orange) may occur.
    """
    colours = [c for c in sw.COLOURS if image_only or c != sw.IMAGE_ONLY["colour"]]
    styles = [s for s in sw.STYLES if image_only or s != sw.IMAGE_ONLY["style"]]
    while True:
        direction = _pick(rng, (*sw.DIRECTIONS, sw.STILL))
        speed = None if direction == sw.STILL else _pick(rng, tuple(sw.SPEEDS))
        facts = Facts(_pick(rng, colours), _pick(rng, objects), _pick(rng, styles), direction, speed,
                      _pick(rng, tuple(sw.BACKGROUNDS)))
        if held_out is None or is_held_out(facts) == held_out:
            return facts


def free_range(radius: float) -> tuple[float, float]:
    """Smallest and largest coordinate of a centre that keeps the object in a 32 x 32 frame."""
    return radius + sw.MARGIN - 0.5, 31.5 - radius - sw.MARGIN


def place(rng: np.random.Generator, path: np.ndarray, radius: float) -> np.ndarray:
    """Shifts a path [F, 2] that begins at 0 so that the object never leaves the frame; uniform over such shifts."""
    low, high = free_range(radius)
    return path + rng.uniform(low - path.min(axis=0), high - path.max(axis=0))


# ---------------------------------------------------------------------------------------------- drawing

def draw(facts: Facts, centre: np.ndarray, radius: float, size: int, digit: np.ndarray | None = None) -> np.ndarray:
    """Frames, uint8 [..., size, size, 3]; centre [..., 2] (x, y) and radius in pixels of a 32 x 32 frame."""
    scale = size / 32
    x0, y0 = np.moveaxis((np.asarray(centre) + 0.5) * scale - 0.5, -1, 0)[..., None, None]
    if digit is None:
        alpha = sw.coverage(facts.shape, facts.style, (x0, y0), radius * scale, size)
    else:
        rows, columns = np.mgrid[0:size, 0:size].astype(np.float64)
        distance = sw.digit_distance(digit, columns - x0, rows - y0, radius * scale)
        alpha = sw.apply_style(facts.style, distance, rows - y0, scale, sw.DIGIT_LINE)
    frames = np.empty((*alpha.shape, 3), np.uint8)
    for channel, (ground, colour) in enumerate(zip(sw.BACKGROUNDS[facts.background], sw.COLOURS[facts.colour])):
        frames[..., channel] = np.rint(ground + alpha * (colour - ground))
    return frames


def _object(rng: np.random.Generator, facts: Facts, split: str) -> tuple[float, np.ndarray | None]:
    radius = rng.uniform(*sw.RADIUS)
    digit = _pick(rng, sw.digit_images(split)[facts.shape]) if facts.shape in sw.DIGITS else None
    return radius, digit


def make_clip(rng: np.random.Generator, facts: Facts, *, frames: int = 11, size: int = 32, split: str = "train",
              pixels: float | None = None) -> np.ndarray:
    """A clip of one scene, uint8 [frames, size, size, 3].

    pixels: a frame, in a 32 x 32 frame, that what moves goes, instead of what the facts' speed says.
    """
    radius, digit = _object(rng, facts, split)
    velocity = facts.velocity if pixels is None else np.sign(facts.velocity) * pixels
    path = place(rng, np.arange(frames)[:, None] * velocity, radius)
    return draw(facts, path, radius, size, digit)


# ---------------------------------------------------------------------------------------------- stories

def _next_scene(rng: np.random.Generator, now: Facts, offset: float, hull: tuple[float, float], frames: int,
                axis: np.ndarray) -> Facts:
    """Facts of the scene after `now`: the motion turns or rests, or the colour or the background changes.

    The object keeps to the stretch that its first scene crossed (give or take 2.5 pixels), so a teller who cannot
    see ahead still has room for what comes: every beginning allows every continuation.
    """
    names = {tuple(v): k for k, v in sw.DIRECTIONS.items()}
    options = [(sw.STILL, None)]
    for sign in (-1, 1):
        for speed, pixels in sw.SPEEDS.items():
            if hull[0] - 2.5 <= offset + sign * pixels * frames <= hull[1] + 2.5:
                options.append((names[tuple(int(sign * a) for a in axis)], speed))
    others = [o for o in options if o != (now.direction, now.speed)]
    what = _pick(rng, ("motion", "colour", "background"))
    if what == "motion" or (now.direction, now.speed) not in options:
        direction, speed = _pick(rng, others)
        now = dataclasses.replace(now, direction=direction, speed=speed)
    if what == "colour":
        colours = [c for c in sw.COLOURS if c not in (now.colour, sw.IMAGE_ONLY["colour"])]
        now = dataclasses.replace(now, colour=_pick(rng, colours))
    if what == "background":
        now = dataclasses.replace(now, background=_pick(rng, [b for b in sw.BACKGROUNDS if b != now.background]))
    return now


def sample_story(rng: np.random.Generator, *, scenes: int | None = None, objects=sw.SHAPES,
                 held_out: bool | None = False) -> list[tuple[Facts, int]]:
    """Two to four scenes over one object, [(facts, frames)]: 11 frames, then 12 a scene; the first scene moves."""
    count = scenes or int(rng.integers(2, 5))
    while True:
        first = sample_facts(rng, objects=objects, held_out=held_out)
        if first.speed is None:
            continue
        axis = np.abs(np.array(sw.DIRECTIONS[first.direction]))
        offset = float(first.velocity @ axis) * 10
        hull, story = (min(0.0, offset), max(0.0, offset)), [(first, 11)]
        while len(story) < count:
            facts = _next_scene(rng, story[-1][0], offset, hull, 12, axis)
            offset += float(facts.velocity @ axis) * 12
            story.append((facts, 12))
        if held_out is not False or not any(is_held_out(f) for f, _ in story):
            return story


def make_story(rng: np.random.Generator, story: list[tuple[Facts, int]], *, size: int = 32,
               split: str = "train") -> np.ndarray:
    """The video of a story, uint8 [sum of frames, size, size, 3]; position is continuous across scenes."""
    radius, digit = _object(rng, story[0][0], split)
    steps = np.concatenate([np.tile(f.velocity, (n, 1)) for f, n in story])
    path = np.cumsum(steps, axis=0) - steps[0]
    path = place(rng, path, radius)
    cuts = np.cumsum([n for _, n in story])[:-1]
    scenes = zip((f for f, _ in story), np.split(path, cuts))
    return np.concatenate([draw(f, centres, radius, size, digit) for f, centres in scenes])
