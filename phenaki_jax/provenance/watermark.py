"""An invisible watermark in frames: 32 bits that say "generated", and by what, and that survive H.264.

A frame of any size is divided into 16 x 16 cells. Of each cell's luma three middle frequencies of the discrete cosine
transform (DCT-II) carry signs: a bit of a code word (codes.py) is spread over three or four of them in places far
apart, each with a sign of its own from a key. Marking pushes a coefficient as far as its sign asks for and no farther,
by more where the cell has texture (improved spread spectrum; Malvar & Florencio, 2003); reading divides each
coefficient by what texture allows, limits it, and averages over frames. The key is public: whoever reads this file can
remove the mark, or forge it.

False positives: let s be the inner product of the soft bits, scaled to norm 1, with one payload's word. A clip that was
not marked knows nothing of the key, so that the sign of each soft bit is an even coin whatever the clip shows, and s a
sum of independent coins with weights whose squares add up to 1: mean 0, variance 1, and by Hoeffding's inequality
P(s >= t) <= exp(-t^2 / 2). Over all payloads P(any s >= t) <= 2^32 exp(-t^2 / 2), which THRESHOLD sets to
FALSE_POSITIVE_RATE.
"""

import dataclasses
import functools
import hashlib
import math

import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.provenance import codes

PAYLOAD_BITS = codes.BITS
SMALLEST = 128  # height and width of a frame that is marked; smaller ones lose too much to H.264
FALSE_POSITIVE_RATE = 1e-6  # a file
THRESHOLD = math.sqrt(2 * math.log(2.0**PAYLOAD_BITS / FALSE_POSITIVE_RATE))  # 8.48, of at most sqrt(250) = 15.8
PSNR = 38.0  # dB, the least that a marked frame has

KEY = b"phenaki_jax watermark 1"
CELLS = 16  # a side
READABLE = 4 * CELLS  # height and width of a frame that is read: a marked one may have been made smaller
FREQUENCIES = ((1, 2), (2, 1), (2, 2))  # (vertical, horizontal), half periods a cell
USED = sorted({k for pair in FREQUENCIES for k in pair})
_V, _H = ([USED.index(pair[i]) for pair in FREQUENCIES] for i in (0, 1))
SLOTS = len(FREQUENCIES) * CELLS * CELLS

# Lengths of coefficients are those of a cell of 8 x 8 pixels, so that 8 is a deviation of 1 of 255.
FLAT = 5.0  # to where a coefficient is pushed in a flat cell
TEXTURE = 0.8  # and how much farther for each of 255 that the cell's luma deviates from its mean
BUSIEST = 16.0  # above this deviation no farther
EDGE = 4.0  # nor above so many times that of its second flattest quarter: beside an edge a mark in the flat is seen
HOPELESS = 4.0  # a coefficient that is as many times that far on the wrong side is left alone
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # BT.709


@dataclasses.dataclass(frozen=True)
class Found:
    """What a clip carries.

    Attributes:
      payload: 0 to 2^32 - 1.
      score: THRESHOLD to sqrt(250); see the module's docstring.
      chance: at most this probability has such a score, or a higher one, in a clip that was not marked.
      errors: how many of the word's 250 bits were read wrong and corrected.
    """
    payload: int
    score: float
    chance: float
    errors: int


def fits(height: int, width: int) -> bool:
    """Whether frames of this size can be marked."""
    return min(height, width) >= SMALLEST


def mark(frames: np.ndarray, payload: int) -> np.ndarray:
    """Marks each frame for itself, so that parts of a video can be marked as they come.

    Args:
      frames: uint8 [F, Y, X, 3], RGB, both sides at least SMALLEST; of the size that is written, enlarged already.
      payload: 0 to 2^32 - 1.

    Returns:
      uint8 [F, Y, X, 3]; no frame's PSNR is below 38 dB.

    Raises: UserError for an array, a size or a payload that does not fit.
    """
    _check(frames)
    height, width = frames.shape[1:3]
    if not fits(height, width):
        raise UserError(f"frames of {height} x {width} are too small for a watermark; both sides should be at least "
                        f"{SMALLEST}.")
    if not isinstance(payload, (int, np.integer)) or not 0 <= payload < 1 << PAYLOAD_BITS:
        raise UserError(f"payload={payload!r} should be a whole number from 0 to 2^{PAYLOAD_BITS} - 1.")
    sign, bit = _key()
    asked = sign * codes.encode(int(payload))[bit]
    marked = np.empty_like(frames)
    for frame, out in zip(frames, marked):
        out[...] = _mark_frame(frame, asked)
    return marked


def find(frames: np.ndarray) -> Found | None:
    """Reads the mark of uint8 [F, Y, X, 3], all frames together; None where there is none.

    Frames may have been resized as a whole since they were marked, not cut. A clip that was not marked gives an answer
    with a probability of at most FALSE_POSITIVE_RATE. Raises: UserError for an array that is no video.
    """
    _check(frames)
    if min(frames.shape[1:3]) < READABLE:
        return None
    soft = soft_bits(frames)
    payload, word = codes.decode(soft)
    score = float(soft @ word)
    if score < THRESHOLD:
        return None
    return Found(payload, score, 2.0**PAYLOAD_BITS * math.exp(-score**2 / 2), int(np.sum(soft * word <= 0)))


def soft_bits(frames: np.ndarray, key: bytes = KEY) -> np.ndarray:
    """What uint8 [F, Y, X, 3], both sides at least READABLE, says of the 250 bits: float32 [250], positive for a 0.

    Of norm 1, or 0 where all frames are flat.
    """
    total = np.zeros(SLOTS, np.float64)
    for frame in frames:
        x, reach = _coefficients(frame @ LUMA)
        ratio = x / reach
        total += ratio / (1 + ratio * ratio)  # a coefficient far above what marking reaches is the picture's own
    sign, bit = _key(key)
    soft = np.bincount(bit, total * sign, codes.LENGTH)
    norm = np.linalg.norm(soft)
    return (soft / norm if norm > 1e-3 * len(frames) else np.zeros_like(soft)).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _key(key: bytes = KEY) -> tuple[np.ndarray, np.ndarray]:
    """The sign and the bit of each slot, from SHAKE-256, so that they never change with a library."""
    drawn = np.frombuffer(hashlib.shake_256(key).digest(8 * SLOTS), "<u8")
    sign = np.where(drawn & 1, -1, 1).astype(np.float32)
    return sign, np.argsort(drawn >> 1, kind="stable").argsort() % codes.LENGTH


@functools.lru_cache(maxsize=8)
def _axis(pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One side of a frame, cut into 16 cells of w pixels or one less; K frequencies are used on it.

    Analysis turns a cosine of amplitude A into 2 A, its coefficient in 8 pixels, whatever the cell's size; synthesis is
    its inverse.

    Returns:
      index int [16, w], the cells' pixels, and whether they are the cell's own, bool [16, w]; means of the cell's
      halves and its analysis, float32 [16, 2 + K, w]; synthesis, float32 [16, w, K].
    """
    ends = np.arange(CELLS + 1) * pixels // CELLS
    sizes = np.diff(ends)[:, None]
    within = np.arange(sizes.max())
    own, index = within < sizes, np.minimum(ends[:-1, None] + within, pixels - 1)
    waves = np.cos(np.pi * np.array(USED)[:, None] * ((within + 0.5) / sizes)[:, None]) * own[:, None]
    first = within < sizes // 2
    halves = np.stack([half / half.sum(1, keepdims=True) for half in (first, own & ~first)], axis=1)
    analysis = np.concatenate([halves, 4 * waves / sizes[..., None]], axis=1)
    return index, own, analysis.astype(np.float32), (waves / 2).transpose(0, 2, 1).astype(np.float32)


# Cell by cell, since products as small as these stay on one thread: many threads are slow where cores are busy.

def _analyse(luma: np.ndarray) -> np.ndarray:
    """float32 [Y, X] -> [16, 2 + K, 16, 2 + K]: vertical cell, means of halves and frequencies; the same horizontal."""
    for side in luma.shape:
        index, _, analysis, _ = _axis(side)
        luma = (analysis @ luma[index]).reshape(-1, luma.shape[1]).T
    return luma.reshape(CELLS, 2 + len(USED), CELLS, 2 + len(USED))


def _synthesise(table: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 [16, K, 16, K] -> [height, width]: the change of luma that has these coefficients."""
    change = table.reshape(CELLS * len(USED), -1)
    for side in (height, width):
        _, own, _, synthesis = _axis(side)
        change = (synthesis @ change.reshape(CELLS, len(USED), -1))[own].T
    return change


def _coefficients(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slots of a luma [Y, X]: their coefficients and how far marking pushes each, both float32 [SLOTS]."""
    table = _analyse(luma)
    mean, square = (t[:, :2, :, :2].transpose(1, 3, 0, 2).reshape(4, -1) for t in (table, _analyse(luma * luma)))
    whole = np.sqrt(np.maximum(square.mean(0) - np.square(mean.mean(0)), 0))
    second = np.sqrt(np.maximum(np.sort(square - np.square(mean), axis=0)[1], 0))
    reach = FLAT + TEXTURE * np.minimum(np.minimum(whole, EDGE * second), BUSIEST)
    return table[:, 2:, :, 2:][:, _V, :, _H].reshape(-1), np.tile(reach, len(FREQUENCIES))


def _mark_frame(frame: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Marks uint8 [Y, X, 3] with the signs asked for, float32 [SLOTS]."""
    x, reach = _coefficients(frame @ LUMA)
    along = x * asked
    push = np.where(along < -HOPELESS * reach, 0, np.clip(reach - along, 0, reach)) * asked
    table = np.zeros((CELLS, len(USED), CELLS, len(USED)), np.float32)
    table[:, _V, :, _H] = push.reshape(-1, CELLS, CELLS)
    change = _synthesise(table, *frame.shape[:2])[..., None]
    allowed, strength = 255**2 / 10**(PSNR / 10), np.float32(1)
    while True:
        marked = np.clip(np.rint(frame + strength * change), 0, 255).astype(np.uint8)
        error = np.square(marked.astype(np.int16) - frame).mean(dtype=np.float64)
        if error <= allowed:
            return marked
        strength *= np.float32(min(0.99, math.sqrt(allowed / error)))


def _check(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise UserError(f"frames of {frames.dtype} {list(frames.shape)} are no video; they should be uint8 "
                        "[F, Y, X, 3].")
