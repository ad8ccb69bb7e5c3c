"""Tiny runs, in this process and in others, for tests of the loop."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax

from phenaki_jax.training.loop import train
from phenaki_jax.training.metrics import read_lines

PROGRAM = Path(__file__).with_name("tiny_run.py")
sys.path.insert(0, str(PROGRAM.parent))
from tiny_run import TinyLoader, tiny_stage  # noqa: E402


def run(workdir, config, **options):
    """One device, for a quicker compilation, unless told."""
    base = {"make_stage": tiny_stage, "make_loader": TinyLoader, "tensorboard": False, "devices": jax.devices()[:1]}
    options = base | options
    return train(config, workdir, **options)


def lines(workdir):
    return [{k: v for k, v in line.items() if k != "time"} for line in read_lines(Path(workdir) / "metrics.jsonl")]


def spawn(workdir, steps, delay):
    env = {**os.environ, "TINY_DELAY": str(delay), "PYTHONPATH": str(PROGRAM.parents[2])}
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(workdir), str(steps)], env=env, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )


def wait_for_step(process, workdir, step):
    file = Path(workdir) / "metrics.jsonl"
    for _ in range(1200):
        if process.poll() is not None:
            raise AssertionError(process.stderr.read())
        if file.exists() and any(line["step"] >= step for line in read_lines(file)):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached in time")
