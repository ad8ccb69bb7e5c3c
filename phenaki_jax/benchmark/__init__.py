"""`phenaki benchmark`: how fast the models train and run here, and in how much memory.

Each side is a process of its own, so that its memory is its own, and is asked for one call at a time: ours
(`python -m phenaki_jax.benchmark SUBJECT`) and, with a peer, phenaki-pytorch's (launch/peer.py), call by call in
turn, on one and the same core with one thread each. Whatever else the machine does then slows both alike. Of two calls
in a row the second counts.
"""

import contextlib
import json
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phenaki_jax import config as configs
from phenaki_jax import media
from phenaki_jax.benchmark import side
from phenaki_jax.benchmark.generator import GENERATOR, SAMPLING
from phenaki_jax.benchmark.side import Side, Subject
from phenaki_jax.benchmark.tokenizer import TOKENIZER
from phenaki_jax.errors import UserError

SUBJECTS = {"tokenizer": TOKENIZER, "generator": GENERATOR, "sampling": SAMPLING}
PEERS = {"peer": "phenaki-pytorch", "peer_autocast": "phenaki-pytorch, bfloat16 autocast"}


def main(name: str, config: Any, peer: str | None, rounds: int, report: str | None) -> int:
    """Measures, prints a table and writes the report; returns the exit code, 0.

    Args:
      name: one of SUBJECTS.
      config: a resolved config of the subject's stage, such as configs/benchmark.py's.
      peer: a Python interpreter with phenaki-pytorch, to be measured side by side; or None.
      rounds: timed calls of each kind; medians count.
      report: FILE.json for all figures; or None.

    Raises: UserError for a config, interpreter, number or file that cannot serve.
    """
    subject = SUBJECTS[name]
    if rounds < 1:
        raise UserError(f"--rounds={rounds} has to be at least 1.")
    check_report(report)
    if config.stage != subject.stage:
        raise UserError(f"Config field 'stage' is {config.stage!r}; this benchmark needs a {subject.stage}'s config.")
    figures = measure(name, config, peer, rounds)
    print(table(figures, subject.calls))
    write_report(figures, report)
    return 0


def check_report(report: str | None) -> None:
    """Raises: UserError where a report's name is no FILE.json."""
    if report is not None and Path(report).suffix != ".json":
        raise UserError(f"--report={report!r} has to end in .json.")


def write_report(figures: Mapping[str, Any], report: str | None) -> None:
    """Writes figures to a report that is asked for, and says where."""
    if report is not None:
        media.write_text(Path(report), json.dumps(figures, indent=1) + "\n")
        print(report)


def check_comparable(subject: Subject, config: Any) -> None:
    """Raises: UserError where the config asks for what phenaki-pytorch's model or step does not have."""
    known = dict(configs.fields(config))
    for name, value in subject.peer_has(config).items():
        given = known.get(name, value)
        if given != value:
            raise UserError(f"Config field {name!r} is {given!r}; beside a peer it has to be {value!r}.")


def measure(name: str, config: Any, peer: str | None, rounds: int) -> dict[str, Any]:
    """Figures of each side, {"ours": ..., "peer": ..., "ratios": ..., "circumstances": ..., "config": ...}.

    A side has `parameters`, `memory` (peak_bytes of its process, compiling included) and, for each of the subject's
    calls, what `figures_of` gives. A peer is there twice, as it comes and under torch's autocast to bfloat16
    (peer_autocast); "ratios" has `ratios` of each.
    """
    from phenaki_jax.evaluation.report import circumstances

    subject = SUBJECTS[name]
    if peer is not None:
        check_comparable(subject, config)
    how = circumstances() | {"rounds": rounds, "one_core": peer is not None, "load": [os.getloadavg()[0]]}
    with contextlib.ExitStack() as stack:
        if peer is not None:
            stack.enter_context(side.on_one_core())
        environment = side.child_environment() | (side.ONE_THREAD if peer is not None else {})
        ours = stack.enter_context(Side([sys.executable, "-m", "phenaki_jax.benchmark", name], config.to_dict(),
                                        environment))
        sides = {"ours": ours}
        if peer is not None:
            sizes = dict(subject.peer_sizes(config)) | {"subject": name, "threads": 1, "product": side.PRODUCT,
                                                        "weight_decay": config.optimizer.weight_decay}
            for key in PEERS:
                sides[key] = stack.enter_context(Side([peer, str(side.PEER_PROGRAM)],
                                                      sizes | {"autocast": key == "peer_autocast"}, environment, peer))
        first = {key: {call: one.ask(call)["seconds"] for call in subject.calls} for key, one in sides.items()}
        calls = (*subject.calls, "product")
        times: dict[str, dict[str, list]] = {key: {call: [] for call in calls} for key in sides}
        for call in calls * rounds:
            for key, one in sides.items():
                one.ask(call)  # steps follow steps: what a process loses while others run (caches, memory that a
                times[key][call].append(one.ask(call))  # virtual machine's host takes back) is not its own slowness
        memory = {key: one.ask("memory") for key, one in sides.items()}

    figures: dict[str, Any] = {}
    through = {key: ours.facts.pop(key) for key in ("tokens", "frames")}
    for key, one in sides.items():
        flops = one.facts.pop("flops", {})
        product = figures_of(times[key]["product"], 2 * side.PRODUCT**3)
        rows = {call: figures_of(times[key][call], flops.get(call), *(through[what][call] for what in through))
                for call in subject.calls}
        for call, values in rows.items():
            values["first_seconds"] = first[key][call]
            if "flops_per_second" in values:
                values["share_of_peak"] = values["flops_per_second"] / product["flops_per_second"]
        figures[key] = one.facts | {"memory": memory[key], "product": product} | rows
    figures["ratios"] = {key: ratios(figures[key], figures["ours"], subject.calls) for key in sides if key in PEERS}
    how["load"].append(os.getloadavg()[0])
    return figures | {"circumstances": how, "config": config.to_dict()}


def figures_of(answers: list[dict], flops: float | None, tokens: int = 0, frames: int = 0) -> dict[str, float]:
    """Medians of timed calls: seconds (wall clock), with fastest and slowest, cpu_seconds; and what follows from them.

    That is flops and flops_per_second of their matrix products, tokens_per_second and frames_per_second, where given.
    """
    seconds = [answer["seconds"] for answer in answers]
    median = statistics.median(seconds)
    result = {"seconds": median, "fastest": min(seconds), "slowest": max(seconds),
              "cpu_seconds": statistics.median(answer["cpu_seconds"] for answer in answers)}
    if flops:
        result |= {"flops": flops, "flops_per_second": flops / median}
    if tokens:
        result |= {"tokens_per_second": tokens / median, "frames_per_second": frames / median}
    return result


def ratios(peer: Mapping[str, Any], ours: Mapping[str, Any], calls: tuple[str, ...]) -> dict[str, Any]:
    """The peer's median times over ours, its memory over ours and, in `cpu`, its CPU times over ours."""
    return ({call: peer[call]["seconds"] / ours[call]["seconds"] for call in calls}
            | {"memory": peer["memory"]["peak_bytes"] / ours["memory"]["peak_bytes"],
               "cpu": {call: peer[call]["cpu_seconds"] / ours[call]["cpu_seconds"] for call in calls}})


def table(figures: Mapping[str, Any], calls: tuple[str, ...]) -> str:
    """The figures as text, a row a call of each side."""
    lines = []
    names = {"ours": "phenaki_jax"} | PEERS
    for key in (name for name in names if name in figures):
        part = figures[key]
        versions = ", ".join(f"{name} {version}" for name, version in part["versions"].items())
        lines += [f"{names[key]}: {part['parameters']:,} parameters; {versions}; {part['device']}",
                  f"  {'':8} {'s':>8} {'fastest':>8} {'slowest':>8} {'CPU s':>8} {'tokens/s':>9} {'frames/s':>9} "
                  f"{'of peak':>8} {'first s':>8}"]
        for call in calls:
            row = part[call]
            share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
            lines.append(f"  {call:8} {row['seconds']:8.3f} {row['fastest']:8.3f} {row['slowest']:8.3f} "
                         f"{row['cpu_seconds']:8.3f} {row['tokens_per_second']:9.0f} {row['frames_per_second']:9.1f} "
                         f"{share:>8} {row['first_seconds']:8.2f}")
        memory = ", ".join(f"{what.removesuffix('_bytes')} {n / 1e9:.2f} GB" for what, n in part["memory"].items())
        peak = part["product"]["flops_per_second"] / 1e9
        lines.append(f"  matrix-product peak {peak:,.0f} GFLOP/s ({side.PRODUCT}³, float32); memory: {memory}")
    for name, ratio in figures["ratios"].items():
        lines.append(f"times as fast as {names[name]}: " + ", ".join(
            f"{call} {ratio[call]:.2f} (by CPU time {ratio['cpu'][call]:.2f})" for call in calls)
            + f"; its memory over ours: {ratio['memory']:.2f}")
    return "\n".join(lines)
