"""Frames that are withheld after they were made.

A checker is any callable frames: uint8 [F, Y, X, 3] -> str | None, None where they may be shown, else the reason in a
few words. `OnnxChecker` asks an image classifier in a local ONNX file.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax import media, pictures
from phenaki_jax.array_files import read_json
from phenaki_jax.errors import UserError

FrameChecker = Callable[[np.ndarray], str | None]

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclasses.dataclass(frozen=True)
class Options:
    """How a classifier is asked, and what its answer means.

    Attributes:
      threshold: the least score, 0 to 1, that is unsafe.
      unsafe: the unsafe class or classes, by index or by name; None: class 1, or the only one.
      classes: the names of all classes, where they have any.
      activation: what makes scores of outputs: "softmax" where a frame has one class (the score is then the sum of the
        unsafe ones), "sigmoid" where it may have several (the largest one), "none" where they are scores already (the
        largest one), or "auto": sigmoid for a single output, else softmax.
      size: rows and columns that the model reads, or one number for both; None: as its input says, 224 where it does
        not.
      mean, std: (x - mean) / std is what the model reads of x in 0..1, one number or three, for red, green and blue.
      frames: how many frames are looked at, evenly from the first to the last.
    """
    threshold: float = 0.5
    unsafe: int | str | Sequence[int | str] | None = None
    classes: Sequence[str] | None = None
    activation: str = "auto"
    size: int | Sequence[int] | None = None
    mean: float | Sequence[float] = 0.5
    std: float | Sequence[float] = 0.5
    frames: int = 8


class OnnxChecker:
    """Refuses frames of which an image classifier scores an unsafe class at or above a threshold.

    The model has one input, [1 or any, 3, Y, X] or [1 or any, Y, X, 3] in float32 or float16, and as its first output
    one row of scores a frame. A whole frame is resized to what it reads, whatever its sides' ratio, so that nothing is
    cropped away. Options that are not given here are those of a JSON object in MODEL.json beside MODEL.onnx, if there
    is one, and else those of `Options`.

    Args:
      path: the ONNX file.
      options: fields of `Options`.

    Raises:
      UserError: the package onnxruntime is missing, the file is missing, no ONNX, or of other inputs and outputs, or an
        option does not fit it.
    """

    def __init__(self, path: str, **options: Any):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"There is no frame checker {path!r}.")
        self.options = _options(self.path, options)
        self._session = _session(self.path)
        if len(self._session.get_inputs()) != 1:
            names = ", ".join(found.name for found in self._session.get_inputs())
            raise UserError(f"{path} has the inputs {names}; a frame checker has one, an image")
        self._input = self._session.get_inputs()[0]
        self._nhwc, self._size = self._layout()
        count = self._outputs(np.zeros((*self._size, 3), np.uint8)).size
        self._unsafe = self._classes(count)
        self._activation = self.options.activation
        if self._activation == "auto":
            self._activation = "sigmoid" if count == 1 else "softmax"

    def __call__(self, frames: np.ndarray) -> str | None:
        worst, which, frame = max((*self._score(frames[i]), i) for i in pictures.spread(len(frames),
                                                                                        self.options.frames))
        if worst < self.options.threshold:
            return None
        if worst == math.inf:
            return f"{self.path.name} scores frame {frame + 1} with what is no number"
        name = self.options.classes[which] if self.options.classes else f"class {which}"
        return (f"{self.path.name} scores frame {frame + 1} {worst:.2f} for {name} (threshold "
                f"{self.options.threshold:g})")

    def _score(self, frame: np.ndarray) -> tuple[float, int]:
        """The score of the unsafe classes, infinite where it is no number, and the one that has the most of it."""
        outputs = self._outputs(frame).astype(np.float64)
        if not np.isfinite(outputs).all():
            return math.inf, self._unsafe[0]
        if self._activation == "softmax":
            outputs = np.exp(outputs - outputs.max())
            outputs /= outputs.sum()
        elif self._activation == "sigmoid":
            outputs = 0.5 * (1 + np.tanh(outputs / 2))
        found = outputs[self._unsafe]
        score = found.sum() if self._activation == "softmax" else found.max()
        return float(score), self._unsafe[int(found.argmax())]

    def _outputs(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [Y, X, 3] -> what the model says of it, [K]."""
        image = media.resize(frame[None], *self._size).astype(np.float32) / 255
        image = (image - np.float32(self.options.mean)) / np.float32(self.options.std)
        image = (image if self._nhwc else image.transpose(0, 3, 1, 2)).astype(_FLOATS[self._input.type])
        try:
            found = self._session.run(None, {self._input.name: image})[0]
        except Exception as error:  # its errors have nothing else in common
            raise UserError(f"{self.path} cannot be asked of an image {list(image.shape)}: "
                            f"{_first_line(error)}") from None
        shape = list(found.shape) if isinstance(found, np.ndarray) and found.dtype.kind == "f" else type(found).__name__
        if shape != [1] and (len(shape) != 2 or shape[0] != 1 or not shape[1]):
            raise UserError(f"{self.path} answers an image with {shape}; a classifier gives [1, classes] in float")
        return found.reshape(-1)

    def _layout(self) -> tuple[bool, tuple[int, int]]:
        """Whether channels come last, and the rows and columns that are read."""
        shape, given = self._input.shape, self.options.size
        number = [side if isinstance(side, int) else None for side in shape]
        if len(shape) != 4 or self._input.type not in _FLOATS or number[0] not in (1, None) \
                or 3 not in (number[1], number[3]) and None not in (number[1], number[3]):
            raise UserError(f"{self.path} reads {self._input.type} {shape}; a frame checker reads float32 or float16 "
                            "[1, 3, Y, X] or [1, Y, X, 3]")
        nhwc = number[3] == 3 and number[1] != 3 or number[1] not in (3, None)
        own = number[1:3] if nhwc else number[2:]
        given = (given, given) if given is None or isinstance(given, int) else tuple(given)
        if any(None not in pair and pair[0] != pair[1] for pair in zip(own, given)):
            raise UserError(f"size={self.options.size} does not fit {self.path}, which reads {own[0]} x {own[1]}")
        return nhwc, tuple(one or wanted or 224 for one, wanted in zip(own, given))

    def _classes(self, count: int) -> list[int]:
        """Indices of the unsafe classes of `count`."""
        names, unsafe = self.options.classes, self.options.unsafe
        if names and len(names) != count:
            raise UserError(f"classes={list(names)} are {len(names)}, and {self.path} has {count}")
        if unsafe is None:
            return [min(1, count - 1)]
        found = []
        for one in [unsafe] if isinstance(unsafe, (int, str)) else unsafe:
            if isinstance(one, str) and one not in (names or ()):
                raise UserError(f"unsafe={one!r} is none of the classes {list(names) if names else '(none are named)'} "
                                f"of {self.path}")
            index = names.index(one) if isinstance(one, str) else one
            if not 0 <= index < count:
                raise UserError(f"unsafe={index} is not in 0 to {count - 1}, the classes of {self.path}")
            found.append(index)
        return found


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path} is asked with onnxruntime, which is missing: pip install "
                        "'phenaki_jax[safety]'") from None
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what goes wrong is said by an error
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have nothing else in common
        raise UserError(f"{path} is no ONNX model that can be run: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# ------------------------------------------------------------------------------------------------- options

def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _class(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _several(value: Any, fits: Callable[[Any], bool], *counts: int) -> bool:
    """Whether a value fits, or is a list or tuple of such, one of `counts` in number, of any where none is given."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and (not counts or len(value) in counts) and all(map(fits, value))
    return fits(value)


_FITS = {
    "threshold": (lambda v: _number(v) and 0 < v <= 1, "a number above 0 and up to 1"),
    "unsafe": (lambda v: v is None or _several(v, _class), "a class's index or name, or a list of such"),
    "classes": (lambda v: v is None or isinstance(v, (list, tuple)) and all(isinstance(one, str) for one in v),
                "a list of names"),
    "activation": (lambda v: v in ("auto", "softmax", "sigmoid", "none"), "auto, softmax, sigmoid or none"),
    "size": (lambda v: v is None or _several(v, _count, 2), "a number of pixels, or [rows, columns]"),
    "mean": (lambda v: _several(v, _number, 3), "a number, or one each for red, green and blue"),
    "std": (lambda v: _several(v, lambda one: _number(one) and one > 0, 3),
            "a number above 0, or one each for red, green and blue"),
    "frames": (_count, "a whole number of at least 1"),
}


def _options(path: Path, given: Mapping[str, Any]) -> Options:
    """The options of MODEL.json beside the model and, before them, those that are given. Raises: UserError."""
    sidecar = path.with_suffix(".json")
    beside = read_json(sidecar) if sidecar.is_file() else {}
    for options, place in ((beside, f"{sidecar} has "), (given, "")):
        for name, value in options.items():
            if name not in _FITS:
                raise UserError(f"{place}{name}={value!r}, which is no option of a frame checker: {', '.join(_FITS)}")
            fits, right = _FITS[name]
            if not fits(value):
                raise UserError(f"{place}{name}={value!r}; it has to be {right}")
    return Options(**{**beside, **given})
