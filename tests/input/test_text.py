"""Ids against seqio's own vocabularies, of bytes and of pieces."""

import io
import random

import numpy as np
import pytest
import seqio
import sentencepiece

from phenaki_jax.errors import UserError
from phenaki_jax.input import text

SAMPLES = ["", "a red circle moves left quickly on black", "naïve café – 東京 🟥", "\x00\x7f\n", "ÿ"]


@pytest.mark.parametrize("sample", SAMPLES)
def test_ids_equal_those_of_seqio(sample):
    vocabulary = seqio.ByteVocabulary()
    assert text.BYTES.encode(sample) == list(vocabulary.encode(sample))
    assert text.BYTES.decode(text.BYTES.encode(sample)) == sample
    assert text.BYTES.size == vocabulary.vocab_size


def test_decoding_any_ids_equals_seqio():
    draw, vocabulary = random.Random(0), seqio.ByteVocabulary()
    for _ in range(500):
        ids = [draw.randrange(0, 300) for _ in range(draw.randrange(12))]
        assert text.BYTES.decode(ids) == vocabulary.decode(ids), ids
    assert text.BYTES.decode(np.array([100, 101, 1, 102], np.int32)) == "ab"


def test_fixed_length_ends_and_pads():
    row = text.encode_fixed("abc", 6)
    assert row.dtype == np.int32 and row.tolist() == [100, 101, 102, 1, 0, 0]
    assert text.encode_fixed("abcdef", 4).tolist() == [100, 101, 102, 1]
    assert text.encode_fixed("", 3).tolist() == [1, 0, 0]
    assert text.encode_batch(["a", "bc"], 4).tolist() == [[100, 1, 0, 0], [101, 102, 1, 0]]
    assert text.encode_batch([], 4).shape == (0, 4)


def pieces(path, **special):
    """A small SentencePiece model, with T5's ids of padding, end and unknown."""
    words = "red blue green circle square cross moves left right up down slowly quickly on black gray".split()
    lines = (" ".join(random.Random(i).sample(words, 5)) for i in range(500))
    options = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | special
    with io.BytesIO() as model:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, vocab_size=80,
                                                 hard_vocab_limit=False, minloglevel=2, **options)
        path.write_bytes(model.getvalue())
    return path


def test_pieces_equal_those_of_seqio(tmp_path):
    path = pieces(tmp_path / "spiece.model")
    ours, theirs = text.SentencePieceVocabulary(path), seqio.SentencePieceVocabulary(str(path))
    assert ours.size == theirs.vocab_size
    for sample in ("a red circle moves left", "ROT 東京", "", "  two  spaces "):
        ids = ours.encode(sample)
        assert ids == list(theirs.encode(sample)) and ours.decode(ids) == theirs.decode(ids)
    row = text.encode_fixed("red circle moves", 4, ours)
    assert row.tolist() == [*ours.encode("red circle moves")[:3], 1]
    assert ours.decode([*ours.encode("red circle"), 1, 5, 6]) == "red circle" == ours.decode(
        [0, *ours.encode("red circle"), 10**6])


def test_what_is_no_vocabulary_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        text.SentencePieceVocabulary(tmp_path / "nothing.model")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UserError, match="is no SentencePiece model"):
        text.SentencePieceVocabulary(tmp_path / "empty")
    (tmp_path / "text").write_text("words")
    with pytest.raises(UserError, match="is no SentencePiece model"):
        text.SentencePieceVocabulary(tmp_path / "text")
    with pytest.raises(UserError, match=r"ids \(-1, 2\) for padding and end"):
        text.SentencePieceVocabulary(pieces(tmp_path / "other", pad_id=-1, eos_id=2, unk_id=0, bos_id=1))
