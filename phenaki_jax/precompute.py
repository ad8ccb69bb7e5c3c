"""What training would compute again in every epoch, computed once: embeddings of captions, and tokens of clips."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from phenaki_jax import config as configs
from phenaki_jax.bound import Tokenizer
from phenaki_jax.errors import UserError
from phenaki_jax.input.cache import FIELDS, Writer, text_key, video_key
from phenaki_jax.input.columns import column_name, write_columns
from phenaki_jax.input.encoder import about_text, is_pretrained, open_encoder, vocabulary_of
from phenaki_jax.input.records import BadRecord, Records
from phenaki_jax.input.schema import to_text
from phenaki_jax.input.text import encode_fixed
from phenaki_jax.models.build import make_tokenizer
from phenaki_jax.parallel import enable_compilation_cache
from phenaki_jax.training.caches import about_tokens
from phenaki_jax.training.checkpoints import checkpoint_steps, load_run
from phenaki_jax.training.loop import data_loader
from phenaki_jax.training.start import frozen_arrays

WHAT = ("text", "tokens")
BATCH = 32  # rows that go through a model at once
SHARD = {"text": 512, "tokens": 2048}  # rows of a shard, at the least; the last one has what is left

Loaders = list[Any]
Items = Iterator[tuple[str, np.ndarray]]  # keys, and what goes through the model: ids [P] or clips [F, Y, X, 3]


def main(config, run: str | None, what: tuple[str, ...], output: str | None, host: int = 0, hosts: int = 1) -> int:
    """Fills a cache with what a config's mixtures have and it lacks. What a kill leaves is gone on from.

    Args:
      run: the folder whose config it is, or None for that of a generator yet to be trained.
      what: of WHAT. "text": all captions of the train and the eval split; "tokens": every clip, image and window of a
        story in the train split.
      output: the cache's folder; None for fields of the records themselves, which have to be of `phenaki ingest`.
      host, hosts: of several machines, which fill the records' fields together.

    Raises:
      UserError: nothing to compute, no records, or a folder that holds what another model made.
    """
    if not config.data.data_dir:
        raise UserError("data.data_dir is empty; say where the records lie, --config.data.data_dir=DIR")
    if "text" in what and not is_pretrained(config):
        raise UserError(f"text.encoder={config.text.encoder!r} of a {config.stage} has no embeddings to precompute; a "
                        "generator with text.encoder='t5' has")
    if hosts > 1 and output:
        raise UserError(f"--hosts={hosts} is for --columns; a cache in --output={output!r} is filled by one process")
    if not 0 <= host < hosts:
        raise UserError(f"--host={host} has to be from 0 to --hosts={hosts} - 1")
    config = configs.from_dict(config.to_dict())
    config.text.cache = config.data.token_cache = ""
    enable_compilation_cache()
    jobs = [{"text": _text, "tokens": _tokens}[name](config, run) for name in what]
    writers = [Writer(Path(output) / job.about["what"], job.about) for job in jobs] if output else []
    loaders = {train: _loaders(config, train) for train in (True, False)[:1 + ("text" in what)]}
    for number, job in enumerate(jobs):
        splits = {True: config.data.split, False: config.data.eval_split}
        for train in (True, False) if job.about["what"] == "text" else (True,):
            for loader in loaders[train]:
                if output:
                    name = f"{job.name} of {loader.mixture}, {splits[train]}"
                    _fill(writers[number], name, _items(loader, job), job.compute, SHARD[job.about["what"]])
                    writers[number].finish(loader.mixture, [splits[train]])
                else:
                    _fill_columns(loader, job, host, hosts)
        if not output:
            field = FIELDS[job.about["what"]]
            print(f"to train with it: --config.{field}={column_name(job.about)}", flush=True)
    return 0


class Job(NamedTuple):
    """name: of what is computed. about: what a cache says of itself. rows_of: (loader, task, record) -> all of it, with
    keys. compute: up to BATCH of these -> arrays."""
    name: str
    about: dict[str, Any]
    rows_of: Callable[[Any, str, Mapping[str, Any]], Items]
    compute: Callable[[np.ndarray], list[np.ndarray]]


def _items(loader, job: Job) -> Items:
    for task, record in loader.records():
        try:
            yield from job.rows_of(loader, task, record)
        except BadRecord:  # training passes it over as well
            continue


def _fill_columns(loader, job: Job, host: int, hosts: int) -> None:
    for task, records in loader.all_records():
        if not isinstance(records, Records):
            raise UserError(f"--columns is for data sets of `phenaki ingest`; {task!r} is none, so give --output")
        write_columns(records, job.about, lambda record: list(job.rows_of(loader, task, record)), job.compute, BATCH,
                      host, hosts, lambda text: print(text, flush=True))


def _loaders(config, train: bool) -> Loaders:
    loader = data_loader(config, train)
    return list(getattr(loader, "loaders", [loader]))


def _text(config, run: str | None) -> Job:
    encoder, vocabulary = open_encoder(config), vocabulary_of(config)
    model = encoder.pure.bind(jax.device_put(encoder.params), {})

    def captions(loader, task, record) -> Items:
        for caption in record["captions"] if "captions" in record else [record["caption"]]:
            ids = encode_fixed(to_text(caption), config.text.length, vocabulary)
            yield text_key(ids[ids > 0]), ids

    def embed(ids_BP: np.ndarray) -> list[np.ndarray]:
        return [row[ids > 0] for row, ids in zip(np.asarray(model(_full(ids_BP))), ids_BP)]

    return Job("captions", about_text(config, encoder), captions, embed)


def _tokens(config, run: str | None) -> Job:
    arrays = _tokenizer_arrays(config, run)
    tokenizer = Tokenizer(make_tokenizer(config), *jax.device_put((arrays["params"], arrays["variables"])))

    def clips(loader, task, record) -> Items:
        record = {**record, "video": np.asarray(record["video"])}  # decoded once for all windows
        for row in loader.every_row(task, record):
            yield video_key(row["video"]), row["video"]

    def encode(video_BFYXC: np.ndarray) -> list[np.ndarray]:
        return list(np.asarray(tokenizer.encode(_full(video_BFYXC)))[:len(video_BFYXC)])

    return Job("clips", about_tokens(config, arrays), clips, encode)


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
