"""What a run says of itself: metrics.jsonl, TensorBoard, the overview of its parameters."""

import contextlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.report import peak_memory_gb

__all__ = [
    "MetricsFile",
    "TensorBoard",
    "WandB",
    "Window",
    "count_parameters",
    "means",
    "open_writers",
    "parameter_overview",
    "peak_memory_gb",
    "quiet_stderr",
    "read_lines",
]

FILE = "metrics.jsonl"
EVALUATIONS = "evaluation.jsonl"
TIMING = "timing.json"  # how fast the run last went; apart, because no two runs agree on it
WINDOW = "window.json"  # the steps between the last logged one and each checkpoint

Row = Mapping[str, Any]  # a step's metrics: name -> scalar, or (scalar, taken)


class MetricsFile:
    """metrics.jsonl: one object a logged step, {"step": int, "time": seconds since 1970, name: float, ...}.

    Floats are written so that reading gives the same float back, digit for digit; NaN and infinities as Python's json
    writes and reads them.
    """

    def __init__(self, workdir: str | Path, start_step: int = 0, name: str = FILE):
        """Opens for appending; lines after ``start_step`` (a run killed after its last checkpoint) are cut off."""
        self.path = Path(workdir) / name
        if self.path.exists():
            kept = [line for line in read_lines(self.path) if line["step"] <= start_step]
            media.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("ab", buffering=0)
        self._waiting = b""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """A line that finds the disk full is written with the next one for which there is room."""
        self._waiting += (json.dumps({"step": step, "time": time.time(), **scalars}) + "\n").encode()
        with contextlib.suppress(OSError):
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting):]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.write(self._waiting)
        self._file.close()


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a metrics.jsonl; a last line that was cut by a crash is left out."""
    lines = []
    for text in Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def means(rows: Sequence[Row]) -> dict[str, float]:
    """What a logged line says of some steps, the loss first: each metric's mean over the steps that took it.

    A metric (value, taken) counts at the steps where `taken` is not 0, and is left out where that is none of them, as
    is one that no step has. The learning rate is the last step's. Steps that were skipped (`training.guard`) count for
    nothing but "skipped", their number, which is there where it is not 0; unless all were. Waits for the device.
    """
    rows = jax.device_get([dict(row) for row in rows])
    skipped = [bool(row.pop("skipped_in_a_row", 0)) for row in rows]
    found: dict[str, list[float]] = {}
    for row, out in zip(rows, skipped):
        if out and not all(skipped):
            continue
        for name, value in row.items():
            value, taken = value if isinstance(value, (tuple, list)) else (value, 1)
            if taken:
                found.setdefault(name, []).append(float(value))
    found["learning_rate"] = found.get("learning_rate", [])[-1:]
    with np.errstate(invalid="ignore"):  # infinities of both signs
        logged = {name: float(np.mean(found[name])) for name in ("loss", *found) if found[name]}
    return logged | ({"skipped": float(sum(skipped))} if any(skipped) else {})


class Window:
    """The metrics of the steps since the last logged one, left on the device until they are asked for.

    Those that a checkpoint finds are kept beside it, so that a run that goes on from there logs the same means.
    """

    def __init__(self, workdir: str | Path, start_step: int = 0, keep: int = 2):
        """Takes up what was kept for the checkpoint of `start_step`; keep: of how many checkpoints."""
        self.path, self._keep = Path(workdir) / WINDOW, keep
        book = json.loads(self.path.read_text()) if self.path.exists() else {}
        self._book = {int(step): rows for step, rows in book.items() if int(step) <= start_step}
        self._rows: list[Row] = list(self._book.get(start_step, []))

    def add(self, row: Row) -> None:
        self._rows.append(row)

    def take(self) -> list[Row]:
        """All of them; the next one begins anew."""
        rows, self._rows = self._rows, []
        return rows

    def save(self, step: int) -> None:
        """Keeps them for the checkpoint of `step`. To be called before that checkpoint is written."""
        self._rows = jax.tree.map(float, jax.device_get(self._rows))
        if self._rows or self._book:
            # One more than checkpoints are kept: the last one may not come to be.
            self._book = dict([*self._book.items(), (step, [*self._rows])][-self._keep - 1:])
            media.write_text(self.path, json.dumps(self._book) + "\n")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop what native code writes to stderr meanwhile (TensorFlow greets before its log level is read).

    Exceptions come through. What other threads of the process write to stderr meanwhile is lost too.
    """
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # no real file, as under a notebook
        yield
        return
    sys.stderr.flush()
    saved, null = os.dup(number), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, number)
        os.close(saved)
        os.close(null)


class TensorBoard:
    """Scalars and pictures as TensorBoard events through clu; does nothing where clu is not installed."""

    def __init__(self, workdir: str | Path):
        self._writer = None
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # clu brings TensorFlow; the GPU's memory is JAX's
        with quiet_stderr():
            try:
                from clu import metric_writers
            except ImportError:
                return
            self._writer = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._try("write_scalars", step, dict(scalars))

    def image(self, step: int, picture: np.ndarray) -> None:
        """picture: uint8 [Y, X, 3]."""
        self._try("write_images", step, {"samples": picture[None]})

    def close(self) -> None:
        self._try("close")

    def _try(self, method: str, *values: Any) -> None:
        """A disk without room ends TensorBoard's file, and not the run."""
        if self._writer:
            try:
                getattr(self._writer, method)(*values)
            except Exception as error:  # noqa: BLE001  TensorFlow's errors, by way of clu's thread
                self._writer = None
                print(f"TensorBoard's events end here ({' '.join(str(error).split())[:200]})", flush=True)


class WandB:
    """Scalars and pictures for Weights & Biases; a run that goes on does so under its id, of wandb_id in its folder.

    Where they go to is $WANDB_MODE's and $WANDB_BASE_URL's to say. Steps that were told before are left out there.

    Raises: UserError where the package is not installed.
    """

    def __init__(self, workdir: str | Path, project: str, config: Any):
        try:
            import wandb
        except ImportError:
            raise UserError(f"train.wandb={project!r} wants Weights & Biases, which is not installed; pip install "
                            "'phenaki_jax[wandb]', or leave the field empty") from None
        self._image, kept = wandb.Image, Path(workdir) / "wandb_id"
        if not kept.exists():
            media.write_text(kept, secrets.token_hex(8) + "\n")
        self._run = wandb.init(project=project, name=Path(workdir).name, id=kept.read_text().strip(), resume="allow",
                               dir=str(workdir), config=config.to_dict())

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def image(self, step: int, picture: np.ndarray) -> None:
        """picture: uint8 [Y, X, 3]."""
        self._run.log({"samples": self._image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


def open_writers(workdir: str | Path, config: Any, tensorboard: bool) -> list[TensorBoard | WandB]:
    """Where logged lines and samples go beside the run's own files."""
    project = config.train.get("wandb", "")
    return [TensorBoard(workdir)] * tensorboard + ([WandB(workdir, project, config)] if project else [])


def parameter_overview(params: Any, depth: int = 2) -> str:
    """A table of the parameters, summed below ``depth`` levels of the tree, and their whole number."""
    groups: dict[str, list[tuple[int, ...]]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path[:depth], simple=True, separator="/")
        groups.setdefault(name, []).append(tuple(leaf.shape))
    width = max((len(name) for name in groups), default=0)
    rows = []
    for name, shapes in groups.items():
        form = "×".join(map(str, shapes[0])) or "scalar" if len(shapes) == 1 else f"{len(shapes)} arrays"
        rows.append(f"  {name:<{width}}  {sum(map(math.prod, shapes)):>14,}  {form}")
    return "\n".join([*rows, f"  {'all':<{width}}  {count_parameters(params):>14,}"])


def count_parameters(params: Any) -> int:
    """Numbers in a tree of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
