"""What this machine has, and what a run suffers from."""

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
from pathlib import Path

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError

BASE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "ml-collections", "numpy", "pillow", "av")
# Extra -> {distribution: module that it brings}
EXTRAS = {
    "train": {
        "seqio": "seqio", "tensorflow": "tensorflow", "tensorflow-datasets": "tensorflow_datasets", "clu": "clu",
        "tensorboard": "tensorboard",
    },
    "test": {"pytest": "pytest"},
}
LOW_USAGE, MUCH_WAITING = 0.5, 0.2  # shares


def main(run: str | None = None) -> int:
    """Prints the machine's state and, with a run's folder, the run's; 0, or 1 where the run has a problem."""
    for line in machine():
        print(line)
    if run is None:
        return 0
    problems = 0
    for folder in run_folders(run):
        print(f"\n{folder}")
        for good, text in examine(folder):
            print(f"  {'ok ' if good else '!! '} {text}")
            problems += not good
    print(f"\n{problems or 'no'} problem{'' if problems == 1 else 's'} found")
    return 1 if problems else 0


def run_folders(path: str) -> list[Path]:
    """The run's folder, or the runs in a quickstart's folder. Raises: UserError where there is none."""
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"There is no folder {path!r}.")
    if (folder / configs.RUN_CONFIG).exists():
        return [folder]
    inside = [folder / name for name in ("tokenizer", "generator") if (folder / name).is_dir()]
    if not inside:
        raise UserError(f"{path!r} is no run's folder: it has no {configs.RUN_CONFIG}.")
    return inside


def machine() -> list[str]:
    """Versions, devices, cores, memory, disk, and which packages are missing for what."""
    lines = [f"python      {platform.python_version()} on {platform.system()} {platform.machine()}"]
    for name in BASE:
        lines.append(f"{name:<17} {_version(name) or 'MISSING: pip install -e .'}")
    for extra, packages in EXTRAS.items():
        missing = [name for name, module in packages.items() if importlib.util.find_spec(module) is None]
        if missing:
            lines.append(f"extra [{extra}] is incomplete: {', '.join(missing)} (pip install -e '.[{extra}]')")
        else:
            lines.append(f"extra [{extra}] is complete: " + ", ".join(f"{n} {_version(n)}" for n in packages))
    try:
        import jax

        kinds = [device.device_kind for device in jax.devices()]
        lines.append(f"devices     {len(kinds)} × {kinds[0]} ({jax.default_backend()})")
        cache = jax.config.jax_compilation_cache_dir or os.path.expanduser("~/.cache/phenaki_jax")
        lines.append(f"compilation cache in {cache}")
    except (ImportError, RuntimeError) as error:
        lines.append(f"devices     none: {error}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = shutil.disk_usage(".").free / 1e9
    lines.append(f"cores       {cores}; memory {_memory_gb()}; disk free here {free:.0f} GB")
    return lines


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_gb() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = os.sysconf("SC_PHYS_PAGES") * page / 1e9, os.sysconf("SC_AVPHYS_PAGES") * page / 1e9
        return f"{total:.1f} GB, {free:.1f} GB of it free"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def examine(folder: Path) -> list[tuple[bool, str]]:
    """(well, what was found) for each thing that can be told of a run from its folder, without loading the model."""
    from phenaki_jax.training.checkpoints import FOLDER, ITEMS, checkpoint_steps
    from phenaki_jax.training.metrics import FILE, TIMING, read_lines

    try:
        config = configs.read_run_config(folder)
        configs.check(config)
    except UserError as error:
        return [(False, str(error))]
    found = [(True, f"config: stage {config.stage}, {config.train.steps} steps, batch of {config.batch_size}")]

    steps = checkpoint_steps(folder)
    broken = [s for s in steps if not all((folder / FOLDER / str(s) / item / "_METADATA").exists() for item in ITEMS)]
    if broken:
        found.append((False, f"checkpoint {broken[0]} is incomplete; remove {folder / FOLDER / str(broken[0])}"))
    if not steps:
        found.append((False, f"no checkpoint yet; one is written every {config.train.checkpoint_every} steps"))
    else:
        missing = config.train.steps - steps[-1]
        rest = "finished" if missing <= 0 else f"{missing} steps to go: the command that started it goes on from there"
        found.append((True, f"checkpoints of steps {', '.join(map(str, steps))}; {rest}"))

    lines = read_lines(folder / FILE) if (folder / FILE).exists() else []
    if not lines:
        return [*found, (False, f"no {FILE}: nothing has been logged")]
    found += _examine_metrics(lines) + _examine_timing(folder / TIMING)
    if config.stage == "generator" and not steps:
        run = config.get("tokenizer_run")
        if not run or not Path(run).exists():
            found.append((False, f"tokenizer_run={run!r} is not there, and no checkpoint carries the tokenizer yet"))
    data = Path(config.data.data_dir)
    if not data.is_dir():
        found.append((False, f"data_dir {str(data)!r} is not there; it is built again when training goes on"))
    return found


def _examine_metrics(lines: list[dict]) -> list[tuple[bool, str]]:
    """Losses that are not finite or do not fall, a codebook that is not used."""
    found = []
    bad = [(line["step"], name) for line in lines for name, value in line.items()
           if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        found.append((False, f"{bad[0][1]} is not finite at step {bad[0][0]}; lower optimizer.learning_rate"))
    first, last = lines[0], lines[-1]
    text = f"loss {first['loss']:.4g} at step {first['step']}, {last['loss']:.4g} at step {last['step']}"
    found.append((len(lines) < 10 or not last["loss"] >= first["loss"], text))
    for name, value in last.items():
        if name.endswith("codebook_usage"):
            hint = "" if value >= LOW_USAGE else "; try tokenizer.quantizer=fsq or a smaller codebook"
            found.append((value >= LOW_USAGE, f"{value:.0%} of the codebook in use{hint}"))
    return found


def _examine_timing(file: Path) -> list[tuple[bool, str]]:
    """How fast it last ran, and whether the device waited for data."""
    try:
        timing = json.loads(file.read_text())
    except (OSError, ValueError):
        return []
    found = [(True, f"{timing['steps_per_second']:.3g} steps/s, at most {timing['peak_memory_gb']:.1f} GB of memory")]
    waited = timing["data_wait"]
    hint = "; the records are read too slowly" if waited > MUCH_WAITING else ""
    return [*found, (waited <= MUCH_WAITING, f"the device waited for data {waited:.0%} of the time{hint}")]
