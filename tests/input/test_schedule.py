"""A schedule of mixtures: a batch stays a function of (seed, step), and streams run on where a phase ends."""

import itertools

import pytest
from phenaki_jax.config import from_dict
from phenaki_jax.errors import UserError
from phenaki_jax.input import loader, mix

IMAGES, BOTH, CLIPS = "sprite_images_32_tiny", "sprite_tiny_80_20", "sprite_clips_32_tiny"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = from_dict({
        "seed": 0, "batch_size": 10, "tokenizer": {"frames": 11, "height": 32, "width": 32}, "text": {"length": 96},
        "data": {"mixture": BOTH, "modules": ("data.mixtures",), "split": "train", "eval_split": "test", "fps": 8.0,
                 "data_dir": str(tmp_path_factory.mktemp("data"))}})
    mix.prepare_run(scheduled(config, IMAGES, BOTH), log=lambda line: None)  # all of BOTH, which its phase names
    return config


def scheduled(config, *mixtures, every=3):
    config = from_dict(config.to_dict())
    config.data.mixture = "not read"
    config.data.schedule = tuple((every * i, mixture) for i, mixture in enumerate(mixtures))
    return config


def rows(batch):
    return {stream: [(v.tobytes(), t.tobytes()) for v, t in zip(arrays["video"], arrays["text"])]
            for stream, arrays in batch.items()}


def test_each_phase_has_its_streams_and_any_step_is_found_at_once(config):
    config = scheduled(config, IMAGES, BOTH, CLIPS)
    load = loader.make_loader(config)
    shapes = [{stream: len(arrays["video"]) for stream, arrays in load.batch(step).items()} for step in range(8)]
    assert shapes == [{"image": 10}] * 3 + [{"video": 8, "image": 2}] * 3 + [{"video": 10}] * 2
    wanted = [rows(load.batch(step)) for step in range(8)]
    assert [rows(loader.make_loader(config).batch(step)) for step in (7, 4, 2, 3)] == [wanted[i] for i in (7, 4, 2, 3)]
    for start in (0, 2, 3, 5):  # prefetched across each switch, from the middle of each phase
        running = load.iterate(start)
        assert [rows(batch) for batch in itertools.islice(running, 8 - start)] == wanted[start:]
        running.close()


def test_phases_of_one_mixture_are_that_mixture(config):
    plain, load = loader.make_loader(config), loader.make_loader(scheduled(config, BOTH, BOTH, BOTH))
    for step in range(8):
        assert rows(load.batch(step)) == rows(plain.batch(step))


def test_a_stream_runs_on_where_a_phase_ends(config):
    """Images, 32 of them, by 10, then by 2 a step; clips begin at their first; images go on after a phase without."""
    load = loader.make_loader(scheduled(config, IMAGES, BOTH, CLIPS, IMAGES))
    seen = [row for step in range(12) for row in rows(load.batch(step)).get("image", [])]
    alone = loader.make_loader(scheduled(config, IMAGES))
    assert len(seen) == 66
    assert seen == [row for step in range(7) for row in rows(alone.batch(step))["image"]][:66]
    assert len(set(seen[:32])) == len(set(seen[32:64])) == 32  # an epoch shows each once, across a switch too
    assert rows(load.batch(3))["video"] == rows(loader.make_loader(scheduled(config, BOTH)).batch(0))["video"]


def test_hosts_share_a_batch_of_any_phase(config):
    load = loader.make_loader(scheduled(config, IMAGES, BOTH))
    for step in (1, 4):
        parts = [rows(load.batch(step, host, 2)) for host in range(2)]
        assert rows(load.batch(step)) == {stream: parts[0][stream] + parts[1][stream] for stream in parts[0]}


@pytest.mark.parametrize("change, words", [
    ({"data": {"schedule": ((0, IMAGES), (3, "no_such"))}}, "data.schedule='no_such' is not registered"),
    ({"batch_size": 7}, "batch_size=7 cannot be divided as data.schedule='sprite_tiny_80_20' asks"),
])
def test_a_phase_that_cannot_be_is_said_before_the_first_one(config, change, words):
    config = scheduled(config, IMAGES, BOTH)
    config.update(change)
    with pytest.raises(UserError, match=words):
        mix.prepare_run(config)
        loader.make_loader(config)
