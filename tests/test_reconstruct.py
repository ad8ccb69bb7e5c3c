"""`phenaki reconstruct` on the files that people have: any size, any length, images, folders, and broken ones."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from phenaki_jax import cli, evaluation, media, reconstruct
from phenaki_jax.__main__ import main
from phenaki_jax.config import load_config, to_json
from phenaki_jax.evaluation import features


class Lossless:
    """A tokenizer that keeps everything: it remembers what it was given, and refuses what fits no patch."""
    codebook_size = 16
    config = SimpleNamespace(patch=(2, 4, 4), frames=5, height=16, width=24)

    def encode(self, video):
        assert video.dtype == np.uint8 and video.shape[2] % 4 == video.shape[3] % 4 == 0
        self.video = video
        B, F, Y, X, _ = video.shape
        return np.arange(B * (1 + -(-(F - 1) // 2)) * Y * X // 16).reshape(B, -1, Y // 4, X // 4) % 16

    def decode(self, tokens, num_frames):
        return media.to_float(self.video[:, :num_frames])


@pytest.fixture
def command(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(to_json(load_config("configs/quickstart.py:tokenizer")))
    monkeypatch.setattr(cli, "load_pipeline", lambda path: SimpleNamespace(tokenizer=Lossless()))
    return lambda source, target, *more: main(["reconstruct", f"--model={tmp_path / 'model'}", f"--input={source}",
                                               f"--output={target}", *more])


def clip(frames, height, width):
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("frames, height, width", [(11, 16, 24), (1, 17, 21), (6, 13, 30), (4, 5, 7)])
def test_any_size_and_length_comes_back_as_it_was(frames, height, width):
    tokenizer, video = Lossless(), clip(frames, height, width)
    restored, tokens = reconstruct.reconstruct(tokenizer, video)
    np.testing.assert_array_equal(restored, video)
    assert tokens.shape == (1 + -(-(frames - 1) // 2), -(-height // 4), -(-width // 4))
    np.testing.assert_array_equal(tokenizer.video[0, :, -1, :width], video[:, -1])  # what is added repeats the border


@pytest.mark.parametrize("asked, size, through", [
    ("", (16, 24), (16, 24)), ("", (8, 8), (8, 8)), ("", (64, 96), (16, 24)), ("", (240, 10), (96, 4)),
    ("native", (64, 96), (64, 96)), ("20x30", (64, 96), (20, 30))])
def test_at_which_size_a_picture_goes_through(asked, size, through):
    assert reconstruct.fit_size(*size, Lossless(), asked) == through


def test_figures_are_those_of_the_measures(monkeypatch):
    video, other, tokens = clip(5, 16, 24), 255 - clip(5, 16, 24), np.arange(72).reshape(3, 4, 6) % 7
    values = reconstruct.figures(video, other, tokens, 16)
    assert values["psnr"] == evaluation.psnr(video[None], other[None])
    assert values["ssim"] == evaluation.ssim(video[None], other[None])
    assert values["lpips"] == pytest.approx(evaluation.lpips(video[None], other[None]))
    assert values["bits_per_pixel"] == 72 * 4 / (5 * 16 * 24) and values["codes"] == 7
    small = reconstruct.figures(video[:, :10], other[:, :10], tokens, 16)
    assert small["ssim"] is None and small["lpips"] is None and small["psnr"] > 0
    assert "LPIPS" not in reconstruct.sentence("a", small)
    assert reconstruct.figures(video, video, tokens, 16)["psnr"] is None  # no loss has no decibels


def test_a_file_becomes_a_file(tmp_path, capsys, command):
    media.write_video(tmp_path / "in.gif", clip(5, 8, 12) // 128 * 255, 8.0)
    assert command(tmp_path / "in.gif", tmp_path / "out.gif") == 0
    before, after = (media.read_video(tmp_path / name) for name in ("in.gif", "out.gif"))
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1] == after[1] == 8.0
    assert "5 frames of 8 x 12" in capsys.readouterr().out


def test_images_with_transparency_and_in_gray_are_read(tmp_path, command):
    Image.fromarray(np.full((18, 9), 77, np.uint8)).save(tmp_path / "gray.png")
    Image.fromarray(np.full((9, 18, 4), 128, np.uint8)).save(tmp_path / "alpha.png")
    for name in ("gray", "alpha"):
        assert command(tmp_path / f"{name}.png", tmp_path / "out" / f"{name}.png") == 0
    assert (media.read_image(tmp_path / "out" / "gray.png") == 77).all()
    assert (media.read_image(tmp_path / "out" / "alpha.png") == 64).all()


def test_a_folder_goes_on_past_what_is_broken_and_says_what(tmp_path, capsys, command):
    folder = tmp_path / "mine"
    folder.mkdir()
    media.write_video(folder / "a.mp4", clip(4, 32, 32), 10.0)
    media.write_image(folder / "b.png", clip(1, 12, 12)[0])
    whole = (folder / "a.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[:200])
    (folder / "empty.webm").write_bytes(b"")
    (folder / "words.gif").write_text("no video")
    (folder / "notes.txt").write_text("left alone")
    assert command(folder, tmp_path / "out", "--size=native") == 1
    told = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["files"]) == {"a.mp4", "b.png"} and report["files"]["a.mp4"]["frames"] == 4
    assert set(report["left_out"]) == {"cut.mp4", "empty.webm", "words.gif"}
    assert all(name in told for name in report["left_out"]) and "notes" not in told
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.mp4", "b.png", "report.json"}
    why = "FVD means little under 400 clips of one length and size, and here are at most 1, of 4 frames of 32 x 32."
    assert report["fvd"] == {"value": None, "clips": 1, "why": why}


class Darker(Lossless):
    def decode(self, tokens, num_frames):
        return media.to_float(self.video[:, :num_frames] // 2)


def test_clips_enough_have_a_frechet_video_distance(tmp_path, capsys, monkeypatch, command):
    """Against the distance of all clips at once, cut by hand; what differs in length or size does not count."""
    folder, rng = tmp_path / "mine", np.random.default_rng(0)
    folder.mkdir()
    videos = [rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8) for count in (5, 12, 22, 5)]
    for i, video in enumerate([*videos, *(clip(*form) for form in ((4, 8, 8), (5, 8, 12), (1, 8, 8)))]):
        np.save(folder / f"{i}.npy", video)
        (folder / f"{i}.mp4").touch()
    looked = []

    def look(video):
        looked.append(video.shape)
        return video.reshape(len(video), -1)[:, ::97].astype(np.float64)

    monkeypatch.setattr(media, "read_video", lambda path: (np.load(path.with_suffix(".npy")), 8.0))
    monkeypatch.setattr(media, "write_video", lambda *_: None)
    monkeypatch.setattr(evaluation, "video_features", look)
    monkeypatch.setattr(cli, "load_pipeline", lambda path: SimpleNamespace(tokenizer=Darker()))
    monkeypatch.setattr(features, "FEWEST_CLIPS", 9)
    assert command(folder, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())["fvd"]
    assert not looked and report["value"] is None and "at most 8, of 5 frames of 8 x 8" in report["why"]
    monkeypatch.setattr(features, "FEWEST_CLIPS", 8)
    monkeypatch.setattr(reconstruct, "FVD_BATCH", 3)
    assert command(folder, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())["fvd"]
    assert (report["clips"], report["frames"], report["height"], report["width"]) == (8, 5, 8, 8)
    assert report["protocol"] == json.loads(json.dumps(evaluation.FVD_PROTOCOL)) and set(looked) == {(3, 5, 8, 8, 3)}
    cut = np.concatenate([video[:len(video) // 5 * 5].reshape(-1, 5, 8, 8, 3) for video in videos])
    wanted = evaluation.frechet_distance(look(cut), look(cut // 2))
    assert report["value"] == pytest.approx(wanted) and wanted > 0
    assert f"fvd {wanted:.4g} of 8 clips" in capsys.readouterr().out.splitlines()[-1]
    monkeypatch.setattr(reconstruct.weights, "installed", lambda file: False)
    assert command(folder, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())["fvd"]
    assert report["value"] is None and "phenaki_jax[metrics]" in report["why"]


@pytest.mark.parametrize("source, target, more, words", [
    ("none.mp4", "out.mp4", [], "none.mp4"), ("in.gif", "out.png", [], "--output"),
    ("in.gif", "out.txt", [], "--output"), ("in.gif", "out.gif", ["--size=big"], "--size='big'"),
    ("in.gif", "out.gif", ["--size=0x5"], "--size='0x5'"), ("empty", "out", [], "holds no file"),
    ("bad", "out", ["--size=big"], "--size='big'"), ("bad", "out", [], "none of its 1 files"),
    ("bad", "bad", [], "another folder"),
    ("notes.txt", "out.mp4", [], "--input"), ("zero.mp4", "out.mp4", [], "zero.mp4")])
def test_what_cannot_be_done_is_said_in_one_sentence(tmp_path, capsys, command, source, target, more, words):
    media.write_video(tmp_path / "in.gif", clip(2, 8, 8), 8.0)
    for folder in ("empty", "bad"):
        (tmp_path / folder).mkdir()
    for name in ("bad/a.mp4", "zero.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert command(tmp_path / source, tmp_path / target, *more) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "out.mp4").exists() and not (tmp_path / "out.png").exists()
