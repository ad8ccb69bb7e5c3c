"""The loader: batches are a function of (seed, step), shares are exact, hosts share a batch, mistakes are said."""

import itertools
import math
import threading
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from phenaki_jax.errors import UserError
from phenaki_jax.input import loader, mix, text
from phenaki_jax.input.motion import motion_score
from phenaki_jax.input.schema import batch_shapes

TINY = "sprite_tiny_80_20"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    mix.prepare(TINY, folder, log=lambda line: None)
    return folder


@pytest.fixture
def make(data_dir):
    def make(mixture=TINY, **changes):
        options = {"batch_size": 20, "seed": 0, "frames": 11, "height": 32, "width": 32, "data_dir": data_dir}
        return loader.Loader(mixture, **{**options, **changes})
    return make


def same(a, b):
    assert a.keys() == b.keys()
    return all(np.array_equal(a[s][name], b[s][name]) for s in a for name in ("video", "text", "known_frames"))


def test_a_batch_is_a_function_of_seed_and_step(make):
    first, other = make(), make()
    wanted = {step: first.batch(step) for step in (0, 3, 7)}
    for step in (7, 3, 0):
        assert same(other.batch(step), wanted[step])
    assert same(make(cache_bytes=0).batch(3), wanted[3])
    assert not same(wanted[0], wanted[3]) and not same(make(seed=1).batch(3), wanted[3])


def test_iterating_gives_the_same_batches_from_any_step_and_leaves_no_thread(make):
    load = make()
    running = load.iterate(5)
    assert same(next(running), load.batch(5)) and same(next(running), load.batch(6))
    running.close()
    for thread in threading.enumerate():
        if thread.name == "loader":
            thread.join(5)
            assert not thread.is_alive()


def test_an_error_in_the_thread_is_raised_to_the_reader(make, monkeypatch):
    load = make()
    monkeypatch.setattr(load, "example", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(load.iterate())


def test_forms_and_shares_are_exact(make):
    load = make()
    shapes = batch_shapes(load.rows, frames=11, height=32, width=32, sources={"video": ("clips", "stories")})
    assert load.rows == {"video": 16, "image": 4}
    for step in range(4):
        batch = load.batch(step)
        for stream, arrays in batch.items():
            assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == shapes[stream]
        assert batch["video"]["video"].shape == (16, 11, 32, 32, 3) and batch["image"]["video"].shape[:2] == (4, 1)
        assert (batch["image"]["known_frames"] == 0).all() and set(batch["video"]["known_frames"]) <= {0, 5}
    video_only = make("sprite_clips_32_tiny")
    assert video_only.rows == {"video": 20} and set(video_only.batch(0)) == {"video"}


def test_numbers_are_there_where_a_model_is_told_them(make):
    load = make(told=("motion", "fps", "noise"))
    for stream, arrays in load.batch(0).items():
        assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == load.shapes()[stream]
        assert np.isnan(arrays["fps"]).all() == np.isnan(arrays["motion"]).all() == (stream == "image")
    rows = load.batch(0)["video"]
    np.testing.assert_array_equal(rows["fps"], 8.0)
    np.testing.assert_allclose(rows["motion"], [motion_score(video, 8.0) for video in rows["video"]], rtol=1e-6)


def test_sizes_take_turns_and_rows_are_the_whole_ones_cut_and_shrunk(make):
    """Against the full rows, cut and averaged here; both sizes come, and are a function of (seed, step)."""
    sizes = ((11, 32, 32), (5, 16, 32))
    full, load = make(), make(sizes=sizes)
    found = [load.batch(step) for step in range(6)]
    shapes = [batch["video"]["video"].shape[1:4] for batch in found]
    assert set(shapes) == set(sizes) and shapes == [make(sizes=sizes).batch(s)["video"]["video"].shape[1:4]
                                                    for s in range(6)]
    step = shapes.index((5, 16, 32))
    whole, cut = full.batch(step), found[step]
    mean = whole["video"]["video"][:, :5].reshape(16, 5, 16, 2, 32, 3).mean(3)
    assert np.abs(cut["video"]["video"] - mean).max() <= 0.5 and cut["image"]["video"].shape == (4, 1, 16, 32, 3)
    np.testing.assert_array_equal(cut["video"]["known_frames"], np.minimum(whole["video"]["known_frames"], 3))
    np.testing.assert_array_equal(cut["video"]["text"], whole["video"]["text"])
    for wrong in ((12, 32, 32), (11, 12, 32), (11, 32), 5, (5.0, 32, 32)):
        with pytest.raises(UserError, match="data.sizes has"):
            make(sizes=(wrong,))


@pytest.mark.parametrize("batch_size, near", [(16, "15 or 20"), (3, "5"), (0, "5"), (24, "20 or 25")])
def test_shares_that_are_no_whole_rows_name_the_nearest_sizes(make, batch_size, near):
    with pytest.raises(UserError, match=f"batch_size={batch_size} .* {near} can"):
        make(batch_size=batch_size)


def test_shares_of_the_registered_mixtures():
    shares = {name: _shares(name) for name in (
        "sprite_stories_80_20", "sprite_stories_50_50", "sprite_stories_video_only",
        "sprite_digits_80_20", "sprite_digits_50_50", "sprite_digits_video_only",
        "sprite_tokenizer_80_20", "sprite_digits_tokenizer_80_20")}
    for name in ("sprite_tokenizer_80_20", "sprite_digits_tokenizer_80_20"):
        assert shares[name] == shares["sprite_stories_80_20"]
    for name in ("sprite_images_only_32", "sprite_images_only_64_digits"):
        assert _shares(name) == {"image": 1}
    for world in ("stories", "digits"):
        assert shares[f"sprite_{world}_80_20"] == {"video": Fraction(4, 5), "image": Fraction(1, 5)}
        assert shares[f"sprite_{world}_50_50"] == {"video": Fraction(1, 2), "image": Fraction(1, 2)}
        assert shares[f"sprite_{world}_video_only"] == {"video": 1}


def _shares(name):
    tasks, rates = mix.find_mixture(name)
    return mix.stream_shares({t.name: t.source.stream for t in tasks}, rates)


def test_hosts_share_a_batch(make):
    load = make()
    whole, parts = load.batch(4), [make(host=h, hosts=4).batch(4) for h in range(4)]
    joined = {s: {n: np.concatenate([p[s][n] for p in parts]) for n in whole[s]} for s in whole}
    assert same(joined, whole)
    assert same(load.batch(4, host=2, hosts=4), parts[2])
    with pytest.raises(UserError, match="multiple of 3"):
        load.batch(0, host=0, hosts=3)


def test_an_epoch_shows_each_record_once(make, data_dir):
    load, records = make("sprite_clips_32_tiny", batch_size=16), mix.eval_records(
        "sprite_clips_32_tiny", "train", 99, data_dir=data_dir)
    assert len(records) == 48
    known = {r["video"].tobytes(): r["key"] for r in records}
    epochs = [[known[v.tobytes()] for step in range(3 * e, 3 * e + 3) for v in load.batch(step)["video"]["video"]]
              for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(known.values()) and epochs[0] != epochs[1]


def test_tasks_come_at_their_rates(make):
    load = make()
    for first in range(0, 80, 4):
        count = Counter(load.draw("video", first + position)[0] for position in range(4))
        assert count == {"sprite_clips_32_tiny": 3, "sprite_stories_32_tiny": 1}
    assert {load.draw("image", position)[0] for position in range(50)} == {"sprite_images_32_tiny"}


def test_rows_of_a_stream_of_several_data_sets_say_whose_they_are(make):
    load, step = make(), 3
    names = load.sources_at(step)
    assert names == {"video": ("sprite_clips_32_tiny", "sprite_stories_32_tiny")}
    batch, first = load.batch(step), load.positions(step)["video"]
    drawn = [load.draw("video", first + row)[0] for row in range(load.rows["video"])]
    assert [names["video"][row.argmax()] for row in batch["video"]["sources"]] == drawn and len(set(drawn)) == 2
    assert batch["video"]["sources"].sum(1).tolist() == [1] * load.rows["video"] and "sources" not in batch["image"]


@pytest.mark.parametrize("rates, block", [
    ((1.0,), 1), ((0.75, 0.25), 4), ((0.5, 0.3, 0.2), 10), ((80, 10, 10), 10), ((0.333, 0.667), 1000),
    ((0.5, 0.25, math.pi - 3), mix.LONGEST), ((1.0, 1e-6), mix.LONGEST)])
def test_each_task_has_its_rate_in_every_block_and_shows_each_record_once(rates, block):
    names = [f"task{i}" for i in range(len(rates))]
    draws = mix.Draws(dict.fromkeys(names, "video"), dict(zip(names, rates)), seed=1)
    blocks = 2 if block == mix.LONGEST else 5
    drawn = [draws.at("video", position) for position in range(blocks * (block + (rates[-1] == 1e-6)))]
    for name, rate in zip(names, rates):
        numbers = [number for task, number in drawn if task == name]
        assert sorted(numbers) == list(range(len(numbers)))
        assert abs(len(numbers) / len(drawn) - rate / sum(rates)) < 2 / mix.LONGEST
    if len(rates) == 2 and block == 1000:  # where in a block is chosen anew for each, and by chance
        where = np.array([task == "task0" for task, _ in drawn]).reshape(blocks, block)
        assert all(abs(np.corrcoef(a, b)[0, 1]) < 0.15 for a, b in itertools.combinations(where, 2))
        assert abs(np.corrcoef(where[0][1:], where[0][:-1])[0, 1]) < 0.15


def test_tasks_go_on_in_their_records_from_one_phase_to_the_next():
    """Of four phases of 103, 50, 7 and 200 positions, the third without one of the streams: no record comes twice."""
    streams = {"a": "video", "b": "video", "c": "video", "d": "image"}
    phases = [({"a": 0.5, "b": 0.5}, 103), ({"a": 0.2, "b": 0.3, "c": 0.5}, 50), ({"d": 1.0}, 7),
              ({"b": 0.75, "a": 0.25}, 200)]
    draws, used, seen = None, {}, []
    for rates, count in phases:
        draws = mix.Draws({task: streams[task] for task in rates}, rates, 3, draws, dict(used))
        for stream in {streams[task] for task in rates}:
            first = used.setdefault(stream, 0)
            seen += [draws.at(stream, position) for position in range(first, first + count)]
            used[stream] += count
    assert len(set(seen)) == len(seen)
    for task in streams:  # and none is passed over but in blocks that a phase broke off
        numbers = [number for name, number in seen if name == task]
        assert min(numbers) >= 0 and max(numbers) + 1 - len(numbers) <= 3 * 5


def test_rows_are_windows_of_records_with_the_caption_of_their_last_frame(make, data_dir):
    """Every row is looked for in all records by its pixels alone."""
    clips = mix.eval_records("sprite_clips_32_tiny", "train", 99, data_dir=data_dir)
    clips = {r["video"].tobytes(): r["caption"] for r in clips}
    windows = defaultdict(dict)  # pixels: {caption of the last frame: scene of each frame}; scenes may come twice
    for story in mix.eval_records("sprite_stories_32_tiny", "train", 99, data_dir=data_dir):
        scene = np.repeat(np.arange(len(story["starts"])), np.diff([*story["starts"], len(story["video"])]))
        for first in range(len(story["video"]) - 10):
            inside = scene[first:first + 11]
            windows[story["video"][first:first + 11].tobytes()][story["captions"][inside[-1]]] = inside
    load, straddling = make(), 0
    for step in range(12):
        rows = load.batch(step)["video"]
        for video, ids, known in zip(rows["video"], rows["text"], rows["known_frames"]):
            caption = text.BYTES.decode(ids)
            assert ids[len(caption.encode())] == text.EOS and not ids[len(caption.encode()) + 1:].any()
            if known == 0:
                assert clips[video.tobytes()] == caption
            else:
                scene = windows[video.tobytes()][caption]
                assert known == 5 and (scene[5:] == scene[-1]).all()
                straddling += scene[0] != scene[-1]
            assert "outlined" not in caption and "orange" not in caption
    assert straddling > 10


def test_the_config_gives_a_loader_of_each_split(data_dir):
    from ml_collections import ConfigDict
    config = ConfigDict({
        "seed": 3, "batch_size": 10, "tokenizer": {"frames": 11, "height": 32, "width": 32}, "text": {"length": 64},
        "data": {"mixture": TINY, "modules": ("data.mixtures",), "data_dir": str(data_dir), "split": "train",
                 "eval_split": "test", "fps": 8.0}})
    train, test = loader.make_loader(config), loader.make_loader(config, train=False)
    assert train.batch(0)["video"]["text"].shape == (8, 64) and not same(train.batch(0), test.batch(0))
    records = mix.eval_records("sprite_images_32_tiny", "test", 99, data_dir=data_dir)
    known = {r["video"].tobytes() for r in records}
    assert all(video.tobytes() in known for video in test.batch(0)["image"]["video"])


@pytest.mark.parametrize("changes, said", [
    ({"mixture": "no_such"}, "data.mixture='no_such' is not registered .*sprite_stories_80_20"),
    ({"modules": ("data.no_such",)}, "data.modules has 'data.no_such'"),
    ({"data_dir": "/nowhere"}, "data.data_dir='/nowhere' holds no sprite_stories/"),
    ({"split": "night"}, "data.split='night' .* train"),
    ({"frames": 17}, "tokenizer.frames=17 .* 11 frames"),
    ({"height": 64}, "tokenizer.height=64 .* 32 x 32"),
    ({"fps": 24.0}, "data.fps=24 .* 8 frames a second"),
])
def test_mistakes_are_said_in_one_sentence(make, changes, said):
    with pytest.raises(UserError, match=said) as error:
        make(**changes)
    assert "\n" not in str(error.value)


def test_prepare_builds_once_and_clears_nothing(data_dir):
    lines, before = [], {p: p.stat().st_mtime_ns for p in data_dir.rglob("*") if p.is_file()}
    mix.prepare(TINY, data_dir, log=lines.append)
    assert not lines and before == {p: p.stat().st_mtime_ns for p in data_dir.rglob("*") if p.is_file()}


def test_a_build_that_was_killed_is_built_again(tmp_path):
    """TFDS writes to a folder of its own until all is there; what a kill leaves is not taken for records."""
    left = tmp_path / "sprite_stories" / "images_32_tiny" / "incomplete.AAAAAA_1.0.0"
    left.mkdir(parents=True)
    (left / "sprite_stories-train.array_record-00000-of-00001").write_bytes(b"half")
    lines = []
    mix.prepare("sprite_images_32_tiny", tmp_path, log=lines.append)
    assert "32 train, 16 test records" in lines[-1]
    assert len(mix.eval_records("sprite_images_32_tiny", "train", 99, data_dir=tmp_path)) == 32


def test_eval_records_are_the_first_of_a_task(data_dir):
    records = mix.eval_records("sprite_stories_32_tiny", "test", 3, data_dir=data_dir)
    assert [r["key"] for r in records] == [f"stories_32_tiny/test/{i:06d}" for i in range(3)]
    assert all(isinstance(c, str) for r in records for c in r["captions"])
    with pytest.raises(UserError, match="name one of its tasks: sprite_clips_32_tiny"):
        mix.eval_records(TINY, "test", 3, data_dir=data_dir)
