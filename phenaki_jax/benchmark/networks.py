"""`phenaki benchmark networks`: how fast the networks of the evaluation see clips and images here."""

import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from phenaki_jax.benchmark import check_report, write_report
from phenaki_jax.errors import at_least

CLIPS, FRAMES, IMAGES, SIDE = 8, 16, 64, 128
BARS = {"i3d": 2.0, "inception": 10.0}  # seconds a clip at most, images a second at least


def main(rounds: int, report: str | None) -> int:
    """Measures, prints and writes the report; returns 0."""
    from phenaki_jax import evaluation
    check_report(report)
    at_least("--rounds", rounds, 1)
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (CLIPS, FRAMES, SIDE, SIDE, 3)).astype(np.uint8)
    images = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3)).astype(np.uint8)
    figures = {
        "i3d": {"seconds_a_clip": _seconds(lambda: evaluation.video_features(clips), rounds) / CLIPS},
        "inception": {"images_a_second": IMAGES / _seconds(lambda: evaluation.inception_features(images), rounds)},
        "lpips": {"pairs_a_second": IMAGES / _seconds(
            lambda: evaluation.lpips_per_video(images[None], images[None, ::-1]), rounds)},
        "circumstances": evaluation.circumstances() | {"rounds": rounds, "load": os.getloadavg()[0]}}
    clip, image, pair = (figures[name][rate] for name, rate in (
        ("i3d", "seconds_a_clip"), ("inception", "images_a_second"), ("lpips", "pairs_a_second")))
    print(f"I3D        {clip:.2f} s a clip of {FRAMES} frames, {CLIPS} at once (bar: at most {BARS['i3d']:g})")
    print(f"Inception  {image:.1f} images/s of {SIDE} x {SIDE}, {IMAGES} at once, their resizing included (bar: at "
          f"least {BARS['inception']:g})")
    print(f"LPIPS      {pair:.1f} pairs/s of {SIDE} x {SIDE}")
    write_report(figures, report)
    return 0


def _seconds(run: Callable[[], object], rounds: int) -> float:
    """The median of some rounds, after one that compiles."""
    run()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
