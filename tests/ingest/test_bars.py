"""At a size at which rare things happen: 20,000 images and 2,000 clips, one in a hundred damaged in some way."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import worlds  # noqa: E402
from test_job import dropped, kill_and_go_on, tree  # noqa: E402

from phenaki_jax.__main__ import main
from phenaki_jax.input.records import Records

pytestmark = pytest.mark.slow


def write_source(folder, count, sample, damaged, tars=40):
    """Tars of `count` samples in all; returns {key: reason or None}. Every hundredth is damaged, each way in turn."""
    kinds, told = list(damaged.items()), {}
    for tar in range(tars):
        samples = {}
        for i in range(tar * count // tars, (tar + 1) * count // tars):
            bad = kinds[i // 100 % len(kinds)] if i % 100 == 99 else None
            samples[f"{i:06}"] = bad[1][0] if bad else sample(i)
            told[f"{tar:05}.tar/{i:06}"] = bad[1][1] if bad else None
        worlds.write_tar(folder / f"{tar:05}.tar", samples)
    return told


def check(folder, told):
    """Every key of the source is among the records or among the drops, and there for its reason."""
    manifest = json.loads((folder / "manifest.json").read_text())
    kept = {record["key"].partition("#")[0] for split in manifest["splits"] for record in Records(folder, split)}
    gone = {}
    for unit in sorted((folder / "units").glob("*.json")):
        name = json.loads(unit.read_text())["unit"]
        lines = unit.with_suffix(".dropped.jsonl").read_text().splitlines()
        gone |= {f"{name}/{entry['key']}": entry["reason"] for entry in map(json.loads, lines)}
    assert kept == {key for key, reason in told.items() if reason is None}
    assert gone == {key: reason for key, reason in told.items() if reason is not None}
    assert manifest["in"] == len(told) == len(kept) + len(gone) and manifest["kept"] == len(kept)


def test_twenty_thousand_images(tmp_path):
    told = write_source(tmp_path / "in", 20_000, worlds.image_sample, worlds.DAMAGED_IMAGES)
    assert main(["ingest", f"--source={tmp_path / 'in'}", f"--output={tmp_path / 'set'}", "--size=64"]) == 0
    check(tmp_path / "set", told)
    assert len(dropped(tmp_path / "set")) == 200


def test_two_thousand_clips(tmp_path):
    told = write_source(tmp_path / "in", 2_000, worlds.video_sample, worlds.DAMAGED_VIDEOS)
    assert main(["ingest", f"--source={tmp_path / 'in'}", f"--output={tmp_path / 'set'}", "--size=32"]) == 0
    check(tmp_path / "set", told)


def test_killed_twenty_times(tmp_path):
    write_source(tmp_path / "in", 8_000, worlds.image_sample, worlds.DAMAGED_IMAGES, tars=120)
    assert kill_and_go_on(tmp_path / "in", tmp_path / "whole", 0, 0) == 0
    assert kill_and_go_on(tmp_path / "in", tmp_path / "killed", 20, 7) == 20
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
