"""Checkpoints of a run: written in the background, kept N, restored strictly, onto any mesh.

One checkpoint is two Orbax items. ``model`` is what generates (averaged params, variables, frozen arrays); ``training``
is what only a resumed run needs (step, params, optimizer, what belongs to training's aids). So a model is loaded
without its optimizer or its discriminator. Arrays that lie elsewhere (`Stage.given`) are in neither.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax import media
from phenaki_jax.config import read_run_config
from phenaki_jax.errors import UserError
from phenaki_jax.models.tree import ARRAYS
from phenaki_jax.training.guard import new_guard
from phenaki_jax.training.state import TrainState, path_name

FOLDER = "checkpoints"
ITEMS = ("model", "training")
SEAL, TRASH = "seal.json", "trash"
PATIENCE = 600.0  # seconds
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
    training = {"step": state.step, "params": state.params, "opt_state": state.opt_state, "variables": aids,
                "guard": state.guard}
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
    """The checkpoints of one run's folder, for the loop.

    Each has a seal, seal.json: the size and the CRC-32 of every file, written before the whole gets its name. By it a
    checkpoint that a disk has changed since is known (`sound_steps`).
    """

    def __init__(self, workdir: str | Path, keep: int = 2, patience: float = PATIENCE,
                 say: Callable[[str], None] = print):
        """keep: how many of the latest to keep. patience: seconds that writing one may take before `say` is told."""
        self.folder = Path(workdir).absolute() / FOLDER
        self._keep, self._patience, self._say = keep, patience, say
        self._writing: int | None = None  # the step that is being written, or was last
        self._timer: threading.Timer | None = None
        self.manager = self._open()

    def _open(self):
        ocp = _ocp()
        return ocp.CheckpointManager(
            self.folder,
            item_handlers={item: ocp.StandardCheckpointHandler() for item in ITEMS},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=self._keep, enable_async_checkpointing=True, todelete_subdir=TRASH,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal)),
        )

    def _seal(self) -> None:
        """Called in the background, when all files are written and the folder has not got its name yet."""
        if jax.process_index() == 0:
            for folder in self.folder.glob(f"{self._writing}.*"):
                write_seal(folder)
        if self._timer:
            self._timer.cancel()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        """What is being written when an error ends a run is written to its end."""
        if kind and issubclass(kind, Exception):
            self._settle()

    def latest(self) -> int | None:
        """The last complete checkpoint's step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Copy the state and write it in the background; a crash leaves the last complete checkpoint as it was.

        One that could not be written, such as on a full disk, is told of, and the run goes on: the next may be.
        """
        if step == self.latest():
            return
        ocp = _ocp()
        self._settle()
        self._empty()
        self._writing = step
        self._timer = threading.Timer(self._patience, self._say, [
            f"checkpoint {step} has been being written for {self._patience:g} seconds; {self.folder} may be stuck"])
        self._timer.daemon = True
        self._timer.start()
        items = _items(state)
        try:
            self.manager.save(step, args=ocp.args.Composite(**{k: ocp.args.StandardSave(v) for k, v in items.items()}))
        except Exception as error:  # noqa: BLE001  a disk's errors come in many kinds
            self._lost(step, error)

    def _settle(self) -> bool:
        """Waits for what is being written; whether it was."""
        try:
            self.manager.wait_until_finished()
            return True
        except Exception as error:  # noqa: BLE001
            self._lost(self._writing, error)
            return False

    def _lost(self, step: int | None, error: Exception) -> None:
        """Tells of a checkpoint that could not be written, and makes ready for the next."""
        if self._timer:
            self._timer.cancel()
        if jax.process_count() > 1:
            raise error  # who knows what the others have
        with contextlib.suppress(Exception):
            self.manager.close()
        for part in self.folder.glob(f"{step}.*"):
            shutil.rmtree(part, ignore_errors=True)
        self.manager = self._open()
        good = self.latest()
        reason = " ".join(str(error).split())[:300]
        self._say(f"checkpoint {step} could not be written ({reason}); the last good one is "
                  f"{'none' if good is None else good}, and the run goes on")

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state of a step, each array where ``abstract`` (shapes with shardings) wants it, on whatever mesh.

        Given arrays are not in a checkpoint; they come back as ``abstract`` has them.

        Raises: UserError where the checkpoint's arrays are not exactly those of ``abstract``.
        """
        ocp = _ocp()
        items, where = _items(abstract), str(self.folder / str(step))
        metadata = self.manager.item_metadata(step)
        guarded = any(name.startswith("guard/") for name in metadata["training"])
        if not guarded:  # of a run from before there was one: it begins anew
            items["training"] = {
                name: leaf for name, leaf in items["training"].items() if not name.startswith("guard/")}
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
            guard=fill(abstract.guard, training, "guard/") if guarded else jax.tree.map(
                lambda new, place: jax.device_put(new, place.sharding), new_guard(), abstract.guard),
        )

    def wait(self) -> bool:
        """Until everything is on the disk; whether it is."""
        return self._settle()

    def close(self) -> bool:
        """Waits as `wait`, and ends."""
        written = self._settle()
        self.manager.close()
        self._empty()
        return written

    def _empty(self) -> None:
        """Removes those that are kept no longer: they have lost their names first, so that a kill leaves none half."""
        if jax.process_index() == 0:
            shutil.rmtree(self.folder / TRASH, ignore_errors=True)


def write_seal(folder: Path) -> None:
    """Notes what is in a finished checkpoint's folder."""
    files = {path.relative_to(folder).as_posix(): [path.stat().st_size, _crc(path)]
             for item in ITEMS for path in sorted((folder / item).rglob("*")) if path.is_file()}
    media.write_text(folder / SEAL, json.dumps({"crc32": files}) + "\n")


def damage(folder: Path, items: Sequence[str] = ITEMS) -> str:
    """What of a checkpoint is not as it was sealed, in a few words; "" where all is, or there is no seal to tell."""
    if not (folder / SEAL).is_file():
        return ""
    try:
        files = json.loads((folder / SEAL).read_text())["crc32"]
    except (ValueError, KeyError, OSError):
        return f"{SEAL} is unreadable"
    for name, (size, crc) in files.items():
        path = folder / name
        if name.partition("/")[0] not in items:
            continue
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size or _crc(path) != crc:
            return f"{name} is not what was written"
    return ""


def _crc(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 22):
            value = zlib.crc32(part, value)
    return value


def sound_steps(workdir: str | Path, say: Callable[[str], None] = print) -> list[int]:
    """As `checkpoint_steps`, of which the last is sound: damaged ones after it are moved to the run's folder damaged/.

    Raises: UserError where there are some and none of them is sound.
    """
    while steps := checkpoint_steps(workdir):
        folder = Path(workdir) / FOLDER / str(steps[-1])
        what = damage(folder) if jax.process_index() == 0 else ""
        if jax.process_count() > 1:  # the first one looks, and all go by it
            what = _agree(what)
        if not what:
            return steps
        if len(steps) == 1:
            raise UserError(f"The only checkpoint of {str(workdir)!r}, {folder.name}, is damaged ({what}); begin anew "
                            "in another --workdir, or put an undamaged copy in its place.")
        if jax.process_index() == 0:
            aside = Path(workdir) / "damaged" / f"{folder.name}-{len(list((Path(workdir) / 'damaged').glob('*')))}"
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)
            say(f"checkpoint {folder.name} is damaged ({what}) and lies in {aside} now; the run goes on from step "
                f"{steps[-2]}")
        if jax.process_count() > 1:
            _agree("")
    return []


def _agree(text: str) -> str:
    """The first process's text, in all of them."""
    from jax.experimental import multihost_utils
    data = np.zeros(256, np.uint8)
    data[:len(text.encode()[:256])] = list(text.encode()[:256])
    return bytes(multihost_utils.broadcast_one_to_all(data)).rstrip(b"\0").decode("utf-8", "ignore")


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
    if what := damage(folder.parent, ("model",)):
        raise UserError(f"Checkpoint {step} of {str(path)!r} is damaged ({what}); use another step, or a copy of it.")
    with ocp.StandardCheckpointer() as checkpointer:
        saved = dict(checkpointer.metadata(folder).item_metadata.tree)
        target = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in saved.items()}
        flat = checkpointer.restore(folder, target)
    tree = nest(flat)
    frozen, bare = tree.get("frozen", {}), dict.fromkeys(ARRAYS, {})  # empty dicts leave no trace
    if frozen:
        frozen = {name: bare | part for name, part in frozen.items()} if config.stage == "critic" else bare | frozen
    return Run(config, step, tree["params"], tree.get("variables", {}), frozen)
