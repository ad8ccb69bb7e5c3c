"""Figures of a protocol with a network whose features are known, and reports that outlast a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from phenaki_jax import evaluate
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import distances, features, harness, motion_stats
from phenaki_jax.evaluation.clips import Clips
from phenaki_jax.evaluation.protocols import Protocol

ROOT = Path(__file__).parents[2]
COUNT, FRAMES, SIZE, WIDTH = 70, 6, 16, 5


def moving(count, seed, shade=0):
    """Clips uint8 [N, F, Y, X, 3] of a grey that changes, each from another one on."""
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 120, (count, 1, 1, 1, 1)) + rng.integers(2, 9, (count, 1, 1, 1, 1)) * np.arange(
        FRAMES)[:, None, None, None] + rng.integers(0, 50, (count, FRAMES, SIZE, SIZE, 3)) + shade
    return video.clip(0, 255).astype(np.uint8)


def of_array(array, about="real", captions=()):
    return Clips(about, len(array), lambda a, b: array[a:b], captions)


def projected(video):
    """float64 [N, WIDTH]: what the fake network sees."""
    directions = np.random.default_rng(7).normal(size=(FRAMES * SIZE * SIZE * 3, WIDTH)) / 1000
    return video.reshape(len(video), -1).astype(np.float64) @ directions


def networks(fewest=8, seen=None):
    def of(video):
        if seen is not None:
            seen.append(len(video))
        return projected(video)

    return {"fvd": harness.Network(of, {"network": "projection"}, fewest, "clips")}


def protocol(**fields):
    return Protocol(**{"name": "mine", "about": "a test", "task": "compare", "frames": FRAMES, "clips": COUNT,
                       "metrics": ("fvd", "kvd", "precision", "motion"), **fields})


def test_figures_are_the_distances_of_what_is_seen(tmp_path):
    real, made, other = moving(COUNT, 0), moving(COUNT, 1, 20), moving(COUNT, 2)
    found = harness.measure(protocol(), of_array(real), of_array(made), other=of_array(other), folder=tmp_path,
                            seen_by=networks(), resamples=20)["figures"]
    distance = lambda a, b: features.frechet_distance(projected(a), projected(b))
    fvd = found["fvd"]
    assert fvd["value"] == pytest.approx(distance(real, made), rel=1e-12)
    assert fvd["floor"] == pytest.approx(distance(real, other), rel=1e-12)
    assert fvd["controls"]["static"] == pytest.approx(distance(real, np.repeat(real[:, :1], FRAMES, 1)), rel=1e-12)
    assert set(fvd["controls"]) == {"static", "shuffled"} and fvd["interval"][0] < fvd["value"] < fvd["interval"][1]
    assert fvd["floor"] < fvd["value"] and [n for n, _ in fvd["curve"]] == [8, 17, 35, 70]
    assert fvd["curve"][-1][1] == fvd["value"] and fvd["curve"][1][1] == pytest.approx(
        distance(real[:17], made[:17]), rel=1e-12)
    assert found["kvd"]["floor"] < found["kvd"]["value"] and 0 <= found["recall"]["value"] <= 1
    moved = motion_stats.motion_statistics(made)["motion"]
    assert found["motion"]["value"] == pytest.approx(moved.mean())


def test_frames_by_themselves_have_no_order(tmp_path):
    """FID knows no shuffled control; precision is of the first network that a protocol asks, and told once."""
    real, made, seen = moving(COUNT, 0), moving(COUNT, 1), []

    def of_frames(video):
        seen.append(len(video))
        return video.reshape(*video.shape[:2], -1)[..., :WIDTH].astype(np.float64)

    both = networks() | {"fid": harness.Network(of_frames, {"network": "frames"}, 8, "images")}
    found = harness.measure(protocol(metrics=("fvd", "fid", "precision")), of_array(real), of_array(made),
                            folder=tmp_path, seen_by=both, resamples=4)["figures"]
    assert set(found["fvd"]["controls"]) == {"static", "shuffled"} and set(found["fid"]["controls"]) == {"static"}
    assert sum(seen) == 3 * COUNT
    alone = harness.measure(protocol(metrics=("fvd", "precision")), of_array(real), of_array(made), folder=tmp_path,
                            seen_by=both, resamples=4)["figures"]
    assert found["precision"] == alone["precision"] and found["recall"] == alone["recall"]


def test_what_is_not_installed_is_said_before_anything_is_read(tmp_path):
    def missing():
        raise UserError("weights are missing")

    absent = {"fvd": harness.Network(projected, {}, 8, "clips", missing)}
    with pytest.raises(UserError, match="weights are missing"):
        evaluate.main(protocol(), evaluate.Sources(real="gone"), tmp_path / "r", seen_by=absent)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="has to be a folder"):
        evaluate.main(protocol(), evaluate.Sources(), tmp_path / "file", seen_by=networks())


def test_paired_figures_are_of_the_new_frames_alone(tmp_path):
    truth = moving(10, 0)
    made = truth.copy()
    made[:, 2:] = np.minimum(made[:, 2:].astype(int) + 4, 255).astype(np.uint8)
    two_each = np.repeat(made, 2, axis=0)
    form = protocol(task="prediction", given=2, repeats=2, clips=10, metrics=("psnr", "ssim", "flicker"))
    found = harness.measure(form, of_array(truth), of_array(two_each), ceiling=of_array(truth), folder=tmp_path,
                            seen_by={}, resamples=20)
    psnr = distances.psnr_per_video(truth[:, 2:], made[:, 2:])
    np.testing.assert_allclose(found["per_clip"]["psnr"], np.repeat(psnr, 2), rtol=1e-12)
    assert found["figures"]["psnr"]["value"] == pytest.approx(psnr.mean())
    held = truth.copy()
    held[:, 2:] = held[:, 1:2]
    assert found["figures"]["psnr"]["controls"]["copy_last"] == pytest.approx(
        distances.psnr_per_video(truth[:, 2:], held[:, 2:]).mean())
    assert found["figures"]["ssim"]["ceiling"] == pytest.approx(1.0)
    assert found["figures"]["flicker"]["value"] == pytest.approx(0.0, abs=0.1) and found["counts"] == {
        "real": 10, "made": 20}


def test_what_was_seen_of_a_piece_is_not_looked_at_again(tmp_path):
    real, made, seen = moving(COUNT, 0), moving(COUNT, 1), []
    measure = lambda made: harness.measure(protocol(metrics=("fvd",)), of_array(real), of_array(made), folder=tmp_path,
                                           seen_by=networks(seen=seen), resamples=4)["figures"]["fvd"]
    first = measure(made)
    assert sum(seen) == 4 * COUNT  # real, made and two controls
    assert measure(made) == first and sum(seen) == 4 * COUNT
    made = made.copy()
    made[40, 0, 0, 0, 0] ^= 255  # one value of the second piece
    assert measure(made) != first and sum(seen) == 4 * COUNT + 32


def test_too_few_are_refused_and_forced_ones_told(tmp_path):
    few = networks(fewest=COUNT + 1)
    with pytest.raises(UserError, match=f"FVD of {COUNT} real clips means little; it wants {COUNT + 1}; give more, or"):
        harness.check_sizes(protocol(), COUNT, COUNT, few, force=False)
    assert len(harness.check_sizes(protocol(), COUNT, COUNT + 1, few, force=True)) == 1
    assert harness.check_sizes(protocol(metrics=("motion",)), 2, 2, few, force=False) == []


PROGRAM = """
import sys, time
sys.path.insert(0, {root!r})
from tests.evaluation import test_harness as here
from phenaki_jax import evaluate

def slow(video):
    time.sleep(0.15)
    return here.projected(video)

here.report({folder!r}, slow)
"""


def write_sets(folder):
    for name, seed in (("real", 0), ("made", 1)):
        (folder / name).mkdir()
        for i, clip in enumerate(moving(COUNT, seed)):
            np.save(folder / name / f"{i:03d}.npy", clip)


def report(folder, of=projected):
    folder = Path(folder)
    seen_by = {"fvd": harness.Network(of, {"network": "projection"}, 8, "clips")}
    return evaluate.main(protocol(), evaluate.Sources(real=str(folder / "real"), generated=str(folder / "made")),
                         folder / "report", seen_by=seen_by, cache=str(folder / "cache"), resamples=10)


def test_killed_at_random_it_gives_the_report_of_one_that_was_not(tmp_path, capsys):
    write_sets(tmp_path)
    program, rng = PROGRAM.format(root=str(ROOT), folder=str(tmp_path)), np.random.default_rng(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    for kill in range(4):
        process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()  # it measures
        assert line, "the program ended by itself"
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = len(list((tmp_path / "cache").glob("*.npy")))
    assert 0 < kept < 12 and not (tmp_path / "report" / "report.json").exists()
    killed = report(tmp_path)
    again = report(tmp_path)
    unkilled = report_in_a_new_cache(tmp_path)
    for found in (killed, again):
        assert {name: found[name] for name in unkilled if name != "circumstances"} == {
            name: unkilled[name] for name in unkilled if name != "circumstances"}
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written["figures"] == json.loads(json.dumps(unkilled["figures"]))
    assert len(written["per_clip"]["motion"]) == COUNT


def report_in_a_new_cache(folder):
    seen_by = {"fvd": harness.Network(projected, {"network": "projection"}, 8, "clips")}
    return evaluate.main(protocol(), evaluate.Sources(real=str(folder / "real"), generated=str(folder / "made")),
                         folder / "other", seen_by=seen_by, cache=str(folder / "elsewhere"), resamples=10)


def test_a_report_says_all_that_its_figures_depend_on(tmp_path, capsys):
    write_sets(tmp_path)
    found = report(tmp_path)
    text = (tmp_path / "report" / "report.md").read_text()
    page = (tmp_path / "report" / "report.html").read_text()
    for words in ("| FVD |", "real clips' own halves", "projection", '"frames": 6'):
        assert words in text, words
    assert page.count("<svg") >= 2 and "data:image/png;base64," in page and "http" not in page.split("<body>")[1]
    assert found["made_by"]["networks"] == {"fvd": {"network": "projection"}}
    with pytest.raises(UserError, match="has to be a folder"):
        evaluate.main(protocol(), evaluate.Sources(), tmp_path / "report.json")
    for sources, words in ((evaluate.Sources(), "names no data"),
                           (evaluate.Sources(real=str(tmp_path / "real")), "give --generated=FOLDER")):
        with pytest.raises(UserError, match=words):
            evaluate.main(protocol(), sources, tmp_path / "r", seen_by=networks())
