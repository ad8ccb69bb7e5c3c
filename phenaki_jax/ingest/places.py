"""Files and folders, here or in a cloud: gs://, s3:// and whatever else fsspec knows by its protocol."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from phenaki_jax import media
from phenaki_jax.errors import UserError

BUFFER = 1 << 16  # bytes


class Unreachable(UserError):
    """A file system does not answer, or not to us: nothing that is known of the file itself."""

def is_remote(path: str) -> bool:
    """Whether a path is of another file system than this machine's."""
    return "://" in path


@contextlib.contextmanager
def _remote(path: str) -> Iterator[tuple[Any, str]]:
    """fsspec's file system of a remote path, and the path within it, to be asked inside of the block.

    Raises: UserError where there is no such file system; Unreachable for whatever it raises, but that a file is not
      there or is a folder.
    """
    try:
        import fsspec
        found = fsspec.core.url_to_fs(path)
    except ImportError as error:
        package = {"gs": "gcsfs", "s3": "s3fs"}.get(path.partition("://")[0], "fsspec")
        raise Unreachable(f"{path!r} cannot be reached ({error}); pip install {package}") from None
    except ValueError as error:
        raise UserError(f"{path!r} is nowhere ({error})") from None
    except Exception as error:  # noqa: BLE001  every file system has errors of its own
        raise _unreachable(path, error) from None
    try:
        yield found
    except (FileNotFoundError, IsADirectoryError, UserError):
        raise
    except Exception as error:  # noqa: BLE001
        raise _unreachable(path, error) from None


def _unreachable(path: str, error: Exception) -> Unreachable:
    return Unreachable(f"{path!r} cannot be reached ({type(error).__name__}: {error})")


class _RemoteFile(io.RawIOBase):
    """A file of another file system, whose errors are told from those of who makes sense of what it holds."""

    def __init__(self, path: str):
        self._path = path
        with _remote(path) as (fs, inside):
            self._file = fs.open(inside, "rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _remote(self._path):
            data = self._file.read(len(buffer))
        buffer[:len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextlib.contextmanager
def reading(path: str) -> Iterator[IO[bytes]]:
    """A file, opened to be read. Raises: UserError where it is out of reach, which is not the same as damaged."""
    if is_remote(path):
        try:
            file = io.BufferedReader(_RemoteFile(path), BUFFER)
        except OSError as error:
            raise _unreachable(path, error) from None
    else:
        try:
            file = open(path, "rb")
        except OSError as error:
            raise UserError(f"{path!r} cannot be read ({error.strerror})") from None
    with file:
        yield file


def read(path: str) -> bytes:
    """All of a file. Raises: OSError where it is not there; UserError as `_remote`."""
    if not is_remote(path):
        return Path(path).read_bytes()
    with _remote(path) as (fs, inside):
        return fs.cat_file(inside)


def exists(path: str) -> bool:
    """Whether there is a file or a folder."""
    if is_remote(path):
        with _remote(path) as (fs, inside):
            return fs.exists(inside)
    return os.path.exists(path)


def is_file(path: str) -> bool:
    if is_remote(path):
        with _remote(path) as (fs, inside):
            return fs.isfile(inside)
    return os.path.isfile(path)


def files(folder: str) -> list[str]:
    """The names, relative to a folder, of all files in it and below, sorted; hidden ones are left out."""
    if is_remote(folder):
        with _remote(folder) as (fs, inside):
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
    with _remote(path) as (fs, inside):
        fs.makedirs(inside.rpartition("/")[0], exist_ok=True)
        with fs.open(inside, "wb") as file:  # an object is there once it is closed
            file.write(data)


def put(local: Path, path: str) -> None:
    """Moves a finished local file to its place."""
    if not is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(local, path)
        return
    with _remote(path) as (fs, inside):
        fs.makedirs(inside.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(local), inside)
    local.unlink()
