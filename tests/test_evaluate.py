"""`phenaki evaluate --protocol` with models whose answers are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from phenaki_jax import cli, evaluate
from phenaki_jax.__main__ import main
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import distances, harness
from phenaki_jax.evaluation.protocols import Protocol

TASK = "sprite_clips_32_tiny"


class Pipe:
    """Gives clips back two levels brighter, holds the last frame where it should go on, and draws noise by the seed."""

    def __init__(self, size=32):
        self.config = SimpleNamespace(tokenizer=SimpleNamespace(height=size, width=size, frames=11),
                                      sampling=ConfigDict({"temperature": 1.0, "order": "confidence"}))
        self.generator = SimpleNamespace(config=SimpleNamespace(is_told=True))
        self.fingerprint, self.calls = f"pipe of {size}", []

    def reconstruct(self, video):
        return np.minimum(video.astype(int) + 2, 255).astype(np.uint8)

    def extend(self, prompts, video, *, num_frames, seed, **sampler):
        self.calls.append((tuple(prompts), tuple(seed), sampler))
        return SimpleNamespace(frames=np.concatenate([video, np.repeat(video[:, -1:], num_frames, axis=1)], axis=1))

    def __call__(self, prompts, *, num_frames, seed, **sampler):
        self.calls.append((tuple(prompts), tuple(seed), sampler))
        return SimpleNamespace(frames=np.stack([np.random.default_rng(one).integers(
            0, 256, (num_frames, 32, 32, 3)).astype(np.uint8) for one in seed]))


def seen_by():
    of = lambda video: video.mean(axis=(2, 3), dtype=np.float64)[:, :5].reshape(len(video), -1)
    return {name: harness.Network(of, {"network": "means"}, 4, what) for name, what in (
        ("fvd", "clips"), ("fid", "images"))}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


def measure(tmp_path, data_dir, pipe, folder="report", **fields):
    protocol = Protocol(**{"name": "mine", "about": "a test", "task": "prediction", "frames": 11, "clips": 3, **fields})
    return evaluate.main(protocol, evaluate.Sources(TASK, data_dir), tmp_path / folder, pipe, seed=5, force=True,
                         sampler={"temperature": 2.0}, seen_by=seen_by(), cache=str(tmp_path / "cache"), resamples=4)


def test_a_prediction_goes_on_from_what_is_given(tmp_path, data_dir, capsys):
    pipe = Pipe()
    found = measure(tmp_path, data_dir, pipe, given=2, repeats=3, metrics=("fvd", "psnr"))
    figures = found["figures"]
    assert figures["psnr"]["value"] == pytest.approx(figures["psnr"]["controls"]["copy_last"])  # that is what it does
    assert figures["psnr"]["equal"] == 3 and found["per_clip"]["psnr"].count(None) == 3  # one of the clips stands still
    assert found["counts"] == {"real": 3, "made": 9} and figures["fvd"]["ceiling"] > 0
    (prompts, seeds, sampler), = pipe.calls  # once, also for the contact sheet
    assert [prompts[i] for i in range(9)] == [prompts[i - i % 3] for i in range(9)] and len(set(seeds)) == 9
    assert sampler == {"temperature": 2.0} and found["made_by"]["size"] == [32, 32]
    assert found["made_by"]["sampling"] == {"temperature": 2.0, "order": "confidence"}
    again = Pipe()
    assert measure(tmp_path, data_dir, again, given=2, repeats=3, metrics=("fvd", "psnr"))["figures"] == figures
    assert again.calls == []  # what was made is there still
    measure(tmp_path, data_dir, Pipe(64 // 2), folder="other", given=2, metrics=("psnr",))


def test_a_reconstruction_is_of_the_clips_themselves(tmp_path, data_dir, capsys):
    found = measure(tmp_path, data_dir, Pipe(), task="reconstruction", metrics=("psnr", "ssim", "flicker", "fvd"))
    from phenaki_jax.input import mix
    truth = np.stack([r["video"][:11] for r in mix.eval_records(TASK, "test", 3, data_dir=data_dir)])
    psnr = distances.psnr_per_video(truth, Pipe().reconstruct(truth))
    np.testing.assert_allclose(found["per_clip"]["psnr"], psnr, rtol=1e-12)
    assert TASK in found["made_by"]["other"]  # there are as many others


@pytest.mark.parametrize("task, frames, metric", [("text_to_video", 11, "fvd"), ("text_to_image", 1, "fid")])
def test_captions_are_what_is_asked_for(tmp_path, data_dir, capsys, task, frames, metric):
    pipe = Pipe()
    found = measure(tmp_path, data_dir, pipe, task=task, frames=frames, metrics=(metric, "clip"))
    from phenaki_jax.input import mix
    captions = tuple(r["caption"] for r in mix.eval_records(TASK, "test", 3, data_dir=data_dir))
    assert pipe.calls[0][0] == captions and found["not_measured"] == ["clip"]
    assert found["figures"][metric]["value"] > found["figures"][metric]["ceiling"]
    assert "Forced" in (tmp_path / "report" / "report.md").read_text()


def test_a_model_that_a_protocol_cannot_use(tmp_path, data_dir):
    with pytest.raises(UserError, match="of 64 x 64 pixels, and the model of 32 x 32"):
        measure(tmp_path, data_dir, Pipe(), given=2, height=64, width=64)
    tokenizer = Pipe()
    tokenizer.generator = None
    with pytest.raises(UserError, match="wants a generator; this run is a tokenizer's"):
        measure(tmp_path, data_dir, tokenizer, given=2)
    with pytest.raises(UserError, match="is of a model; give --model"):
        measure(tmp_path, data_dir, None, given=2, height=32, width=32)


def test_the_command(tmp_path, data_dir, monkeypatch, capsys):
    protocol = tmp_path / "mine.yaml"
    protocol.write_text("about: mine\ntask: prediction\ngiven: 2\nframes: 11\nclips: 3\nmetrics: [psnr, motion]\n")
    monkeypatch.setattr(cli, "load_pipeline", lambda path: Pipe())
    monkeypatch.setattr(cli, "model_config", lambda path: None)
    monkeypatch.setattr(cli, "sampler_of", lambda options, config: {})
    monkeypatch.setattr(evaluate.harness, "networks", seen_by)
    monkeypatch.setenv("PHENAKI_CACHE", str(tmp_path / "cache"))
    base = ["evaluate", f"--protocol={protocol}", f"--report={tmp_path / 'report'}"]
    assert main([*base, "--model=m", f"--data={TASK}", f"--data_dir={data_dir}"]) == 0
    out = capsys.readouterr().out
    assert "PSNR, dB (without 1 equal clips): " in out and "copy_last" in out and "report.html" in out
    assert json.loads((tmp_path / "report" / "report.json").read_text())["protocol"]["name"] == "mine"
    for options, words in (([], "wants --model and no --generated"), (["--model=m", "--generated=x"], "wants --model"),
                           (["--model=m"], "names no data"), (["--model=m", "--samples=0"], "--samples=0")):
        assert main([*base, *options]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert main(["evaluate", "--protocol=fvd_2048_16", "--model=m", "--report=r"]) == 2
    assert "wants --generated=FOLDER and no --model" in capsys.readouterr().err


def test_a_run_is_measured_while_it_trains(tmp_path, data_dir, capsys):
    from phenaki_jax import load_config
    from phenaki_jax.training.loop import train
    protocol = tmp_path / "mine.yaml"
    protocol.write_text(f"about: mine\ntask: reconstruction\nframes: 11\nclips: 3\ndata: {TASK}\nmetrics: [psnr]\n")
    config = load_config("configs/quickstart.py:tokenizer", {
        "tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 32, "tokenizer.spatial_layers": 1,
        "data.mixture": "sprite_tiny_80_20", "data.data_dir": data_dir, "batch_size": 5, "train.steps": 2,
        "train.evaluate": [str(protocol)], "train.evaluate_every": 1, "optimizer.name": "adamw"})
    import jax
    train(config, tmp_path / "run", devices=jax.devices()[:1], tensorboard=False,
          evaluate=evaluate.in_training(config, tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "evaluation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and all(line["mine/psnr"] > 0 for line in lines)
    folder = tmp_path / "run" / "evaluation" / "mine" / "2"
    assert json.loads((folder / "report.json").read_text())["figures"]["psnr"]["value"] == lines[1]["mine/psnr"]
    assert not (folder / "made").exists()


@pytest.mark.parametrize("stage, names, words", [
    ("tokenizer", ["zero_shot_t2v"], "which a tokenizer in training cannot be measured by"),
    ("generator", ["fvd_2048_16"], "its task is compare"), ("generator", ["t2i_fid"], "names no data"),
    ("generator", ["beauty"], "--protocol='beauty' is unknown")])
def test_what_a_run_cannot_be_measured_by_is_said_before_it_trains(tmp_path, stage, names, words):
    from phenaki_jax import load_config
    config = load_config(f"configs/quickstart.py:{stage}", {"train.evaluate": names})
    with pytest.raises(UserError, match=words):
        evaluate.in_training(config, tmp_path)
