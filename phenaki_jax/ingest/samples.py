"""What a source gives: units of samples, each a picture or a video with what is said of it, as it was found."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.ingest import places
from phenaki_jax.input.records import BadRecord

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp")
VIDEOS = ("mp4", "webm", "gif", "mkv", "avi", "mov", "m4v")
CAPTION_FIELDS = ("caption", "text", "title", "name", "description", "label")


class Unit(NamedTuple):
    """What one worker reads at a time.

    name: tells it from the source's others. form: of `sources.FORMS`. path: its file or folder. begin, end: its rows,
    bytes or row groups. names: its files, or the number of its first row. options: what the reader of its form wants.
    """
    name: str
    form: str
    path: str
    begin: int = 0
    end: int = 0
    names: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass
class Sample:
    """One picture or video of a source.

    Attributes:
      key: names it within its source.
      media: a file's bytes, or pixels uint8 [F, Y, X, 3] (an image: F = 1); None before `load` where there is a path.
      path: of a file that is not read yet.
      suffix: of the file, lower case and without its dot; "" for pixels.
      caption: of all of it; bytes are not read as UTF-8 yet.
      fields: what else the source knows, by its own names.
      fps: of pixels; a file knows its own.
      captions: (second at which it begins, text) where the caption changes.
      problem: why it cannot be used, where its source can tell.
    """
    key: str
    media: bytes | np.ndarray | None = None
    suffix: str = ""
    caption: str | bytes | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fps: float = 0.0
    captions: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    problem: BadRecord | None = None
    path: str = ""

    def load(self) -> None:
        """Reads the file. Raises: BadRecord where it cannot be, or where the source has said what is wrong."""
        if self.problem:
            raise self.problem
        if self.media is None:
            try:
                self.media = places.read(self.path)
            except UserError as error:
                dead = self.path.startswith(("http://", "https://"))  # where any one address may be
                if isinstance(error, places.Unreachable) and not dead:
                    raise
                raise BadRecord("missing file", str(error)) from None
            except (OSError, ValueError) as error:
                raise BadRecord("missing file", f"{type(error).__name__}: {error}") from None
        if not self.suffix and isinstance(self.media, bytes):
            self.suffix = told_by(self.media)

    @property
    def kind(self) -> str:
        """"image" or "video"."""
        if isinstance(self.media, np.ndarray):
            return "image" if len(self.media) == 1 else "video"
        return "image" if self.suffix in IMAGES else "video"


def told_by(data: bytes) -> str:
    """What a file is by its first bytes, where its name does not say it."""
    for start, suffix in ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"\x1aE\xdf\xa3", "webm")):
        if data.startswith(start):
            return suffix
    return "webp" if data[8:12] == b"WEBP" else "mp4" if data[4:8] == b"ftyp" else "jpg"


def broken(key: str, reason: str, detail: Any = "") -> Sample:
    """A sample that cannot be used."""
    return Sample(key, problem=BadRecord(reason, str(detail)))


def from_files(key: str, parts: Mapping[str, bytes | str], more: Mapping[str, Any] | None = None) -> Sample:
    """A sample of files that share a name, by their suffixes: one of media, and maybe txt and json beside it.

    parts: their bytes, or of the media a path. more: what a table knows of it; json's fields go before these.
    """
    fields: dict[str, Any] = dict(more or {})
    if "json" in parts:
        try:
            fields |= json.loads(parts["json"])
        except (ValueError, TypeError) as error:
            return broken(key, "json unreadable", error)
    media = [suffix for suffix in parts if suffix in IMAGES + VIDEOS]
    if not media:
        status = named(fields, ("status",))
        if status not in (None, "success"):  # img2dataset and video2dataset write what they could not fetch as well
            return broken(key, "not downloaded", status)
        return broken(key, "no media", ", ".join(parts))
    found, caption = parts[media[0]], parts.get("txt")
    caption = named(fields, CAPTION_FIELDS) if caption is None else caption
    if isinstance(found, str):
        return Sample(key, None, media[0], caption, fields, path=found)
    return Sample(key, found, media[0], caption, fields)


def named(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first of `names` that is a field with a value; upper and lower case are the same, and so are blanks about
    it."""
    known = {str(name).strip().lower(): value for name, value in fields.items()}
    for value in (known.get(name) for name in names):
        value = next(iter(value), None) if isinstance(value, list) else value  # of several captions the first
        if value is not None and value != "":
            return value
    return None


def readable(text: str) -> str:
    """A text that is UTF-8: bytes that were none are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()
