"""An export's folder and its manifest, model.json, which says of every other file how large it is and its SHA-256."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phenaki_jax import media
from phenaki_jax.config import RUN_CONFIG
from phenaki_jax.errors import UserError

FORMAT = "phenaki_jax"
FORMAT_VERSION = 1
MANIFEST = "model.json"
OF_AN_EXPORT = ("model.safetensors", "model.safetensors.index.json", "weights", "programs.json")


def is_export(folder: str | Path) -> bool:
    """Whether a folder has a manifest; not whether it is a sound one."""
    return (Path(folder) / MANIFEST).is_file()


def run_folder(path: str | os.PathLike) -> Path:
    """The folder that holds a model: `path`, or its generator/ or tokenizer/, where it is a quickstart's."""
    folder = Path(path)
    if is_export(folder) or (folder / RUN_CONFIG).exists():
        return folder
    return next((folder / name for name in ("generator", "tokenizer") if (folder / name / RUN_CONFIG).exists()), folder)


def seal(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes model.json: what is said `about` the model, and all other files with their sizes and SHA-256.

    An older manifest serves as `about`, where a file was changed on purpose.
    """
    files = {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
             for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST}
    own = {"format": FORMAT, "format_version": FORMAT_VERSION}
    manifest = json.loads(json.dumps({**own, **about, **own, "files": files}))
    manifest["sha256"] = _own_sha256(manifest)
    media.write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def check_config(path: str | os.PathLike) -> Path:
    """The folder that holds a model, as `run_folder`; of an export its manifest and its config are looked at.

    Raises: UserError as `check`, that names the file.
    """
    folder = run_folder(path)
    if is_export(folder):
        manifest = check(folder, hashes=False)
        if RUN_CONFIG in manifest["files"] and (
                _sha256(folder / RUN_CONFIG) != manifest["files"][RUN_CONFIG]["sha256"]):
            raise UserError(f"{folder / RUN_CONFIG} is not what was written: its SHA-256 is not that of {MANIFEST}; "
                            "fetch it again")
    elif any((folder / name).exists() for name in OF_AN_EXPORT):
        raise UserError(f"{folder / MANIFEST} is missing; an export's folder, as `phenaki export` makes it, has one")
    return folder


def check(folder: str | Path, hashes: bool = True) -> dict[str, Any]:
    """The manifest of an export whose files are as they were written.

    hashes: read every file to the end; else only their sizes are looked at.

    Raises: UserError that names the file which is missing, of another size or other bytes; or the manifest where it is
      missing, changed, another program's or a later format's.
    """
    folder = Path(folder)
    manifest = _read(folder / MANIFEST)
    for name, kept in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; {MANIFEST} lists it, so fetch the whole folder again")
        if (size := path.stat().st_size) != kept["bytes"]:
            raise UserError(f"{path} has {size} bytes; it was written with {kept['bytes']}, so fetch it again")
        if hashes and _sha256(path) != kept["sha256"]:
            raise UserError(f"{path} is not what was written: its SHA-256 is not that of {MANIFEST}; fetch it again")
    return manifest


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; an export's folder, as `phenaki export` makes it, has one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); fetch it again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is no manifest of an export; its 'format' has to be {FORMAT!r}")
    version = manifest.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"{path} has format_version={version}; this phenaki_jax reads up to {FORMAT_VERSION}, so "
                        "install a newer one")
    if manifest.get("sha256") != _own_sha256(manifest):
        raise UserError(f"{path} is not what was written: it does not have the SHA-256 that it says; fetch it again")
    if not isinstance(manifest.get("files"), dict):
        raise UserError(f"{path} lists no 'files'; export the run again")
    return manifest


def _own_sha256(manifest: Mapping[str, Any]) -> str:
    """Of all that a manifest says but this; how it is laid out on lines does not count."""
    said = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
