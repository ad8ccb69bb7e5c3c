"""The data set: captions are facts, facts are pixels, what is held out stays out, and TFDS builds it offline."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data.sprite_stories import captions, world
from data.sprite_stories.sprite_stories_dataset_builder import SpriteStories, make_record
from phenaki_jax.evaluation import sprite_world as sw
from phenaki_jax.input import schema

FOLDER = pathlib.Path(world.__file__).parent
MOTION_WORDS = {"left": "left", "right": "right", "up": "up", "upwards": "up", "down": "down", "downwards": "down",
                "still": "still", "rests": "still", "not": "still"}


def config(name):
    return SpriteStories.builder_configs[name]


def some(name, split, count):
    return [make_record(config(name), split, i) for i in range(count)]


def scenes(record):
    return json.loads(record["facts"])


def told(text):
    """The facts in a sentence, by its words alone."""
    words = text.replace(",", "").replace("digit ", "").split()
    tables = {"colour": {c: c for c in sw.COLOURS}, "shape": {s: s for s in sw.SHAPES + sw.DIGITS},
              "style": {s: s for s in sw.STYLES}, "speed": {s: s for s in sw.SPEEDS},
              "background": {b: b for b in sw.BACKGROUNDS}, "direction": MOTION_WORDS}
    found = {name: {table[w] for w in words if w in table} for name, table in tables.items()}
    assert all(len(values) <= 1 for values in found.values()), text
    return {name: values.pop() for name, values in found.items() if values}


def combination(facts):
    return facts["colour"], facts["shape"], facts["style"], facts["direction"], facts["speed"]


# ---------------------------------------------------------------------------------------------- captions

@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("complete", [False, True])
def test_a_caption_names_just_the_facts_that_it_returns(image, complete):
    rng, left_out, phrasings = np.random.default_rng(0), [], set()
    for _ in range(2000):
        facts = world.sample_facts(rng, objects=sw.SHAPES + sw.DIGITS, held_out=None, image_only=image)
        text, named = captions.caption(rng, facts, image=image, complete=complete)
        assert told(text) == named and len(text.encode()) <= 95
        assert named.items() <= vars(facts).items()
        expected = {"colour", "shape", "style", "background"} | (set() if image else {"direction"})
        expected |= {"speed"} if facts.speed and not image else set()
        left_out += expected - set(named)
        assert (" an " if facts.style == "outlined" else " a ") in f" {text}" or "style" not in named
        words = text.replace(",", "").split()
        phrasings.add(" ".join(w for w in words if w not in
                               {*sw.COLOURS, *sw.SHAPES, *sw.DIGITS, *sw.STYLES, *sw.BACKGROUNDS, "digit", "a", "an"}))
    assert {"colour", "shape", "direction"}.isdisjoint(left_out)
    if complete:
        assert not left_out
    else:
        assert all(0.07 < left_out.count(name) / 2000 < 0.13 for name in ("style", "background"))
    assert len(phrasings) >= (4 if image else 30)


# ---------------------------------------------------------------------------------------------- drawing

@pytest.mark.parametrize("shape", ["circle", "cross", "7"])
def test_drawing_a_path_equals_drawing_each_frame(shape):
    facts = world.Facts("red", shape, "striped", "left", "slowly", "navy")
    digit = sw.digit_images("train")[shape][0] if shape in sw.DIGITS else None
    path = np.random.default_rng(0).uniform(10, 20, (5, 2))
    video = world.draw(facts, path, 6.5, 32, digit)
    assert video.shape == (5, 32, 32, 3) and video.dtype == np.uint8
    for frame, centre in zip(video, path):
        assert (frame == world.draw(facts, centre, 6.5, 32, digit)).all()


# ---------------------------------------------------------------------------------------------- records

@pytest.mark.parametrize("name", ["clips_32", "images_32", "stories_32", "clips_64_digits", "stories_64_digits"])
def test_records_have_the_form_of_the_schema_and_are_pure(name):
    cfg = config(name)
    for index, record in enumerate(some(name, "train", 6)):
        again = make_record(cfg, "train", index)
        assert all(np.array_equal(record[k], again[k]) for k in record)
        assert set(record) >= {"video", "caption", "fps", "source", "key", "facts"}
        assert record["video"].dtype == np.uint8 and record["video"].shape[1:] == (cfg.size, cfg.size, 3)
        assert len(record["video"]) == sum(s["frames"] for s in scenes(record)) and record["fps"] == 8.0
        assert record["key"] == f"{name}/train/{index:06d}"
        if cfg.kind == "stories":
            assert len(record["captions"]) == len(record["starts"]) == len(scenes(record)) in (2, 3, 4)
            assert record["starts"].tolist() == [0, 11, 23, 35][:len(record["starts"])]
    videos = [r["video"].tobytes() for r in some(name, "train", 6) + some(name, "test", 6)]
    assert len(set(videos)) == 12


@pytest.mark.parametrize("name", ["clips_32", "stories_32"])
def test_videos_never_show_or_name_what_only_images_have(name):
    for split in ("train", "test"):
        for record in some(name, split, 150):
            for text in record.get("captions", [record["caption"]]):
                assert "outlined" not in text and "orange" not in text
            assert all(s["style"] != "outlined" and s["colour"] != "orange" for s in scenes(record))


def test_images_show_every_style_and_colour_and_no_motion():
    facts = [scenes(r)[0] for r in some("images_32", "train", 300)]
    assert {f["style"] for f in facts} == set(sw.STYLES) and {f["colour"] for f in facts} == set(sw.COLOURS)
    assert all("direction" not in told(r["caption"]) for r in some("images_32", "train", 50))


def test_held_out_combinations_are_in_no_training_video():
    train = {combination(s) for name in ("clips_32", "stories_32") for r in some(name, "train", 400) for s in scenes(r)}
    test = {combination(scenes(r)[0]) for name in ("clips_32", "stories_32") for r in some(name, "test", 200)}
    assert len(train) > 300 and len(test) > 50 and train.isdisjoint(test)
    values = [{c[i] for c in train} >= {c[i] for c in test} for i in range(5)]
    assert all(values), "a test combination holds a value that no training video shows"


@pytest.mark.parametrize("name", ["clips_32", "stories_32", "images_32", "clips_64_digits"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_captions_agree_with_facts_and_those_of_test_name_all(name, split):
    for record in some(name, split, 40):
        for text, facts in zip(record.get("captions", [record["caption"]]), scenes(record)):
            named = told(text)
            assert named.items() <= facts.items(), (text, facts)
            if split == "test":
                assert len(named) == (4 if config(name).kind == "images" else 6 if facts["speed"] else 5)


@pytest.mark.parametrize("name", ["clips_32", "stories_32"])
def test_facts_are_pixels(name):
    """The object's centre of mass moves as the facts say, frame by frame, also over a change of scene."""
    for record in some(name, "train", 40):
        facts = [s for s in scenes(record) for _ in range(s["frames"])]
        centres = []
        for frame, f in zip(record["video"].astype(float), facts):
            ground, colour = np.array(sw.BACKGROUNDS[f["background"]]), np.array(sw.COLOURS[f["colour"]])
            assert (frame[0, 0] == ground).all()
            alpha = ((frame - ground) @ (colour - ground)) / ((colour - ground) @ (colour - ground))
            assert alpha.max() > 0.9 and abs(frame - (ground + alpha[..., None] * (colour - ground))).max() <= 1
            rows, columns = np.mgrid[0:32, 0:32]
            centres.append([(alpha * columns).sum() / alpha.sum(), (alpha * rows).sum() / alpha.sum()])
        moved = np.diff(np.array(centres), axis=0)
        expected = np.array([np.array(sw.DIRECTIONS.get(f["direction"], (0, 0))) * sw.SPEEDS.get(f["speed"], 0.0)
                             for f in facts[1:]])
        assert abs(moved - expected).max() < 0.35, record["key"]  # stripes shimmer as they pass the pixels' rows
        assert abs(moved.sum(axis=0) - expected.sum(axis=0)).max() < 0.3, record["key"]


def test_digits_of_train_and_test_are_other_images():
    train, test = sw.digit_images("train"), sw.digit_images("test")
    for digit in sw.DIGITS:
        known = {image.tobytes() for image in train[digit]}
        assert len(test[digit]) > 20 and sum(image.tobytes() in known for image in test[digit]) == 0
    assert any(scenes(r)[0]["shape"] in sw.DIGITS for r in some("clips_64_digits", "train", 6))


# ---------------------------------------------------------------------------------------------- TFDS

def test_tfds_builds_from_the_folder_and_keeps_the_order(tmp_path):
    """As `tfds build` finds and builds it, run in data/sprite_stories."""
    from tensorflow_datasets.scripts.cli import build
    builder_cls, kwargs = build._get_builder_cls_and_kwargs(str(FOLDER), has_imports=False)
    assert builder_cls.name == "sprite_stories" and not kwargs
    tfds.disable_progress_bar()
    for name in ("clips_32_tiny", "stories_32_tiny"):
        builder = builder_cls(config=name, data_dir=tmp_path)
        builder.download_and_prepare()
        for split, count in (("train", config(name).num_train), ("test", config(name).num_test)):
            read = builder.as_data_source(split=split)
            assert len(read) == count
            for index in (0, 1, count - 1):
                record, expected = schema.to_record(read[index]), make_record(config(name), split, index)
                assert set(record) == set(expected)
                assert all(np.array_equal(record[k], expected[k]) for k in record)


def test_the_configs_have_the_sizes_that_are_promised():
    sizes = {n: (c.num_train, c.num_test, c.size, c.digits) for n, c in SpriteStories.builder_configs.items()}
    for kind, train, test in (("clips", 8192, 512), ("images", 4096, 256), ("stories", 2048, 128)):
        assert sizes[f"{kind}_32"] == (train, test, 32, False)
        assert sizes[f"{kind}_64_digits"] == (train, test, 64, True)
