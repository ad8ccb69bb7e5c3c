"""Whether the caches that a config names were made by the models that it trains with."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from phenaki_jax import config as configs
from phenaki_jax.array_files import read_json
from phenaki_jax.digest import tree_digest
from phenaki_jax.errors import UserError
from phenaki_jax.input.cache import FIELDS, Cache
from phenaki_jax.input.columns import ABOUT, is_column
from phenaki_jax.input.encoder import about_text, is_pretrained, open_encoder
from phenaki_jax.input.mix import find_mixture
from phenaki_jax.models.build import tokenizer_config

# Fields of a tokenizer that leave its tokens' meaning and its arrays as they are.
FREE_TOKENIZER_FIELDS = ("tokenizer.frames", "tokenizer.commitment", "tokenizer.kmeans_start", "tokenizer.gradient",
                         "tokenizer.entropy_weight", "tokenizer.diversity", "tokenizer.inverse_temperature",
                         "tokenizer.code_noise", "tokenizer.dtype", "tokenizer.unroll", "tokenizer.remat",
                         "tokenizer.attention_block")
ROUNDING = ("tokenizer.dtype",)  # of these, what may still turn one token into its neighbour

WHAT_DIFFERS = {  # in a cache's index -> what to say of it
    "encoder": "was made by another encoder than text.path={0.text.path!r}",
    "vocabulary": "was made with another vocabulary than text.vocabulary={0.text.vocabulary!r}",
    "length": "was not made for text.length={0.text.length}",
    "dtype": "was not made in text.dtype={0.text.dtype!r}",
    "shape": "has embeddings of another width than text.embed_dim={0.text.embed_dim}",
    "tokenizer": "was made by another tokenizer than this generator's",
    "codebook_size": "has tokens of another vocabulary than tokenizer.codebook_size={0.tokenizer.codebook_size}",
    "grid": "was not made for clips of tokenizer.frames={0.tokenizer.frames}",
}


def about_tokens(config, arrays: Any) -> dict:
    """What a cache of tokens says of itself: see `phenaki_jax.input.cache`.

    arrays: {"params", "variables"} of the tokenizer.
    """
    sizes = tokenizer_config(config)
    free = [name.removeprefix("tokenizer.") for name in FREE_TOKENIZER_FIELDS if name not in ROUNDING]
    kept = {name: value for name, value in dataclasses.asdict(sizes).items() if name not in free}
    return {
        "what": "tokens", "codebook_size": sizes.codebook_size, "grid": list(sizes.grid),
        "dtype": str(np.min_scalar_type(sizes.codebook_size - 1)), "shape": list(sizes.grid[1:]),
        "tokenizer": tree_digest(arrays, sorted(kept.items())),
    }


def check_caches(config, frozen: Any) -> None:
    """Raises: UserError where text.cache or data.token_cache is missing, incomplete, or another model's.

    frozen: {"params", "variables"} of the generator's tokenizer.
    """
    if config.data.get("token_cache"):
        if config.stage == "tokenizer":
            raise UserError(f"data.token_cache={config.data.token_cache!r} is of no use to stage={config.stage!r}, "
                            "which trains on pixels; leave it empty")
        _check("tokens", config.data.token_cache, about_tokens(config, frozen), config, ("split",))
    if config.get("text", {}).get("cache"):
        if not is_pretrained(config):
            raise UserError(f"text.cache={config.text.cache!r} is for a generator with text.encoder='t5'; leave it "
                            "empty")
        _check("text", config.text.cache, about_text(config, open_encoder(config)), config, ("split", "eval_split"))


def _check(what: str, given: str, wanted: dict, config, splits: tuple[str, ...]) -> None:
    if is_column(given):  # whether all of it is there, the loader says
        for about in _columns(what, given, config):
            _compare(what, given, about, wanted, config)
        return
    cache = Cache(given, what)
    _compare(what, given, cache.about, wanted, config)
    for _, mixture in configs.mixtures(config):
        for split in splits:
            if config.data[split] not in cache.done.get(mixture, ()):
                raise UserError(f"{FIELDS[what]}={given!r} does not have all of data.{split}={config.data[split]!r} of "
                                f"{mixture!r}; `phenaki precompute --what={what} --output={given}` goes on")


def _compare(what: str, given: str, about: dict, wanted: dict, config) -> None:
    if about.get("what") != what:
        raise UserError(f"{FIELDS[what]}={given!r} holds {about.get('what')}, and not {what}")
    for field, value in wanted.items():
        if about.get(field) != value:
            raise UserError(f"{FIELDS[what]}={given!r} {WHAT_DIFFERS[field].format(config)}; make another with "
                            f"`phenaki precompute --what={what}`")


def _columns(what: str, given: str, config) -> Iterator[dict]:
    """What the data sets of a config say of a field of their records; of one that lacks it, the loader will say so."""
    for _, mixture in configs.mixtures(config):
        for task in find_mixture(mixture, tuple(config.data.modules), data_dir=config.data.data_dir)[0]:
            folder = getattr(task.source, "folder", None)
            if folder and (file := folder(config.data.data_dir) / given / ABOUT).is_file():
                yield read_json(file)
