"""Byte ids against seqio's own vocabulary."""

import random

import numpy as np
import pytest
import seqio

from phenaki_jax.input import text

SAMPLES = ["", "a red circle moves left quickly on black", "naïve café – 東京 🟥", "\x00\x7f\n", "ÿ"]


@pytest.mark.parametrize("sample", SAMPLES)
def test_ids_equal_those_of_seqio(sample):
    vocabulary = seqio.ByteVocabulary()
    assert text.encode(sample) == list(vocabulary.encode(sample))
    assert text.decode(text.encode(sample)) == sample
    assert text.VOCABULARY_SIZE == vocabulary.vocab_size


def test_decoding_any_ids_equals_seqio():
    draw, vocabulary = random.Random(0), seqio.ByteVocabulary()
    for _ in range(500):
        ids = [draw.randrange(0, 300) for _ in range(draw.randrange(12))]
        assert text.decode(ids) == vocabulary.decode(ids), ids
    assert text.decode(np.array([100, 101, 1, 102], np.int32)) == "ab"


def test_fixed_length_ends_and_pads():
    row = text.encode_fixed("abc", 6)
    assert row.dtype == np.int32 and row.tolist() == [100, 101, 102, 1, 0, 0]
    assert text.encode_fixed("abcdef", 4).tolist() == [100, 101, 102, 1]
    assert text.encode_fixed("", 3).tolist() == [1, 0, 0]
    assert text.encode_batch(["a", "bc"], 4).tolist() == [[100, 1, 0, 0], [101, 102, 1, 0]]
    assert text.encode_batch([], 4).shape == (0, 4)
