"""The tasks and mixtures as seqio reads them, record by record against the loader."""

from collections import Counter

import numpy as np
import pytest
import seqio
from phenaki_jax.errors import UserError
from phenaki_jax.input import loader, mix, order, preprocess
from phenaki_jax.input.seqio_converter import StreamConverter

TASKS = ["sprite_clips_32_tiny", "sprite_stories_32_tiny", "sprite_images_32_tiny"]
LENGTHS = {"video": 11, "text": 96}
SEED = 7


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    mix.prepare("sprite_tiny_80_20", folder, log=lambda line: None)
    seqio.set_tfds_data_dir_override(folder)
    yield folder
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture(scope="module")
def load(data_dir):
    return loader.Loader("sprite_tiny_80_20", batch_size=20, seed=SEED, frames=11, height=32, width=32,
                         data_dir=data_dir)


def read(name, **options):
    dataset = seqio.get_mixture_or_task(name).get_dataset(sequence_length=LENGTHS, **options)
    return list(dataset.as_numpy_iterator())


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("name", TASKS)
def test_a_shuffled_epoch_equals_the_loaders_first(name, load):
    examples = read(name, split="train", seed=SEED)
    assert len(examples) == seqio.TaskRegistry.get(name).num_input_examples("train")
    for position, example in enumerate(examples):
        assert same(example, load.example(name, position)), position


@pytest.mark.parametrize("name", TASKS)
def test_unshuffled_records_stand_as_stored_and_later_epochs_draw_anew(name, data_dir):
    task = seqio.TaskRegistry.get(name)
    records, key = task.source.records("test", data_dir), order.source_key(0, task.source.name)
    cut = getattr(preprocess, {"clips": "cut_clip", "stories": "cut_story", "images": "cut_image"}[name.split("_")[1]])
    examples = read(name, split="test", shuffle=False, num_epochs=2)
    assert len(examples) == 2 * len(records)
    for position, example in enumerate(examples):
        record = {**records[position % len(records)], "seed": order.example_seed(key, position)}
        assert same(example, preprocess.tokenize(cut(record, LENGTHS), LENGTHS)), position


@pytest.mark.parametrize("name", TASKS[:2])
def test_shards_are_parts_of_the_same_epoch(name):
    whole = read(name, split="train", seed=SEED)
    parts = [read(name, split="train", seed=SEED, shard_info=seqio.ShardInfo(i, 3)) for i in range(3)]
    assert sum(map(len, parts)) == len(whole)
    for position, example in enumerate(whole):
        assert same(example, parts[position % 3][position // 3])


def test_the_mixture_reads_in_the_ordinary_way_at_its_rates(load):
    mixture = seqio.get_mixture_or_task("sprite_tiny_80_20")
    dataset = mixture.get_dataset(sequence_length=LENGTHS, split="train", seed=1).take(600)
    examples = list(dataset.as_numpy_iterator())
    kinds = Counter("image" if len(e["video"]) == 1 else "story" if e["known_frames"] else "clip" for e in examples)
    assert abs(kinds["image"] / 600 - 0.2) < 0.06 and abs(kinds["story"] / 600 - 0.2) < 0.06
    images = {load.example(TASKS[2], i)["video"].tobytes() for i in range(32)}
    assert {e["video"].tobytes() for e in examples if len(e["video"]) == 1} <= images
    assert all(e["text"][-1] == 1 and e["text"].dtype == np.int32 for e in examples)


def test_padded_captions_are_the_rows_of_a_batch(load):
    """Padding the captions makes rows of one length, those of the loader."""
    examples = read(TASKS[0], split="train", seed=SEED)[:4]
    padded = [np.pad(e["text"], (0, 96 - len(e["text"]))) for e in examples]
    rows = loader.Loader(TASKS[0], batch_size=4, seed=SEED, frames=11, height=32, width=32,
                         data_dir=seqio.LazyTfdsLoader().data_dir).batch(0)["video"]
    assert np.array_equal(rows["text"], padded) and np.array_equal(rows["video"], [e["video"] for e in examples])


def test_the_converter_makes_rows_of_a_batch(load):
    """Against the loader's own rows; both streams of a mixture, each by itself."""
    rows = load.batch(0)["video"]
    dataset = seqio.get_dataset(TASKS[0], task_feature_lengths=LENGTHS, dataset_split="train", shuffle=True, seed=SEED,
                                feature_converter=StreamConverter("video"), num_epochs=1)
    batch = next(dataset.batch(8).as_numpy_iterator())
    mine = [load.example(TASKS[0], position) for position in range(8)]
    assert set(batch) == {"video", "text", "known_frames", "fps"} and batch["video"].dtype == rows["video"].dtype
    assert batch["text"].shape == (8, 96) and batch["text"].dtype == rows["text"].dtype
    for position, example in enumerate(mine):
        assert np.array_equal(batch["video"][position], example["video"])
        assert np.array_equal(batch["text"][position][:len(example["text"])], example["text"])
        assert not batch["text"][position][len(example["text"]):].any()
    both = seqio.get_mixture_or_task("sprite_tiny_80_20").get_dataset(sequence_length=LENGTHS, split="train", seed=1)
    for stream, frames in (("video", 11), ("image", 1)):
        found = StreamConverter(stream)(both.take(60), LENGTHS)
        assert {example["video"].shape for example in found.as_numpy_iterator()} == {(frames, 32, 32, 3)}
    with pytest.raises(UserError, match="stream='sound'"):
        StreamConverter("sound")


def test_sources_tell_their_size_and_files():
    source = seqio.TaskRegistry.get("sprite_clips_32_tiny").source
    assert source.num_input_examples("train") == 48 and source.splits == ("train", "test")
    assert [name.rsplit("/", 1)[1] for name in source.list_shards("test")] == [
        "sprite_stories-test.array_record-00000-of-00001"]
