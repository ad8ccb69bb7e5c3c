"""Writes what was measured, beside what was asked for: report.json and report.md."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

VERSIONS = ("phenaki_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow",
            "tensorflow-datasets", "seqio")
NOT_IN_REPORT = ("frames",)  # keys that hold videos


@dataclasses.dataclass(frozen=True)
class Bar:
    """What a measurement should reach.

    Attributes:
      what: in words.
      key: path into the measurements, parts divided by "/".
      bound: the number to reach.
      at_least: whether the measured number may not be below (else: above) the bound.
      unit: "%" shows shares as percentages, anything else is put behind the number.
    """
    what: str
    key: str
    bound: float
    at_least: bool = True
    unit: str = "%"

    def met(self, measured: float | None) -> bool | None:
        """Whether the number reaches the bar; None when there is no number."""
        if measured is None or np.isnan(measured):
            return None
        return measured >= self.bound if self.at_least else measured <= self.bound

    def show(self, number: float | None) -> str:
        if number is None or np.isnan(number):
            return "not measured"
        if self.unit == "%":
            return f"{100 * number:.1f} %"
        return f"{number:.2f} {self.unit}".strip()


def _bars() -> tuple[Bar, ...]:
    names = ("colour", "shape", "style", "motion", "speed", "background")
    prompts = {"colour": 0.9, "motion": 0.9, "background": 0.95, "shape": 0.8, "style": 0.8}
    return (
        Bar("whole quickstart after the install", "run/minutes", 25, False, "min"),
        Bar("largest memory", "run/peak_gb", 6, False, "GB"),
        *(Bar(f"tokenizer, held-out clips: {n} survives", f"tokenizer/agreement/{n}", 0.95) for n in names),
        Bar("tokenizer: share of the codebook in use", "tokenizer/codebook/usage", 0.5),
        *(Bar(f"held-out prompts: {n}", f"prompts/agreement/{n}", bound) for n, bound in prompts.items()),
        Bar("outlined, known from images only, in videos", "image_only/by_value/style/outlined", 0.6),
        Bar("orange, known from images only, in videos", "image_only/by_value/colour/orange", 0.6),
        Bar("motion of those videos", "image_only/agreement/motion", 0.8),
        Bar("stories: motion, worst of the scenes", "stories/motion/worst", 0.8),
        Bar("stories: what the prompt keeps is kept", "stories/kept/share", 0.85),
        # Each story against itself: pooled over stories, a jump in a pale one would hide behind a bright one's motion.
        Bar("stories: largest change of pixels at a seam over largest inside, worst story",
            "stories/seam/pixels/worst_story", 1.5, False, "times"),
        Bar("stories: largest step of the object at a seam over largest inside, worst story",
            "stories/seam/displacement/worst_story", 1.5, False, "times"),
    )


BARS = _bars()
# Of suites that are no part of the quickstart.
MORE_BARS = {"long": (
    Bar("long stories: attributes of the last ten scenes below the first ten's, mean", "long/fall/mean", 5, False,
        "points"),
    *(Bar(f"– {name}", f"long/fall/{name}", 5, False, "points")
      for name in ("colour", "shape", "style", "motion", "speed", "background")),
    Bar("long stories: frames", "long/length", 240, unit=""),
    Bar("long stories: resident memory after the last window over that after the third", "long/memory/resident_ratio",
        1.05, False, "times"),  # what the allocator keeps varies by some percent
    Bar("long stories: bytes of live arrays after the last window beyond those after the third",
        "long/memory/live_growth", 0, False, ""),
), "control": (
    Bar("control: rank correlation of asked motion and mean speed", "control/motion/rank_means", 0.9, unit=""),
    Bar("control: the same over single clips", "control/motion/rank_clips", 0.9, unit=""),
    Bar("control: displacement a frame falls as fps rises", "control/fps/falls", 1, unit=""),
), "editing": (
    Bar("interpolation: end frames exact", "editing/interpolate/ends_exact", 1),
    Bar("interpolation: frames between, dB above linear blending", "editing/interpolate/gain", 0, unit="dB"),
    Bar("inpainting: kept region's tokens exact", "editing/inpaint/kept_exact", 1),
    Bar("animate: first frame as the tokenizer gives it", "editing/animate/first_exact", 1),
), "critic": (
    Bar("critic: area under the ROC curve", "critic/auc", 0.8, unit=""),
)}


def write_report(folder: str | os.PathLike, measurements: Mapping, circumstances: Mapping, *,
                 bars: Sequence[Bar] = BARS) -> list[dict]:
    """Writes folder/report.json and folder/report.md, replacing older ones.

    Args:
      measurements: nested dicts, e.g. {"tokenizer": tokenizer_protocol(...), "prompts": prompt_protocol(...),
        "image_only": ..., "stories": ..., "stories_truth": ..., "run": {"minutes": ..., "peak_gb": ...}}. Keys named
        "frames" are left out; "table", a list of rows {column: number}, is shown as one.
      circumstances: how it was measured: `circumstances()` and seeds, sampler settings, numbers of clips.
      bars: what was asked for; a bar without a measurement is shown as not measured.

    Returns:
      The table: [{"what", "bar", "measured", "met" (None: not measured)}].
    """
    measurements, circumstances = _plain(measurements), _plain(circumstances)
    table = []
    for bar in bars:
        measured = _find(measurements, bar.key)
        sign = "≥" if bar.at_least else "≤"
        table.append({"what": bar.what, "key": bar.key, "bar": f"{sign} {bar.show(bar.bound)}",
                      "measured": bar.show(measured), "value": measured, "met": bar.met(measured)})
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"table": table, "circumstances": circumstances, "measurements": measurements}
    _replace(folder / "report.json", json.dumps(whole, indent=1, allow_nan=False) + "\n")
    _replace(folder / "report.md", _markdown(table, circumstances, measurements))
    return table


def circumstances() -> dict:
    """Versions, machine, date, and the largest memory in GB that this process and its children have held."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "python": platform.python_version(),
            "machine": platform.machine(), "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
            else os.cpu_count(), "peak_memory_gb": peak_memory_gb(), "versions": versions}


def peak_memory_gb() -> float:
    """The larger of this process's and its largest child's peak resident memory, in 10^9 bytes."""
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(who).ru_maxrss
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * unit / 1e9


# ---------------------------------------------------------------------------------------------- forms

def _markdown(table: Sequence[Mapping], circumstances: Mapping, measurements: Mapping) -> str:
    verdict = {True: "met", False: "**missed**", None: ""}
    lines = ["# Report", "", *markdown_table(["what", "bar", "measured", ""], [
        [row["what"], row["bar"], row["measured"], verdict[row["met"]]] for row in table])]
    for name, part in measurements.items():
        rows = _figures(part)
        if rows:
            lines += ["", f"## {name}", "", *markdown_table(["figure", "value"], rows)]
        if isinstance(part, Mapping) and part.get("table"):
            columns = list(part["table"][0])
            lines += ["", *markdown_table(columns, [[_number(row[name]) for name in columns] for row in part["table"]])]
    lines += ["", "## circumstances", ""]
    lines += [f"- {key}: {value}" for key, value in _figures(circumstances, lists=True)]
    return "\n".join(lines) + "\n"


def markdown_table(columns: Sequence, rows: Iterable[Sequence]) -> list[str]:
    """Lines of a table in Markdown."""
    return [f"| {' | '.join(map(str, cells))} |" for cells in (columns, ["---"] * len(columns), *rows)]


def show(number: float | None) -> str:
    """A figure in few digits."""
    return "–" if number is None else f"{number:.{1 if abs(number) >= 100 else 2 if abs(number) >= 1 else 4}f}"


def _figures(part: Any, prefix: str = "", lists: bool = False) -> list[tuple[str, str]]:
    """(name, value) of all scalars and short lists of numbers in a nested dict; per-clip tables stay in the JSON."""
    if isinstance(part, Mapping):
        return [row for key, value in part.items() for row in _figures(value, f"{prefix} {key}".strip(), lists)]
    if isinstance(part, list):
        if len(part) > 8 or any(isinstance(v, (dict, list)) for v in part):
            return []
        return [(prefix, ", ".join(_number(v) for v in part))]
    return [(prefix, _number(part))]


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """What JSON can hold: NumPy numbers become Python's, infinite and undefined ones None, videos are left out."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if k not in NOT_IN_REPORT}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value if isinstance(value, (int, str, type(None))) else str(value)


def _find(tree: Any, path: str) -> float | None:
    for part in path.split("/"):
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return float(tree) if isinstance(tree, (int, float)) else None


def _replace(path: pathlib.Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
