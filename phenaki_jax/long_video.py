"""`phenaki benchmark length`: what a video of 600 frames costs the tokenizer beside one of 33, in memory and time."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from phenaki_jax import config as configs
from phenaki_jax.benchmark import check_report, write_report
from phenaki_jax.benchmark.side import child_environment

LENGTHS = (33, 600)


def main(config: Any, report: str | None, lengths: Sequence[int] = LENGTHS) -> int:
    """Measures each length in a process of its own, prints a line each and writes the report; returns 0.

    Args:
      config: a resolved config with a section `tokenizer`; its weights are random.
      report: FILE.json, or None.
    """
    check_report(report)
    rows = [_in_a_process(config, frames) for frames in lengths]
    for row in rows:
        print(f"{row['frames']:4} frames of {row['height']} x {row['width']}: peak {row['peak_bytes'] / 1e6:.0f} MB, "
              f"encode {row['encode_seconds']:.2f} s, decode {row['decode_seconds']:.2f} s, compiling included")
    share = rows[-1]["peak_bytes"] / rows[0]["peak_bytes"]
    print(f"{rows[-1]['frames']} frames take {share:.3f} times the memory of {rows[0]['frames']}")
    write_report({"lengths": rows, "memory_ratio": share, "tokenizer": config.tokenizer.to_dict()}, report)
    return 0


def _in_a_process(config: Any, frames: int) -> dict[str, Any]:
    run = subprocess.run([sys.executable, "-m", "phenaki_jax.long_video", str(frames)], input=configs.to_json(config),
                         text=True, stdout=subprocess.PIPE, env=child_environment())
    if run.returncode:
        raise RuntimeError(f"measuring {frames} frames ended with exit code {run.returncode}")
    return json.loads(run.stdout.splitlines()[-1])


def measure(config: Any, frames: int) -> dict[str, Any]:
    """One random video through a tokenizer with random weights; peak_bytes is this process's since its start."""
    import numpy as np

    from phenaki_jax.evaluation.report import peak_memory_gb
    from phenaki_jax.bound import create_tokenizer

    tokenizer, sizes = create_tokenizer(config), config.tokenizer
    video = np.random.default_rng(0).integers(0, 256, (1, frames, sizes.height, sizes.width, 3), dtype=np.uint8)
    begin = time.monotonic()
    tokens = np.asarray(tokenizer.encode(video))
    encoded = time.monotonic()
    np.asarray(tokenizer.decode(tokens, frames))
    decoded = time.monotonic()
    return {"frames": frames, "height": sizes.height, "width": sizes.width, "encode_seconds": encoded - begin,
            "decode_seconds": decoded - encoded,
            "peak_bytes": round(1e9 * peak_memory_gb())}


if __name__ == "__main__":
    print(json.dumps(measure(configs.from_dict(json.load(sys.stdin)), int(sys.argv[1]))))
