"""A thousand prompts, and a machine that dies twice on the way; takes minutes."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import phenaki_jax
from phenaki_jax import media
from phenaki_jax.models.build import make_generator, make_tokenizer
from tests.export.untrained import TINY, arrays, write_run

COUNT = 1000


@pytest.mark.slow
def test_a_thousand_prompts_killed_twice(tmp_path):
    """All made, none twice, no half-written file: the issue's bar, with SIGKILL at random moments."""
    config = phenaki_jax.load_config("configs/quickstart.py:generator", TINY)
    tokenizer, generator = (dict(zip(("params", "variables"), arrays(make(config), seed)))
                            for seed, make in enumerate((make_tokenizer, make_generator)))
    write_run(tmp_path / "model", config, **generator, frozen=tokenizer)
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(COUNT)))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "phenaki_jax", "generate", f"--model={tmp_path / 'model'}", "--form=mp4",
               f"--prompts={tmp_path / 'prompts.txt'}", f"--output={out}", "--batch_size=16", "--scale=4"]
    draw, printed = random.Random(0), []
    for share in (0.2, 0.6, None):
        with open(tmp_path / "said.txt", "w") as said, subprocess.Popen(
                command, stdout=said, stderr=subprocess.DEVNULL, env=os.environ) as process:
            while process.poll() is None and share is not None:
                if out.is_dir() and len(list(out.glob("*.mp4"))) > share * COUNT:
                    time.sleep(draw.random())
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.05)
            code = process.wait()
        printed += [line for line in (tmp_path / "said.txt").read_text().splitlines() if line.endswith(".mp4")]
        assert code == (0 if share is None else -signal.SIGKILL)
    assert len(printed) == len(set(printed)), "a file was made twice"
    names = [f"{number:05}.mp4" for number in range(COUNT)]
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, *(f"{name}.json" for name in names)])
    for number, name in enumerate(names):
        assert json.loads((out / f"{name}.json").read_text())["request"]["prompt"] == f"prompt {number}"
        assert media.read_video(out / name)[0].shape == (11, 128, 128, 3)
