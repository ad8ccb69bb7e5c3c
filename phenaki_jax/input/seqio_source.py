"""What seqio needs to read random-access TFDS data sets, and what the loader needs to read seqio's tasks by position.

A task made of a `RandomAccessSource`, `number_records` and `NumpyStep`s is an ordinary seqio task; the loader calls the
same NumPy functions on single records, so that the two agree: with the same seed, the i-th example of
`task.get_dataset(seed=seed)` is the one that the loader finds at position i of its first epoch.
"""

import contextlib
import io
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from phenaki_jax.errors import UserError
from phenaki_jax.input import order, preprocess
from phenaki_jax.input.records import MANIFEST, BadRecord, Records, read_manifest
from phenaki_jax.input.schema import STREAMS

Lengths = Mapping[str, int]
FEATURES = {  # what every task gives, see schema.Stream
    "video": seqio.ContinuousFeature(dtype=tf.uint8, rank=4),
    "text": seqio.Feature(seqio.ByteVocabulary(), add_eos=True),
    "fps": seqio.ContinuousFeature(dtype=tf.float32, rank=0),
    "known_frames": seqio.ContinuousFeature(dtype=tf.int32, rank=0),
}


class RandomAccessSource(seqio.DataSource):
    """A TFDS data set stored as array_record: read by position, and as a seqio source.

    Args:
      name: of the data set and its config, "sprite_stories/clips_32".
      make_builder: (data_dir=) -> the TFDS builder; None is TFDS's own default folder.
      stream: which stream of a batch its records go to, "video" or "image".
    """

    def __init__(self, name: str, make_builder: Callable[..., tfds.core.DatasetBuilder], *, stream: str,
                 splits: Sequence[str] = ("train", "test")):
        if stream not in STREAMS:
            raise ValueError(f"stream={stream!r} is unknown; it is one of {', '.join(STREAMS)}")
        self.name, self.stream = name, stream
        self._make_builder = make_builder
        super().__init__(splits=splits, performs_internal_shuffling=True)

    def builder(self, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
        """The TFDS builder, whether or not its records are built."""
        return self._make_builder(data_dir=str(data_dir) if data_dir else seqio.LazyTfdsLoader().data_dir)

    def is_built(self, data_dir: str | None = None) -> bool:
        return self.builder(data_dir).is_prepared()

    def build(self, data_dir: str | None = None, log: Callable[[str], None] = print) -> None:
        """Builds the records if they are absent. TFDS renames a finished folder, so a kill leaves none half done."""
        builder = self.builder(data_dir)
        if builder.is_prepared():
            return
        log(f"{self.name}: building in {builder.data_dir} …")
        began = time.monotonic()
        tfds.disable_progress_bar()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
        except Exception:
            if not self.is_built(data_dir):  # else another process was first
                raise
        builder = self.builder(data_dir)
        counts = ", ".join(f"{split.num_examples} {name}" for name, split in builder.info.splits.items())
        log(f"{self.name}: {counts} records, {builder.info.dataset_size / 1e6:.1f} MB, "
            f"{time.monotonic() - began:.0f} s")

    def _built(self, split: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
        builder = self.builder(data_dir)
        if not builder.is_prepared():
            raise UserError(f"data.data_dir={str(data_dir or builder.data_dir)!r} holds no {self.name}; "
                            "build it first, for example with `phenaki quickstart` or `tfds build`.")
        if split not in builder.info.splits:
            raise UserError(f"data.split={split!r} is no split of {self.name}; "
                            f"it has {', '.join(builder.info.splits)}.")
        return builder

    def records(self, split: str, data_dir: str | None = None) -> Sequence[dict[str, Any]]:
        """All records of a split, by position; dicts of NumPy values, text as bytes (`schema.to_record` decodes it)."""
        return self._built(split, data_dir).as_data_source(split=split)

    def video_shape(self, split: str, data_dir: str | None = None) -> tuple[int | None, ...]:
        """(F, Y, X, 3) of the records; F is None where it differs between them."""
        return self._built(split, data_dir).info.features["video"].shape

    # ------------------------------------------------------------------------------------ as seqio wants it

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def num_input_examples(self, split: str) -> int:
        return self._built(split).info.splits[split].num_examples

    def list_shards(self, split: str) -> list[str]:
        return [str(path) for path in self._built(split).info.splits[split].filepaths]

    def get_dataset(self, split: str = "train", shuffle: bool = True, seed: int | None = None,
                    shard_info: seqio.ShardInfo | None = None, *, sequence_length: Lengths | None = None,
                    use_cached: bool = False, num_epochs: int | None = 1) -> tf.data.Dataset:
        """One epoch in the loader's order (shuffle) or as stored; `place` says where each record stands."""
        del sequence_length, use_cached, num_epochs
        records = self.records(split)
        if seed is None:
            seed = random.SystemRandom().getrandbits(31) if shuffle else 0
        index, shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
        key, size = order.source_key(int(seed), self.name), len(records)
        positions = range(index, size, shards)

        def generate():
            for position in positions:
                index = order.record_index(key, position, size) if shuffle else position
                with contextlib.suppress(BadRecord):
                    yield {**self._row(records[index]),
                           "place": np.array([key, position, len(positions), size], np.int64)}

        return tf.data.Dataset.from_generator(
            generate, output_signature={**self._spec(), "place": tf.TensorSpec([4], tf.int64)})

    def _spec(self) -> dict[str, tf.TensorSpec]:
        """The form of a record."""
        return {name: tf.TensorSpec(info.shape, info.tf_dtype)
                for name, info in self.builder().info.features.get_tensor_info().items()}

    def _row(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """A record in that form."""
        return record


class FolderSource(RandomAccessSource):
    """A data set of `phenaki ingest`, a folder of data.data_dir: read by position, and as a seqio source.

    Args:
      name: the folder's. stream: "video" or "image", what it holds.
    """

    def __init__(self, name: str, *, stream: str):
        super().__init__(name, None, stream=stream)

    def folder(self, data_dir: str | None = None) -> Path:
        return Path(data_dir or seqio.LazyTfdsLoader().data_dir or ".") / self.name

    def is_built(self, data_dir: str | None = None) -> bool:
        return (self.folder(data_dir) / MANIFEST).is_file()

    def build(self, data_dir: str | None = None, log: Callable[[str], None] = print) -> None:
        """Raises: UserError where it is not there, for it cannot be built from nothing."""
        kind = read_manifest(self.folder(data_dir))["settings"]["kind"]
        if kind != self.stream:
            raise UserError(f"{str(self.folder(data_dir))!r} holds records of kind {kind!r}; {self.name!r} is to be "
                            f"one of kind {self.stream!r}")

    def of_size(self, split: str, data_dir: str | None = None, size: tuple[int, int] | None = None) -> Records:
        """The records of a split, or those of a size (height, width) alone."""
        return Records(self.folder(data_dir), split, size)

    records = of_size

    def fps(self, split: str, data_dir: str | None = None) -> float:
        """Frames a second of its clips."""
        return float(read_manifest(self.folder(data_dir))["settings"]["fps"])

    def video_shape(self, split: str, data_dir: str | None = None) -> tuple[int | None, ...]:
        """(F, Y, X, 3) of the records; None where it differs between them."""
        sizes = list(Records(self.folder(data_dir), split).sizes)
        return (1 if self.stream == "image" else None), *(sizes[0] if len(sizes) == 1 else (None, None)), 3

    def num_input_examples(self, split: str) -> int:
        return len(self.of_size(split))

    def list_shards(self, split: str) -> list[str]:
        return self.of_size(split).files

    def _spec(self) -> dict[str, tf.TensorSpec]:
        shapes = {"video": ((None, None, None, 3), tf.uint8), "caption": ((), tf.string), "fps": ((), tf.float32),
                  "captions": ((None,), tf.string), "starts": ((None,), tf.int32)}
        return {name: tf.TensorSpec(shape, dtype) for name, (shape, dtype) in shapes.items()}

    def _row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        whole = {"captions": [record["caption"]], "starts": np.zeros(1, np.int32)} | dict(record)
        whole["video"] = np.asarray(whole["video"])
        return {name: whole[name] for name in self._spec()}


def add_folder(name: str, stream: str | None = None, data_dir: str | None = None) -> seqio.Task:
    """The task of a data set of `phenaki ingest`, registered under its folder's name, signs as _ .

    stream: what it holds; None reads its manifest.
    """
    task = re.sub(r"[^\w.]", "_", name)  # seqio's names have no others
    if task in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(task)
    if stream is None:
        stream = read_manifest(Path(data_dir or ".") / name)["settings"]["kind"]
    cut = preprocess.cut_window if stream == "video" else preprocess.cut_image
    return seqio.TaskRegistry.add(
        task, source=FolderSource(name, stream=stream),
        preprocessors=[number_records, NumpyStep(cut, CUT), NumpyStep(preprocess.fit, CUT),
                       NumpyStep(preprocess.tokenize, TOKENIZED)],
        output_features=FEATURES, shuffle_buffer_size=None)


def number_records(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A seqio preprocessor: the place that the source tells becomes `seed`, another one in each epoch."""

    def seed_of(count, place):
        key, position, epoch_length, size = (int(x) for x in place)
        return np.int64(order.example_seed(key, int(count) // epoch_length * size + position))

    def number(count, record):
        record = dict(record)
        record["seed"] = tf.ensure_shape(tf.numpy_function(seed_of, [count, record.pop("place")], tf.int64), [])
        return record

    return dataset.enumerate().map(number, num_parallel_calls=1, deterministic=True)


class NumpyStep:
    """A seqio preprocessor made of a function of one NumPy record, see `phenaki_jax.input.preprocess`.

    Args:
      function: (record, lengths) -> record.
      outputs: {name: (dtype, rank)} of all that it returns.
    """

    def __init__(self, function: Callable[[Mapping[str, Any], Lengths], dict[str, Any]],
                 outputs: Mapping[str, tuple[tf.DType, int]]):
        self.function, self.outputs = function, dict(outputs)
        self.__name__ = function.__name__

    def __call__(self, dataset: tf.data.Dataset, sequence_length: Lengths | None = None) -> tf.data.Dataset:
        lengths = {k: v for k, v in (sequence_length or {}).items() if v is not None}
        names = sorted(dataset.element_spec)

        def run(*values):
            out = self.function(dict(zip(names, values)), lengths)
            return [np.asarray(out[name], dtype.as_numpy_dtype) for name, (dtype, _) in self.outputs.items()]

        def step(record):
            types = [dtype for dtype, _ in self.outputs.values()]
            values = tf.numpy_function(run, [record[name] for name in names], types)
            out = {}
            for (name, (_, rank)), value in zip(self.outputs.items(), values):
                value.set_shape([None] * rank)
                out[name] = value
            return out

        return dataset.map(step, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


CUT = {"video": (tf.uint8, 4), "caption": (tf.string, 0), "fps": (tf.float32, 0), "known_frames": (tf.int32, 0)}
TOKENIZED = {name: (feature.dtype, feature.rank) for name, feature in FEATURES.items()}
