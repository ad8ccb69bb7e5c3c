"""Pretrained T5: the outputs of the original implementations, a float64 twin of every variant, and what is refused.

models/t5 holds two tiny random T5 1.1: Hugging Face's with the outputs of transformers, and T5X's with those of its own
network.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tensorstore
from safetensors.numpy import load_file, save_file

from phenaki_jax import T5Encoder
from phenaki_jax.errors import UserError
from phenaki_jax.models.t5 import relative_buckets
from phenaki_jax.parallel import make_mesh

FOLDER = pathlib.Path(__file__).parent / "t5"
GATE, WI = "DenseReluDense.wi_1.weight", "DenseReluDense.wi_0.weight"
IDS = np.load(FOLDER / "hugging_face" / "expected.npz")["token_ids"]
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gated-gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gated-silu": lambda x: x / (1 + np.exp(-x)),
}


def hugging_face(folder, activation="gated-gelu", parts=1, **config):
    """A folder with the fixture's weights under another activation, in several files; also the weights."""
    folder.mkdir()
    weights = load_file(FOLDER / "hugging_face" / "model.safetensors")
    weights = {name: value for name, value in weights.items() if not name.startswith("decoder")}
    if activation == "relu":
        weights = {name.replace("wi_0", "wi"): value for name, value in weights.items() if GATE not in name}
    known = json.loads((FOLDER / "hugging_face" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | {"feed_forward_proj": activation} | config))
    if parts == 1:
        save_file(weights, folder / "model.safetensors")
    else:
        files = {name: f"model-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, name in enumerate(weights)}
        for file in set(files.values()):
            save_file({name: weights[name] for name in weights if files[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return weights


def t5x(folder, weights):
    """The same weights as T5X keeps them."""
    def write(name, array):
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{folder / f'target.{name}'}/"}}
        store = tensorstore.open(spec, create=True, dtype=array.dtype.name, shape=array.shape).result()
        store.write(array).result()

    folder.mkdir(parents=True)
    write("token_embedder.embedding", weights["shared.weight"])
    write("encoder.encoder_norm.scale", weights["encoder.final_layer_norm.weight"])
    for name, array in weights.items():
        if "relative_attention_bias" in name:
            write("encoder.relpos_bias.rel_embedding", array.T)
        elif name.startswith("encoder.block"):
            _, _, layer, _, which, *rest = name.split(".")
            kind = {"SelfAttention.q": "attention.query.kernel", "SelfAttention.k": "attention.key.kernel",
                    "SelfAttention.v": "attention.value.kernel", "SelfAttention.o": "attention.out.kernel",
                    "layer_norm.weight": f"pre_{('attention', 'mlp')[int(which)]}_layer_norm.scale",
                    }.get(".".join(rest[:2])) or f"mlp.{rest[1]}.kernel"
            write(f"encoder.layers_{layer}.{kind}", array.T)


def twin(weights, activation, ids):
    """T5's encoder in float64, layer by layer and head by head."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    norm = lambda x, scale: x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * scale
    x = weights["shared.weight"][ids]
    table = weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = table[relative_buckets(ids.shape[1], 32, 128)]
    for layer in range(2):
        at = lambda name: weights[f"encoder.block.{layer}.layer.{name}"].T
        y = norm(x, at("0.layer_norm.weight"))
        q, k, v = (y @ at(f"0.SelfAttention.{name}.weight") for name in "qkv")
        heads = []
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            logits = q[..., part] @ k[..., part].swapaxes(1, 2) + bias[..., head]
            odds = np.where(ids[:, None, :] > 0, np.exp(logits - logits.max(-1, keepdims=True)), 0)
            heads.append(odds / odds.sum(-1, keepdims=True) @ v[..., part])
        x = x + np.concatenate(heads, -1) @ at("0.SelfAttention.o.weight")
        y, gated = norm(x, at("1.layer_norm.weight")), activation != "relu"
        hidden = ACTIVATIONS[activation](y @ at(f"1.{WI if gated else WI.replace('wi_0', 'wi')}"))
        x = x + (hidden * (y @ at(f"1.{GATE}")) if gated else hidden) @ at("1.DenseReluDense.wo.weight")
    return norm(x, weights["encoder.final_layer_norm.weight"])


@pytest.mark.parametrize("name", ["hugging_face", "t5x"])
def test_it_gives_what_the_original_gives(name):
    expected = np.load(FOLDER / name / "expected.npz")
    found = np.asarray(T5Encoder.from_pretrained(FOLDER / name)(expected["token_ids"]))
    there = expected["token_ids"] > 0
    np.testing.assert_allclose(found[there], expected["encoded"][there], rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_variant_in_both_formats_is_its_float64_twin(tmp_path, activation):
    weights = hugging_face(tmp_path / "one", activation)
    assert hugging_face(tmp_path / "many", activation, parts=3).keys() == weights.keys()
    t5x(tmp_path / "t5x" / "checkpoint_9", {name: np.zeros_like(value) for name, value in weights.items()})
    t5x(tmp_path / "t5x" / "checkpoint_10", weights)
    there, wanted = IDS > 0, twin(weights, activation, IDS)
    for name in ("one", "many", "t5x"):
        encoder = T5Encoder.from_pretrained(tmp_path / name, activation=activation if name == "t5x" else None)
        np.testing.assert_allclose(np.asarray(encoder(IDS))[there], wanted[there], rtol=0, atol=2e-5)


def test_it_lies_on_a_mesh_and_in_bfloat16(tmp_path):
    """Each device reads its own part: parameters are split as the table says, and the result is the same."""
    mesh = make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, jax.devices()[:4])
    whole = T5Encoder.from_pretrained(FOLDER / "t5x")
    split = T5Encoder.from_pretrained(FOLDER / "t5x", mesh=mesh)
    query = split.stack.layers.attention.query[...]
    assert query.shape == (2, 32, 32) and query.addressable_shards[0].data.shape == (2, 16, 16)
    np.testing.assert_array_equal(query, whole.stack.layers.attention.query[...])
    there = IDS > 0
    np.testing.assert_allclose(np.asarray(split(IDS))[there], np.asarray(whole(IDS))[there], atol=1e-5)
    small = T5Encoder.from_pretrained(FOLDER / "hugging_face", dtype="bfloat16")
    assert {str(x.dtype) for x in jax.tree.leaves(small)} == {"bfloat16"}
    wanted = np.load(FOLDER / "hugging_face" / "expected.npz")["encoded"][there]
    away = np.asarray(small(IDS), np.float32)[there] - wanted
    assert 0.001 < np.sqrt(np.mean(away**2) / np.mean(wanted**2)) < 0.05


def test_what_is_no_pretrained_t5_is_refused(tmp_path):
    def refused(words, path, **more):
        with pytest.raises(UserError, match=words):
            T5Encoder.from_pretrained(path, **more)

    refused("there is no folder", tmp_path / "nowhere")
    refused("neither config.json", tmp_path)
    hugging_face(tmp_path / "umt5", model_type="umt5")
    refused("model_type='umt5'", tmp_path / "umt5")
    hugging_face(tmp_path / "act", "gated-tanh")
    refused("'gated-tanh' is unknown", tmp_path / "act")
    hugging_face(tmp_path / "deep", num_layers=3)
    refused(r"no array 'encoder.block.2", tmp_path / "deep")
    hugging_face(tmp_path / "wide", d_ff=65)
    refused("of shape .64, 32.; its sizes ask for .65, 32.", tmp_path / "wide")
    hugging_face(tmp_path / "torch")
    (tmp_path / "torch" / "model.safetensors").rename(tmp_path / "torch" / "pytorch_model.bin")
    refused("has no model.safetensors", tmp_path / "torch")
    (tmp_path / "torch" / "model.safetensors").write_bytes(b"\x08")
    refused("is no safetensors file", tmp_path / "torch")
    (tmp_path / "torch" / "config.json").write_text("{")
    refused("not readable as JSON", tmp_path / "torch")
    (tmp_path / "wide" / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')
    refused("has no weight_map", tmp_path / "wide")
    refused("does not fit", FOLDER / "t5x", activation="relu")
    shutil.copytree(FOLDER / "t5x", tmp_path / "t5x")
    broken = tmp_path / "t5x" / "checkpoint_0" / "target.encoder.encoder_norm.scale"
    (broken / ".zarray").write_text("{}")
    refused("is no zarr array", tmp_path / "t5x")
    shutil.rmtree(broken)
    refused("no array 'target.encoder.encoder_norm.scale'", tmp_path / "t5x")
