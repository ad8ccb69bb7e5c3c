"""`phenaki benchmark pipeline --model=DIR`: what somebody waits for who opens a model and asks it for a clip."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from phenaki_jax.benchmark import check_report, write_report
from phenaki_jax.errors import UserError, at_least

BARS = {"import": 2.5, "first_call": 30.0, "warm_call": 1.5}  # seconds at most, on two cores
WARM = 5  # calls, of which the median counts
PROMPT = "a solid red circle moves left quickly on black"
WHAT = {"import": "import phenaki_jax.PhenakiPipeline", "load": "from_pretrained",
        "first_call": "first guided clip, nothing compiled yet", "first_call_again": "the same in another process, "
        "programs kept on the disk", "warm_call": "a clip after that"}

# Run in a process of its own: prints {name: seconds} and what has been loaded.
_CODE = """
import json, sys, time
now = time.perf_counter
seconds, begun = {}, now()
import phenaki_jax
phenaki_jax.PhenakiPipeline
seconds["import"], begun = now() - begun, now()
pipe = phenaki_jax.PhenakiPipeline.from_pretrained(sys.argv[1])
pipe.say = None
seconds["load"] = now() - begun
prompt = None if pipe.config.text.encoder == "none" else sys.argv[2]
def clip(seed):
    begun = now()
    pipe(prompt, seed=seed)
    return now() - begun
seconds["first_call"] = clip(0)
seconds["warm_call"] = sorted(clip(seed) for seed in range(1, 1 + int(sys.argv[3])))[int(sys.argv[3]) // 2]
print(json.dumps(seconds))
"""


def main(model: str | None, rounds: int, report: str | None) -> int:
    """Measures, prints and writes the report; returns 0."""
    check_report(report)
    at_least("--rounds", rounds, 1)
    if not model:
        raise UserError("--model is missing; give a run's folder or an export's.")
    from phenaki_jax import evaluation
    found = [_round(model) for _ in range(rounds)]
    figures: dict[str, Any] = {name: statistics.median(one[name] for one in found) for name in WHAT}
    for name, seconds in figures.items():
        bar = f" (bar: at most {BARS[name]:g})" if name in BARS else ""
        print(f"{seconds:7.2f} s  {WHAT[name]}{bar}")
    figures["circumstances"] = evaluation.circumstances() | {
        "model": model, "rounds": rounds, "load": os.getloadavg()[0]}
    write_report(figures, report)
    return 0


def _round(model: str) -> Mapping[str, float]:
    """The seconds of one process that finds nothing compiled, and of one after it."""
    with tempfile.TemporaryDirectory() as cache:
        first, second = (_process(model, cache) for _ in range(2))
    return first | {"first_call_again": second["first_call"]}


def _process(model: str, cache: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", _CODE, model, PROMPT, str(WARM)], capture_output=True, text=True,
                          env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache})
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word"]
        raise UserError(f"--model={model!r} could not make a clip: {said[-1].rpartition('Error: ')[2]}")
    return json.loads(done.stdout.splitlines()[-1])
