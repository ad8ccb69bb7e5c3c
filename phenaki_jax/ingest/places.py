"""Files and folders, here or in a cloud: gs://, s3:// and whatever else fsspec knows by its protocol."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from phenaki_jax import media
from phenaki_jax.errors import UserError


def is_remote(path: str) -> bool:
    """Whether a path is of another file system than this machine's."""
    return "://" in path


def _filesystem(path: str):
    """fsspec's file system of a remote path, and the path within it."""
    try:
        import fsspec
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        package = {"gs": "gcsfs", "s3": "s3fs"}.get(path.partition("://")[0], "fsspec")
        raise UserError(f"{path!r} cannot be reached ({error}); pip install {package}") from None
    except ValueError as error:
        raise UserError(f"{path!r} cannot be reached ({error})") from None


@contextlib.contextmanager
def reading(path: str) -> Iterator[IO[bytes]]:
    """A file, opened to be read. Raises: OSError."""
    if not is_remote(path):
        with open(path, "rb") as file:
            yield file
        return
    fs, inside = _filesystem(path)
    with fs.open(inside, "rb") as file:
        yield file


def read(path: str) -> bytes:
    """All of a file. Raises: OSError."""
    with reading(path) as file:
        return file.read()


def exists(path: str) -> bool:
    """Whether there is a file or a folder."""
    if is_remote(path):
        fs, inside = _filesystem(path)
        return fs.exists(inside)
    return os.path.exists(path)


def is_file(path: str) -> bool:
    if is_remote(path):
        fs, inside = _filesystem(path)
        return fs.isfile(inside)
    return os.path.isfile(path)


def files(folder: str) -> list[str]:
    """The names, relative to a folder, of all files in it and below, sorted; hidden ones are left out."""
    if is_remote(folder):
        fs, inside = _filesystem(folder)
        root = inside.rstrip("/") + "/"
        found = [path.removeprefix(root) for path in fs.find(inside)]
    else:
        def unreadable(error: OSError) -> None:
            raise UserError(f"{error.filename!r} cannot be read ({error.strerror})")

        found = [os.path.relpath(os.path.join(where, name), folder).replace(os.sep, "/")
                 for where, _, names in os.walk(folder, onerror=unreadable, followlinks=True) for name in names]
    return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


def write(path: str, data: bytes) -> None:
    """Writes a file whole or not at all."""
    if not is_remote(path):
        with media.atomic_path(path) as temporary:
            temporary.write_bytes(data)
        return
    fs, inside = _filesystem(path)
    fs.makedirs(inside.rpartition("/")[0], exist_ok=True)
    with fs.open(inside, "wb") as file:  # an object is there once it is closed
        file.write(data)


def put(local: Path, path: str) -> None:
    """Moves a finished local file to its place."""
    if not is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(local, path)
        return
    fs, inside = _filesystem(path)
    fs.makedirs(inside.rpartition("/")[0], exist_ok=True)
    fs.put_file(str(local), inside)
    local.unlink()
