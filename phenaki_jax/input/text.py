"""Text to ids and back: bytes as in ByT5 (Xue et al. 2021) and `seqio.ByteVocabulary`, or SentencePiece's pieces."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from phenaki_jax.errors import UserError

PAD, EOS, UNK = 0, 1, 2
OFFSET = 3  # byte b has the id b + 3


class Vocabulary(Protocol):
    """Ids of a text without an end mark, and the text of ids; PAD and EOS are the same in all of them."""
    size: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


class ByteVocabulary:
    """UTF-8 bytes."""
    size = 256 + OFFSET

    def encode(self, text: str) -> list[int]:
        return [byte + OFFSET for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, up to the first end mark. Ids that stand for no byte are dropped, broken UTF-8 too."""
        data = bytearray()
        for index in ids:
            if index == EOS:
                break
            if OFFSET <= index < self.size:
                data.append(int(index) - OFFSET)
        return data.decode("utf-8", errors="ignore")


class SentencePieceVocabulary:
    """The pieces of a SentencePiece model, such as the spiece.model of T5, Flan-T5, mT5 or UL2.

    Raises: UserError where the file is missing or no such model, its padding is not 0 or its end mark not 1, or the
      package sentencepiece is not installed.
    """

    def __init__(self, path: str | os.PathLike):
        try:
            import sentencepiece
        except ImportError:
            raise UserError("SentencePiece vocabularies need pip install 'phenaki_jax[text]'") from None
        try:
            content = Path(path).read_bytes()
            self._model = sentencepiece.SentencePieceProcessor(model_proto=content or b"empty")  # b"" loads nothing
        except OSError as error:
            raise UserError(f"vocabulary {os.fspath(path)!r} cannot be read ({error.strerror})") from None
        except RuntimeError:
            raise UserError(f"vocabulary {os.fspath(path)!r} is no SentencePiece model") from None
        self.size = self._model.get_piece_size()
        found = self._model.pad_id(), self._model.eos_id()
        if found != (PAD, EOS):
            raise UserError(f"vocabulary {os.fspath(path)!r} has the ids {found} for padding and end; T5's are "
                            f"{(PAD, EOS)}")

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, up to the first end mark; ids beyond the model's pieces are dropped."""
        known = []
        for index in map(int, ids):
            if index == EOS:
                break
            if PAD < index < self.size:
                known.append(index)
        return self._model.decode(known)


BYTES = ByteVocabulary()


def encode_cut(text: str, length: int, vocabulary: Vocabulary = BYTES) -> np.ndarray:
    """Ids of one text without padding, int32 [at most length]: cut to length - 1 ids, then the end mark."""
    return np.array([*vocabulary.encode(text)[:length - 1], EOS], np.int32)


def encode_fixed(text: str, length: int, vocabulary: Vocabulary = BYTES) -> np.ndarray:
    """Ids of one text, int32 [length]: as `encode_cut`, then padding."""
    ids = encode_cut(text, length, vocabulary)
    return np.pad(ids, (0, length - len(ids)))


def encode_batch(texts: Sequence[str], length: int, vocabulary: Vocabulary = BYTES) -> np.ndarray:
    """Ids of several texts, int32 [len(texts), length]; see `encode_fixed`."""
    if not texts:
        return np.zeros((0, length), np.int32)
    return np.stack([encode_fixed(text, length, vocabulary) for text in texts])
