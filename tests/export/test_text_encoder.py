"""An export of a run over a pretrained T5: carried along in Hugging Face's layout, or named and given again."""

import json
import pathlib
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import phenaki_jax
from phenaki_jax.errors import UserError
from phenaki_jax.export import reading, text_encoder
from phenaki_jax.export.command import main
from phenaki_jax.export.folder import check
from phenaki_jax.input.encoder import Encoder
from phenaki_jax.models.build import make_generator
from phenaki_jax.models.t5 import T5Config, T5Encoder, pretrained
from phenaki_jax.models.tree import Pure
from phenaki_jax.training.checkpoints import flatten, load_run

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from untrained import TINY, arrays, pipeline, write_run  # noqa: E402

T5 = pathlib.Path(__file__).parent.parent / "models" / "t5"


@pytest.fixture(scope="module")
def t5_run(runs):
    """A generator's run whose texts a pretrained T5 reads, over a SentencePiece vocabulary."""
    import sentencepiece
    words = "a red blue green circle square cross moves left right up down on black gray".split()
    draw = np.random.default_rng(0)
    with open(runs.parent / "spiece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(" ".join(draw.choice(words, 6)) for _ in range(300)), model_writer=file, vocab_size=60,
            hard_vocab_limit=False, minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    sizes = json.loads((T5 / "hugging_face" / "config.json").read_text())
    config = phenaki_jax.load_config("configs/quickstart.py:generator", TINY | {
        "text.encoder": "t5", "text.path": str(T5 / "hugging_face"), "text.embed_dim": sizes["d_model"],
        "text.vocabulary": str(runs.parent / "spiece.model")})
    params, variables = arrays(make_generator(config), 5)
    tokenizer = load_run(runs / "tokenizer")
    return write_run(runs.parent / "t5_run", config, params, variables,
                     {"params": tokenizer.params, "variables": tokenizer.variables})


def test_the_text_encoder_goes_along(t5_run, runs, tmp_path):
    """Moved to another place the folder has all that a prompt needs; T5X's format gives the same folder's form."""
    wanted = pipeline(load_run(t5_run))
    main(str(t5_run), str(tmp_path / "made"), "safetensors", text_encoder=True)
    folder = (tmp_path / "made").rename(tmp_path / "moved")
    run = reading.load(folder)
    assert run.config.text.path == str(folder / "text_encoder")
    assert run.config.text.vocabulary == str(folder / "vocabulary" / "spiece.model")
    config = json.loads((folder / "config.json").read_text())["text"]
    assert (config["path"], config["vocabulary"]) == ("text_encoder", "vocabulary/spiece.model")
    about = check(folder)
    assert about["text_encoder"]["name"] == "hugging_face" and about["text_encoder"]["carried"]
    original = load_file(T5 / "hugging_face" / "model.safetensors")
    kept = load_file(folder / "text_encoder" / "model.safetensors")
    assert set(kept) == {name for name in original if name == "shared.weight" or (
        name.startswith("encoder.") and "embed_tokens" not in name)}
    for name, array in kept.items():
        assert array.tobytes() == np.ascontiguousarray(original[name]).tobytes(), name
    found = pipeline(run)
    assert about["fingerprint"] == found.fingerprint == wanted.fingerprint
    for prompts in (["a red circle moves left"], ["a blue cross"]):
        for one, other in zip(found.read(prompts), wanted.read(prompts)):
            np.testing.assert_array_equal(one, other)


def test_without_it_its_name_is_said_and_another_place_taken(t5_run, tmp_path):
    main(str(t5_run), str(tmp_path / "model"), "orbax")
    run = reading.load(tmp_path / "model")
    assert run.config.text.path == "" and run.config.text.vocabulary.startswith(str(tmp_path))
    with pytest.raises(UserError, match="text.path is empty"):
        pipeline(run).read(["a red circle"])
    assert "hugging_face, which is not in this folder" in (tmp_path / "model" / "README.md").read_text()
    told = pipeline(reading.load(tmp_path / "model", text_encoder=str(T5 / "hugging_face")))
    assert told.fingerprint == check(tmp_path / "model")["fingerprint"]
    np.testing.assert_array_equal(*(pipe.read(["a red circle"])[0] for pipe in (told, pipeline(load_run(t5_run)))))


def test_an_encoder_in_bfloat16_without_gates(tmp_path):
    """A relu T5, as 1.0's, kept in bfloat16: its one kernel before the MLP's activation has another name."""
    sizes = T5Config(vocab_size=70, embed_dim=16, layers=3, heads=2, head_dim=4, mlp_dim=24, gated=False,
                     activation="relu", buckets=8, max_distance=20, dtype="bfloat16")
    pure = Pure(lambda rngs: T5Encoder(sizes, rngs=rngs), sizes)
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(ml_dtypes.bfloat16), arrays(pure, 3)[0])
    text_encoder.write(Encoder(pure, params), tmp_path / "t5")
    found, kept = pretrained(tmp_path / "t5", dtype="bfloat16")
    assert found.module_config == sizes
    for name, array in flatten(params).items():
        assert flatten(kept)[name].tobytes() == array.tobytes(), name
