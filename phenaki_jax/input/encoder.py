"""The pretrained text encoder that a config names: its parameters, and the vocabulary whose ids it reads."""

from pathlib import Path
from typing import NamedTuple

from phenaki_jax.config import BYTES as BYTES_NAME
from phenaki_jax.digest import digest, tree_digest
from phenaki_jax.errors import UserError
from phenaki_jax.input.text import BYTES, SentencePieceVocabulary, Vocabulary
from phenaki_jax.models.t5 import pretrained
from phenaki_jax.models.tree import Pure, Tree


class Encoder(NamedTuple):
    """pure.bind(params, {}) is the `T5Encoder`; params are NumPy arrays on the host."""
    pure: Pure
    params: Tree


def is_pretrained(config) -> bool:
    """Whether a config's text is read by an encoder that is not trained; a tokenizer reads none."""
    return config.get("stage") != "tokenizer" and config.text.get("encoder") == "t5"


def vocabulary_of(config) -> Vocabulary:
    """The vocabulary whose ids batches and prompts have. Raises: UserError where its file is missing or no such."""
    if not is_pretrained(config):
        return BYTES
    if not config.text.vocabulary:
        raise UserError("text.vocabulary is empty; text.encoder='t5' wants a SentencePiece file, or bytes for ByT5")
    return BYTES if config.text.vocabulary == BYTES_NAME else SentencePieceVocabulary(config.text.vocabulary)


def open_encoder(config) -> Encoder:
    """The encoder that `config.text` names.

    Raises: UserError where it is missing or no T5, has another width than the generator reads, or fewer ids than the
      vocabulary has.
    """
    text = config.text
    if not text.path:
        raise UserError("text.path is empty; text.encoder='t5' wants the folder of a pretrained T5")
    if text.dtype not in ("float32", "bfloat16"):
        raise UserError(f"text.dtype={text.dtype!r} is unknown; it is one of float32, bfloat16")
    if not Path(text.path).is_dir():
        raise UserError(f"text.path={text.path!r} is gone; a run does not carry its pretrained text encoder, so put it "
                        "back, or write its new place into the run's config.json")
    vocabulary = vocabulary_of(config)
    encoder = Encoder(*pretrained(text.path, dtype=text.dtype, activation=text.activation or None))
    sizes = encoder.pure.module_config
    if sizes.embed_dim != text.embed_dim:
        raise UserError(f"text.embed_dim={text.embed_dim} does not fit text.path={text.path!r}, whose embeddings are "
                        f"{sizes.embed_dim} wide")
    if vocabulary.size > sizes.vocab_size:
        raise UserError(f"text.vocabulary={text.vocabulary!r} has {vocabulary.size} ids, but text.path={text.path!r} "
                        f"knows {sizes.vocab_size}; they have to be of the same model")
    return encoder


def about_text(config, encoder: Encoder) -> dict:
    """What a cache of embeddings says of itself: see `phenaki_jax.input.cache`."""
    sizes, name = encoder.pure.module_config, config.text.vocabulary
    return {
        "what": "text", "dtype": config.text.dtype, "shape": [sizes.embed_dim], "length": config.text.length,
        "encoder": tree_digest(encoder.params, sizes.activation, sizes.heads, sizes.max_distance),
        "vocabulary": name if name == BYTES_NAME else digest(Path(name).read_bytes()),
    }
