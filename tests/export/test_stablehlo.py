"""Programs that run without this package: what they make against the pipeline, what is in them, what is refused."""

import hashlib
import importlib.util
import itertools
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image, ImageSequence
from untrained import TINY, arrays, pipeline

import phenaki_jax
from phenaki_jax.errors import UserError
from phenaki_jax.export import folder, reading, stablehlo, tensors
from phenaki_jax.layers import attention
from phenaki_jax.layers.products import project
from phenaki_jax.models.build import make_critic, make_generator, make_tokenizer
from phenaki_jax.models.tree import ARRAYS
from phenaki_jax.parallel import any_platform

MAKE = {"tokenizer": make_tokenizer, "generator": make_generator, "critic": make_critic}
PROMPTS, SEEDS = ["a red circle moves left", "é", "a blue cross"], [5, 0, 2**32 - 1]
WITHOUT = ["phenaki_jax", "flax", "orbax", "ml_collections", "optax", "flatbuffers", "PIL"]
ALONE = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {without}:
            raise ImportError(name)

folder, out = sys.argv[1:]
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, folder)
import numpy as np
import generate
model, prompts, seeds, found = generate.Model(folder), {prompts}, {seeds}, dict()
{calls}
np.savez(out + "/found.npz", **found)
there = set(name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None))
assert not there & set({without}), there
"""
EVERYTHING = """
rows = [model.generate([prompt], [seed], **asked) for prompt, seed in zip(prompts, seeds)]
found["frames"], found["tokens"] = (np.concatenate(part) for part in zip(*rows))
found["encoded"] = np.concatenate([model.encode(row.frames) for row in rows])
found["decoded"] = np.concatenate([model.decode(row.tokens) for row in rows])
found["image_frames"], found["image_tokens"] = model.generate(prompts, seeds, num_frames=1, **asked)
generate.Model = lambda folder: model  # its programs are compiled
for suffix in "png", "npy":
    sys.argv[1:] = ["--prompt=" + prompts[0], "--seed=%d" % seeds[0], "--motion=30", f"--output={out}/clip.{suffix}"]
    assert generate.main() is None
"""
ASKED = {"guidance_scale": 3.0, "temperature": 1.0, "motion": 30.0}


def model(stage="generator", overrides=None):
    """A config and random weights of its parts."""
    few = {"generator.unroll": False, "generator.layers": 1, "text.unroll": False, "text.layers": 1}
    config = phenaki_jax.load_config(f"configs/quickstart.py:{stage}", TINY | few | (overrides or {}))
    parts = list(MAKE)[:list(MAKE).index(stage) + 1]
    return config, {name: dict(zip(ARRAYS, arrays(MAKE[name](config), seed))) for seed, name in enumerate(parts)}


def export(to, config, parts, batch_size=None):
    to.mkdir(parents=True)
    facts = stablehlo.write(config, parts, to, batch_size=batch_size)
    folder.seal(to, {"form": "stablehlo", "programs": facts})
    return facts


def script(to):
    """generate.py of a folder, as a module."""
    spec = importlib.util.spec_from_file_location("generate", to / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config, parts = model(overrides={"sampling.num_inference_steps": 3})
    to = tmp_path_factory.mktemp("programs") / "model"
    facts = export(to, config, parts)
    assert facts["batch_size"] is None  # any
    return to, facts, pipeline(reading.run_of(config, 0, parts))


def run_alone(to, out, calls, prompts, seeds, python=sys.executable):
    """What `calls` put into `found`, in a process of jax and numpy alone."""
    code = ALONE.format(without=WITHOUT, prompts=prompts, seeds=seeds, calls=calls)
    run = subprocess.run([python, "-I", "-c", code, str(to), str(out)], capture_output=True, text=True, cwd=out)
    assert run.returncode == 0, run.stderr
    return dict(np.load(out / "found.npz"))


def test_alone_the_script_makes_what_the_pipeline_makes(made, tmp_path):
    to, facts, pipe = made
    found = run_alone(to, tmp_path, f"asked = {ASKED}\n{EVERYTHING}", PROMPTS, SEEDS)
    made = [pipe(prompt, seed=seed, **ASKED) for prompt, seed in zip(PROMPTS, SEEDS)]
    tokens, frames = (np.concatenate([getattr(clip, name) for clip in made]) for name in ("tokens", "frames"))
    assert len(np.unique(tokens)) > 100
    np.testing.assert_array_equal(found["tokens"], tokens)
    np.testing.assert_array_equal(found["frames"], frames)
    np.testing.assert_array_equal(found["encoded"], np.concatenate([pipe.encode(clip.frames) for clip in made]))
    np.testing.assert_allclose(found["decoded"].astype(int), frames, atol=1)  # by another program
    images = pipe(PROMPTS, seed=SEEDS, num_frames=1, **ASKED)
    np.testing.assert_array_equal(found["image_tokens"], images.tokens)
    np.testing.assert_allclose(found["image_frames"].astype(int), images.frames, atol=1)
    usual = pipe(PROMPTS[0], seed=SEEDS[0], motion=30).frames[0]
    np.testing.assert_array_equal(np.load(tmp_path / "clip.npy"), usual)
    with Image.open(tmp_path / "clip.png") as picture:
        shown = [(np.asarray(frame.convert("RGB")), frame.info["duration"], picture.info["loop"])
                 for frame in ImageSequence.Iterator(picture)]
    np.testing.assert_array_equal([frame for frame, _, _ in shown], usual)
    assert {(duration, loop) for _, duration, loop in shown} == {(1000 / facts["fps"], 0)}


def test_programs_are_small_and_portable_and_say_what_they_take(made):
    to, facts, _ = made
    said, stored = json.loads((to / "programs.json").read_text()), tensors.read(to)
    assert {name: said[name] for name in facts} == facts
    assert sorted(facts["programs"]) == sorted(
        name + suffix for name in ("generate", "encode", "decode") for suffix in ("", "_image"))
    for name, program in facts["programs"].items():
        data = (to / program["file"]).read_bytes()
        assert program["bytes"] == len(data)
        assert not any(array.tobytes() in data for array in stored.values() if array.nbytes > 200)
        for place in (str(pathlib.Path(phenaki_jax.__file__).parent.parent), str(to.parent), str(pathlib.Path.home())):
            assert place.encode() not in data
        exported = jax.export.deserialize(bytearray(data))
        assert exported.platforms == ("cpu", "cuda", "tpu") and exported.nr_devices == 1
        calls = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
        assert calls <= {"cu_threefry2x32_ffi", "shape_assertion"}, calls
        names = [name for part in program["parts"] for name in said["weights"][part]]
        inputs = exported.in_avals[len(names):]
        assert [(aval.shape, aval.dtype) for aval in exported.in_avals[:len(names)]] == [
            (stored[name].shape, stored[name].dtype) for name in names]
        assert [(str(aval.shape), aval.dtype.name) for aval in inputs] == [
            (str(tuple(about["shape"])).replace("'", ""), about["dtype"]) for about in program["inputs"].values()]
    specs = [jax.ShapeDtypeStruct([size if isinstance(size, int) else 2 for size in aval.shape], aval.dtype)
             for aval in exported.in_avals]  # of the last of them
    for platform in stablehlo.PLATFORMS:
        traced = jax.jit(exported.call).trace(specs[:len(names)], *specs[len(names):])
        assert "stablehlo.dot_general" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("stage, overrides, asked", [
    pytest.param("critic", {"sampling.order": "critic", "sampling.remask": 0.3, "sampling.noise_augmentation": 0.3,
                            "sampling.image_guidance_scale": 2.0, "generator.dtype": "bfloat16"}, {"fps": 8.0},
                 marks=pytest.mark.slow),
    pytest.param("generator", {"sampling.order": "halton", "sampling.guidance_scale": 0.0, "text.encoder": "none",
                               "generator.conditions": ()}, {}, marks=pytest.mark.slow),
    ("generator", {"text.encoder": "t5", "sampling.guidance_schedule": "linear",
                   "generator.attention": "factorised"}, {}),
], ids=["critic", "no text", "pretrained text"])
def test_other_models_and_other_sampling(monkeypatch, tmp_path, stage, overrides, asked):
    monkeypatch.setattr(attention, "LARGE", 64)  # heads are taken one at a time
    config, parts = model(stage, overrides | {"tokenizer.frames": 1})
    facts, pipe = export(tmp_path / "model", config, parts, 2), pipeline(reading.run_of(config, 0, parts))
    assert facts["batch_size"] == 2
    given, wanted = {}, {"prompt": PROMPTS}
    if config.text.encoder == "t5":
        embeds = np.random.default_rng(0).normal(size=(3, 7, 16)).astype(np.float32)
        given, wanted = {"embeddings": embeds}, {"prompt_embeds": embeds}
    if config.text.encoder == "none":
        given, wanted = {}, {"num_videos_per_prompt": 3}
    prompts = {"prompts": PROMPTS} if config.text.encoder == "bytes" else {}
    found = script(tmp_path / "model").Model(tmp_path / "model").generate(
        **prompts, seeds=SEEDS, **given, **asked)
    np.testing.assert_array_equal(found.tokens, pipe(**wanted, seed=SEEDS, **asked).tokens)


def test_a_tokenizer_alone(tmp_path):
    config, parts = model("tokenizer")
    facts, pipe = export(tmp_path / "model", config, parts), pipeline(reading.run_of(config, 0, parts))
    assert set(facts["programs"]) == {"encode", "decode", "encode_image", "decode_image"}
    assert facts["batch_size"] is None
    alone = script(tmp_path / "model")
    video = np.random.default_rng(0).integers(0, 256, (3, 11, 32, 32, 3), np.uint8)
    found = alone.Model(tmp_path / "model")
    np.testing.assert_array_equal(found.encode(video), pipe.encode(video))
    assert np.abs(found.decode(found.encode(video)).astype(int) - pipe.reconstruct(video)).max() <= 1
    with pytest.raises(alone.UserError, match="tokenizer, which encodes and decodes only"):
        found.generate(["a red circle"])
    for wrong, words in ((video[:, :5], "takes .*11, 32, 32, 3"), (video[0], "takes"), (video[:0], "takes")):
        with pytest.raises(alone.UserError, match=words):
            found.encode(wrong)
    with pytest.raises(alone.UserError, match="tokens lie in 0..1000; this model's are 0..999"):
        found.decode(np.arange(1001).reshape(1, 7, 11, 13))


def test_a_critic_is_asked_for_where_it_is_missing(tmp_path):
    config, parts = model(overrides={"sampling.order": "critic"})
    with pytest.raises(UserError, match="sampling.order='critic' needs a critic"):
        stablehlo.write(config, parts, tmp_path)


@pytest.mark.parametrize("options, words", [
    (["--prompt="], "prompt='' is empty"),
    (["--prompt=" + "x" * 88], "has 88 bytes; this model reads 87"),
    ([], "this model takes a prompt"),
    (["--prompt=a", "--seed=-1"], r"seeds=\[-1\] must be 1 whole numbers from 0 to 4294967295"),
    (["--prompt=a", "--seed=4294967296"], "from 0 to 4294967295"),
    (["--prompt=a", "--seed=one"], "invalid int value: 'one'"),
    (["--prompt=a", "--num_frames=5"], "num_frames=5 has no program here; it is 1 or 11"),
    (["--prompt=a", "--guidance_scale=nan"], "guidance_scale=nan must be a number of at least -1"),
    (["--prompt=a", "--temperature=-1"], "temperature=-1.0 must be a number of at least 0"),
    (["--prompt=a", "--fps=0.5"], "fps=0.5 must be a number of at least 1"),
    (["--prompt=a", "--output=clip.gif"], "output='clip.gif' has to end in .png or .npy"),
    (["--embeddings=nowhere.npy"], "nowhere.npy"),
    (["--prompt=a", "--sede=1"], "unrecognized arguments: --sede=1"),
])
def test_mistakes_are_one_sentence(made, monkeypatch, capsys, options, words):
    alone = script(made[0])
    monkeypatch.setattr(sys, "argv", ["generate.py", *options])
    assert alone.main() == 2
    said = capsys.readouterr().err
    assert re.search(words, said) and said.startswith("generate.py: ") and said.count("\n") == 1


def test_damage_and_later_formats_are_refused(made, tmp_path, monkeypatch, capsys):
    alone = script(made[0])

    def said(change):
        to = tmp_path / "model"
        shutil.copytree(made[0], to, dirs_exist_ok=True)
        change(to)
        with pytest.raises(alone.UserError) as refused:
            alone.Model(to)
        return str(refused.value)

    def flipped(path):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    def later(to):
        about = json.loads((to / "model.json").read_text()) | {"format_version": 2}
        del about["sha256"]
        about["sha256"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        (to / "model.json").write_text(json.dumps(about))

    assert "model.safetensors is not what was written" in said(lambda to: flipped(to / "model.safetensors"))
    assert "decode.stablehlo is not what was written" in said(lambda to: flipped(to / "decode.stablehlo"))
    assert "programs.json cannot be read (No such file" in said(lambda to: (to / "programs.json").unlink())
    assert "model.json cannot be read" in said(lambda to: (to / "model.json").unlink())
    assert "model.json is no manifest" in said(lambda to: (to / "model.json").write_text("[]"))
    assert "format_version=2; this script reads 1" in said(later)
    manifest = '"form": "stablehlo"', '"form": "stablehla"'
    assert "model.json is not what was written" in said(
        lambda to: (to / "model.json").write_text((to / "model.json").read_text().replace(*manifest)))


def test_any_platform_leaves_the_choice_to_where_a_program_is_compiled(monkeypatch):
    monkeypatch.setattr(attention, "LARGE", 16)
    x, matrix = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 24, 3, 8), (8, 8)]))

    def block(x, matrix):
        with jax.default_matmul_precision("bfloat16"):
            y = project(x, matrix)
            return attention.attend(y, y, y)

    wanted = jax.jit(lambda *args: block(*args))(x, matrix)
    with any_platform():
        traced = jax.jit(block).trace(x, matrix)
        exported = jax.export.export(jax.jit(block), platforms=stablehlo.PLATFORMS,
                                     disabled_checks=stablehlo.SAFE_CALLS)(x, matrix)
    np.testing.assert_array_equal(exported.call(x, matrix), wanted)
    for name in stablehlo.PLATFORMS:  # one head at a time, and products laid out by hand, are for CPUs
        text = traced.lower(lowering_platforms=(name,)).as_text()
        assert ["LayoutConstraint" in text, "stablehlo.while" in text] == [name == "cpu"] * 2


@pytest.mark.slow
def test_in_an_environment_of_jax_and_numpy_alone(tmp_path):
    """The quickstart's sizes, 16 prompts; the environment is made here."""
    config = phenaki_jax.load_config("configs/quickstart.py:generator")
    parts = {name: dict(zip(ARRAYS, arrays(MAKE[name](config), seed))) for seed, name in enumerate(list(MAKE)[:2])}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    install = subprocess.run([python, "-m", "pip", "install", "-q", f"jax=={jax.__version__}", "numpy"],
                             capture_output=True, text=True)
    if install.returncode:
        reason = f"no package index is reached: {install.stderr.strip().splitlines()[-1]}"
        print(reason)
        pytest.skip(reason)
    wanted, prompts, seeds = pipeline(reading.run_of(config, 0, parts)), [], [*range(12), 2**31, 2**32 - 1, 100, 7]
    for color, shape in itertools.product(("red", "blue", "green", "white"), ("circle", "square", "triangle", "cross")):
        prompts.append(f"a solid {color} {shape} moves left quickly on black")
    for batch_size in (None, 1, 4):
        to = tmp_path / f"model_{batch_size}"
        export(to, config, parts, batch_size)
        for rows in (1, 4) if batch_size is None else (batch_size,):
            found = run_alone(to, tmp_path, f"""
for first in range(0, 16, {rows}):
    clip = model.generate(prompts[first:first + {rows}], seeds[first:first + {rows}])
    found["tokens_%02d" % first], found["frames_%02d" % first] = clip.tokens, clip.frames
""", prompts, seeds, python)
            for first in range(0, 16, rows):
                clip = wanted(prompts[first:first + rows], seed=seeds[first:first + rows])
                np.testing.assert_array_equal(found[f"tokens_{first:02}"], clip.tokens)
                np.testing.assert_array_equal(found[f"frames_{first:02}"], clip.frames)
