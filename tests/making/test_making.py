"""From prompts to files: made once each, by a kill or not; what they say of themselves; and made again by that."""

import json
import subprocess
import sys

import numpy as np
import pytest

import phenaki_jax
from phenaki_jax import media
from phenaki_jax.__main__ import main
from phenaki_jax.making import files
from phenaki_jax.models.build import make_generator, make_tokenizer
from phenaki_jax.provenance import watermark
from tests.export.untrained import TINY as UNTRAINED
from tests.export.untrained import arrays, write_run


def test_many_prompts_and_seeds_once_each_whatever_kills(run, pipes, tmp_path):
    prompts = [f"prompt {number}" for number in range(7)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    options = ["generate", f"--prompts={tmp_path / 'prompts.txt'}", "--num_videos_per_prompt=2", "--batch_size=4",
               "--seed=3", "--form=gif"]
    assert run(*options, f"--output={tmp_path / 'whole'}") == 0
    whole = pipes.calls.copy()
    assert [pair for call in whole for pair in zip(*call)][:14] == [
        (prompt, 3 + 2 * number + again) for number, prompt in enumerate(prompts) for again in (0, 1)]
    pipes.calls.clear()
    for killed_at, code in ((1, 130), (3, 130), (None, 0)):
        pipes.killed_at = killed_at
        assert run(*options, f"--output={tmp_path / 'killed'}") == code
    assert pipes.calls == whole  # no batch was made twice
    names = [f"{number:05}.gif" for number in range(14)]
    for folder in ("whole", "killed"):
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == sorted([*names, *(f"{n}.json" for n in names)])
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_what_is_there_is_not_made_again_unless_it_is_another(run, pipes, tmp_path, capsys):
    base = ["generate", "--prompt=a cat", f"--output={tmp_path / 'a.gif'}"]
    assert run(*base) == run(*base) == 0
    assert len(pipes.calls) == 1 and "a.gif (was there)" in capsys.readouterr().out
    before = (tmp_path / "a.gif").read_bytes()
    for more in (["--seed=1"], ["--scale=2"], ["--fps=5"], ["--num_inference_steps=3"],
                 ["--config.provenance.label=False"], ["--overwrite"]):
        pipes.calls.clear()
        assert run(*base, *more) == 0
        assert len(pipes.calls) == 1
    assert (tmp_path / "a.gif").read_bytes() == before
    (tmp_path / "a.gif").write_bytes(before[:-9])  # cut off by somebody
    pipes.calls.clear()
    assert run(*base) == 0 and len(pipes.calls) == 1 and (tmp_path / "a.gif").read_bytes() == before


@pytest.mark.parametrize("verb, options", [
    ("generate", ["--prompt=a cat", "--prompt=a dog", "--seed=5", "--batch_size=3"]),
    ("generate", ["--prompt=a cat", "--num_videos_per_prompt=2", "--preview_every=1", "--guidance_scale=2.5"]),
    ("generate", ["--prompt=a cat", "--prompt=a dog", "--frames=1", "--devices=2",
                  "--config.sampling.temperature=1.5"]),
    ("generate", ["--story={story}", "--seed=4", "--temperature=2", "--preview_every=1"]),
    ("animate", ["--prompt=a cat", "--image={image}", "--fit=pad", "--frames=15"]),
    ("extend", ["--prompt=a cat", "--video={video}", "--input_fps=4"]),
    ("interpolate", ["--prompt=a cat", "--image={image}", "--last_image={image}"]),
    ("inpaint", ["--prompt=a cat", "--video={video}", "--mask={mask}"])])
def test_a_sidecar_makes_it_again(run, tmp_path, capsys, verb, options):
    rng = np.random.default_rng(0)
    media.write_image(tmp_path / "image.png", rng.integers(0, 256, (20, 30, 3), np.uint8))
    media.write_image(tmp_path / "mask.png", rng.integers(0, 256, (10, 10, 3), np.uint8))
    media.write_video(tmp_path / "video.gif", rng.integers(0, 256, (11, 20, 20, 3), np.uint8), 8.0)
    (tmp_path / "story.json").write_text(json.dumps(["one", {"prompt": "two", "num_frames": 4}]))
    suffix = "png" if "--frames=1" in options else "mp4"
    names = {name: tmp_path / f"{name}.{end}" for name, end in (
        ("image", "png"), ("mask", "png"), ("video", "gif"), ("story", "json"))}
    options = [option.format(**names) for option in options]
    assert run(verb, *options, f"--output={tmp_path / f'out.{suffix}'}", "--scale=4") == 0
    made = sorted(p for p in tmp_path.glob(f"out*.{suffix}"))
    assert made and not list(tmp_path.glob("*.preview.gif"))
    path = made[-1]
    lengths = {"extend": 16, "animate": 15, "inpaint": 11, "interpolate": 11}  # 6 of 11 frames of 8 a second at 4
    if verb in lengths:
        assert len(media.read_video(path)[0]) == lengths[verb]
    again = tmp_path / f"again.{suffix}"
    assert main(["generate", f"--from={path}.json", f"--output={again}"]) == 0
    assert "its frames equal the sidecar's, bit for bit" in capsys.readouterr().out
    assert again.read_bytes() == path.read_bytes()
    one, other = (json.loads((p.with_name(p.name + ".json")).read_text()) for p in (path, again))
    assert one["file"].pop("name") != other["file"].pop("name")
    assert one == other


def test_a_file_says_that_it_is_generated_and_by_what(run, pipes, tmp_path):
    model = pipes.load(tmp_path / "model").fingerprint
    assert run("generate", "--prompt=a cat", f"--output={tmp_path / 'big.mp4'}", "--scale=16") == 0
    label = json.loads(media.read_label(tmp_path / "big.mp4"))
    assert label["generated"] is True and label["model"] == model
    sidecar = files.read_sidecar(tmp_path / "big.mp4.json")
    assert sidecar["provenance"]["watermark"] == model[:8] and sidecar["provenance"]["label"] is True
    assert watermark.find(media.read_video(tmp_path / "big.mp4")[0]).payload == int(model[:8], 16)
    assert main(["verify", str(tmp_path / "big.mp4")]) == 0
    for off in ("label", "watermark"):
        assert run("generate", "--prompt=a cat", f"--output={tmp_path / 'off.mp4'}", "--scale=16",
                   f"--config.provenance.{off}=False") == 0
        told = files.read_sidecar(tmp_path / "off.mp4.json")["provenance"]
        assert told[off] is False and (off == "label" or told["no_watermark_because"] == "turned off")
        assert bool(media.read_label(tmp_path / "off.mp4")) is (off == "watermark")
    assert run("generate", "--prompt=a cat", f"--output={tmp_path / 'small.mp4'}") == 0
    assert "too few" in files.read_sidecar(tmp_path / "small.mp4.json")["provenance"]["no_watermark_because"]


def test_folders_of_frames_and_a_sheet(run, tmp_path):
    assert run("generate", "--prompt=a", "--prompt=b", "--form=png", f"--output={tmp_path / 'out'}",
               f"--sheet={tmp_path / 'sheet.png'}") == 0
    frames, _ = media.read_video(tmp_path / "out" / "00001")
    assert frames.shape == (11, 8, 8, 3) and (tmp_path / "out" / "00001.json").is_file()
    assert media.read_image(tmp_path / "sheet.png").shape[0] > 2 * 96
    assert run("generate", "--prompt=a", "--frames=1", f"--output={tmp_path / 'image'}") == 0
    assert media.read_image(tmp_path / "image" / "00000.png").shape == (8, 8, 3)


def test_what_is_refused_is_not_written(run, pipes, tmp_path, capsys, monkeypatch):
    pipe = pipes.load(tmp_path / "model")
    assert run("generate", "--prompt=child porn", f"--output={tmp_path / 'a.mp4'}") == 2
    assert "is refused: the deny list" in capsys.readouterr().err and not pipes.calls
    dark = iter([None, "looks bad"])
    monkeypatch.setattr(pipe, "safety_checker", lambda frames: next(dark))
    assert run("generate", "--prompt=a", "--prompt=b", f"--output={tmp_path / 'a.mp4'}") == 1
    assert "a_1.mp4 is not written: looks bad" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.glob("a*")) == ["a_0.mp4", "a_0.mp4.json"]


@pytest.mark.parametrize("options, words", [
    (["--from={tmp}/none.json"], "is no sidecar"), (["--from={tmp}/model/config.json"], "is no sidecar, the .json"),
    (["--prompt=a", "--form=avi"], "--form='avi'"), (["--prompt=a", "--sheet=s.gif"], "--sheet"),
    (["--prompt=a", "--batch_size=0"], "--batch_size=0"), (["--prompt=a", "--preview_every=-1"], "--preview_every=-1"),
    (["--prompt=a", "--devices=99"], "--devices=99 is more than there are here"),
    (["--prompt=a", "--num_videos_per_prompt=0"], "--num_videos_per_prompt=0"),
    (["--prompt=" + "x" * 100_000], "bytes"),
    (["--prompt=a", "--config.train.steps=3"], "'train.steps' cannot be changed"),
    (["--prompt=a", "--config.provenance.deny_list={tmp}/none.txt"], "has to be a UTF-8 text file"),
    (["--prompt=a", "--config.provenance.frame_checker={tmp}/none.onnx"], "none.onnx"),
    (["--prompt=a", "--seed=4294967296"], "seed=4294967296")])
def test_mistakes_are_one_sentence(run, tmp_path, capsys, options, words):
    assert run("generate", f"--output={tmp_path / 'o.mp4'}", *(o.format(tmp=tmp_path) for o in options)) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "o.mp4").exists()


def test_another_model_or_another_input_is_not_the_same(run, pipes, tmp_path, capsys):
    media.write_image(tmp_path / "image.png", np.zeros((8, 8, 3), np.uint8))
    assert run("animate", "--prompt=a", f"--image={tmp_path / 'image.png'}", f"--output={tmp_path / 'o.gif'}") == 0
    media.write_image(tmp_path / "image.png", np.ones((8, 8, 3), np.uint8))
    again = ["generate", f"--from={tmp_path / 'o.gif.json'}", f"--output={tmp_path / 'p.gif'}"]
    assert main(again) == 2 and "is not the file it was" in capsys.readouterr().err
    sidecar = json.loads((tmp_path / "o.gif.json").read_text())
    sidecar["model"]["hash"] = "0" * 32
    (tmp_path / "o.gif.json").write_text(json.dumps(sidecar))
    assert main(again) == 2 and "is another model than the sidecar's" in capsys.readouterr().err
    (tmp_path / "o.gif.json").write_text(json.dumps(sidecar | {"format_version": 2}))
    assert main(again) == 2 and "format_version=2" in capsys.readouterr().err


def test_every_plane_of_unicode_is_a_clip_or_one_sentence(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    prompts = ["a\x00b", "\x1b[31m", "\u202eabc", "\ud800", "e" + "\u0301" * 20, "\U0010ffff", "🐈", "a\nb"]
    prompts += ["".join(map(chr, rng.integers(plane << 16, (plane << 16) + 0xfffe, 6))) for plane in range(17)]
    for number, prompt in enumerate(prompts):
        code = run("generate", f"--prompt={prompt}", f"--output={tmp_path / f'{number}.gif'}")
        said = capsys.readouterr().err
        assert code == 0 and (tmp_path / f"{number}.gif.json").is_file() or code == 2 and said.count("\n") == 1, prompt


def test_generating_loads_nothing_of_training(tmp_path):
    """Neither by the Python names nor by the command line; in a process of its own."""
    config = phenaki_jax.load_config("configs/quickstart.py:generator", UNTRAINED)
    tokenizer, generator = (dict(zip(("params", "variables"), arrays(make(config), seed)))
                            for seed, make in enumerate((make_tokenizer, make_generator)))
    write_run(tmp_path / "model", config, **generator, frozen=tokenizer)
    code = f"""
import sys
import phenaki_jax
from phenaki_jax.__main__ import main
pipe = phenaki_jax.PhenakiPipeline.from_pretrained({str(tmp_path / 'model')!r})
pipe("a red circle", num_frames=1)
assert main(["generate", "--model={tmp_path / 'model'}", "--prompt=a", "--output={tmp_path / 'a.mp4'}"]) == 0
heavy = {{"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "clu", "tensorboard", "sklearn", "torch"}}
print(sorted(heavy & {{name.split(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
