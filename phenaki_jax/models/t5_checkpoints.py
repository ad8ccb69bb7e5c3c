"""Pretrained T5 encoders: the arrays of Hugging Face's and T5X's checkpoints in the places of `T5Encoder`'s.

T5 1.0 (an MLP with relu), 1.1 and Flan-T5 (gated gelu), UL2 and Flan-UL2 (gated silu); ByT5 and mT5 are 1.1 as well.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from phenaki_jax.array_files import StoredArray, open_safetensors, open_t5x, read_json
from phenaki_jax.errors import UserError

Sizes = dict[str, Any]  # fields of T5Config
FAMILIES = ("t5", "mt5")  # config.json's model_type; umt5 has position biases of its own in every layer
ACTIVATIONS = {"relu": ("relu", False), "gated-gelu": ("gelu", True), "gated-silu": ("silu", True)}


class Place(NamedTuple):
    """Where an array lies in a checkpoint: a name, in which {} is the layer, and whether it is turned there."""
    name: str
    turned: bool = False


# Paths in T5Encoder's tree. Torch's linear layers are [out, in].
HUGGING_FACE = {
    "embedding": Place("shared.weight"),
    "relative_bias": Place("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    "stack.norm.scale": Place("encoder.final_layer_norm.weight"),
    "stack.layers.attention_norm.scale": Place("encoder.block.{}.layer.0.layer_norm.weight"),
    "stack.layers.attention.query": Place("encoder.block.{}.layer.0.SelfAttention.q.weight", True),
    "stack.layers.attention.key": Place("encoder.block.{}.layer.0.SelfAttention.k.weight", True),
    "stack.layers.attention.value": Place("encoder.block.{}.layer.0.SelfAttention.v.weight", True),
    "stack.layers.attention.out": Place("encoder.block.{}.layer.0.SelfAttention.o.weight", True),
    "stack.layers.mlp_norm.scale": Place("encoder.block.{}.layer.1.layer_norm.weight"),
    "stack.layers.mlp.wi": Place("encoder.block.{}.layer.1.DenseReluDense.wi_0.weight", True),
    "stack.layers.mlp.gate": Place("encoder.block.{}.layer.1.DenseReluDense.wi_1.weight", True),
    "stack.layers.mlp.wo": Place("encoder.block.{}.layer.1.DenseReluDense.wo.weight", True),
}
T5X = {
    "embedding": Place("target.token_embedder.embedding"),
    "relative_bias": Place("target.encoder.relpos_bias.rel_embedding", True),
    "stack.norm.scale": Place("target.encoder.encoder_norm.scale"),
    "stack.layers.attention_norm.scale": Place("target.encoder.layers_{}.pre_attention_layer_norm.scale"),
    "stack.layers.attention.query": Place("target.encoder.layers_{}.attention.query.kernel"),
    "stack.layers.attention.key": Place("target.encoder.layers_{}.attention.key.kernel"),
    "stack.layers.attention.value": Place("target.encoder.layers_{}.attention.value.kernel"),
    "stack.layers.attention.out": Place("target.encoder.layers_{}.attention.out.kernel"),
    "stack.layers.mlp_norm.scale": Place("target.encoder.layers_{}.pre_mlp_layer_norm.scale"),
    "stack.layers.mlp.wi": Place("target.encoder.layers_{}.mlp.wi_0.kernel"),
    "stack.layers.mlp.gate": Place("target.encoder.layers_{}.mlp.wi_1.kernel"),
    "stack.layers.mlp.wo": Place("target.encoder.layers_{}.mlp.wo.kernel"),
}
UNGATED = ("wi_0", "wi")  # the one kernel of an MLP without a gate has another name


class T5Checkpoint:
    """A pretrained T5's folder, opened: `sizes` are T5Config's fields, `array` reads what lies in a place of the tree.

    Args:
      folder: config.json and safetensors, or T5X's arrays, or a folder of T5X's checkpoint_STEP, whose last one counts.
      activation: one of ACTIVATIONS where the checkpoint says another or, as T5X's, not which.

    Raises:
      UserError: a folder that is neither, or of another model.
    """

    def __init__(self, folder: Path, activation: str | None = None):
        if not folder.is_dir():
            raise UserError(f"there is no folder {str(folder)!r}; a Hugging Face folder or a T5X checkpoint is needed")
        steps = [(int(match[1]), child) for child in folder.glob("checkpoint_*")
                 if (match := re.fullmatch(r"checkpoint_(\d+)", child.name))]
        self.folder = max(steps)[1] if steps else folder
        if any(self.folder.glob("target.*")):
            self._arrays, self._places = open_t5x(self.folder), T5X
            self.sizes = _t5x_sizes(self._arrays, self.folder, activation)
        elif (self.folder / "config.json").is_file():
            self.sizes = _hugging_face_sizes(read_json(self.folder / "config.json"), self.folder, activation)
            self._arrays, self._places = open_safetensors(self.folder), HUGGING_FACE
        else:
            raise UserError(f"{str(folder)!r} is no pretrained T5; it has neither config.json (Hugging Face) nor "
                            "arrays target.… (T5X)")

    def array(self, path: str, shape: tuple[int, ...], dtype: str,
              where: jax.sharding.Sharding | None) -> np.ndarray | jax.Array:
        """What lies at a path of T5Encoder's tree, laid out as `where` says or, without it, on the host.

        Each device reads its own part, layer by layer.

        Raises: UserError where the checkpoint lacks it, or has it of another shape.
        """
        name, turned = self._places[path]
        if path == "stack.layers.mlp.wi" and not self.sizes["gated"]:
            name = name.replace(*UNGATED)
        stacked = "{}" in name
        names = [name.format(layer) for layer in range(shape[0])] if stacked else [name]
        wanted = shape[1:] if stacked else shape
        wanted = wanted[::-1] if turned else wanted
        for name in names:
            if name not in self._arrays:
                raise UserError(f"{self.folder} has no array {name!r}")
            if self._arrays[name].shape != wanted:
                raise UserError(f"{self.folder} has {name!r} of shape {self._arrays[name].shape}; its sizes ask for "
                                f"{wanted}")

        def read(name: str, index: tuple[slice, ...]) -> np.ndarray:
            part = self._arrays[name].read(index[::-1] if turned else index)
            return (part.T if turned else part).astype(dtype)

        def part(index: tuple[slice, ...]) -> np.ndarray:
            if not stacked:
                return read(names[0], index)
            return np.stack([read(name, index[1:]) for name in names[index[0]]])

        if where is None:
            return part((slice(None),) * len(shape))
        return jax.make_array_from_callback(shape, where, part)


def _hugging_face_sizes(found: Mapping[str, Any], folder: Path, activation: str | None) -> Sizes:
    if found.get("model_type") not in FAMILIES:
        raise UserError(f"{folder / 'config.json'} has model_type={found.get('model_type')!r}; it has to be one of "
                        f"{', '.join(FAMILIES)}")
    if found.get("layer_norm_epsilon", 1e-6) != 1e-6:
        raise UserError(f"{folder / 'config.json'} has layer_norm_epsilon={found['layer_norm_epsilon']}; it has to be "
                        "1e-06")
    name, gated = _activation(found.get("feed_forward_proj", "relu") if activation is None else activation)
    try:
        return dict(vocab_size=found["vocab_size"], embed_dim=found["d_model"], layers=found["num_layers"],
                        heads=found["num_heads"], head_dim=found["d_kv"], mlp_dim=found["d_ff"], gated=gated,
                        activation=name, buckets=found.get("relative_attention_num_buckets", 32),
                        max_distance=found.get("relative_attention_max_distance", 128))
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'} has no {error.args[0]!r}, so it is no T5's") from None


def _t5x_sizes(arrays: Mapping[str, StoredArray], folder: Path, activation: str | None) -> Sizes:
    """The sizes that the arrays have; which activation is gated (gelu, if not told) they do not show."""
    def shape(name: str) -> tuple[int, ...]:
        if name not in arrays:
            raise UserError(f"{folder} has no array {name!r}, so it is no T5 with its layers one by one")
        return arrays[name].shape

    gated = "target.encoder.layers_0.mlp.wi_1.kernel" in arrays
    name, wants_gate = _activation(("gated-gelu" if gated else "relu") if activation is None else activation)
    if wants_gate != gated:
        raise UserError(f"activation={activation!r} does not fit {folder}, whose MLPs are "
                        f"{'' if gated else 'not '}gated")
    vocab, width = shape(T5X["embedding"].name)
    heads, buckets = shape(T5X["relative_bias"].name)
    inner = shape(T5X["stack.layers.attention.query"].name.format(0))[1]
    wi = T5X["stack.layers.mlp.wi"].name.format(0)
    mlp = shape(wi if gated else wi.replace(*UNGATED))[1]
    pattern = re.compile(re.escape(T5X["stack.layers.mlp.wo"].name).replace(r"\{\}", r"\d+"))
    return dict(vocab_size=vocab, embed_dim=width, layers=sum(map(bool, map(pattern.fullmatch, arrays))),
                    heads=heads, head_dim=inner // heads, mlp_dim=mlp, gated=gated, activation=name, buckets=buckets)


def _activation(name: str) -> tuple[str, bool]:
    if name not in ACTIVATIONS:
        raise UserError(f"activation {name!r} is unknown; it is one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
