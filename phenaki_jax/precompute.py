"""What training would compute again in every epoch, computed once: embeddings of captions, and tokens of clips."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax import config as configs
from phenaki_jax.bound import Tokenizer
from phenaki_jax.errors import UserError
from phenaki_jax.input.cache import Writer, text_key, video_key
from phenaki_jax.input.encoder import about_text, is_pretrained, open_encoder, vocabulary_of
from phenaki_jax.input.schema import to_text
from phenaki_jax.input.text import encode_fixed
from phenaki_jax.models.build import make_tokenizer
from phenaki_jax.parallel import enable_compilation_cache
from phenaki_jax.training.caches import about_tokens
from phenaki_jax.training.checkpoints import checkpoint_steps, load_run
from phenaki_jax.training.loop import data_loader, frozen_arrays

WHAT = ("text", "tokens")
BATCH = 32  # rows that go through a model at once
SHARD = {"text": 512, "tokens": 2048}  # rows of a shard, at the least; the last one has what is left

Loaders = list[Any]
Items = Iterator[tuple[str, np.ndarray]]  # keys, and what goes through the model: ids [P] or clips [F, Y, X, 3]


def main(config, run: str | None, what: tuple[str, ...], output: str) -> int:
    """Fills a cache with what a config's mixtures have and it lacks. What a kill leaves is gone on from.

    Args:
      run: the folder whose config it is, or None for that of a generator yet to be trained.
      what: of WHAT. "text": all captions of the train and the eval split; "tokens": every clip, image and window of a
        story in the train split.
      output: the cache's folder.

    Raises:
      UserError: nothing to compute, no records, or a folder that holds what another model made.
    """
    if not config.data.data_dir:
        raise UserError("data.data_dir is empty; say where the records lie, --config.data.data_dir=DIR")
    if "text" in what and not is_pretrained(config):
        raise UserError(f"text.encoder={config.text.encoder!r} of a {config.stage} has no embeddings to precompute; a "
                        "generator with text.encoder='t5' has")
    config = configs.from_dict(config.to_dict())
    config.text.cache = config.data.token_cache = ""
    enable_compilation_cache()
    fillers = {"text": _text, "tokens": _tokens}
    filled = [fillers[name](config, run, Path(output) / name) for name in what]  # every mistake before any work
    loaders = {train: _loaders(config, train) for train in (True, False)[:1 + ("text" in what)]}
    for fill in filled:
        fill(loaders)
    return 0


def _loaders(config, train: bool) -> Loaders:
    loader = data_loader(config, train)
    return list(getattr(loader, "loaders", [loader]))


def _text(config, run: str | None, folder: Path) -> Callable[[dict[bool, Loaders]], None]:
    encoder, vocabulary = open_encoder(config), vocabulary_of(config)
    writer = Writer(folder, about_text(config, encoder))
    model = encoder.pure.bind(jax.device_put(encoder.params), {})

    def captions(loader) -> Items:
        for _, record in loader.records():
            for caption in record["captions"] if "captions" in record else [record["caption"]]:
                ids = encode_fixed(to_text(caption), config.text.length, vocabulary)
                yield text_key(ids[ids > 0]), ids

    def embed(ids_BP: np.ndarray) -> list[np.ndarray]:
        return [row[ids > 0] for row, ids in zip(np.asarray(model(_full(ids_BP))), ids_BP)]

    def fill(loaders: dict[bool, Loaders]) -> None:
        for train, split in ((True, config.data.split), (False, config.data.eval_split)):
            for loader in loaders[train]:
                _fill(writer, f"captions of {loader.mixture}, {split}", captions(loader), embed, SHARD["text"])
                writer.finish(loader.mixture, [split])

    return fill


def _tokens(config, run: str | None, folder: Path) -> Callable[[dict[bool, Loaders]], None]:
    arrays = _tokenizer_arrays(config, run)
    writer = Writer(folder, about_tokens(config, arrays))
    tokenizer = Tokenizer(make_tokenizer(config), *jax.device_put((arrays["params"], arrays["variables"])))

    def clips(loader) -> Items:
        for task, record in loader.records():
            for row in loader.every_row(task, record):
                yield video_key(row["video"]), row["video"]

    def encode(video_BFYXC: np.ndarray) -> list[np.ndarray]:
        return list(np.asarray(tokenizer.encode(_full(video_BFYXC)))[:len(video_BFYXC)])

    def fill(loaders: dict[bool, Loaders]) -> None:
        for loader in loaders[True]:
            _fill(writer, f"clips of {loader.mixture}, {config.data.split}", clips(loader), encode, SHARD["tokens"])
            writer.finish(loader.mixture, [config.data.split])

    return fill


def _tokenizer_arrays(config, run: str | None) -> dict:
    """{"params", "variables"} of the tokenizer that a run carries or is, or that a generator's config names."""
    if config.stage != "tokenizer":
        frozen = frozen_arrays(config, Path(run or ""), checkpoint_steps(run) if run else [])
        return frozen.get("tokenizer", frozen)
    if not run:
        raise UserError("a config of stage='tokenizer' names no trained one; give its run's folder as --model, or a "
                        "generator's --config with its tokenizer_run")
    trained = load_run(run)
    return {"params": trained.params, "variables": trained.variables}


def _full(rows: np.ndarray) -> np.ndarray:
    """As many rows as BATCH, the last one repeated, so that one program serves all."""
    return np.concatenate([rows, np.repeat(rows[-1:], BATCH - len(rows), axis=0)])


def _fill(writer: Writer, name: str, items: Items, compute: Callable[[np.ndarray], list[np.ndarray]],
          shard: int) -> None:
    """Writes what the writer does not know yet. Shards end where batches do, so that it does not matter who began."""
    seen, new = 0, 0
    keys: list[str] = []
    arrays: list[np.ndarray] = []

    def unknown() -> Items:
        nonlocal seen
        for key, value in items:
            seen += 1
            if key not in writer.known:
                writer.known.add(key)
                yield key, value

    def flush() -> None:
        nonlocal new
        new += len(keys)
        if keys:
            writer.write(keys, arrays)
            print(f"{new} {name}, written to {writer.folder}", flush=True)
        keys.clear()
        arrays.clear()

    for _, alike in itertools.groupby(unknown(), key=lambda item: item[1].shape):
        while batch := list(itertools.islice(alike, BATCH)):
            keys.extend(key for key, _ in batch)
            arrays.extend(compute(np.stack([value for _, value in batch])))
            if len(keys) >= shard:
                flush()
    flush()
    print(f"{name}: {seen} in all, {new} of them new", flush=True)
