"""Several real processes of one run, by launch/local_multiprocess.sh: the run of one, and a stop that all obey."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.parallel import join_processes
from phenaki_jax.training.checkpoints import checkpoint_steps, load_run
from phenaki_jax.training.metrics import read_lines

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("tiny_run.py")


def begin(processes, workdir, steps, delay=0.0, devices=4):
    """`devices` in all; the processes share them."""
    env = {**os.environ, "PYTHON": sys.executable, "PROGRAM": str(PROGRAM), "TINY_DEVICES": "all",
           "TINY_DELAY": str(delay), "TINY_DECAY": "400", "TINY_MESH": json.dumps({"data": 2, "fsdp": 2}),
           "PYTHONPATH": str(ROOT),
           "LOGS": str(workdir) + "_logs", "DEVICES_PER_PROCESS": str(devices // processes), "XLA_FLAGS": ""}
    return subprocess.Popen(["bash", str(ROOT / "launch" / "local_multiprocess.sh"), str(processes), str(workdir),
                             str(steps)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines(workdir):
    return [{k: v for k, v in line.items() if k != "time"} for line in read_lines(workdir / "metrics.jsonl")]


def arrays(workdir):
    run = load_run(workdir)
    return jax.tree.leaves((run.params, run.variables))


def test_two_and_four_processes_are_one(tmp_path):
    """Losses and checkpoint are those of one process with as many devices, up to rounding."""
    for processes in (1, 2, 4):
        started = begin(processes, tmp_path / f"{processes}", 12)
        said, _ = started.communicate(timeout=300)
        assert started.returncode == 0, said
    one = lines(tmp_path / "1")
    assert [line["step"] for line in one] == [1, 3, 6, 9, 12]
    for processes in (2, 4):
        for a, b in zip(lines(tmp_path / f"{processes}"), one, strict=True):
            for name in a:
                np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=f"{name} at step {a['step']}")
        for a, b in zip(arrays(tmp_path / f"{processes}"), arrays(tmp_path / "1"), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_sigterm_to_one_process_stops_them_all_and_what_is_saved_goes_on_in_one(tmp_path):
    started = begin(2, tmp_path / "run", 400, delay=0.05)
    for _ in range(600):
        if (tmp_path / "run" / "metrics.jsonl").exists() and len(lines(tmp_path / "run")) > 2:
            break
        assert started.poll() is None, started.stdout.read()
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    said, _ = started.communicate(timeout=120)
    saved = checkpoint_steps(tmp_path / "run")[-1]
    assert started.returncode == 143, said
    assert saved % 10 == 0 and 0 < saved < 400 and f"saved at step {saved} of 400" in said
    again = begin(1, tmp_path / "run", saved + 5)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and f"resumed at step {saved}" in said
    whole = begin(1, tmp_path / "whole", saved + 5)
    assert whole.wait(timeout=300) == 0
    np.testing.assert_allclose(lines(tmp_path / "run")[-1]["loss"], lines(tmp_path / "whole")[-1]["loss"], rtol=1e-4)


@pytest.mark.parametrize("env, words", [
    ({"JAX_COORDINATOR_ADDRESS": "localhost:1"}, "JAX_NUM_PROCESSES='' has to be a number"),
    ({"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "x"}, "JAX_PROCESS_ID='x'"),
    ({"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2")])
def test_half_told_processes_are_one_sentence(monkeypatch, env, words):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        join_processes()


def test_one_process_joins_nobody(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")  # in a job, but not started by srun
    join_processes()
    assert jax.process_count() == 1
