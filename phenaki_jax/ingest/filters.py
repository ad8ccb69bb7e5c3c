"""Filters by name: what is kept of what a source has, and why the rest is not.

A filter is written NAME>=NUMBER, NAME<=NUMBER or NAME=VALUE[,VALUE], and `duplicate` by itself. One whose field a
sample lacks drops it ("missing: NAME"), unless it is told to keep such samples: a filter that silently never filters
is worse than none (video2dataset's safety filter once looked for a key with a blank too many).
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from phenaki_jax.errors import UserError
from phenaki_jax.input.records import BadRecord
from phenaki_jax.ingest.samples import named

# LAION-400M's words for how likely a picture is unsafe.
UNSAFE = {"unlikely": 0.0, "unsure": 0.5, "nsfw": 1.0}
# Fields of sources that the filters know by other names too; compared without regard to case and blanks about them.
ALIASES = {
    "language": ("language", "lang"),
    "similarity": ("similarity", "clip_similarity", "clip_similarity_vitb32", "clip_similarity_vitl14", "sim"),
    "aesthetic": ("aesthetic", "aesthetic_score", "aesthetics", "aesthetic_score_laion_v2", "laion_aesthetic"),
    "watermark": ("watermark", "pwatermark", "p_watermark", "watermark_probability"),
    "unsafe": ("unsafe", "punsafe", "p_unsafe", "nsfw", "unsafe_probability"),
}
# What is measured of every sample: of its media before it is brought to size, and of its caption.
MEASURED = ("width", "height", "side", "aspect", "caption_length", "duration", "motion")
OF_FRAMES = ("width", "height", "side", "aspect")
DUPLICATE = "duplicate"
_SPELLING = re.compile(r"\s*([a-z_]+)\s*(>=|<=|=)\s*(.+?)\s*$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Filter:
    """One filter. name: of the field; test: >=, <= or =; value: a number, or for = those of which one is wanted."""
    name: str
    test: str
    value: Any
    keep_missing: bool = False

    def check(self, values: Mapping[str, Any]) -> None:
        """Raises: BadRecord where the sample is not wanted."""
        found = values.get(self.name)
        if found is None:
            if self.keep_missing:
                return
            raise BadRecord(f"missing: {self.name}")
        if self.test == "=":
            kept = (str(found).strip().lower() if self.name == "language" else float(found)) in self.value
        else:  # NaN is never wanted
            kept = found >= self.value if self.test == ">=" else found <= self.value
        if not kept:
            raise BadRecord(f"filter: {self.name}", f"{found}")


def parse_filters(texts: Collection[str], keep_missing: Collection[str] = ()) -> tuple[Filter, ...]:
    """Filters as they are written. Raises: UserError for an unknown name or spelling."""
    known = (*MEASURED, *ALIASES)
    filters = []
    for text in texts:
        if text.strip() == DUPLICATE:
            filters.append(Filter(DUPLICATE, "=", ()))
            continue
        match = _SPELLING.match(text)
        if not match or match[1].lower() not in known:
            raise UserError(f"--filter={text!r} is none; write NAME>=NUMBER, NAME<=NUMBER or NAME=VALUE with a NAME of "
                            f"{', '.join(known)}, or {DUPLICATE}")
        name, test, value = match[1].lower(), match[2], match[3]
        if name == "language":
            if test != "=":
                raise UserError(f"--filter={text!r}: write language=en, or several with a comma")
            filters.append(Filter(name, test, tuple(part.strip().lower() for part in value.split(","))))
            continue
        numbers = tuple(_number(part) for part in (value.split(",") if test == "=" else [value]))
        if None in numbers:
            raise UserError(f"--filter={text!r}: {value!r} is no number")
        filters.append(Filter(name, test, numbers if test == "=" else numbers[0]))
    names = {one.name for one in filters}
    for name in keep_missing:
        if name not in names:
            raise UserError(f"--keep_missing={name!r} is no field that a --filter asks for; there are "
                            f"{', '.join(sorted(names)) or 'none'}")
    return tuple(dataclasses.replace(one, keep_missing=one.name in keep_missing) for one in filters)


def known_fields(fields: Mapping[str, Any], caption: str, guess_language: bool = False) -> dict[str, Any]:
    """What a source's fields say by the filters' names, None where they do not; and the caption's length.

    guess_language: from the caption, where no field tells it.
    """
    values = {name: named(fields, aliases) for name, aliases in ALIASES.items()}
    values = {name: value if name == "language" else _number(value) for name, value in values.items()}
    if guess_language and values["language"] is None:
        values["language"] = guess_language_of(caption)
    return values | {"caption_length": len(caption)}


def _number(value: Any) -> float | None:
    if isinstance(value, str) and value.strip().lower() in UNSAFE:
        return UNSAFE[value.strip().lower()]
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def guess_language_of(caption: str) -> str | None:
    """The language of a text as py3langid guesses it; None where that is not installed."""
    try:
        import py3langid
    except ImportError:
        return None
    return py3langid.classify(caption)[0]
