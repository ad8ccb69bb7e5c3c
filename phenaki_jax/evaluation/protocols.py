"""Protocols as data: what is compared, of how many clips of which form, each a small file in protocol_files/."""

import dataclasses
import importlib.resources
import pathlib
from collections.abc import Mapping
from typing import Any

from phenaki_jax.errors import UserError

# What a model does for a protocol. compare: nothing, there are two folders. sprites: the suites of the sprite world.
TASKS = ("compare", "reconstruction", "prediction", "text_to_video", "text_to_image", "sprites")
METRICS = ("fvd", "kvd", "fid", "kid", "precision", "psnr", "ssim", "lpips", "clip", "motion", "flicker")
PAIRED = ("psnr", "ssim", "lpips", "flicker")  # of each clip against its own truth
WITH_TRUTH = ("reconstruction", "prediction")
FILES = "protocol_files"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How something is measured.

    Attributes:
      name: of its file. about: in a sentence, with the source.
      task: one of TASKS. suites: of the sprite world, for the task 'sprites' alone.
      data, split: a task of records (`phenaki ingest`, data/mixtures.py) and its split; "" where the user names one.
      clips: real clips N. repeats: what is generated of each, so that there are N * repeats against N.
      frames: of a clip, given ones too. given: of them, that the model is told. fps: that clips are brought to, 0
        leaves them as they are; stride: every so many of those frames.
      height, width: of a clip, 0 for the model's or the first clip's. crop: 'centre', the largest middle part of the
        sides' ratio; 'none', squashed. Both are resized by Pillow's bicubic filter.
      metrics: of METRICS. paper: {metric: what was published}, for the report.
    """
    name: str
    about: str
    task: str
    data: str = ""
    split: str = "test"
    clips: int = 2048
    repeats: int = 1
    frames: int = 16
    given: int = 0
    fps: float = 0.0
    stride: int = 1
    height: int = 0
    width: int = 0
    crop: str = "centre"
    metrics: tuple[str, ...] = ("fvd",)
    suites: tuple[str, ...] = ()
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        def refuse(field: str, right: str):
            raise UserError(f"{field}={getattr(self, field)!r} of the protocol {self.name} {right}")

        if self.task not in TASKS:
            refuse("task", f"is unknown; it is one of {', '.join(TASKS)}")
        if self.crop not in ("centre", "none"):
            refuse("crop", "is unknown; it is one of centre, none")
        for field in ("clips", "repeats", "frames", "stride"):
            if getattr(self, field) < 1:
                refuse(field, "must be at least 1")
        for field in ("given", "fps", "height", "width"):
            if getattr(self, field) < 0:
                refuse(field, "must be at least 0")
        if (self.task == "prediction") != (self.given > 0) or self.given >= self.frames:
            refuse("given", "has to be less than its frames, and more than 0 exactly where the task is 'prediction'")
        if (self.task == "sprites") != bool(self.suites):
            refuse("suites", "is for the task 'sprites', which needs some")
        if unknown := [name for name in self.metrics if name not in METRICS]:
            refuse("metrics", f"has {unknown[0]!r}, which is not one of {', '.join(METRICS)}")
        if self.task not in WITH_TRUTH and (wrong := [name for name in self.metrics if name in PAIRED]):
            refuse("metrics", f"has {wrong[0]!r}, which compares each clip with its own truth; a {self.task} has none")
        if wrong := [name for name, value in self.paper.items() if name not in METRICS or not isinstance(
                value, (int, float))]:
            refuse("paper", f"has {wrong[0]!r}; it is figures by metric, such as {{fvd: 36.4}}")
        if self.frames == 1 and (wrong := [m for m in self.metrics if m in ("fvd", "kvd", "motion", "flicker")]):
            refuse("metrics", f"has {wrong[0]!r}, which is of videos; it has one frame")


def names() -> list[str]:
    """Of the protocols that are here, in order."""
    files = importlib.resources.files("phenaki_jax.evaluation") / FILES
    return sorted(file.name.removesuffix(".yaml") for file in files.iterdir() if file.name.endswith(".yaml"))


def read_protocol(name: str, **changes: Any) -> Protocol:
    """A protocol by its name, or of a file of the user's, NAME.yaml, with some fields changed.

    Raises: UserError for an unknown name or field, a file that cannot be read, values that do not fit.
    """
    import yaml

    if name.endswith((".yaml", ".yml")):
        path = pathlib.Path(name)
        if not path.is_file():
            raise UserError(f"--protocol={name!r} is no file; give a protocol's file, or one of {', '.join(names())}")
        name, text = path.stem, path.read_text(encoding="utf-8", errors="replace")
    elif name in names():
        text = (importlib.resources.files("phenaki_jax.evaluation") / FILES / f"{name}.yaml").read_text("utf-8")
    else:
        raise UserError(f"--protocol={name!r} is unknown; it is one of {', '.join(names())}, or a file NAME.yaml")
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the protocol {name} is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(fields, dict):
        raise UserError(f"the protocol {name} has to be fields and their values; it is {fields!r}")
    fields = {"name": name} | fields | {key: value for key, value in changes.items() if value is not None}
    known = {field.name: field for field in dataclasses.fields(Protocol)}
    for key, value in fields.items():
        if key not in known:
            raise UserError(f"the protocol {name} has a field {key!r}, which is none of {', '.join(known)}")
        fields[key] = _typed(name, key, value, known[key].type)
    if missing := [key for key in ("about", "task") if key not in fields]:
        raise UserError(f"the protocol {name} has no field {missing[0]!r}")
    return Protocol(**fields)


def _typed(name: str, key: str, value: Any, kind: Any) -> Any:
    """The value as its field has it; a list serves for a tuple and an int for a float."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == tuple[str, ...] and isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    right = {int: int, float: float, str: str}.get(kind, dict if key == "paper" else ())
    if not isinstance(value, right) or isinstance(value, bool):
        raise UserError(f"{key}={value!r} of the protocol {name} has to be of the kind "
                        f"{getattr(kind, '__name__', kind) if right else 'list of words'}")
    return value
