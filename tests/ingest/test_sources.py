"""Each form of source, written here as its tools write it: the same samples come out of all of them."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.ingest.samples import Sample
from phenaki_jax.ingest.sources import find_units, read_samples
from phenaki_jax.input.records import BadRecord

sys.path.insert(0, str(Path(__file__).parent))
import worlds  # noqa: E402


def samples(source, form="auto", **options):
    found = [sample for unit in find_units(str(source), form, options) for sample in read_samples(unit)]
    for sample in found:
        try:
            sample.load()
        except BadRecord as error:
            sample.problem = error
    return found


@pytest.fixture
def tar(tmp_path):
    made = {f"a/{i:03}": worlds.image_sample(i) for i in range(6)}
    worlds.write_tar(tmp_path / "00000.tar", made)
    return tmp_path / "00000.tar"


def test_a_tar_gives_its_samples_with_their_fields(tar):
    found = samples(tar.parent)
    assert [sample.key for sample in found] == [f"a/{i:03}" for i in range(6)]
    assert found[3].caption == b"picture 3" and found[3].fields["key"] == "000000003" and found[3].suffix == "jpg"
    assert found[3].media == worlds.image_sample(3)["jpg"] and found[3].kind == "image" and not found[3].problem


@pytest.mark.parametrize("damage, whole", [("cut", 3), ("header", 3), ("no end", 6), ("nothing", 0)])
def test_what_cannot_be_read_of_a_tar_is_named(tar, damage, whole):
    data = bytearray(tar.read_bytes())
    place = data.index(b"a/003.jpg")
    if damage == "header":
        data[place + 200:place + 260] = b"\xff" * 60
    tar.write_bytes({"cut": data[:place + 700], "no end": bytes(data).rstrip(b"\0"), "nothing": b""}.get(damage, data))
    found = samples(tar, "webdataset")
    assert [sample.key for sample in found[:-1]] == [f"a/{i:03}" for i in range(whole)]
    assert found[-1].problem.reason == "damaged shard" and found[-1].key.startswith("00000.tar[")


def test_a_table_beside_a_tar_tells_more_of_its_samples(tar):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = {"key": [f"{i:03}" for i in range(6)], "AESTHETIC_SCORE": [5.0 + i for i in range(6)]}
    parquet.write_table(pyarrow.table(table), tar.with_suffix(".parquet"))
    found = samples(tar.parent)
    assert [sample.fields["AESTHETIC_SCORE"] for sample in found] == [5.0 + i for i in range(6)]
    assert found[2].fields["similarity"] == pytest.approx(0.24)  # the sample's own json


def test_parquet_with_media_and_parquet_that_names_it(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [worlds.image_sample(i) for i in range(3)]
    table = {"key": ["0", "1", "2"], "jpg": [image["jpg"] for image in images[:2]] + [None],
             "caption": ["zero", "one", "two"], "pwatermark": [0.1, 0.2, 0.3]}
    parquet.write_table(pyarrow.table(table), tmp_path / "00000.parquet")
    found = samples(tmp_path)
    assert [s.caption for s in found[:2]] == ["zero", "one"] and found[1].media == images[1]["jpg"]
    assert found[1].fields["pwatermark"] == 0.2 and found[2].problem.reason == "no media"

    folder = tmp_path / "laion"
    folder.mkdir()
    (folder / "here.jpg").write_bytes(images[0]["jpg"])
    (folder / "unnamed").write_bytes(images[1]["jpg"])
    table = {"URL": ["here.jpg", str(folder / "unnamed"), "gone.jpg", None], "TEXT": ["a", "b", "c", "d"],
             "NSFW": ["UNLIKELY"] * 4}
    parquet.write_table(pyarrow.table(table), folder / "part-0.parquet")
    found = samples(folder / "part-0.parquet")
    assert [s.problem and s.problem.reason for s in found] == [None, None, "missing file", "no media"]
    assert found[0].caption == "a" and found[1].media == images[1]["jpg"] and found[1].suffix == "jpg"
    (folder / "part-0.parquet").write_bytes((folder / "part-0.parquet").read_bytes()[:-20])
    assert [s.problem.reason for s in samples(folder, "urls")] == ["damaged shard"]


def test_tfrecords(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "00000.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(3):
            bytes_of = lambda *values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
            features = {"key": bytes_of(b"%03d" % i), "jpg": bytes_of(worlds.JPEG),
                        "caption": bytes_of(b"one \xff"[:3 + i])}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    found = samples(tmp_path)
    assert [(s.key, s.caption, s.suffix) for s in found] == [("000", "one", "jpg"), ("001", "one ", "jpg"),
                                                             ("002", "one \udcff", "jpg")]
    path.write_bytes(path.read_bytes()[:-100])
    found = samples(tmp_path)
    assert [s.key for s in found[:2]] == ["000", "001"] and found[2].problem.reason == "damaged shard"


def test_a_webvid_table_and_its_folder(tmp_path):
    (tmp_path / "videos" / "p1").mkdir(parents=True)
    for name in ("videos/p1/7.mp4", "videos/8.mp4"):
        (tmp_path / name).write_bytes(worlds.MP4)
    with open(tmp_path / "results.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["videoid", "contentUrl", "duration", "page_dir", "name"],
                          [7, "http://x", "PT1S", "p1", "a, b"],
                          [8, "http://x", "PT1S", "", "c"], [9, "http://x", "PT1S", "p2", "d"]])
    found = samples(tmp_path / "results.csv")
    assert [(s.key, s.caption) for s in found[:2]] == [("7", "a, b"), ("8", "c")] and found[0].media == worlds.MP4
    assert found[2].problem.reason == "no media" and found[2].key == "9"


def test_rows_of_a_table_are_read_from_where_their_unit_begins(tmp_path, monkeypatch):
    """Fields with line ends and quotes in them, units of three rows: the rows that Python's csv reads of the whole."""
    from phenaki_jax.ingest import sources
    monkeypatch.setattr(sources, "ROWS", 3)
    (tmp_path / "v.mp4").write_bytes(worlds.MP4)
    rows = [["v.mp4", f'a "{i}"\nand, so on' if i % 2 else f"plain {i}"] for i in range(8)]
    for ending, name in (("\r\n", "a.csv"), ("\n", "b.csv"), ("\n", "c.tsv")):
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.writer(file, lineterminator=ending, delimiter="\t" if name.endswith("tsv") else ",")
            writer.writerows([["file", "a\nname"], *rows])
        units = find_units(str(tmp_path / name))
        assert [unit.name for unit in units] == [f"{name}[0:3]", f"{name}[3:6]", f"{name}[6:8]"]
        found = samples(tmp_path / name)
        assert [s.key for s in found] == [str(i) for i in range(8)] and not any(s.problem for s in found)
        assert [s.fields["a\nname"] for s in found] == [text for _, text in rows]
    (tmp_path / "excel.csv").write_text("\ufefffile,name\nv.mp4,a\n")
    (tmp_path / "pandas.csv").write_text(",file,name\n0,v.mp4,a\n")
    assert [samples(tmp_path / f"{n}.csv")[0].caption for n in ("excel", "pandas")] == ["a", "a"]
    (tmp_path / "empty.csv").write_text("file,name\n")
    with pytest.raises(UserError, match="has nothing of"):
        find_units(str(tmp_path / "empty.csv"))
    lines = [json.dumps({"video": "v.mp4", "caption": f"c {i}"}) for i in range(7)]
    (tmp_path / "s.jsonl").write_text("\n".join(lines))
    assert [(s.key, s.caption) for s in samples(tmp_path / "s.jsonl")] == [(str(i), f"c {i}") for i in range(7)]


def test_what_img2dataset_writes_beside_its_files_is_no_source_of_its_own(tmp_path):
    """Its form `files`: a log of what was fetched from where; and what it could not fetch is no damage."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "00000").mkdir()
    for suffix, data in worlds.image_sample(3).items():
        (tmp_path / "00000" / f"000000003.{suffix}").write_bytes(data)
    parquet.write_table(pyarrow.table({"url": ["http://x"], "key": ["000000003"]}), tmp_path / "00000.parquet")
    (found,) = samples(tmp_path)
    assert found.key == "00000/000000003.jpg" and found.caption == b"picture 3"
    failed = {"txt": b"a", "json": b'{"status": "failed_to_download"}'}
    worlds.write_tar(tmp_path / "tar" / "0.tar", {"0": failed, "1": {"txt": b"a"}})
    assert [s.problem.reason for s in samples(tmp_path / "tar")] == ["not downloaded", "no media"]
    table = {"image": [{"bytes": worlds.JPEG, "path": "a.jpg"}], "text": [["one", "two"]]}
    parquet.write_table(pyarrow.table(table), tmp_path / "tar" / "hf.parquet")
    (found,) = samples(tmp_path / "tar" / "hf.parquet")
    assert found.media == worlds.JPEG and found.caption == "one"


def test_parquet_is_read_some_row_groups_at_a_time(tmp_path, monkeypatch):
    from phenaki_jax.ingest import sources
    monkeypatch.setattr(sources, "ROWS", 4)
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "x.jpg").write_bytes(worlds.JPEG)
    table = pyarrow.table({"url": ["x.jpg"] * 7, "TEXT": [f"t {i}" for i in range(7)]})
    parquet.write_table(table, tmp_path / "m.parquet", row_group_size=2)
    units = find_units(str(tmp_path / "m.parquet"))
    assert [(u.name, u.begin, u.end) for u in units] == [("m.parquet[0:4]", 0, 2), ("m.parquet[4:7]", 2, 4)]
    assert [(s.key, s.caption) for s in samples(tmp_path / "m.parquet")] == [(str(i), f"t {i}") for i in range(7)]


def test_lines_of_json_with_captions_in_time(tmp_path):
    (tmp_path / "v.mp4").write_bytes(worlds.MP4)
    lines = [{"video": "v.mp4", "captions": [{"start": 0, "text": "a"}, {"start": 0.5, "end": 1, "text": "b"}]},
             {"video": "v.mp4", "caption": "c"}, {"video": "v.mp4", "captions": [7]}]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nno json\n[]\n")
    found = samples(tmp_path / "s.jsonl")
    assert found[0].captions == [(0.0, "a"), (0.5, "b")] and found[0].caption == "a" and found[1].caption == "c"
    assert [s.problem.reason for s in found[2:]] == ["captions unreadable", "row unreadable", "row unreadable"]


def test_a_folder_with_captions_beside_its_files(tmp_path):
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("in/x.jpg", "in/y.png", "z.jpg")):
        (tmp_path / name).write_bytes(worlds.encoded(worlds.picture(i), "PNG" if name.endswith("png") else "JPEG"))
    (tmp_path / "in/x.txt").write_text("the x")
    (tmp_path / "in/y.json").write_text('{"title": "the y"}')
    found = {sample.key: sample.caption for sample in samples(tmp_path)}
    assert found == {"in/x.jpg": b"the x", "in/y.png": "the y", "z.jpg": None}


@pytest.mark.parametrize("source, form, words", [
    ("nowhere", "auto", "is not there"), (".", "auto", "no tars"), (".", "webdataset", "nothing of --form"),
    (".", "zip", "--form='zip' is unknown")])
def test_no_sources_are_one_sentence(tmp_path, source, form, words):
    with pytest.raises(UserError, match=words):
        find_units(str(tmp_path / source), form)


def test_files_of_another_file_system():
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/set/x.jpg", worlds.JPEG)
    memory.pipe("/bucket/set/x.txt", b"the x")
    (found,) = samples("memory://bucket/set")
    assert found.key == "x.jpg" and found.caption == b"the x" and found.media == worlds.JPEG
    memory.rm("/bucket", recursive=True)


@pytest.fixture
def flaky():
    """The name of a file system that knows its files and does not give them."""
    fsspec = pytest.importorskip("fsspec")

    class Flaky(type(fsspec.filesystem("memory"))):
        protocol = "flaky"

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("flaky://", "memory://"))

        def _open(self, *args, **more):
            raise RuntimeError("token expired")

        cat_file = _open

    fsspec.register_implementation("flaky", Flaky, clobber=True)
    memory = fsspec.filesystem("memory")
    memory.pipe({"/far/0.tar": bytes(10240), "/far/0.jpg": worlds.JPEG})
    yield "flaky:/"
    memory.rm("/far", recursive=True)


def test_a_file_out_of_reach_is_not_a_damaged_one(flaky):
    """A tar or a picture of a bucket that refuses us stops the job; it is not dropped as broken."""
    for form in ("webdataset", "folder"):
        with pytest.raises(UserError, match="'flaky://far/0....' cannot be reached .RuntimeError: token expired"):
            for sample in read_samples(find_units(f"{flaky}/far", form)[0]):
                sample.load()


@pytest.mark.parametrize("path", ["nosuch://a/b.jpg", "https://localhost:1/b.jpg", "memory://none/b.jpg", "/none.jpg"])
def test_a_dead_address_in_a_table_is_one_missing_file(path):
    with pytest.raises(BadRecord, match="missing file"):
        Sample("x", path=path, suffix="jpg").load()


# ------------------------------------------------------------------------------------------------- TFDS

@pytest.fixture(scope="module")
def builders(tmp_path_factory):
    """Builders with the features of TFDS's own ucf101, bair_robot_pushing_small, laion400m and moving_mnist."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder, rng = tmp_path_factory.mktemp("tfds"), np.random.default_rng(0)
    pixels = lambda *shape: rng.integers(0, 256, shape, dtype=np.uint8)
    F, features = tfds.features, {}
    label = F.ClassLabel(names=["ApplyLipstick", "b"])
    features["ucf101"] = ({"video": F.Video(shape=(None, 16, 16, 3)), "label": label},
                          [{"video": pixels(n, 16, 16, 3), "label": 0} for n in (3, 5)])
    step = {"action": F.Tensor(shape=(4,), dtype=np.float32), "image_aux1": F.Image(shape=(16, 16, 3)),
            "image_main": F.Image(shape=(16, 16, 3))}
    features["bair"] = (F.Sequence(step), [[{"action": np.zeros(4, np.float32), "image_aux1": pixels(16, 16, 3),
                                             "image_main": pixels(16, 16, 3)} for _ in range(4)]])
    features["laion400m"] = ({"image": F.Image(), "caption": F.Text(), "similarity": F.Scalar(np.float64)},
                             [{"image": pixels(8, 12, 3), "caption": "a cat", "similarity": 0.3}])
    features["moving_mnist"] = ({"image_sequence": F.Video(shape=(6, 16, 16, 1))},
                                [{"image_sequence": pixels(6, 16, 16, 1)}])
    made = {}
    for name, (spec, rows) in features.items():
        inner = spec if isinstance(spec, dict) else {"steps": spec}
        rows = rows if isinstance(spec, dict) else [{"steps": row} for row in rows]
        made[name] = rows
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name, version="1.0.0", features=F.FeaturesDict(inner), data_dir=str(folder),
            split_datasets={"train": _dataset(inner, rows)})
    return folder, made


def _dataset(features, rows):
    import tensorflow as tf
    import tensorflow_datasets as tfds
    spec = tfds.features.FeaturesDict(features).get_tensor_spec()

    def generate():
        for row in rows:
            if "steps" in row:
                yield {"steps": {name: np.stack([step[name] for step in row["steps"]]) for name in row["steps"][0]}}
            else:
                yield row

    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def test_tfds_sets_by_their_names(builders):
    folder, made = builders
    found = {name: samples(f"tfds:{name}", data_dir=str(folder)) for name in made}
    for sample, row in zip(found["ucf101"], made["ucf101"], strict=True):
        np.testing.assert_array_equal(sample.media, row["video"])
        assert sample.caption == "ApplyLipstick" and sample.kind == "video"
    np.testing.assert_array_equal(found["bair"][0].media, [step["image_main"] for step in made["bair"][0]["steps"]])
    (sample,) = found["laion400m"]
    np.testing.assert_array_equal(sample.media[0], made["laion400m"][0]["image"])
    assert (sample.kind, sample.caption) == ("image", "a cat")
    assert sample.fields["similarity"] == pytest.approx(0.3)
    (sample,) = found["moving_mnist"]
    np.testing.assert_array_equal(sample.media, np.repeat(made["moving_mnist"][0]["image_sequence"], 3, -1))
    aux = samples("tfds:bair", data_dir=str(folder), media_feature="steps.image_aux1")
    np.testing.assert_array_equal(aux[0].media, [step["image_aux1"] for step in made["bair"][0]["steps"]])


@pytest.mark.parametrize("name, options, words", [
    ("no_such_set", {}, "is not known to TFDS"), ("ucf101", {"media_feature": "film"}, "--media_feature='film'"),
    ("ucf101", {"caption_feature": "title"}, "it has label, video")])
def test_tfds_sets_that_do_not_serve_are_one_sentence(builders, name, options, words):
    with pytest.raises(UserError, match=words):
        find_units(f"tfds:{name}", options={"data_dir": str(builders[0]), **options})
