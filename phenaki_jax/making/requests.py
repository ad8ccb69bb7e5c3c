"""What one video is made of beside the model, as a value that JSON can hold; and making it."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax import media
from phenaki_jax.errors import UserError, at_least
from phenaki_jax.pipeline import PhenakiPipeline
from phenaki_jax.sampling import scenes as story_options

# What can be asked for, with the files that it takes.
VERBS = {"generate": (), "keyframes": (), "story": (), "animate": ("image",), "extend": ("video",),
         "interpolate": ("image", "last_image"), "inpaint": ("video", "mask")}
STILL = ("image", "last_image")  # of these files
OPTIONS = {*story_options.OPTIONS, "num_keyframes", "between"}
Preview = Callable[[np.ndarray], None]  # is shown frames uint8 [F, Y, X, 3] on the way


@dataclasses.dataclass(frozen=True)
class Input:
    """A file of the user's, cut and scaled to the model's size.

    Attributes:
      path: absolute. sha256: of its bytes. still: it is read as an image, one frame. fit: how, one of `media.RULES`.
      fps: at which rate a video's frames are taken by their time stamps; None: each of its frames.
    """
    path: str
    sha256: str
    still: bool = False
    fit: str = "centre"
    fps: float | None = None

    @classmethod
    def of(cls, name: str, path: str, fit: str, fps: float | None = None) -> "Input":
        return cls(str(Path(path).absolute()), _sha256(path), name in STILL, fit, fps)

    def read(self, height: int, width: int) -> np.ndarray:
        """Frames uint8 [F, height, width, 3]; one of an image. Raises: UserError where the file is another by now."""
        return media.fit(self.frames, height, width, self.fit)

    @functools.cached_property
    def frames(self) -> np.ndarray:
        """uint8 [F, Y, X, 3], as large as they are. Raises: UserError as `read`."""
        path = Path(self.path)
        if _sha256(path) != self.sha256:
            raise UserError(f"{self.path} is not the file it was: its SHA-256 was {self.sha256}")
        return media.read_image(path)[None] if self.still else media.read_video(path, self.fps)[0]


@dataclasses.dataclass(frozen=True)
class Request:
    """One video that is asked for.

    Attributes:
      verb: one of VERBS.
      prompt: None for a model without text; of a story its scenes, as `PhenakiPipeline.story` takes them.
      seed: its own.
      options: more keywords of the pipeline's method.
      inputs: by the names of the method's arguments.
      rows, row: it is made as this row of a batch of so many, because another batch is another program, whose
        roundings may be others.
      preview_every: passes between previews, 0 for none; a program of its own, too. devices: over which the rows are
        spread; likewise.
    """
    verb: str
    prompt: Any
    seed: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, Input] = dataclasses.field(default_factory=dict)
    rows: int = 1
    row: int = 0
    preview_every: int = 0
    devices: int = 1

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> "Request":
        """What `dataclasses.asdict` made. Raises: UserError for something else."""
        try:
            inputs = {name: Input(**file) for name, file in found["inputs"].items()}
            request = cls(**found | {"inputs": inputs})
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"its request cannot be read: {error}") from None
        if request.verb not in VERBS or set(inputs) != set(VERBS[request.verb]):
            raise UserError(f"its request has verb={request.verb!r} with {list(inputs)}; it has to be one of "
                            f"{', '.join(VERBS)}, with the files it takes")
        for name, file in inputs.items():
            known = isinstance(file.path, str) and file.fit in media.RULES and file.still is (name in STILL)
            if not known or not isinstance(file.fps, float | int | None):
                raise UserError(f"its request has the input {name}={dataclasses.asdict(file)}, which cannot be")
        for name, least in (("seed", 0), ("rows", 1), ("row", 0), ("preview_every", 0), ("devices", 1)):
            at_least(f"its request's {name}", getattr(request, name), least)
        if request.row >= request.rows or request.preview_every and request.verb not in ("generate", "story"):
            raise UserError(f"its request has row={request.row} of {request.rows}, preview_every="
                            f"{request.preview_every} and verb={request.verb!r}, which do not go together")
        if not isinstance(request.options, dict) or (wrong := set(request.options) - OPTIONS):
            raise UserError(f"its request has options={request.options!r}"[:200] + (
                f"; {min(wrong)!r} is none" if isinstance(request.options, dict) else ""))
        return request


class Refused(Exception):
    """The safety checker has refused what was made, for the reason that is its text."""


def perform(pipe: PhenakiPipeline, batch: Sequence[Request], preview: Preview | None = None, shown: int = 0,
            parts: Any = None) -> tuple[list[Iterable[np.ndarray]], tuple[str | None, ...]]:
    """Makes videos that differ in nothing but their prompts, seeds and rows.

    Args:
      preview: of the row `shown`, where the requests have `preview_every`.
      parts: of a story, see `story.tell`.

    Returns: of each the frames, in parts uint8 [F, Y, X, 3], and why the safety checker refused it, or None. A story's
      parts come as they are made, with `Refused` for one that is refused.
    """
    first = batch[0]
    if first.verb == "story":
        scenes = pipe.tell([first.prompt], seed=first.seed, parts=parts, **first.options)  # says what is wrong with it
        return [_told(pipe, scenes, preview if first.preview_every else None)], (None,)
    filled = [batch[-1]] * first.rows  # rows that nobody asks for repeat the last one
    for request in batch:
        filled[request.row] = request
    prompts = None if first.prompt is None else [request.prompt for request in filled]
    options = dict(first.options) | {"seed": [request.seed for request in filled]}
    if first.prompt is None and not first.inputs:
        prompts = [None] * len(filled)
    sizes = pipe.config.tokenizer
    given = {name: file.read(sizes.height, sizes.width) for name, file in first.inputs.items()}
    if "mask" in given:
        white = given["mask"].mean(-1) > 127
        given["mask"] = white if len(white) > 1 else white[0]
    given |= {name: given[name][0] for name in ("image", "last_image") if name in given}
    if first.preview_every:
        for made in pipe.stream(prompts, every=first.preview_every, **options):
            if preview is not None:
                preview(made.frames[shown])
    else:
        made = (pipe if first.verb == "generate" else getattr(pipe, first.verb))(prompts, **given, **options)
    refused = made.refused or (None,) * first.rows
    return [[made.frames[request.row]] for request in batch], tuple(refused[request.row] for request in batch)


def _told(pipe: PhenakiPipeline, scenes: Iterable[Any], preview: Preview | None) -> Iterator[np.ndarray]:
    """A story's scenes, one after the other."""
    shown = []
    for number, scene in enumerate(scenes, 1):
        if scene.refused and scene.refused[0] is not None:
            raise Refused(f"scene {number} is refused: {scene.refused[0]}")
        if preview is not None:
            preview(np.concatenate(shown := [*shown, scene.frames[0]]))
        yield scene.frames[0]


def _sha256(path: str | Path) -> str:
    """Of a file, or of all files of a folder of frames, in order."""
    state, place = hashlib.sha256(), Path(path)
    try:
        for file in sorted(p for p in place.iterdir() if p.is_file()) if place.is_dir() else [place]:
            with open(file, "rb") as stream:
                while part := stream.read(1 << 20):
                    state.update(part)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror})") from None
    return state.hexdigest()
