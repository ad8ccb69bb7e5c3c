"""Pretrained CLIPs: the sizes, arrays and byte-pair vocabulary of a folder in Hugging Face's form."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax.array_files import open_safetensors, read_json
from phenaki_jax.errors import UserError

# What config.json leaves out where it is so: ViT-B/32's sizes.
_TEXT = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
         "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "vocab_size": 49408, "max_position_embeddings": 77,
         "eos_token_id": 49407}
_VISION = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
           "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "image_size": 224, "patch_size": 32}

# Paths in the trees of ClipText and ClipVision, and names in the files. Torch's linear layers are [out, in], its
# convolutions [out, in, rows, columns].
_PLACES = {
    "text.embedding": "text_model.embeddings.token_embedding.weight",
    "text.positions": "text_model.embeddings.position_embedding.weight",
    "text.tower.norm": "text_model.final_layer_norm",
    "text.projection": "text_projection.weight",
    "vision.patches": "vision_model.embeddings.patch_embedding.weight",
    "vision.first": "vision_model.embeddings.class_embedding",
    "vision.positions": "vision_model.embeddings.position_embedding.weight",
    "vision.norm": "vision_model.pre_layrnorm",
    "vision.tower.norm": "vision_model.post_layernorm",
    "vision.projection": "visual_projection.weight",
}
_LAYER = {"attention_norm": "layer_norm1", "query": "self_attn.q_proj", "key": "self_attn.k_proj",
          "value": "self_attn.v_proj", "out": "self_attn.out_proj", "mlp_norm": "layer_norm2", "wi": "mlp.fc1",
          "wo": "mlp.fc2"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
START, END = "<|startoftext|>", "<|endoftext|>"


class ClipCheckpoint:
    """A pretrained CLIP's folder, opened: `sizes` are ClipConfig's fields, `array` reads one place of its tree.

    Raises:
      UserError: no such folder, a file is missing, or it is one of another model.
    """

    def __init__(self, folder: Path):
        if not (folder / "config.json").is_file():
            raise UserError(f"{str(folder)!r} is no pretrained CLIP; a folder with Hugging Face's config.json is "
                            "needed")
        self.folder, self.sizes = folder, _sizes(read_json(folder / "config.json"), folder)
        self._arrays = open_safetensors(folder)

    def array(self, kind: str, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        """float32, what lies at a path of the tree of ClipText (kind "text") or ClipVision ("vision").

        Raises: UserError where it is missing or of another shape.
        """
        *above, leaf = path
        if above[:2] == ["tower", "layers"]:
            names = [f"{kind}_model.encoder.layers.{i}.{_LAYER[path[2]]}.{_LEAVES[leaf]}" for i in range(shape[0])]
            return np.stack([self._one(name, leaf, shape[1:]) for name in names])
        if leaf in _LEAVES:
            return self._one(f"{_PLACES['.'.join([kind, *above])]}.{_LEAVES[leaf]}", leaf, shape)
        return self._one(_PLACES[f"{kind}.{leaf}"], leaf, shape)

    def _one(self, name: str, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self._arrays:
            raise UserError(f"{self.folder} has no array {name!r}")
        stored = self._arrays[name]
        found = stored.read((slice(None),) * len(stored.shape)).astype(np.float32)
        if leaf == "patches" and found.ndim == 4:
            found = found.transpose(2, 3, 1, 0).reshape(-1, len(found))
        elif leaf in ("kernel", "projection"):
            found = found.T
        if found.shape != shape:
            raise UserError(f"{self.folder} has {name!r} of shape {stored.shape}, which does not fit its config.json")
        return found

    def tokenizer(self, positions: int) -> "ClipTokenizer":
        """That of tokenizer.json or, without one, of vocab.json and merges.txt. Raises: UserError without either."""
        try:
            if (path := self.folder / "tokenizer.json").is_file():
                model = read_json(path)["model"]
                vocab, merges = model["vocab"], model["merges"]
            else:
                vocab = read_json(path := self.folder / "vocab.json")
                lines = (path := self.folder / "merges.txt").read_text(encoding="utf-8").split("\n")
                merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
            pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges]
            return ClipTokenizer(vocab, pairs, positions)
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no byte-pair vocabulary of CLIP's ({type(error).__name__}: {error}); "
                            "tokenizer.json, or vocab.json and merges.txt, are needed") from None


def _sizes(found: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if found.get("model_type") != "clip":
        raise UserError(f"{path} has model_type={found.get('model_type')!r}; it has to be 'clip'")
    # Older files say in *_config_dict what differs from the defaults, and may hold stale defaults in *_config.
    text, vision = (known | (found.get(f"{name}_config") or {}) | (found.get(f"{name}_config_dict") or {})
                    for name, known in (("text", _TEXT), ("vision", _VISION)))

    def tower(values: Mapping[str, Any]) -> dict[str, Any]:
        return dict(width=values["hidden_size"], layers=values["num_hidden_layers"],
                    heads=values["num_attention_heads"], mlp_dim=values["intermediate_size"],
                    activation=values["hidden_act"], eps=values["layer_norm_eps"])

    sizes = dict(text=tower(text), vision=tower(vision), vocab_size=text["vocab_size"],
                 positions=text["max_position_embeddings"], end=text["eos_token_id"], side=vision["image_size"],
                 patch=vision["patch_size"], features=found.get("projection_dim", 512))
    for name in ("vocab_size", "positions", "end", "side", "patch", "features"):
        if not isinstance(sizes[name], int) or sizes[name] < 1:
            raise UserError(f"{path} gives {sizes[name]!r} for {name}; it has to be a whole number above 0")
    return sizes


# ----------------------------------------------------------------------------------------------- tokenizer

# Between texts of letters, single digits and runs of all else: the endings of English. Only where a piece begins.
_ENDING = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d")
_PIECE = re.compile(r"L+|N|O+")


class ClipTokenizer:
    """CLIP's byte pairs over lower-case text: one text or several -> int32 ids [N, positions].

    A text is normalised (NFC, white space to one blank, lower case) and cut into runs of letters, single digits, and
    runs of other signs. The UTF-8 bytes of each, its last one marked as the end of a word, are merged pair by pair, the
    earliest merge first. Around the ids of a text stand those of start and end; ends fill up the rest. A text that is
    too long loses its last ids.

    Args:
      vocab: ids by name. merges: pairs of names, the first to be merged first. positions: the length of all ids.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], positions: int):
        self.vocab, self.positions = vocab, positions
        self.start, self.end = vocab[START], vocab[END]
        self._rank = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self._known: dict[str, list[int]] = {START: [self.start], END: [self.end]}

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        texts = [texts] if isinstance(texts, str) else texts
        ids = np.full((len(texts), self.positions), self.end, np.int32)
        for row, text in zip(ids, texts):
            found = [self.start, *self.encode(text)][:self.positions - 1]
            row[:len(found)] = found
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without start and end, however many they are."""
        text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
        text = "".join(sign.lower() for sign in text)  # one by one: Python writes a word's last Σ as ς, others do not
        return [one for piece in _pieces(text) for one in self._ids(piece)]

    def _ids(self, piece: str) -> list[int]:
        if piece not in self._known:
            parts = [_SIGNS[byte] for byte in piece.encode("utf-8")]
            parts[-1] += "</w>"
            while pairs := {pair for pair in zip(parts, parts[1:]) if pair in self._rank}:
                parts = _merged(parts, min(pairs, key=self._rank.__getitem__))
            self._known[piece] = [self.vocab.get(part, self.end) for part in parts]
        return self._known[piece]


def _pieces(text: str) -> list[str]:
    kinds = "".join(" " if sign.isspace() else {"L": "L", "N": "N"}.get(unicodedata.category(sign)[0], "O")
                    for sign in text)
    found, at = [], 0
    while at < len(text):
        if match := _ENDING.match(text, at) or _PIECE.match(kinds, at):
            found.append(text[at:match.end()])
        at = match.end() if match else at + 1
    return found


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Each occurrence of the pair, from the left, as one part."""
    found, at = [], 0
    while at < len(parts):
        step = 2 if tuple(parts[at:at + 2]) == pair else 1
        found.append("".join(parts[at:at + step]))
        at += step
    return found


def _signs() -> list[str]:
    """The printable sign that stands for each byte: itself in Latin-1 or, where that shows nothing, one above 255."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


_SIGNS = _signs()
