"""The kinds of files, and how they come to be: whole or not at all."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

from phenaki_jax.errors import UserError

# What can be written, and what can be read. The suffix says what is written; what is read, the content says.
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".webm", ".gif")
IMAGES_IN = (*IMAGES, ".bmp", ".tif", ".tiff", ".gif", ".avif")
VIDEOS_IN = (*VIDEOS, ".m4v", ".mov", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".webp", ".apng")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, with its suffix; on success it takes the name `path`, else it is removed.

    Missing parent folders are made.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.part-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's own mode would hide the file from others
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_suffix(path: pathlib.Path, suffixes: tuple[str, ...]) -> None:
    """Raises: UserError where a path ends otherwise."""
    if path.suffix.lower() not in suffixes:
        kinds = ", ".join(dict.fromkeys(suffixes))
        raise UserError(f"{path} has the suffix {path.suffix!r}; it should be one of {kinds}.")


def existing(path: str | os.PathLike, suffixes: tuple[str, ...]) -> pathlib.Path:
    """A file of one of these kinds. Raises: UserError where it is none, or empty."""
    path = pathlib.Path(path)
    check_suffix(path, suffixes)
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file.")
    if not path.stat().st_size:
        raise UserError(f"{path} cannot be decoded: it is empty.")
    return path


@contextlib.contextmanager
def decoding(path: pathlib.Path, kind: str) -> Iterator[None]:
    """Whatever a decoder makes of a damaged file is said in one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of any class: parsers of foreign bytes stumble wherever they stand
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"{path} cannot be decoded as {kind}: {reason}.") from error


def frame_files(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The numbered images of a folder, in natural order (2 before 10); [] where it is no folder of frames."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGES_IN
                   and re.search("[0-9]", path.stem) and not path.name.startswith(".")), key=_natural)


def _natural(path: pathlib.Path) -> tuple[list[int | str], str]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", path.name))], path.name
