"""Stories in files: how they may be written, and that what is kept of them comes back bit for bit, after a kill too."""

import json

import numpy as np
import pytest

import phenaki_jax
from phenaki_jax import media, story_files
from phenaki_jax import config as configs
from phenaki_jax.__main__ import main
from phenaki_jax.errors import UserError
from phenaki_jax.digest import tree_digest
from phenaki_jax.making import command
from phenaki_jax.pipeline import PhenakiPipeline

TINY = {"tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 32, "tokenizer.height": 8,
        "tokenizer.width": 8, "tokenizer.patch": (2, 4, 4), "generator.embed_dim": 16, "generator.heads": 2,
        "generator.mlp_dim": 32, "generator.layers": 1, "text.embed_dim": 16, "text.heads": 2, "text.head_dim": 8,
        "text.mlp_dim": 32, "text.layers": 1, "sampling.num_inference_steps": 2}


@pytest.fixture(scope="module")
def config():
    return phenaki_jax.load_config("configs/quickstart.py:generator", TINY)


@pytest.fixture(scope="module")
def pipe(config):
    return PhenakiPipeline(config, phenaki_jax.create_tokenizer(config), phenaki_jax.create_generator(config))


@pytest.fixture
def generate(tmp_path, monkeypatch, config, pipe):
    """generate(story, option, ...) -> (exit code, frames of the video) of the command line, on random weights."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(configs.to_json(config))
    monkeypatch.setattr(command, "load_pipeline", lambda *_: pipe)

    def run(story, *options):
        (tmp_path / "story.json").write_text(json.dumps(story))
        output = tmp_path / "story.gif"
        output.unlink(missing_ok=True)
        code = main(["generate", f"--model={tmp_path / 'model'}", f"--story={tmp_path / 'story.json'}",
                     f"--output={output}", *options])
        return code, media.read_video(output)[0] if output.exists() else None

    return run


STORY = [{"prompt": "a", "num_frames": 11}, {"prompt": "b", "num_frames": 6, "temperature": 1.0},
         {"prompt": "c", "num_frames": 5, "transition": "cut"}, {"prompt": "d", "num_frames": 6},
         {"prompt": "e", "num_frames": 9, "transition": "blend", "transition_frames": 2}]


def made(capsys):
    """Numbers of the scenes that the last command line made, not read."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("scene ") and " of " in line]
    return [int(line.split()[1]) for line in lines if "made in" in line]


# ------------------------------------------------------------------------------------------------- files

@pytest.mark.parametrize("name, text", [
    ("a.yaml", "scenes:\n- a\n- prompt: b\n  num_frames: 3\nguidance_scale: 2\nseed: 4\n"),
    ("a.YML", "{scenes: [a, {prompt: b, num_frames: 3}], guidance_scale: 2, seed: 4}"),
    ("a.json", '{"scenes": ["a", {"prompt": "b", "num_frames": 3}], "guidance_scale": 2, "seed": 4}'),
    ("a", ' {"scenes": ["a", {"prompt": "b", "num_frames": 3}], "guidance_scale": 2, "seed": 4}')])
def test_forms_of_a_story(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert story_files.read_story(str(tmp_path / name)) == (["a", {"prompt": "b", "num_frames": 3}],
                                                            {"guidance_scale": 2, "seed": 4})


def test_lists_and_lines(tmp_path):
    for name, text in (("a.yaml", "- a\n- b"), ("a.txt", "a\n\n  b \n"), ("a.json", '["a", "b"]')):
        (tmp_path / name).write_text(text)
        assert story_files.read_story(str(tmp_path / name)) == (["a", "b"], {})


@pytest.mark.parametrize("name, text, words", [
    ("a.yaml", "- {prompt: a", "not readable as YAML"), ("a.yaml", "2026-99-99", "YAML"),
    ("a.yaml", "a", "list of scenes"), ("a.yaml", "!!python/object/apply:os.getcwd []", "YAML"),
    ("a.json", "a", "JSON"), ("a.json", "{}", "list of scenes"),
    ("a.txt", " \n", "is empty"), ("a.json", "[" * 100000, "JSON"), ("a.yaml", "prompt: a", "list of scenes")])
def test_files_that_are_no_story(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        story_files.read_story(str(tmp_path / name))


@pytest.mark.parametrize("story, options, words", [
    ({"scenes": ["a"], "steps": 3}, [], "'steps' is no option"), ({"scenes": ["a"], "seed": "x"}, [], "seed='x'"),
    (["a", {"prompt": "b", "preset": "best"}], [], "scene 2: preset='best'"), (["a"], ["--redo=1"], "--parts"),
    (["a"], ["--context_frames=4"], "1, 3, 5, 7, 9"), (["a"], ["--parts={}", "--redo=2"], "--redo=2"),
    (["a", "b" * 200], [], "scene 2: prompt"), (["a"], ["--parts={}/story.json"], "is a file"),
    (["a"], ["--seed=-1"], "--seed=-1")])
def test_wrong_stories_are_one_sentence(tmp_path, generate, capsys, story, options, words):
    code, video = generate(story, *(option.format(tmp_path) for option in options))
    said = capsys.readouterr().err
    assert code == 2 and video is None and words in said and said.count("\n") == 1


def test_options_of_stories_want_a_story(capsys):
    for option in ("--parts=p", "--redo=1", "--context_frames=3"):
        assert main(["generate", "--model=m", "--prompt=a", "--output=o.gif", option]) == 2
        assert "goes with --story" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- parts

def test_a_killed_story_goes_on_bit_for_bit(tmp_path, generate, capsys, monkeypatch):
    _, whole = generate(STORY, f"--parts={tmp_path / 'whole'}")
    assert len(whole) == 37 and made(capsys) == [1, 2, 3, 4, 5]
    keep = story_files.Parts.__setitem__

    def killed(self, name, told):
        if name.startswith("scene_004"):
            raise KeyboardInterrupt
        keep(self, name, told)

    monkeypatch.setattr(story_files.Parts, "__setitem__", killed)
    assert generate(STORY, f"--parts={tmp_path / 'killed'}") == (130, None)
    assert sorted(p.name[:9] for p in (tmp_path / "killed").iterdir()) == ["scene_001", "scene_002", "scene_003"]
    monkeypatch.setattr(story_files.Parts, "__setitem__", keep)
    capsys.readouterr()
    _, again = generate(STORY, f"--parts={tmp_path / 'killed'}")
    np.testing.assert_array_equal(again, whole)
    assert made(capsys) == [4, 5]
    for one, other in zip(sorted((tmp_path / "whole").iterdir()), sorted((tmp_path / "killed").iterdir()), strict=True):
        assert one.name == other.name
        with np.load(one) as a, np.load(other) as b:
            np.testing.assert_array_equal(a["frames"], b["frames"])
            np.testing.assert_array_equal(a["tokens"], b["tokens"])


def test_only_what_grows_out_of_a_change_is_made_again(tmp_path, generate, capsys):
    parts = f"--parts={tmp_path / 'parts'}"
    generate(STORY, parts)
    capsys.readouterr()
    _, before = generate(STORY, parts, "--scale=2")
    assert made(capsys) == []
    changed = [scene | ({"prompt": "f"} if i == 0 else {}) for i, scene in enumerate(STORY)]
    _, after = generate(changed, parts, "--scale=2")
    assert made(capsys) == [1, 2]  # a cut follows
    np.testing.assert_array_equal(after[17:28], before[17:28])
    assert np.any(after[:17] != before[:17])
    generate(STORY, parts, "--seed=1")
    assert made(capsys) == [1, 2, 3, 4, 5]


def test_a_scene_is_drawn_anew_and_stays_so(tmp_path, generate, capsys):
    parts = f"--parts={tmp_path / 'parts'}"
    _, first = generate(STORY, parts)
    capsys.readouterr()
    _, second = generate(STORY, parts, "--redo=2")
    said = capsys.readouterr().out
    assert "scene 2 is drawn anew, with seed 2\n" in said and said.count("made in") == 1
    np.testing.assert_array_equal(second[:11], first[:11])
    assert np.any(second[11:17] != first[11:17])
    np.testing.assert_array_equal(second[17:], first[17:])
    _, kept = generate(STORY, parts)
    np.testing.assert_array_equal(kept, second)
    _, third = generate(STORY, parts, "--redo=2")
    assert "with seed 7\n" in capsys.readouterr().out and np.any(third[11:17] != second[11:17])
    _, written = generate([scene | ({"seed": 2} if i == 1 else {}) for i, scene in enumerate(STORY)], parts)
    np.testing.assert_array_equal(written, second)
    assert made(capsys) == []


def test_scenes_drawn_anew_together_share_no_seed_and_wrong_ones_leave_nothing(tmp_path, generate):
    parts = story_files.Parts(tmp_path)
    draws = []
    for _ in range(4):
        draws += [scene["seed"] for scene in parts.drawn(["a"] * 5, 7, redo=(2, 3, 5)) if scene["seed"] is not None]
        assert not (tmp_path / story_files.DRAWS).exists() or len(draws) > 3
        parts.keep_draws()
    assert len(set(draws)) == 12
    folder = tmp_path / "parts"
    assert generate(["a", "b" * 500], f"--parts={folder}", "--redo=1") == (2, None)
    assert not (folder / story_files.DRAWS).exists()


def test_what_is_damaged_is_named(tmp_path, generate, capsys):
    generate(STORY[:1], f"--parts={tmp_path / 'parts'}")
    (file,) = (tmp_path / "parts").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    for damaged in (b"no zip", bytes(content[:-40]), bytes(content)):
        file.write_bytes(damaged)
        code, video = generate(STORY[:1], f"--parts={tmp_path / 'parts'}")
        assert code == 2 and video is None and file.name in capsys.readouterr().err
    file.unlink()
    (tmp_path / "parts" / story_files.DRAWS).write_text("{")
    assert generate(STORY[:1], f"--parts={tmp_path / 'parts'}")[0] == 2
    assert story_files.DRAWS in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- the pipeline

def test_a_told_story_is_its_scenes(pipe):
    told = pipe.story(STORY, seed=3)
    scenes = list(pipe.tell([STORY], seed=3))
    assert [scene.frames.shape[1] for scene in scenes] == [11, 6, 5, 6, 9]
    np.testing.assert_array_equal(told.frames, np.concatenate([scene.frames for scene in scenes], 1))
    np.testing.assert_array_equal(told.tokens, np.concatenate([scene.tokens for scene in scenes], 1))


def test_a_scene_with_a_seed_is_the_clip_with_that_seed(pipe):
    scene = {"prompt": "a", "num_frames": 11, "seed": 5, "transition": "cut", "guidance_scale": 1.0}
    told = pipe.story(["b", scene, scene | {"negative_prompt": "c"}], temperature=2.0)
    clip = pipe("a", seed=5, guidance_scale=1.0, temperature=2.0)
    np.testing.assert_array_equal(told.frames[:, 11:22], clip.frames)
    away = pipe("a", seed=5, guidance_scale=1.0, temperature=2.0, negative_prompt="c")
    np.testing.assert_array_equal(told.frames[:, 22:], away.frames)


def test_a_model_is_known_by_its_sizes_and_arrays():
    arrays = {"a": np.arange(6, dtype=np.float32), "b": np.zeros(2, np.float32)}
    same = tree_digest({name: value.copy() for name, value in arrays.items()}, {"layers": 1})
    assert tree_digest(arrays, {"layers": 1}) == same
    for sizes, change in (({"layers": 2}, {}), ({"layers": 1}, {"b": np.array([0, 1e-30], np.float32)}),
                          ({"layers": 1}, {"a": arrays["a"].reshape(2, 3)}), ({"layers": 1}, {"c": arrays["b"]}),
                          ({"layers": 1}, {"b": np.zeros(2, np.int32)})):
        assert tree_digest(arrays | change, sizes) != same


@pytest.mark.parametrize("text", ["[1]", '{"1": 3}', '{"1": {"asked": {}}}', "{"])
def test_damaged_draws_are_one_sentence(tmp_path, text):
    (tmp_path / story_files.DRAWS).write_text(text)
    with pytest.raises(UserError, match="cannot be read.*delete it"):
        story_files.Parts(tmp_path).drawn(["a red circle"], 0)
