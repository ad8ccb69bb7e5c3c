"""The pretrained text encoder of a run as an export carries it: a T5 of Hugging Face's layout, without its decoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax.export import tensors
from phenaki_jax.input.encoder import Encoder
from phenaki_jax.models.t5_checkpoints import ACTIVATIONS, HUGGING_FACE, UNGATED

FOLDER = "text_encoder"


def write(encoder: Encoder, folder: Path) -> None:
    """config.json and model.safetensors, in the dtype in which the run keeps its encoder; made of either format."""
    sizes = encoder.pure.module_config
    names = {form: name for name, form in ACTIVATIONS.items()}
    folder.mkdir()
    tensors.write(folder, _arrays(encoder.params, sizes.gated))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["T5EncoderModel"], "model_type": "t5", "vocab_size": sizes.vocab_size,
        "d_model": sizes.embed_dim, "num_layers": sizes.layers, "num_heads": sizes.heads, "d_kv": sizes.head_dim,
        "d_ff": sizes.mlp_dim, "feed_forward_proj": names[sizes.activation, sizes.gated],
        "relative_attention_num_buckets": sizes.buckets, "relative_attention_max_distance": sizes.max_distance,
        "layer_norm_epsilon": 1e-6, "pad_token_id": 0, "eos_token_id": 1}, indent=1) + "\n")


def _arrays(params: Mapping[str, Any], gated: bool) -> dict[str, np.ndarray]:
    """`T5Encoder`'s arrays under Hugging Face's names, a layer each."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name, turned = HUGGING_FACE[".".join(key.key for key in path)]
        if not gated:
            name = name.replace(*UNGATED)
        for layer, array in enumerate(leaf) if "{}" in name else [(0, leaf)]:
            found[name.format(layer)] = array.T if turned else array
    return found
