"""The whole way from a source to records: nothing lost, nothing doubled, whatever is damaged and whoever is killed."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from phenaki_jax.__main__ import main
from phenaki_jax.errors import UserError
from phenaki_jax.ingest.filters import parse_filters
from phenaki_jax.ingest.job import ingest
from phenaki_jax.ingest.prepare import Settings
from phenaki_jax.ingest.sources import find_units
from phenaki_jax.input.records import Records, Shards

sys.path.insert(0, str(Path(__file__).parent))
import worlds  # noqa: E402

IMAGES = Settings("image", "set", ((32, 32),), test_share=0.1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three tars of 20 images and one of each damage, and a fourth that breaks off."""
    folder = tmp_path_factory.mktemp("source")
    for t in range(4):
        samples = {f"{t}{i:04}": worlds.image_sample(100 * t + i) for i in range(20)}
        samples |= {f"{t}_{name}": parts for name, (parts, _) in worlds.DAMAGED_IMAGES.items()}
        worlds.write_tar(folder / f"{t:05}.tar", samples)
    data = (folder / "00003.tar").read_bytes()
    (folder / "00003.tar").write_bytes(data[:data.index(b"30012.jpg") + 700])
    return folder


def made(folder):
    """{split: records} of a data set."""
    splits = json.loads((Path(folder) / "manifest.json").read_text())["splits"]
    return {split: list(Records(Path(folder), split)) for split in splits}


def dropped(folder):
    files = sorted(Path(folder).glob("units/*.dropped.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}


def tree(folder):
    """{name: bytes} of all files of a folder."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run(source, output, settings=IMAGES, **options):
    units = find_units(str(source))
    return ingest(units, settings, str(output), source=str(source), **{"workers": 0, "max_bad": 1.0} | options)


def test_every_sample_is_kept_or_dropped_by_its_reason(source, tmp_path, capsys):
    manifest = run(source, tmp_path / "set")
    splits, gone = made(tmp_path / "set"), dropped(tmp_path / "set")
    keys = [record["key"] for records in splits.values() for record in records]
    kept = {f"{t:05}.tar/{t}{i:04}" for t in range(4) for i in range(12 if t == 3 else 20)}
    assert sorted(keys) == sorted(kept) and manifest["kept"] == 72 and set(splits) == {"train", "test"}
    reasons = {f"{t}_{name}": reason for t in range(3) for name, (_, reason) in worlds.DAMAGED_IMAGES.items()}
    assert gone.pop(next(key for key in gone if key.startswith("00003.tar["))) == "damaged shard"
    assert gone == reasons
    assert manifest["in"] == manifest["kept"] + sum(manifest["dropped"].values()) == 72 + len(reasons) + 1
    assert manifest["dropped"]["too large"] == 3
    assert manifest["examples"]["too large"][0] == ["00000.tar", "0_huge", "7680 x 4320"]
    assert "3 too large" in capsys.readouterr().out
    record = next(r for r in splits["train"] if r["key"] == "00001.tar/10007")
    assert record["caption"] == "picture 107" and record["fields"] == {"similarity": pytest.approx(0.34)}
    assert record["video"].shape == (1, 32, 32, 3)


def test_who_makes_it_and_how_often_they_are_stopped_is_not_to_be_seen(source, tmp_path):
    """Processes against none, hosts against one, begun again after every unit against uninterrupted: equal bytes."""
    run(source, tmp_path / "whole")
    run(source, tmp_path / "workers", workers=2)
    assert run(source, tmp_path / "hosts", host=1, hosts=2) is None
    run(source, tmp_path / "hosts", host=0, hosts=2)
    from phenaki_jax.ingest import job
    add, left = job._Progress.add, []
    for _ in find_units(str(source)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job._Progress, "add", lambda self, result: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run(source, tmp_path / "stopped")
        left.append(len(list((tmp_path / "stopped" / "units").glob("*.json"))))
    assert left == [1, 2, 3, 4] and job._Progress.add is add
    run(source, tmp_path / "stopped")
    whole = tree(tmp_path / "whole")
    for name in ("workers", "hosts", "stopped"):
        assert tree(tmp_path / name) == whole, name


def kill_and_go_on(source, folder, kills, seed):
    """`phenaki ingest`, killed at random moments, mostly some units after it has begun, and then left to finish."""
    command = [sys.executable, "-m", "phenaki_jax", "ingest", f"--source={source}", f"--output={folder}", "--size=32",
               "--workers=2", "--max_bad=1", "--test_share=0.1", "--filter=duplicate", "--name=set"]
    rng, survived = random.Random(seed), 0
    while survived < kills:
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        done = lambda: len(list((folder / "units").glob("*.json")))
        enough = done() + rng.choice((0, 1, 1, 2))
        while process.poll() is None and done() < enough:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
            break
        survived += 1
        # the parent alone: its workers have to see it themselves
        os.kill(process.pid, signal.SIGKILL) if survived % 2 else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return survived


def test_a_killed_job_goes_on_to_the_same_bytes(source, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    for i in range(20):
        shutil.copy(source / "00000.tar", tmp_path / "source" / f"1{i:04}.tar")
    kill_and_go_on(tmp_path / "source", tmp_path / "whole", 0, 0)
    assert kill_and_go_on(tmp_path / "source", tmp_path / "killed", 3, 1) == 3
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_a_duplicate_is_the_later_one(tmp_path):
    images = {f"{i}": worlds.image_sample(i % 5) for i in range(12)}
    worlds.write_tar(tmp_path / "in" / "a.tar", dict(list(images.items())[:6]))
    worlds.write_tar(tmp_path / "in" / "b.tar", dict(list(images.items())[6:]))
    manifest = run(tmp_path / "in", tmp_path / "set", Settings(
        "image", "set", ((32, 32),), test_share=0.0, filters=parse_filters(["duplicate"])))
    (records,) = made(tmp_path / "set").values()
    assert [record["key"] for record in records] == [f"a.tar/{i}" for i in range(5)]
    assert (manifest["in"], manifest["kept"], manifest["dropped"]) == (12, 5, {"duplicate": 7})
    assert manifest["splits"]["train"]["records"] == 5


def test_positions_that_are_left_out_are_passed_over():
    for out in ([], [0], [3], [0, 1, 4], [1, 2, 3]):
        shards = Shards([(Path("a"), 5, out), (Path("b"), 0, []), (Path("c"), 5, out)])
        kept = [i for i in range(5) if i not in out]
        assert [shards.place(i) for i in range(len(shards))] == [(s, i) for s in (0, 2) for i in kept]


def test_another_source_or_other_settings_are_refused(source, tmp_path):
    run(source, tmp_path / "set")
    with pytest.raises(UserError, match="begun with --sizes=.*, and not"):
        run(source, tmp_path / "set", Settings("image", "set", ((16, 16),), test_share=0.1))
    shutil.copytree(source, tmp_path / "source")
    shutil.copy(source / "00000.tar", tmp_path / "source" / "00009.tar")
    with pytest.raises(UserError, match="begun with --source"):
        run(tmp_path / "source", tmp_path / "set")
    (tmp_path / "file").write_text("")
    for kwargs, words in (({"workers": -1}, "--workers=-1"), ({"host": 2, "hosts": 2}, "--host=2"),
                          ({"max_bad": 2.0}, "--max_bad=2")):
        with pytest.raises(UserError, match=words):
            run(source, tmp_path / "other", **kwargs)
    with pytest.raises(UserError, match="has something else"):
        run(source, tmp_path / "file")


def test_too_much_damage_is_said(source, tmp_path, monkeypatch):
    from phenaki_jax.ingest import job
    monkeypatch.setattr(job, "ENOUGH", 30)
    with pytest.raises(UserError, match=r"\d+ of 33 samples are damaged, more than --max_bad=0.2"):
        run(source, tmp_path / "set", max_bad=0.2)


@pytest.mark.parametrize("how", ["stalls", "dies"])
def test_a_sample_that_stalls_or_kills_its_worker_is_dropped(tmp_path, how, capsys):
    """A pipe that nobody writes to stalls who reads it; in the second run its reader is killed meanwhile."""
    (tmp_path / "in").mkdir()
    for i in range(4):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(worlds.encoded(worlds.picture(i)))
        (tmp_path / "in" / f"{i}.txt").write_text("a")
    os.mkfifo(tmp_path / "in" / "2a.jpg")

    def kill():
        for _ in range(2):  # the first time it may have been something else
            time.sleep(4)
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    if how == "dies":
        thread.start()
    manifest = run(tmp_path / "in", tmp_path / "set", Settings("image", "set", ((32, 32),), test_share=0.0), workers=1,
                   patience=2.0 if how == "stalls" else 60.0)
    assert not list((tmp_path / "set").glob(".unfinished*"))
    reason = "stalled the reader" if how == "stalls" else "crashed the reader"
    assert manifest["dropped"] == {reason: 1} and manifest["kept"] == 4
    assert dropped(tmp_path / "set") == {"2a.jpg": reason}
    assert f"2a.jpg {reason}" in capsys.readouterr().out


def test_the_command_line(source, tmp_path, capsys):
    output = f"--output={tmp_path / 'set'}"
    begin = ["ingest", f"--source={source}", output, "--size=32,24x40", "--workers=0", "--max_bad=1"]
    assert main([*begin, "--filter=similarity>=0.3", "--filter=unsafe<=0.5", "--keep_missing=unsafe"]) == 0
    said = capsys.readouterr().out
    assert "filter: similarity" in said and "24 x 40" in said and "samples kept" in said
    for option, words in (("--size=big", "--size='big'"), ("--kind=sound", "--kind='sound'"), ("--form=zip", "--form="),
                          ("--filter=x", "--filter='x'"), ("--source=/nowhere", "--source='/nowhere'")):
        assert main([*begin, option]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert main([*begin[:2], f"--output={tmp_path / 'none'}", "--workers=0", "--filter=side>=4096"]) == 2
    assert "nothing of" in capsys.readouterr().err


def test_a_table_of_clips_with_stories(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_bytes(worlds.filmed(i, frames=20))
    lines = [{"video": f"{i}.mp4", "captions": [{"start": 0, "text": f"a {i}"}, {"start": 1, "text": f"b {i}"}]}
             for i in range(3)]
    (tmp_path / "stories.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run(tmp_path / "stories.jsonl", tmp_path / "set", Settings("video", "set", ((32, 32),), test_share=0.0))
    (records,) = made(tmp_path / "set").values()
    assert [record["captions"] for record in records] == [[f"a {i}", f"b {i}"] for i in range(3)]
    assert all(record["starts"].tolist() == [0, 8] and record["video"].shape == (20, 32, 32, 3) for record in records)
    assert isinstance(records[0]["fps"], np.float32)
