"""`phenaki benchmark input`: how many clips and images a second the loader decodes, cuts and batches.

Beside it a plain loop over the same records' bytes: PyAV or Pillow, a window, a batch; in one process, and in as many
as the loader has.
"""

import io
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax.benchmark import check_report, write_report
from phenaki_jax.errors import at_least

SIDE, FRAMES, RECORD_FRAMES, FPS = 64, 11, 24, 8.0
COUNTS = {"video": 256, "image": 1024}  # records that are made
BATCH, SECONDS = 64, 4.0
BAR, FAR = 0.9, 1_000_000  # what resuming costs at a step that far


def main(workers: int | None, rounds: int, report: str | None) -> int:
    """Measures, prints and writes the report; returns 0."""
    check_report(report)
    at_least("--rounds", rounds, 1)
    workers = len(os.sched_getaffinity(0)) if workers is None and hasattr(os, "sched_getaffinity") else workers or 1
    at_least("--workers", workers, 1)
    figures = measure(workers, rounds)
    for stream, row in figures["streams"].items():
        print(f"{stream:6} loader, {workers} processes: {row['loader']:8,.0f} rows/s; plain loop: {row['plain']:8,.0f} "
              f"alone, {row['plain_together']:8,.0f} in {workers} processes; loader / (plain loop x {workers}) = "
              f"{row['of_plain_times_workers']:.2f}, / {workers} at once = {row['of_plain_together']:.2f} (bar: {BAR})")
        print(f"       first batch {row['first_batch']:.3f} s, at step {FAR:,} {row['first_batch_far']:.3f} s "
              "(bar: 3 times)")
    write_report(figures, report)
    return 0


def measure(workers: int, rounds: int) -> dict[str, Any]:
    """{"streams": {stream: rows a second, medians}, "circumstances"}; the sides take turns."""
    from phenaki_jax.evaluation.report import circumstances
    streams = {}
    with tempfile.TemporaryDirectory() as folder:
        for stream in COUNTS:
            make_records(Path(folder) / stream, stream)
            loaded, alone, together = [], [], []
            for _ in range(rounds):
                loaded.append(loader_rate(folder, stream, workers))
                alone.append(plain_rates(Path(folder) / stream, 1))
                together.append(plain_rates(Path(folder) / stream, workers))
            first = [first_batch_seconds(folder, stream, step) for _ in range(rounds) for step in (0, FAR)]
            row = {"first_batch": statistics.median(first[::2]), "first_batch_far": statistics.median(first[1::2]),
                   "loader": statistics.median(loaded), "plain": statistics.median(alone),
                   "plain_together": statistics.median(together)}
            streams[stream] = row | {"of_plain_times_workers": row["loader"] / row["plain"] / workers,
                                     "of_plain_together": row["loader"] / row["plain_together"]}
    return {"streams": streams, "workers": workers, "side": SIDE, "frames": FRAMES, "circumstances": circumstances() | {
        "rounds": rounds, "load": os.getloadavg()[0]}}


def make_records(folder: Path, stream: str) -> None:
    """A data set of random smooth pictures, or of windows that slide over them, as `phenaki ingest` makes one."""
    from PIL import Image

    from phenaki_jax.ingest.job import ingest
    from phenaki_jax.ingest.prepare import Settings
    from phenaki_jax.ingest.sources import find_units
    from phenaki_jax.media import write_image, write_video
    source, rng = folder / "source", np.random.default_rng(0)
    for index in range(COUNTS[stream]):
        small = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        whole = np.asarray(Image.fromarray(small).resize((SIDE + RECORD_FRAMES,) * 2, Image.Resampling.BICUBIC))
        if stream == "image":
            write_image(source / f"{index}.png", whole[:SIDE, :SIDE])
        else:
            film = np.stack([whole[i:i + SIDE, i:i + SIDE] for i in range(RECORD_FRAMES)])
            write_video(source / f"{index}.mp4", film, FPS)
        path = source / f"{index}.txt"
        path.write_text(f"{stream} {index}")
    settings = Settings(stream, stream, ((SIDE, SIDE),), fps=FPS, scene_threshold=1.0, test_share=0.0)
    ingest(find_units(str(source)), settings, str(folder), source="random", workers=0)


def loader_rate(data_dir: str, stream: str, workers: int) -> float:
    """Rows a second of the loader, once its processes have begun."""
    from phenaki_jax.input.loader import Loader
    loader = Loader(stream, batch_size=BATCH, seed=0, frames=FRAMES, height=SIDE, width=SIDE, fps=FPS, text_length=32,
                    data_dir=data_dir, cache_bytes=0, workers=workers)
    batches = loader.iterate()
    for _ in range(4 * workers):
        next(batches)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        next(batches)
        count += BATCH
    rate = count / (time.perf_counter() - begun)
    batches.close()
    return rate


def first_batch_seconds(data_dir: str, stream: str, step: int) -> float:
    """How long a loader that was just made takes for the batch of a step."""
    from phenaki_jax.input.loader import Loader
    loader = Loader(stream, batch_size=BATCH, seed=0, frames=FRAMES, height=SIDE, width=SIDE, fps=FPS, text_length=32,
                    data_dir=data_dir, cache_bytes=0)
    begun = time.perf_counter()
    loader.batch(step)
    return time.perf_counter() - begun


def plain_rates(folder: Path, processes: int) -> float:
    """Rows a second of the plain loop, all processes together."""
    from phenaki_jax.input.records import Records, unpack
    records = Records(folder, "train")
    blobs = [bytes(unpack(records.data[index])[1]["media"]) for index in range(len(records))]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_plain, [(blobs[:BATCH], 0.1)] * processes, 1)  # begun and warm
        return sum(pool.map(_plain, [(blobs, SECONDS)] * processes, 1))


def _plain(task: tuple[list[bytes], float]) -> float:
    """Rows a second: each decoded, a window of it copied into a batch."""
    import av
    from PIL import Image
    blobs, seconds = task
    rng, count, begun = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        batch = None
        for row, index in enumerate(rng.integers(0, len(blobs), BATCH)):
            if blobs[index][:2] == b"\xff\xd8":
                window = np.asarray(Image.open(io.BytesIO(blobs[index])).convert("RGB"))[None]
            else:
                with av.open(io.BytesIO(blobs[index])) as container:
                    container.streams.video[0].thread_type = "NONE"
                    video = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
                first = rng.integers(0, len(video) - FRAMES + 1)
                window = video[first:first + FRAMES]
            if batch is None:
                batch = np.zeros((BATCH, *window.shape), np.uint8)
            batch[row] = window
        count += BATCH
    return count / (time.perf_counter() - begun)
