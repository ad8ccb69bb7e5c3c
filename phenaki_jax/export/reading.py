"""An export's folder, or a run's, read back as a run."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax.config import BYTES, read_run_config
from phenaki_jax.errors import UserError
from phenaki_jax.export import rounding, tensors
from phenaki_jax.export.folder import MANIFEST, check, is_export, run_folder
from phenaki_jax.models.tree import ARRAYS
from phenaki_jax.training.checkpoints import Run, flatten, load_run, nest

FORMS = ("orbax", "safetensors", "stablehlo")
WEIGHTS = "weights"  # Orbax's folder
Parts = dict[str, dict[str, Any]]
Where = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


def open_run(path: str | os.PathLike, *, text_encoder: str = "") -> Run:
    """The model of a run's folder, of a quickstart's, or of an export. Raises: UserError."""
    folder = run_folder(path)
    return load(folder, text_encoder=text_encoder) if is_export(folder) else load_run(folder)


def load(folder: str | os.PathLike, *, text_encoder: str = "", where: Where | None = None) -> Run:
    """An export as the run that it was made of, once every file has been found to be what was written.

    Args:
      text_encoder: a pretrained T5's folder, in place of the one that the export carries or names.
      where: (name of an array, shape) -> how it is laid out; by default arrays are numpy, on the host. Of Orbax's
        float32 each device reads its own part.

    Raises: UserError for a folder that is damaged, no export, or one of programs.
    """
    folder = Path(folder)
    about = check(folder)
    if missing := [name for name in ("form", "dtype", "parts", "step") if name not in about]:
        raise UserError(f"{folder / MANIFEST} does not say {missing[0]!r}; export the run again")
    if about["form"] not in FORMS or about["dtype"] not in rounding.DTYPES:
        raise UserError(f"{str(folder)!r} has the form {about['form']!r} and the dtype {about['dtype']!r}, which this "
                        "phenaki_jax does not know; install a newer one")
    if about["form"] == "stablehlo":
        raise UserError(f"{str(folder)!r} holds programs (form {about['form']!r}), which cannot be changed or told how "
                        "to sample; run its generate.py, or export the run with --format=safetensors")
    stored = tensors.read(folder) if about["form"] == "safetensors" else _of_orbax(
        folder / WEIGHTS, where if about["dtype"] == "float32" else None)
    arrays = rounding.restored(stored, about["dtype"])
    if where:
        arrays = {name: jax.device_put(array, where(name, array.shape)) for name, array in arrays.items()}
    config = read_run_config(folder)
    text = config.get("text") or {}
    for name in ("path", "vocabulary"):
        if text.get(name) and text[name] != BYTES:
            text[name] = os.path.abspath(folder / text[name])
    if text_encoder:
        text["path"] = os.path.abspath(text_encoder)
    return run_of(config, about["step"], tree(arrays, about["parts"]))


def parts_of(run: Run) -> Parts:
    """The models of a run by name, each {"params": ..., "variables": ...}: the stage's own first."""
    own = {"params": run.params, "variables": run.variables}
    frozen = {"tokenizer": run.frozen} if run.config.stage == "generator" else run.frozen
    return {run.config.stage: own, **{name: {which: part[which] for which in ARRAYS} for name, part in frozen.items()}}


def run_of(config: Any, step: int, parts: Parts) -> Run:
    """The run whose `parts_of` these are."""
    own = parts[config.stage]
    frozen = {name: part for name, part in parts.items() if name != config.stage}
    return Run(config, step, own["params"], own["variables"],
               frozen["tokenizer"] if config.stage == "generator" else frozen)


def flat(parts: Parts) -> dict[str, np.ndarray]:
    """{"PART.params.a.b": array}."""
    return {name.replace("/", "."): leaf for name, leaf in flatten(parts).items()}


def tree(arrays: Mapping[str, np.ndarray], names: Mapping[str, Any]) -> Parts:
    """What `flat` made flat, of the parts called `names`."""
    nested = nest({name.replace(".", "/"): leaf for name, leaf in arrays.items()})
    return {name: {which: nested[name].get(which, {}) for which in ARRAYS} for name in names}


def _of_orbax(folder: Path, where: Where | None) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        saved = dict(checkpointer.metadata(folder.absolute()).item_metadata.tree)
        target = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where(name, leaf.shape)) if where
                  else np.empty(leaf.shape, leaf.dtype) for name, leaf in saved.items()}
        return checkpointer.restore(folder.absolute(), target)
