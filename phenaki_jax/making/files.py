"""Files of what was made: how they say where they come from, and the sidecars by which they can be made again."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.making.options import FRAMES, LARGEST, sidecar_of
from phenaki_jax.making.requests import Request
from phenaki_jax.pipeline import PhenakiPipeline
from phenaki_jax.provenance import content_credentials, watermark

FORMAT, FORMAT_VERSION = "phenaki_jax sidecar", 1
FIELDS = {"request": dict, "look": dict, "model": {"path": str, "hash": str}, "file": {"name": str, "sha256": str},
          "frames": {"shape": list, "hash": str}, "config": {"sampling": dict, "provenance": dict}}
PACKAGES = ("phenaki_jax", "jax", "jaxlib", "flax", "numpy", "av", "pillow")


@dataclasses.dataclass(frozen=True)
class Look:
    """How frames become a file. fps: frames a second; scale: pixels are enlarged so often."""
    fps: float
    scale: int = 1


class Origin:
    """What files say of where they come from, as `config.provenance` has it."""

    def __init__(self, pipe: PhenakiPipeline):
        self.asked, self.model = pipe.config.provenance, pipe.fingerprint
        self.payload = int(self.model[:watermark.PAYLOAD_BITS // 4], 16)
        self.by = f"phenaki_jax {version('phenaki_jax')}"
        self.label = json.dumps({"generated": True, "by": self.by, "model": self.model}) if self.asked.label else ""
        if self.asked.certificate or self.asked.key:
            content_credentials.check(self.asked.certificate, self.asked.key)
        self.about = {"label": bool(self.asked.label), "deny_list": self.asked.deny_list or False,
                      "frame_checker": self.asked.frame_checker or False}

    def told(self, path: Path, height: int, width: int) -> dict[str, Any]:
        """What holds for a file of this name and these sides, in pixels, and why something does not."""
        why = None
        if not self.asked.watermark:
            why = "turned off"
        elif path.suffix.lower() == ".gif":
            why = "it would use up a gif's 256 colours"
        elif not watermark.fits(height, width):
            why = f"{height} x {width} pixels are too few; {watermark.SMALLEST} x {watermark.SMALLEST} are needed"
        return self.about | {
            "content_credentials": bool(self.asked.certificate) and path.suffix.lower() in content_credentials.KINDS,
            "watermark": f"{self.payload:08x}" if why is None else False} | (
            {} if why is None else {"no_watermark_because": why})


def write(path: Path, parts: Iterable[np.ndarray], look: Look, origin: Origin,
          note: Callable[[dict[str, Any]], None]) -> None:
    """Writes frames as they come, uint8 [F, Y, X, 3]: a video, an image, or, without a suffix, a folder of frames.

    Args:
      note: is given {"file": facts, "frames": facts, "provenance": what the file has} when all is written and the file
        is about to get its name, so that there is none without a sidecar.
    """
    state, shape, told, suffix = hashlib.blake2b(digest_size=16), [0, 0, 0], {}, path.suffix.lower()

    def finished(frames: np.ndarray) -> np.ndarray:
        state.update(np.ascontiguousarray(frames))
        shape[:] = shape[0] + len(frames), *frames.shape[1:3]
        frames = media.enlarge(frames, look.scale)
        told.update(told or origin.told(path, *frames.shape[1:3]))
        return watermark.mark(frames, origin.payload) if told["watermark"] else frames

    def noted(files: list[Path]) -> None:
        note({"file": {"name": path.name, "bytes": sum(file.stat().st_size for file in files), "sha256": sha256(files)},
              "frames": {"shape": shape, "hash": state.hexdigest()}, "provenance": told})

    if suffix == FRAMES:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.part-", dir=path.parent) as temporary:
            made = Path(temporary, "new")
            media.write_frames(made, np.concatenate([finished(part) for part in parts]), label=origin.label)
            noted(media.frame_files(made))
            if path.exists():
                os.replace(path, Path(temporary, "old"))
            os.replace(made, path)
        return
    with media.atomic_path(path) as temporary:
        if suffix in media.IMAGES:
            for part in parts:
                media.write_image(temporary, finished(part)[0], label=origin.label)
        else:
            with media.open_video(temporary, look.fps, label=origin.label) as append:
                for part in parts:
                    append(finished(part))
        if told["content_credentials"]:
            content_credentials.sign(temporary, certificate=origin.asked.certificate, key=origin.asked.key,
                                     title=path.name, generator=origin.by, about={"model": origin.model})
        noted([temporary])


def sha256(files: Iterable[Path]) -> str:
    """Of the bytes of files, one after the other."""
    state = hashlib.sha256()
    for file in files:
        state.update(file.read_bytes())
    return state.hexdigest()


# ------------------------------------------------------------------------------------------------------- sidecars

def version(package: str) -> str | None:
    """Of an installed package; None of one that is not, such as a checkout on the path."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_sidecar(path: Path, request: Request, look: Look, pipe: PhenakiPipeline, model: str,
                  found: Mapping[str, Any]) -> None:
    """Writes FILE.json beside a file: everything that is needed to make it again."""
    device = jax.devices()[0]
    media.write_text(sidecar_of(path), json.dumps({
        "format": FORMAT, "format_version": FORMAT_VERSION, "request": dataclasses.asdict(request),
        "look": dataclasses.asdict(look), "model": {"path": str(Path(model).absolute()), "hash": pipe.fingerprint},
        **found, "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "platform": f"{device.platform} ({device.device_kind}), {platform.machine()}",
        "config": pipe.config.to_dict()}, indent=1) + "\n")


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """A sidecar's object, its "request" and its "look" as such. Raises: UserError for what is none, or is wrong."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is no sidecar: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{str(path)!r} is no sidecar, the .json beside a generated file")
    if type(found.get("format_version")) is not int or found["format_version"] != FORMAT_VERSION:
        raise UserError(f"{str(path)!r} has format_version={found.get('format_version')!r}; this phenaki_jax reads "
                        f"{FORMAT_VERSION}")
    try:
        _check_types(found, FIELDS)
        look = Look(**found["look"])
        if not 0.01 <= look.fps <= 1000 or type(look.scale) is not int or not 1 <= look.scale <= LARGEST:
            raise UserError(f"look={found['look']} is out of range")
        shape = found["frames"]["shape"]
        if [type(size) for size in shape] != [int] * 3:
            raise UserError(f"frames.shape={shape} has to be three numbers")
        return found | {"request": Request.of_json(found["request"]), "look": look}
    except (UserError, TypeError) as error:
        raise UserError(f"{str(path)!r} is no sound sidecar: {error}") from None


def _check_types(found: Any, fields: Mapping[str, Any], name: str = "") -> None:
    """Raises: UserError for a field that is missing or of another type."""
    for field, kind in fields.items():
        if field not in found:
            raise UserError(f"it has no field '{name}{field}'")
        if not isinstance(found[field], dict if isinstance(kind, dict) else kind) or type(found[field]) is bool:
            raise UserError(f"its field '{name}{field}' is {str(found[field])[:40]!r}")
        if isinstance(kind, dict):
            _check_types(found[field], kind, f"{name}{field}.")


def is_made(path: Path, request: Request, look: Look, pipe: PhenakiPipeline, origin: Origin) -> bool:
    """Whether the file is there, whole, and is just what is asked for, by its sidecar."""
    if not path.exists() or not sidecar_of(path).is_file():
        return False
    try:
        found = read_sidecar(sidecar_of(path))
    except UserError:
        return False
    shape = [size * look.scale for size in found["frames"]["shape"][1:]]
    asked = json.loads(json.dumps({"provenance": origin.told(path, *shape), "config": pipe.config.to_dict()}))
    same = found["model"]["hash"] == pipe.fingerprint and found["look"] == look and all(
        found.get(name) == value for name, value in asked.items())
    same &= as_json(found["request"]) == as_json(request)
    return same and sha256(media.frame_files(path) if path.is_dir() else [path]) == found["file"]["sha256"]


def as_json(request: Request) -> Any:
    """What JSON makes of a request."""
    return json.loads(json.dumps(dataclasses.asdict(request)))
