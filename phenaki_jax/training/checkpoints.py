"""Checkpoints of a run: written in the background, kept N, restored strictly, onto any mesh.

One checkpoint is two Orbax items. ``model`` is what generates (averaged params, variables, frozen arrays); ``training``
is what only a resumed run needs (step, params, optimizer, what belongs to training's aids). So a model is loaded
without its optimizer or its discriminator. Arrays that lie elsewhere (`Stage.given`) are in neither.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax.config import read_run_config
from phenaki_jax.errors import UserError
from phenaki_jax.models.tree import ARRAYS
from phenaki_jax.training.state import TrainState, path_name

FOLDER = "checkpoints"
ITEMS = ("model", "training")
Tree = Any


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model as it lies in a run's folder; arrays are numpy, on the host.

    Attributes:
      config: the resolved config of the run.
      step: updates done at this checkpoint.
      params: the averaged (EMA) parameters.
      variables: the stage's other arrays.
      frozen: for a generator its tokenizer, {"params": ..., "variables": ...}; for a critic both, by name ("generator",
        "tokenizer"); for a tokenizer {}.
    """

    config: Any
    step: int
    params: Tree
    variables: Tree
    frozen: Tree


def _ocp():
    """Orbax, imported where it is needed (it takes a second) and kept from reporting every file that it writes."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp


def flatten(tree: Tree) -> dict[str, Any]:
    """Nested tree -> {"a/b/c": leaf}."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nest(flat: dict[str, Any]) -> dict:
    """{"a/b/0": leaf} -> nested dicts; a number is a key of a list of modules, which NNX keeps as an int."""
    tree: dict = {}
    for name, leaf in flat.items():
        *folders, last = (int(key) if key.isdigit() else key for key in name.split("/"))
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


def _items(state: TrainState) -> dict[str, dict[str, Any]]:
    aids = {name: part for name, part in state.variables.items() if name in state.params and name not in state.ema}
    variables = {name: part for name, part in state.variables.items() if name not in aids}
    model = {"params": state.ema, "variables": variables, "frozen": state.frozen}
    training = {"step": state.step, "params": state.params, "opt_state": state.opt_state, "variables": aids}
    return {"model": flatten(model), "training": flatten(training)}


def check_same(saved: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Refuse a checkpoint whose arrays are not exactly those that are wanted (Orbax alone may load a part).

    Raises: UserError that names the first array which is missing, extra, of another shape or of another dtype.
    """
    for name in wanted:
        if name not in saved:
            raise UserError(f"The checkpoint {where} has no array {name!r}, which this config's model needs.")
    for name in saved:
        if name not in wanted:
            raise UserError(f"The checkpoint {where} has an array {name!r}, which this config's model does not know.")
    for name, leaf in wanted.items():
        for what in ("shape", "dtype"):
            have, need = getattr(saved[name], what), getattr(leaf, what)
            if have != need:
                raise UserError(f"The checkpoint {where} has {name!r} of {what} {have}, but this config needs {need}.")


class Checkpoints:
    """The checkpoints of one run's folder, for the loop."""

    def __init__(self, workdir: str | Path, keep: int = 2):
        """keep: how many of the latest to keep."""
        ocp = _ocp()
        self.folder = Path(workdir).absolute() / FOLDER
        self.manager = ocp.CheckpointManager(
            self.folder,
            item_handlers={item: ocp.StandardCheckpointHandler() for item in ITEMS},
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True),
        )

    def latest(self) -> int | None:
        """The last complete checkpoint's step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Copy the state and write it in the background; a crash leaves the last complete checkpoint as it was."""
        if step == self.latest():
            return
        ocp = _ocp()
        items = _items(state)
        self.manager.save(step, args=ocp.args.Composite(**{k: ocp.args.StandardSave(v) for k, v in items.items()}))

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state of a step, each array where ``abstract`` (shapes with shardings) wants it, on whatever mesh.

        Given arrays are not in a checkpoint; they come back as ``abstract`` has them.

        Raises: UserError where the checkpoint's arrays are not exactly those of ``abstract``.
        """
        ocp = _ocp()
        items, where = _items(abstract), str(self.folder / str(step))
        metadata = self.manager.item_metadata(step)
        for item, wanted in items.items():
            check_same(dict(metadata[item]), wanted, where)
        restored = self.manager.restore(
            step, args=ocp.args.Composite(**{k: ocp.args.StandardRestore(v) for k, v in items.items()})
        )
        model, training = restored["model"], restored["training"]

        def fill(part, source, prefix):
            return jax.tree_util.tree_map_with_path(lambda path, _: source[prefix + path_name(path)], part)

        return TrainState(
            step=training["step"],
            params=fill(abstract.params, training, "params/"),
            ema=fill(abstract.ema, model, "params/"),
            opt_state=fill(abstract.opt_state, training, "opt_state/"),
            variables=fill(abstract.variables, {**training, **model}, "variables/"),
            frozen=fill(abstract.frozen, model, "frozen/"),
            given=abstract.given,
        )

    def wait(self) -> None:
        """Until everything is on the disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


def checkpoint_steps(path: str | Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending, read from the names of its folders alone."""
    folder = Path(path) / FOLDER
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit()) if folder.is_dir() else []


def load_run(path: str | Path, step: int | None = None) -> Run:
    """A run's config and averaged weights, without its optimizer.

    path: a run's folder. step: which checkpoint (default: the latest).

    Raises: UserError where the folder, its config.json, or its checkpoint is missing.
    """
    config = read_run_config(path)
    steps = checkpoint_steps(path)
    if not steps:
        raise UserError(f"{str(path)!r} has no checkpoint yet; train it, or give the folder of a trained run.")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UserError(f"{str(path)!r} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}.")
    ocp = _ocp()
    folder = Path(path).absolute() / FOLDER / str(step) / "model"
    with ocp.StandardCheckpointer() as checkpointer:
        saved = dict(checkpointer.metadata(folder).item_metadata.tree)
        target = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in saved.items()}
        flat = checkpointer.restore(folder, target)
    tree = nest(flat)
    frozen, bare = tree.get("frozen", {}), dict.fromkeys(ARRAYS, {})  # empty dicts leave no trace
    if frozen:
        frozen = {name: bare | part for name, part in frozen.items()} if config.stage == "critic" else bare | frozen
    return Run(config, step, tree["params"], tree.get("variables", {}), frozen)
