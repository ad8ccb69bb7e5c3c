"""Prompts that are refused before anything is made of them.

A filter is any callable prompt: str -> str | None, None where the prompt is allowed, else the reason in a few words.
`DenyList` is the plain one: words and phrases of a text file.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from phenaki_jax.errors import UserError

PromptFilter = Callable[[str], str | None]

SHIPPED = Path(__file__).with_name("deny.txt")


class DenyList:
    """Refuses prompts that hold an entry as whole words, however they are written: see `words_of`.

    Args:
      entries: words and phrases; one that ends in * also stands for all that begins like it, `animal*` for animals.

    Raises: UserError for an entry without a word, or with a * elsewhere.
    """

    def __init__(self, entries: Iterable[str]):
        self._entries: dict[tuple[str, int | None], str] = {}  # by phrase, and its length where it is a prefix
        self._after: dict[str, set[tuple[int, int | None]]] = {}  # by first word: how many words to look at, and length
        self._beginnings: set[int] = set()  # lengths of prefixes of one word
        for entry in entries:
            text = entry.removesuffix("*")
            readings = words_of(text)
            if "*" in text or not readings[0]:
                raise UserError(f"the deny list's entry {entry!r} has to be a word or a phrase, with a * at most at "
                                "its end")
            for words in readings:
                phrase = " ".join(words)
                size = None if text == entry else len(phrase)
                self._entries.setdefault((phrase, size), entry)
                if size and len(words) == 1:
                    self._beginnings.add(size)
                else:
                    self._after.setdefault(words[0], set()).add((len(words), size))

    @classmethod
    def read(cls, path: str | None = None) -> "DenyList":
        """The entries of a UTF-8 file, one a line, # before comments; those of the shipped deny.txt without a path.

        Raises: UserError where it is missing, no text, or has an entry that is none.
        """
        file = SHIPPED if path is None else Path(path)
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the deny list {str(file)!r} has to be a UTF-8 text file ({error})") from None
        return cls(entry for line in lines if (entry := line.partition("#")[0].strip()))

    def __call__(self, prompt: str) -> str | None:
        for words in words_of(prompt):
            places = [(i, count, size) for i, word in enumerate(words) for count, size in self._after.get(word, ())]
            keys = itertools.chain(((" ".join(words[i:i + count])[:size], size) for i, count, size in places),
                                   ((word[:size], size) for size in self._beginnings for word in set(words)))
            for key in keys:
                if entry := self._entries.get(key):
                    return f"the deny list has {entry!r}"
        return None


# ------------------------------------------------------------------------------------------------- how a text is read

# Cyrillic, Greek and other letters that look like Latin ones, in lower case.
_LOOKALIKES = dict(zip("авсеһіјкмнорԛѕтухԁԝӏ" "αβεηικνορτυχγω" "ıɡɑɩ",
                        "abcehijkmhopqstyxdwl" "abenikvoptuxyw" "igai", strict=True))
_FILLERS = "\u115f\u1160\u3164"  # letters of Hangul that show nothing
_SIGNS = str.maketrans("@$!", "   ")
_LEET = str.maketrans("013457@$!", "oieastasi")
_LEET_L = _LEET | str.maketrans("1!", "ll")
_STANDS = re.compile("[013457@$!]")
_LETTER = re.compile(r"[^\W\d]")


class _Folding(dict):
    """Code points to how they are read; one by one, so that no run of accents has to be put in order first."""

    def __missing__(self, code: int) -> str:
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold())
        self[code] = "".join(map(_read, text))
        return self[code]


def _read(sign: str) -> str:
    kind = unicodedata.category(sign)
    if kind in ("Mn", "Me", "Cf") or sign in _FILLERS:  # accents, and what has no width
        return ""
    if sign.isspace():
        return " "
    if kind == "Cc":
        return ""
    if kind[0] in "LNM" or sign in "@$!":
        return _LOOKALIKES.get(sign, sign)
    return " "


_FOLDING = _Folding()


def words_of(text: str) -> list[list[str]]:
    """The words of a text as they are compared, in up to three readings.

    Compatibility forms are taken apart (NFKD) and folded in case; accents, control characters and what has no width are
    dropped; letters of other scripts that look like Latin ones become those. What is no letter and no digit separates
    words. In the second reading digits and signs stand for letters in words that have one (p4rty, $un, bo@t), in the
    third 1 and ! do for l, not i.
    """
    text = text.translate(_FOLDING)
    if not _STANDS.search(text):
        return [text.split()]
    readings = []
    for table in (_SIGNS, _LEET, _LEET_L):
        words = [word for token in text.split() for word in
                 token.strip("!").translate(table if _LETTER.search(token) else _SIGNS).split()]
        if words not in readings:
            readings.append(words)
    return readings
