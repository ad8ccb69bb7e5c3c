"""Ingested data sets as the loader and seqio read them: pure in (seed, step), whatever is damaged, dies or stalls."""

import collections
import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import seqio
from PIL import Image

from phenaki_jax.__main__ import main
from phenaki_jax.errors import DataError, UserError
from phenaki_jax.ingest.job import ingest
from phenaki_jax.ingest.prepare import Settings, records_of
from phenaki_jax.ingest.samples import Sample
from phenaki_jax.ingest.sources import find_units
from phenaki_jax.input import ahead, loader, mix, preprocess
from phenaki_jax.input.records import WRITER_OPTIONS, BadRecord, Records, decode, pack
from phenaki_jax.input.text import BYTES
from phenaki_jax.media import read_image

sys.path.insert(0, str(Path(__file__).parent))
import worlds  # noqa: E402
from faulty import Faulty  # noqa: E402

SIZES = dict(frames=5, height=16, width=16, text_length=24, fps=8.0, seed=3)


def make_set(folder, name, samples, settings):
    worlds.write_tar(folder / "sources" / name / "00000.tar", dict(list(samples.items())[::2]))
    worlds.write_tar(folder / "sources" / name / "00001.tar", dict(list(samples.items())[1::2]))
    source = str(folder / "sources" / name)
    ingest(find_units(source), settings, str(folder / name), source=source, workers=0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """films (30, of 7 to 20 frames), stills (40) and two of several aspects: wide_films, wide_stills."""
    folder = tmp_path_factory.mktemp("data")
    films = {f"{i:03}": worlds.video_sample(i, frames=7 + i % 14, height=24, width=24) for i in range(30)}
    still = lambda i: worlds.encoded(worlds.picture(i, 24, 24))
    stills = {f"{i:03}": {"jpg": still(i), "txt": f"still {i}".encode()} for i in range(40)}
    small = dict(sizes=((16, 16),), min_frames=5, scene_threshold=1.0, test_share=0.2)
    make_set(folder, "laion-400m", stills, Settings("image", "laion", **small))
    make_set(folder, "films", films, Settings("video", "films", **small))
    make_set(folder, "stills", stills, Settings("image", "stills", **small))
    films = {f"{i}": worlds.video_sample(i, frames=6, height=24, width=24 + 24 * (i % 3 == 0)) for i in range(18)}
    stills = {f"{i}": {"jpg": worlds.encoded(worlds.picture(i, 24, 24 + 24 * (i % 2))), "txt": b"a"} for i in range(18)}
    wide = small | dict(sizes=((16, 16), (8, 16)), test_share=0.0)
    make_set(folder, "wide_films", films, Settings("video", "wide_films", **wide))
    make_set(folder, "wide_stills", stills, Settings("image", "wide_stills", **wide))
    return folder


@pytest.fixture
def make(data_dir):
    return lambda mixture="films:0.75,stills:0.25", **changes: loader.Loader(
        mixture, **{"batch_size": 8, "data_dir": data_dir, **SIZES, **changes})


def same(one, other):
    return all(np.array_equal(arrays[name], other[stream][name]) for stream, arrays in one.items() for name in arrays)


# ------------------------------------------------------------------------------------------------- names and rates

def test_a_name_is_a_folder_and_a_mixture_its_rates(make, data_dir):
    load = make()
    assert load.rows == {"video": 6, "image": 2} and load.streams == {"films": "video", "stills": "image"}
    assert make("films").rows == {"video": 8} and make("films:3+stills:1").rows == load.rows
    assert make("films:0.5,stills:0.5").rows == {"video": 4, "image": 4}
    assert make("laion-400m").rows == {"image": 8} and make("films:0.5,laion-400m:0.5").rows == {"video": 4, "image": 4}
    tasks, rates = mix.find_mixture("films:0.4,stills:0.4,wide_stills:0.2", data_dir=data_dir)
    assert [t.name for t in tasks] == ["films", "stills", "wide_stills"] and sum(rates.values()) == pytest.approx(1)
    nested = mix.find_mixture("laion_webvid_80_20:0.5,films:0.5", data_dir=data_dir)[1]
    assert nested == pytest.approx({"webvid": 0.4, "laion": 0.1, "films": 0.5})


@pytest.mark.parametrize("mixture, words", [
    ("film", "data.mixture='film' is not registered.*nor is it a data set"), ("films:x", "has 'films:x'"),
    ("films:0.5,stills", "has 'stills'"), ("films:-1", "has 'films:-1'"), ("laion_webvid_80_20", "laion.*no data set")])
def test_names_that_are_none_are_one_sentence(make, mixture, words):
    with pytest.raises(UserError, match=words):
        make(mixture)


def test_a_mixture_draws_at_its_rates(make):
    """100,000 draws, from the very function that chooses a row's task."""
    load = make("films:0.5,wide_films:0.3,stills:0.15,wide_stills:0.05", batch_size=20)
    for stream, rates in (("video", {"films": 0.625, "wide_films": 0.375}),
                          ("image", {"stills": 0.75, "wide_stills": 0.25})):
        drawn = collections.Counter(load.draw(stream, position)[0] for position in range(100_000))
        assert {name: count / 1e5 for name, count in drawn.items()} == pytest.approx(rates, abs=1e-4)
    assert load.rows == {"video": 16, "image": 4}


# ------------------------------------------------------------------------------------------------- images

@pytest.mark.parametrize("options", [{}, {"quality": 20}, {"subsampling": 0}, {"progressive": True}, {"mode": "L"}])
def test_a_jpeg_has_the_pixels_that_pillow_gives(options):
    picture = Image.fromarray(worlds.picture(3, 37, 51)).convert(options.pop("mode", "RGB"))
    picture.save(file := io.BytesIO(), "JPEG", **options)
    header = dict(media="jpeg", fps=0, frames=1, height=37, width=51, key="k", source="s", caption="c")
    found = decode(pack(header, {"media": file.getvalue()}))["video"]
    assert np.array_equal(found, np.asarray(Image.open(file).convert("RGB"))[None])


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_broken_image_is_a_damaged_record(form):
    whole = worlds.encoded(worlds.picture(3, 32, 48), form)
    header = dict(media=form.lower(), fps=0, frames=1, height=32, width=48)
    for blob in (b"", whole[:2], whole[:len(whole) // 2], whole[:-len(whole) // 8], b"x" * 500):
        with pytest.raises(BadRecord, match="damaged record"):
            decode(pack(header, {"media": blob}))
    with pytest.raises(BadRecord, match=r"its image is \(1, 32, 48, 3\), its header says \(1, 32, 49, 3\)"):
        decode(pack(header | {"width": 49}, {"media": whole}))


# ------------------------------------------------------------------------------------------------- pure in (seed, step)

def test_rows_are_windows_of_records_at_the_size_and_rate_asked_for(make, data_dir):
    films = {record["caption"]: record for record in Records(data_dir / "films", "train")}
    batch = make().batch(0)
    for row in range(6):
        caption = BYTES.decode(batch["video"]["text"][row])
        video = np.asarray(films[caption]["video"])
        windows = [video[first:first + 5] for first in range(len(video) - 4)]
        assert any(np.array_equal(window, batch["video"]["video"][row]) for window in windows)
    slow = make("films", fps=4.0, frames=3, height=8, width=12).batch(0)["video"]
    assert slow["video"].shape == (8, 3, 8, 12, 3)
    assert set(films) >= {BYTES.decode(ids) for ids in slow["text"]}
    with pytest.raises(UserError, match="data.fps=5"):
        make("films", fps=5.0)


def test_the_millionth_step_is_as_near_as_the_first(make):
    far = make().batch(1_000_000)
    assert same(far, make().batch(1_000_000)) and not same(far, make().batch(999_999))
    load = make()
    steps = iter(load.iterate(start_step=1_000_000))
    assert same(next(steps), far) and same(next(steps), load.batch(1_000_001))
    steps.close()


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_have_disjoint_shares_of_the_same_batch(make, hosts):
    whole = make(batch_size=16).batch(7)
    for stream, arrays in whole.items():
        parts = [make(batch_size=16, host=host, hosts=hosts).batch(7)[stream] for host in range(hosts)]
        for name, array in arrays.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


def test_a_host_reads_its_own_share_only(make):
    read = collections.defaultdict(list)
    for host in range(2):
        make("films", host=host, hosts=2).batch(3, watch=read[host].append)
    assert [len(names) for names in read.values()] == [4, 4]
    positions = [make("films").batch(3, watch=read["all"].append)]
    assert read[0] + read[1] == read["all"] and positions


def test_seqio_reads_what_the_loader_reads(make, data_dir):
    seqio.set_tfds_data_dir_override(str(data_dir))
    load = make()
    for name in ("films", "stills"):
        task = seqio.TaskRegistry.get(name)
        dataset = task.get_dataset(sequence_length={"video": 5, "text": 24}, split="train", seed=3)
        examples = list(dataset.as_numpy_iterator())
        assert len(examples) == task.num_input_examples("train") == len(Records(data_dir / name, "train"))
        for position, example in enumerate(examples):
            mine = load.example(name, position)
            assert all(np.array_equal(example[key], mine[key]) for key in ("video", "text", "fps", "known_frames"))
    seqio.set_tfds_data_dir_override(None)


def test_buckets_take_turns_and_hold_records_of_their_size(make, data_dir):
    mixture = "wide_films:0.5,wide_stills:0.5"
    load = make(mixture, buckets=((16, 16), (8, 16)))
    steps = range(400)
    found = collections.Counter(load.bucket_at(step) for step in steps)
    wide = sum(Records(data_dir / name, "train").sizes[8, 16] for name in ("wide_films", "wide_stills"))
    assert wide == 15 and found[8, 16] / 400 == pytest.approx(15 / 36, abs=0.08)
    for step in (0, 1, 2, 3):
        batch, size = load.batch(step), load.bucket_at(step)
        assert {arrays["video"].shape[2:4] for arrays in batch.values()} == {size}
        assert same(batch, make(mixture, buckets=((16, 16), (8, 16))).batch(step))
    sizes = {tuple(record["video"].shape[1:3]) for record in Records(data_dir / "wide_films", "train", (8, 16))}
    assert sizes == {(8, 16)}
    for changes, words in ((dict(mixture="films", buckets=((8, 16),)), "no records of 8 x 16"),
                           (dict(mixture=mixture, buckets=((8, 16),), sizes=((5, 16, 16),)), "do not go together")):
        with pytest.raises(UserError, match=words):
            make(**changes)


# ------------------------------------------------------------------------------------------------- what is damaged

@pytest.fixture
def damaged(data_dir, tmp_path):
    """films, of which every fifth record's bytes are spoiled, and the manifest as it was."""
    import shutil

    from array_record.python import array_record_module
    for name in ("films", "stills"):
        shutil.copytree(data_dir / name, tmp_path / name)
    spoiled = set()
    for entry in json.loads((tmp_path / "films" / "manifest.json").read_text())["shards"]:
        path = tmp_path / "films" / entry["file"]
        reader = array_record_module.ArrayRecordReader(str(path))
        rows = reader.read_all()
        reader.close()
        writer = array_record_module.ArrayRecordWriter(str(path), WRITER_OPTIONS)
        for index, row in enumerate(rows):
            if index % 5 == 2:
                row = row[:-len(row) // 3]
                spoiled.add((entry["file"], index))
            writer.write(row)
        writer.close()
    return tmp_path, spoiled


def test_bad_records_are_passed_over_the_same_way_each_time(make, damaged):
    folder, spoiled = damaged
    first, second = (make("films", data_dir=folder, max_bad=1.0) for _ in range(2))
    whole = make("films")
    differing = 0
    for step in range(6):
        batch = first.batch(step)
        assert same(batch, second.batch(step))
        differing += not same(batch, whole.batch(step))
    assert differing and first.bad.counts == second.bad.counts and sum(first.bad.counts.values()) > 3
    (names,) = first.bad.examples.values()
    assert "record " in names[0] and "array_record" in names[0] and len(spoiled) > 3
    parts = [make("films", data_dir=folder, max_bad=1.0, host=h, hosts=2).batch(2)["video"]["video"] for h in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts), first.batch(2)["video"]["video"])


def test_too_many_bad_records_end_a_run(make, damaged, monkeypatch):
    from phenaki_jax.input import reading
    monkeypatch.setattr(reading, "ENOUGH", 20)
    load = make("films", data_dir=damaged[0], max_bad=0.05)
    with pytest.raises(DataError, match=r"records are bad, more than data.max_bad=0.05; most often 'damaged record'"):
        for step in range(100):
            load.batch(step)


def test_what_processes_pass_over_counts_together(make, damaged, monkeypatch):
    from phenaki_jax.input import reading
    monkeypatch.setattr(reading, "ENOUGH", 20)  # in this process; a worker's batch has fewer
    steps = make("films", data_dir=damaged[0], max_bad=0.05, workers=1, cache_bytes=0).iterate()
    with pytest.raises(DataError, match="more than data.max_bad=0.05; most often 'damaged record', as in record"):
        for _ in range(50):
            next(steps)


def test_a_shard_that_is_out_of_reach_is_no_bad_record(make, damaged):
    folder, _ = damaged
    for path in folder.glob("films/train-*/*.array_record"):
        path.unlink()
    with pytest.raises(DataError, match=r"array_record cannot be read \(No such file"):
        make("films", data_dir=folder, max_bad=1.0).batch(0)


def test_a_shard_that_is_no_more_what_it_was_is_named(make, damaged):
    folder, _ = damaged
    for path in folder.glob("films/train-*/*.array_record"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="100 records of 'films'"):
        make("films", data_dir=folder, max_bad=1.0).batch(0)


# ------------------------------------------------------------------------------------------------- processes

def test_processes_give_the_batches_of_the_thread(make):
    load = make(workers=2)
    load = pickle.loads(pickle.dumps(load))
    steps = load.iterate(5)
    for step in range(5, 12):
        assert same(next(steps), load.batch(step))
    steps.close()


@pytest.mark.parametrize("how", ["stalls", "dies"])
def test_a_process_that_stalls_or_dies_is_replaced_once(tmp_path, how):
    said = []
    steps = ahead.by_processes(Faulty(tmp_path, 3, how, True), 0, 2, patience=3.0, say=said.append)
    assert [int(next(steps)["video"]["text"][0]) for _ in range(7)] == list(range(7))
    steps.close()
    word = "has stalled for 3 seconds" if how == "stalls" else r"has died (exit code -9)"
    assert said == [f"{'reading' if how == 'stalls' else 'who read'} record 3 in /mount/shard-003 {word}; "
                    "its process is replaced"]


@pytest.mark.parametrize("how, words", [("stalls", "shard-001 has stalled for 2 seconds, 2 times"),
                                        ("dies", r"shard-001 has died \(exit code -9\), 2 times")])
def test_one_that_does_so_again_ends_the_run(tmp_path, how, words):
    steps = ahead.by_processes(Faulty(tmp_path, 1, how, False), 0, 2, patience=2.0, say=lambda text: None)
    assert int(next(steps)["video"]["text"][0]) == 0
    with pytest.raises(DataError, match=words):
        next(steps)


def test_what_is_wrong_in_a_process_is_raised_where_it_is_awaited(tmp_path):
    steps = ahead.by_processes(Faulty(tmp_path, 0, "errs", False), 0, 1, say=lambda text: None)
    with pytest.raises(UserError, match="wrong"):
        next(steps)


def test_a_thread_that_stalls_is_named(tmp_path):
    faulty = Faulty(tmp_path, 1, "stalls", False)
    faulty.seconds = 4
    steps = ahead.by_thread(faulty.batch, 0, patience=1.0)
    next(steps)
    with pytest.raises(DataError, match="reading record 1 in /mount/shard-001 has stalled for 1 seconds"):
        next(steps)


def test_records_of_another_rate_are_thinned():
    record = {"video": np.arange(14)[:, None, None, None] + np.zeros((14, 2, 2, 3), np.uint8), "fps": np.float32(24),
              "caption": "a", "captions": ["a"], "starts": np.int32([0]), "seed": 0}
    rows = list(preprocess.every_cut(record, {"fps": 8.0, "video": 3}))
    assert [row["video"][:, 0, 0, 0].tolist() for row in rows] == [[0, 3, 6], [3, 6, 9], [6, 9, 12]]
    drawn = [preprocess.cut_window(record | {"seed": seed}, {"fps": 8.0, "video": 3}) for seed in range(30)]
    assert {row["video"][0, 0, 0, 0].item() for row in drawn} == {0, 3, 6} and drawn[0]["fps"] == 8
    story = record | {"captions": ["a", "b"], "starts": np.int32([0, 7])}
    rows = list(preprocess.every_cut(story, {"fps": 8.0, "video": 3}))
    assert [row["caption"] for row in rows] == ["a", "b", "b"]  # frame 3 of five is the second scene's first
    late = record | {"captions": ["a", "b"], "starts": np.int32([0, 9]), "fps": np.float32(8)}
    with pytest.raises(BadRecord, match="no window of its story"):
        preprocess.cut_window(late, {"video": 11})
    fast = record | {"fps": np.float32(59.94)}
    thin = preprocess.cut_window(fast, {"fps": 29.97, "video": 7})["video"]
    assert thin[:, 0, 0, 0].tolist() == list(range(0, 14, 2))
    for lengths, words in (({"fps": 5.0, "video": 3}, "frame rate"), ({"fps": 8.0, "video": 6}, "clip too short")):
        with pytest.raises(BadRecord, match=words):
            preprocess.cut_window(record, lengths)


@pytest.mark.parametrize("count", [11, 40])
def test_frames_of_a_record_are_decoded_from_anywhere(count):
    """Any slice against the whole, decoded from its beginning; key frames are twelve apart."""
    film = worlds.film(0, count, 25, 31)  # odd sides
    sample = Sample("k", film, "", "a", fps=8.0)
    (parts,) = records_of(sample, Settings("video", "s", ((25, 31),), scene_threshold=1.0), collections.Counter())
    video = decode(pack(*parts))["video"]
    whole = np.asarray(video)
    assert whole.shape == video.shape == film.shape and video.nbytes < film.nbytes
    assert 10 * np.log10(255**2 / np.mean((whole.astype(float) - film) ** 2)) > 38
    for first in range(0, count, 3):
        for last in (first, first + 1, first + 5, count):
            np.testing.assert_array_equal(video[first:last], whole[first:last])
    np.testing.assert_array_equal(video[2:count:5], whole[2:count:5])


# ------------------------------------------------------------------------------------------------- doctor

def test_doctor_tells_what_is_in_a_data_set(data_dir, damaged, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["doctor", f"--data={data_dir / 'films'}", "--examples=200", f"--sheet={sheet}"]) == 0
    said = capsys.readouterr().out
    count = len(Records(data_dir / "films", "train"))
    assert f"films: {count} records; rate 100.0%, seen 100.0% of 200" in said and "sizes 16 x 16 (200)" in said
    assert "frames 7 to 20" in said and "no problems found" in said and read_image(sheet).shape[1] > 300
    both = ["doctor", "--data=films:0.75,stills:0.25", f"--data_dir={data_dir}", "--examples=400", "--sheet="]
    assert main(both) == 0
    said = capsys.readouterr().out
    assert "rate 75.0%, seen 75.0% of 400" in said and "rate 25.0%, seen 25.0% of 400" in said
    assert main(["doctor", f"--data={damaged[0] / 'films'}", "--examples=100", "--sheet="]) == 1
    said = capsys.readouterr().out
    assert "!! " in said and "cannot be read: damaged record" in said and "1 problem found" in said
    for wrong, words in ((["--data=no_such"], "--data='no_such'"),
                         ([f"--data={data_dir / 'films'}", "--sheet=a.txt"], "--sheet="),
                         ([f"--data={data_dir / 'films'}", "--split=night"], "data.split='night'")):
        assert main(["doctor", *wrong]) == 2
        assert words in capsys.readouterr().err


def test_doctor_counts_records_with_the_same_pixels(tmp_path, capsys):
    stills = {str(i): {"jpg": worlds.encoded(worlds.picture(i % 8, 24, 24)), "txt": b"a"} for i in range(12)}
    make_set(tmp_path, "twins", stills, Settings("image", "twins", ((16, 16),), test_share=0.0))
    assert main(["doctor", f"--data={tmp_path / 'twins'}", "--examples=12", "--sheet="]) == 1
    assert "4 of 12 different records have another's pixels" in capsys.readouterr().out
