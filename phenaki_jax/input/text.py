"""Text to byte ids and back: the ids of ByT5 (Xue et al. 2021) and of `seqio.ByteVocabulary`, without seqio."""

from typing import Iterable, Sequence

import numpy as np

PAD, EOS, UNK = 0, 1, 2
OFFSET = 3  # byte b has the id b + 3
VOCABULARY_SIZE = 256 + OFFSET


def encode(text: str) -> list[int]:
    """Ids of a text's UTF-8 bytes, without an end mark."""
    return [byte + OFFSET for byte in text.encode("utf-8")]


def decode(ids: Iterable[int]) -> str:
    """The text of ids, up to the first end mark. Ids that stand for no byte are dropped, broken UTF-8 too."""
    data = bytearray()
    for index in ids:
        if index == EOS:
            break
        if OFFSET <= index < VOCABULARY_SIZE:
            data.append(int(index) - OFFSET)
    return data.decode("utf-8", errors="ignore")


def encode_fixed(text: str, length: int) -> np.ndarray:
    """Ids of one text, int32 [length]: cut to length - 1 bytes, then the end mark, then padding."""
    ids = encode(text)[:length - 1]
    out = np.zeros(length, np.int32)
    out[:len(ids)] = ids
    out[len(ids)] = EOS
    return out


def encode_batch(texts: Sequence[str], length: int) -> np.ndarray:
    """Ids of several texts, int32 [len(texts), length]; see `encode_fixed`."""
    if not texts:
        return np.zeros((0, length), np.int32)
    return np.stack([encode_fixed(text, length) for text in texts])
