"""The command line: a mistake is one sentence and exit code 2, and overwrites nothing."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from phenaki_jax import cli
from phenaki_jax import config as configs
from phenaki_jax import media
from phenaki_jax.__main__ import main, parse
from phenaki_jax.errors import UserError
from phenaki_jax.making import command

FRAMES = 11


@pytest.fixture
def model(tmp_path):
    """The folder of a run, as far as it is read before weights are."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = configs.load_config("configs/paper.py:generator")
    (folder / "config.json").write_text(configs.to_json(config))
    return folder


class FakePipe:
    """What the commands ask of a pipeline beside frames."""
    fingerprint, safety_checker = "0123456789abcdef" * 2, None

    def __init__(self, model):
        self.config = configs.read_run_config(model)
        self.read = SimpleNamespace(check=lambda *_: None)

    def refuse(self, prompts):
        pass


@pytest.fixture
def pipe(monkeypatch, model):
    """A pipeline that draws noise by the seed and remembers how it was called."""
    calls = []

    def draw(count, frames, seed):
        return np.random.default_rng(seed).integers(0, 256, (count, frames, 16, 16, 3)).astype(np.uint8)

    class Pipe(FakePipe):
        def __call__(self, prompts, *, num_frames, seed, **sampler):
            calls.append((prompts, num_frames, seed, sampler))
            return SimpleNamespace(frames=draw(len(prompts), num_frames, seed), refused=())

        def tell(self, stories, *, seed, parts, **options):
            calls.append((stories, parts, seed, options))
            return (SimpleNamespace(frames=draw(1, scene["num_frames"], seed), refused=()) for scene in stories[0])

    monkeypatch.setattr(command, "load_pipeline", lambda *_: Pipe(model))
    return calls


def refused(capsys, *arguments):
    """The sentence with which a command line is refused."""
    assert main([str(a) for a in arguments]) == 2
    out = capsys.readouterr()
    assert out.err.startswith("phenaki: ") and out.err.count("\n") == 1 and "Traceback" not in out.err
    return out.err


def test_training_refuses_in_one_sentence(tmp_path, capsys):
    train = ["train", "--config=configs/paper.py:tokenizer", f"--workdir={tmp_path / 'run'}"]
    assert "codebook_size" in refused(capsys, *train, "--config.tokenizer.codebok_size=3")
    assert "batch_size" in refused(capsys, *train, "--config.batch_size=many")
    assert "has no value" in refused(capsys, *train, "--config.batch_size")
    assert "--workdir" in refused(capsys, *train, "--wrokdir=x")
    assert "--workdir" in refused(capsys, "train", "--config=configs/paper.py")
    assert "configs/paper.py" in refused(capsys, "train", "--config=configs/none.py", f"--workdir={tmp_path}")
    assert not (tmp_path / "run").exists()


def test_verbs_and_options_are_named(capsys):
    assert "quickstart" in refused(capsys, "paint")
    assert "VERB" in refused(capsys)
    assert "--suite" in refused(capsys, "evaluate", "--model=x", "--report=y")
    generate = ["generate", "--model=x", "--prompt=p", "--output=o.gif"]
    assert "--guidance_scale" in refused(capsys, *generate, "--guidance=1")


def test_overrides_are_read_in_both_spellings():
    _, overrides = parse(["train", "--config=c", "--workdir=w", "--config.mesh.data=-1", "--config.seed", "4"])
    assert overrides == {"mesh.data": "-1", "seed": "4"}


def test_exit_code_of_the_process(tmp_path):
    command = [sys.executable, "-m", "phenaki_jax", "generate", f"--model={tmp_path / 'none'}", "--prompt=a circle",
               f"--output={tmp_path / 'o.gif'}"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=120)
    assert run.returncode == 2
    assert run.stderr == f"phenaki: There is no model folder {str(tmp_path / 'none')!r}; give a run's folder, " \
                         "as `phenaki train` makes it.\n"
    assert not list(tmp_path.iterdir())


def test_generate_refuses_and_overwrites_nothing(tmp_path, capsys, model, pipe):
    output = tmp_path / "old.gif"
    output.write_bytes(b"old")
    generate = ["generate", f"--model={model}", f"--output={output}"]
    empty, story = tmp_path / "empty.txt", tmp_path / "story.json"
    empty.write_text(" \n\n")
    assert "empty" in refused(capsys, *generate, f"--prompts={empty}")
    assert "empty" in refused(capsys, *generate, f"--story={empty}")
    assert "empty" in refused(capsys, *generate, "--prompt= ")
    assert "--prompt is missing" in refused(capsys, *generate)
    assert "no file" in refused(capsys, *generate, f"--story={tmp_path / 'none.json'}")
    for text, words in (("[", "JSON"), ("[]", "list of scenes"), ('[{"num_frames": 3}]', "scene 1"),
                        ('[{"prompt": "a"}, {"prompt": "b", "num_frames": 0}]', "scene 2"),
                        ('[{"prompt": "a", "frames": 3}]', "'frames'"), ('{"prompt": "a"}', "list of scenes")):
        story.write_text(text)
        assert words in refused(capsys, *generate, f"--story={story}")
    assert "--frames=0" in refused(capsys, *generate, "--prompt=a", "--frames=0")
    assert "--frames" in refused(capsys, *generate, "--prompt=a", "--frames=some")
    assert "num_inference_steps=0" in refused(capsys, *generate, "--prompt=a", "--num_inference_steps=0")
    assert "preset='best'" in refused(capsys, *generate, "--prompt=a", "--preset=best")
    assert ".gif" in refused(capsys, "generate", f"--model={model}", "--prompt=a", "--output=o.txt")
    assert not pipe and output.read_bytes() == b"old"


def test_an_error_while_sampling_leaves_the_old_file(tmp_path, capsys, model, monkeypatch):
    output = tmp_path / "old.gif"
    output.write_bytes(b"old")

    class Pipe(FakePipe):
        def __call__(self, *_, **__):
            raise UserError("frames=12 does not fit.")

    monkeypatch.setattr(command, "load_pipeline", lambda *_: Pipe(model))
    generate = ["generate", f"--model={model}", "--prompt=a", f"--output={output}"]
    assert "has no sidecar" in refused(capsys, *generate)
    assert "frames=12" in refused(capsys, *generate, "--overwrite")
    assert output.read_bytes() == b"old"


def test_generate_writes_what_the_pipeline_makes(tmp_path, model, pipe):
    base = ["generate", f"--model={model}", "--seed=4"]
    assert main([*base, "--prompt=a", f"--output={tmp_path / 'one.gif'}", "--guidance_scale=2"]) == 0
    assert pipe[-1] == (["a"], FRAMES, [4], {"guidance_scale": 2.0})
    assert media.read_video(tmp_path / "one.gif")[0].shape == (FRAMES, 16, 16, 3)
    assert main([*base, "--prompt=a", "--prompt=b", "--frames=5", f"--output={tmp_path / 'two.gif'}"]) == 0
    assert [media.read_video(tmp_path / f"two_{i}.gif")[0].shape[0] for i in (0, 1)] == [5, 5]
    assert main([*base, "--prompt=a", "--frames=1", f"--output={tmp_path / 'one.png'}"]) == 0
    assert media.read_image(tmp_path / "one.png").shape == (16, 16, 3)


def test_evaluate_refuses_unknown_suites(tmp_path, capsys, model):
    evaluate = ["evaluate", f"--model={model}", f"--report={tmp_path / 'r.json'}"]
    assert "tokenizer, attributes, stories" in refused(capsys, *evaluate, "--suite=beauty")
    assert "--samples" in refused(capsys, *evaluate, "--suite=all", "--samples=0")
    assert "--report" in refused(capsys, "evaluate", f"--model={model}", "--suite=all", "--report=r.txt")


def test_a_quickstart_folder_is_a_model(tmp_path, model):
    (tmp_path / "quick").mkdir()
    model.rename(tmp_path / "quick" / "generator")
    assert cli.model_config(str(tmp_path / "quick")).stage == "generator"


def test_doctor_tells_of_the_machine_and_of_a_run(tmp_path, capsys, model):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "jax " in told and "cores" in told and "memory" in told
    assert main(["doctor", f"--run={model}"]) == 1
    assert "no checkpoint yet" in capsys.readouterr().out
    assert "no folder" in refused(capsys, "doctor", f"--run={tmp_path / 'none'}")


def test_doctor_finds_what_a_run_suffers_from(tmp_path, model):
    from phenaki_jax import doctor
    lines = [{"step": s, "time": float(s), "loss": 1.0 / s, "codebook_usage": 0.9} for s in (1, 10, 20)]
    for step in ("10", "20"):
        for item in ("model", "training"):
            (model / "checkpoints" / step / item).mkdir(parents=True)
            (model / "checkpoints" / step / item / "_METADATA").write_text("{}")

    def problems():
        (model / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return [text for good, text in doctor.examine(model) if not good and "data_dir" not in text]

    assert problems() == []
    lines[-1]["codebook_usage"] = 0.1
    assert len(problems()) == 1 and "10% of the codebook" in problems()[0]
    lines[1]["loss"] = float("nan")
    assert any("loss is not finite at step 10" in text for text in problems())
    (model / "timing.json").write_text(json.dumps({"steps_per_second": 2.0, "data_wait": 0.5, "peak_memory_gb": 1.0}))
    assert any("waited for data 50%" in text for text in problems())
    (model / "checkpoints" / "20" / "training" / "_METADATA").unlink()
    assert any("checkpoint 20 is incomplete" in text for text in problems())
