"""Stories in files: what is asked for, the scenes that are done."""

import json
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.sampling.scenes import check_seed
from phenaki_jax.sampling.story import Told

DRAWS = "draws.json"  # beside the parts: which scenes were asked for anew


# ------------------------------------------------------------------------------------------------- what is asked for

def read_text(path: str) -> str:
    """A UTF-8 file. Raises: UserError where it is missing, empty, or of something else."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"There is no file {path!r}.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path!r} is no text file (it is not UTF-8).") from None
    if not text.strip():
        raise UserError(f"{path!r} is empty.")
    return text


def read_lines(path: str) -> list[str]:
    """One prompt a line; empty lines are left out. Raises: UserError as `read_text`."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_story(path: str) -> tuple[list, dict]:
    """Scenes, and the options of all of them, as a file has them; `sampling.scenes.read_scenes` knows what they mean.

    A .yaml or .yml file or a .json file (also one of another name that begins with [ or {) holds a list of scenes, or
    {"scenes": [...]} with options, and maybe the story's "seed", beside them. Another file has a prompt a line.

    Raises: UserError.
    """
    text, suffix = read_text(path), Path(path).suffix.lower()
    if suffix in (".yaml", ".yml"):
        import yaml

        story = _parsed(path, "YAML", yaml.safe_load, text, yaml.YAMLError)
    elif suffix == ".json" or text.lstrip()[0] in "[{":
        story = _parsed(path, "JSON", json.loads, text)
    else:
        story = read_lines(path)
    options = {}
    if isinstance(story, dict):
        options = {name: value for name, value in story.items() if name != "scenes"}
        story = story.get("scenes")
    if not isinstance(story, list) or not story:
        raise UserError(f'{path!r} has to be a list of scenes, [{{"prompt": "…"}}, …], or {{"scenes": [...]}} with it.')
    return story, options


def _parsed(path: str, form: str, parse: Any, text: str, *errors: type[Exception]) -> Any:
    try:
        return parse(text)
    except (ValueError, RecursionError, *errors) as error:
        raise UserError(f"{path!r} is not readable as {form}: {error}.") from None


# ------------------------------------------------------------------------------------------------- what is done

class Parts:
    """`parts` of `PhenakiPipeline.tell` in a folder: a NAME.npz a scene, with its frames and its tokens, bit for bit.

    Attributes: found: how many have been read from the folder.
    """

    _draws: dict | None = None  # for DRAWS, as soon as they are known to be possible

    def __init__(self, folder: Path):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--parts={str(folder)!r} is a file; it has to be a folder, or the name of a new one.")
        self.folder, self.found = folder, 0

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_file()

    def __getitem__(self, name: str) -> Told:
        try:
            with np.load(self._path(name)) as file:
                told = Told(file["frames"], file["tokens"])
            if (told.frames.ndim, told.tokens.ndim, told.frames.dtype) != (5, 4, np.uint8):
                raise ValueError(f"frames are {told.frames.dtype} {list(told.frames.shape)}")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self._path(name)} cannot be read ({error}); delete it to make it again.") from None
        self.found += 1
        return told

    def __setitem__(self, name: str, told: Told) -> None:
        with media.atomic_path(self._path(name)) as temporary:
            np.savez_compressed(temporary, frames=told.frames, tokens=told.tokens)

    def drawn(self, scenes: list, seed: int, redo: Sequence[int] = ()) -> list[dict]:
        """Scenes with the seeds of the draws that were asked for anew, by this call or one before.

        The folder remembers them, from `keep_draws` on, as long as the scene and the story's seed are what they were.

        Args:
          scenes: as `read_story` gives them. redo: numbers, from 1, of those of which another draw is wanted; its seed
            is the story's and the scene's number together, and after that one as much larger as there are scenes, so
            that no two scenes come to share one.
        """
        path = self.folder / DRAWS
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            known = {number: {name: one[name] for name in ("asked", "draw")} for number, one in known.items()}
            for one in known.values():
                check_seed(one["draw"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete it, and each scene has its first draw.") from None
        result = []
        for number, scene in enumerate(scenes, 1):
            scene = {"prompt": scene} if isinstance(scene, str) else scene
            asked, last = {"scene": scene, "seed": seed}, known.get(str(number), {})
            draw = last["draw"] if last.get("asked") == asked else scene.get("seed")
            if number in redo:
                draw = seed + number if draw is None else draw + len(scenes)
                known[str(number)] = {"asked": asked, "draw": draw}
                print(f"scene {number} is drawn anew, with seed {draw}")
            result.append(scene | {"seed": draw})
        self._draws = known if redo else None
        return result

    def keep_draws(self) -> None:
        """Writes down what `drawn` was asked for anew."""
        if self._draws is not None:
            media.write_text(self.folder / DRAWS, json.dumps(self._draws, indent=1) + "\n")


# ------------------------------------------------------------------------------------------------- as it comes

def reported(scenes: Iterable[np.ndarray], count: int, parts: Parts | None) -> Iterator[np.ndarray]:
    """The scenes of a story, uint8 [F, Y, X, 3] each, a line printed for each of the `count`."""
    begin, found = time.monotonic(), 0 if parts is None else parts.found
    for number, frames in enumerate(scenes, 1):
        read = parts is not None and parts.found > found
        how = f"read from {parts.folder}" if read else f"made in {time.monotonic() - begin:.1f} s"
        print(f"scene {number} of {count}: {len(frames)} frames, {how}", flush=True)
        yield frames
        begin, found = time.monotonic(), 0 if parts is None else parts.found
