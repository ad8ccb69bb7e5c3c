"""Tars as webdataset writes them: files that share a name up to their first dot, one after another, are a sample."""

import tarfile
from collections.abc import Iterator

from phenaki_jax.ingest import places

BLOCK = tarfile.BLOCKSIZE


def tar_samples(path: str) -> Iterator[tuple[str, dict[str, bytes] | Exception]]:
    """(key, its files by suffix) of each sample; where the tar cannot be read on, (its name and place, error) at last.

    Python's tarfile takes a damaged header in the middle for the end: what it stops at has to be the zeros that end a
    tar, or the rest is named as lost.
    """
    key, parts, end, name = None, {}, 0, path.rpartition("/")[2]
    try:
        with places.reading(path) as file:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                    if not member.isfile():
                        continue
                    folder, _, base = member.name.rpartition("/")
                    stem, _, suffix = base.partition(".")
                    here = f"{folder}/{stem}" if folder else stem
                    data = tar.extractfile(member).read()
                    if len(data) < member.size:
                        raise tarfile.ReadError("unexpected end of data")
                    if here != key and key is not None:
                        yield key, parts
                        parts = {}
                    key = here
                    parts[suffix.rpartition(".")[2].lower()] = data
            file.seek(end)
            tail = file.read(BLOCK)
            if len(tail) < BLOCK or tail.strip(b"\0"):
                raise tarfile.ReadError("no end mark" if len(tail) < BLOCK else "damaged header")
    except (OSError, EOFError, tarfile.TarError) as error:
        if key is not None and _whole(parts):
            yield key, parts
        yield f"{name}[{end}:]", error
        return
    if key is not None:
        yield key, parts


def _whole(parts: dict[str, bytes]) -> bool:
    """Whether what was read of a sample before its tar broke off has both media and text."""
    return len(parts) > 1
