"""CLIP: the outputs of another implementation over a tiny random model, and what is refused."""

import importlib.util
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from phenaki_jax.errors import UserError
from phenaki_jax.models.clip import load_clip

FOLDER = pathlib.Path(__file__).parent.parent / "data" / "clip_tiny"
spec = importlib.util.spec_from_file_location("make_clip_tiny", FOLDER / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
EXPECTED = np.load(FOLDER / "expected.npz")
FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


def change(folder, *towers, **fields):
    """Sets fields of some towers in config.json."""
    config = json.loads((folder / "config.json").read_text())
    for tower in towers:
        config[f"{tower}_config"] |= fields
    (folder / "config.json").write_text(json.dumps(config))


# -------------------------------------------------------------------------------------------------- agreement

@pytest.mark.parametrize("variant", ["quick_gelu_first", "quick_gelu_largest", "gelu_first"])
def test_both_towers_against_the_golden_values(folder, variant):
    activation, end = variant.rsplit("_", 1)
    change(folder, "text", "vision", hidden_act=activation)
    if end == "largest":
        change(folder, "text", eos_token_id=2)
    clip = load_clip(folder)
    ids = np.concatenate([EXPECTED["token_ids"], make.ids()])
    texts = jax.jit(lambda p, ids: clip.text.bind(p, {})(ids))(clip.text_params, ids)
    images = jax.jit(lambda p, x: clip.vision.bind(p, {})(x))(clip.vision_params, make.images())
    np.testing.assert_allclose(texts, EXPECTED[f"text_{variant}"], atol=1e-5)
    np.testing.assert_allclose(images, EXPECTED[f"image_{variant}"], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-5)


def test_the_golden_values_tell_the_variants_apart():
    first, largest, gelu = (EXPECTED[f"text_{name}"] for name in ("quick_gelu_first", "quick_gelu_largest",
                                                                  "gelu_first"))
    assert np.abs(first - largest)[-3:].max(axis=1).min() > 0.1  # ids above the end's
    assert np.abs(first - gelu).max() > 1e-3


@pytest.mark.parametrize("missing", [("tokenizer.json",), ("vocab.json", "merges.txt")])
def test_ids_of_texts_against_the_golden_values(folder, missing):
    for name in missing:
        (folder / name).unlink()
    tokenizer = load_clip(folder).tokenizer
    found = tokenizer(make.TEXTS)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, EXPECTED["token_ids"])
    np.testing.assert_array_equal(tokenizer(make.TEXTS[2]), found[2:3])


def test_what_follows_the_end_is_unseen_and_the_start_of_a_long_text_stays():
    clip = load_clip(FOLDER)
    ids = clip.tokenizer(["a red cat", "a cat " * 30])
    assert (ids[1] == clip.tokenizer.end).sum() == 1 and ids[1, -1] == clip.tokenizer.end
    other = ids[:1].copy()
    other[0, ids[0].tolist().index(clip.tokenizer.end) + 1:] = 5
    assert (other != ids[:1]).any()
    network = clip.text.bind(clip.text_params, {})
    np.testing.assert_allclose(network(other), network(ids[:1]), atol=1e-6)


def test_what_a_config_leaves_out_is_vit_b_32s(folder):
    config = json.loads((folder / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        del config[tower]["hidden_act"], config[tower]["layer_norm_eps"]
    config["text_config_dict"] = None  # as OpenAI's files have it
    (folder / "config.json").write_text(json.dumps(config))
    assert load_clip(folder).config == load_clip(FOLDER).config
    (folder / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match="does not fit its config.json"):  # whose 49408 ids these arrays do not have
        load_clip(folder)


# -------------------------------------------------------------------------------------------------- refusals

def test_refuses_what_is_no_clip(folder, tmp_path):
    with pytest.raises(UserError, match="is no pretrained CLIP; a folder with Hugging Face's config.json"):
        load_clip(tmp_path / "nowhere")
    change(folder, "text", "vision", hidden_act="relu")
    with pytest.raises(UserError, match="hidden_act='relu'; it has to be one of quick_gelu, gelu"):
        load_clip(folder)
    change(folder, "text", "vision", hidden_act="gelu")
    change(folder, "text", eos_token_id=[1, 2])
    with pytest.raises(UserError, match=r"gives \[1, 2\] for end; it has to be a whole number"):
        load_clip(folder)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match="model_type='t5'; it has to be 'clip'"):
        load_clip(folder)


def test_refuses_missing_and_misshapen_arrays(folder):
    arrays = load_file(folder / "model.safetensors")
    name = "vision_model.encoder.layers.1.mlp.fc1.bias"
    save_file({key: value for key, value in arrays.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"has no array '{name}'"):
        load_clip(folder)
    save_file(arrays | {name: arrays[name][:-1]}, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"has '{name}' of shape \\(79,\\), which does not fit"):
        load_clip(folder)


def test_refuses_a_folder_without_a_vocabulary(folder):
    for name in ("tokenizer.json", "merges.txt"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="merges.txt is no byte-pair vocabulary of CLIP's"):
        load_clip(folder)
    (folder / "vocab.json").unlink()
    with pytest.raises(UserError, match="vocab.json is not readable"):
        load_clip(folder)
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 1}, "merges": []}}')
    with pytest.raises(UserError, match="tokenizer.json is no byte-pair vocabulary of CLIP's.*startoftext"):
        load_clip(folder)


def test_refuses_images_of_another_size():
    clip = load_clip(FOLDER)
    with pytest.raises(UserError, match=r"images are \[32, 31, 3\]; this CLIP wants \[32, 32, 3\]"):
        clip.vision.bind(clip.vision_params, {})(np.zeros((1, 32, 31, 3)))
