"""The quickstart's parts that need no training: what it asks for is what it says."""

import dataclasses
import json
import types

import numpy as np
import pytest

from phenaki_jax import media, quickstart
from phenaki_jax.config import load_config
from phenaki_jax.evaluation import judge_many, sprite_world
from phenaki_jax.making.files import read_sidecar


def config(frames=11, size=32):
    return types.SimpleNamespace(tokenizer=types.SimpleNamespace(frames=frames, height=size, width=size))


class Truth:
    """A pipeline that draws what the captions say: the evaluation should find (nearly) nothing wrong with it."""

    tokenizer = types.SimpleNamespace(codebook_size=16)
    fingerprint = "0123456789abcdef" * 2

    def __init__(self, facts_of):
        self.config = load_config("configs/quickstart.py:generator")
        self.facts_of = facts_of

    def _draw(self, prompt, frames):
        world = quickstart.world("world")
        return world.make_clip(np.random.default_rng(0), world.Facts(**self.facts_of[prompt]), frames=frames)

    def __call__(self, prompts, num_frames, seed):
        return types.SimpleNamespace(frames=np.stack([self._draw(p, num_frames) for p in prompts]))

    def stories(self, stories, seed):
        clips = [np.concatenate([self._draw(s["prompt"], s["num_frames"]) for s in story]) for story in stories]
        return types.SimpleNamespace(frames=np.stack(clips))

    def story(self, scenes, seed):
        return self.stories([scenes], seed)

    def tell(self, stories, seed):
        for scenes in zip(*stories):
            yield self.stories([[scene] for scene in scenes], seed)

    def reconstruct(self, video):
        return video

    def encode(self, video):
        return np.arange(len(video) * 8).reshape(len(video), 2, 2, 2) % 16


@pytest.fixture
def sizes():
    return quickstart.Sizes(clips=12, prompts=12, image_only=6, stories=4, shown=3)


def test_the_prompts_are_of_what_they_should_be():
    rng = np.random.default_rng(0)
    world = quickstart.world("world")
    prompts, facts = quickstart.held_out_prompts(rng, 64)
    for prompt, fact in zip(prompts, facts):
        assert world.is_held_out(world.Facts(**fact))
        assert fact["colour"] != "orange" and fact["style"] != "outlined"
        for word in filter(None, fact.values()):
            assert word in prompt or (word == "still" and ("not move" in prompt or "rests" in prompt)), (word, prompt)
    _, facts = quickstart.image_only_prompts(rng, 40)
    assert sum(f["style"] == "outlined" for f in facts) == sum(f["colour"] == "orange" for f in facts) == 40
    assert not any(f["style"] == "outlined" and f["colour"] == "orange" for f in facts)
    assert all(f["speed"] is not None for f in facts)
    stories, videos = quickstart.sprite_stories(rng, 8, 3, config())
    assert all([s["num_frames"] for s in story] == [11, 12, 12] for story in stories)
    assert all(v.shape == (35, 32, 32, 3) for v in videos)


def test_the_same_prompts_each_time():
    once, again = (quickstart.held_out_prompts(np.random.default_rng([0, 1, 1]), 20) for _ in range(2))
    assert once == again and len(set(once[0])) > 15


def test_the_told_story_is_one_that_the_world_could_tell():
    """Every change is of one kind, every scene keeps to the stretch that the first one crossed."""
    world = quickstart.world("world")
    facts = []
    for prompt, count in quickstart.STORY:
        words = prompt.split()
        facts.append(world.Facts(colour=words[2], style=words[1], shape=words[3], direction=words[5], speed=words[6],
                                 background=words[8]))
        assert count == (11 if len(facts) == 1 else 12)
    place = np.cumsum([f.velocity[0] * (10 if i == 0 else 12) for i, f in enumerate(facts)])
    assert place.min() >= -2.5 and place.max() <= place[0] + 2.5
    for before, now in zip(facts, facts[1:]):
        changed = {name for name in ("colour", "background", "motion") if getattr(before, name) != getattr(now, name)}
        assert len(changed) == 1 and (before.shape, before.style) == (now.shape, now.style)


def test_a_pipeline_that_draws_the_truth_passes_its_bars(sizes, tmp_path):
    rng = [np.random.default_rng([quickstart.SEED, 1, part]) for part in range(4)]
    facts_of = dict(zip(*quickstart.held_out_prompts(rng[1], sizes.prompts)))
    facts_of |= dict(zip(*quickstart.image_only_prompts(rng[2], sizes.image_only)))
    stories, _ = quickstart.sprite_stories(rng[3], sizes.stories, 3, config())
    facts_of |= {scene["prompt"]: scene["facts"] for story in stories for scene in story}
    measured = quickstart.evaluate(Truth(facts_of), config(), sizes)
    for part in ("tokenizer", "prompts", "image_only"):
        assert min(measured[part]["agreement"].values()) >= 0.9, measured[part]["agreement"]
    assert measured["stories_truth"]["motion"]["share"] == 1.0
    assert measured["stories_truth"]["seam"]["displacement"]["ratio"] <= 1.5
    assert measured["stories"]["motion"]["share"] >= 0.9
    swapped = {p: {**f, "colour": "red" if f["colour"] != "red" else "blue"} for p, f in facts_of.items()}
    assert quickstart.evaluate(Truth(swapped), config(), sizes)["prompts"]["agreement"]["colour"] == 0.0


def test_long_stories_are_told_and_so_is_the_truth(sizes, monkeypatch):
    monkeypatch.setattr(quickstart, "LONG_SCENES", 4)
    stories, _ = quickstart.sprite_stories(np.random.default_rng([quickstart.SEED, 1, 4]), 2, 4, config())
    facts_of = {scene["prompt"]: scene["facts"] for story in stories for scene in story}
    sizes = dataclasses.replace(sizes, long=2)
    measured = quickstart.evaluate(Truth(facts_of), config(), sizes, suites=("long",))
    assert set(measured) == {"long", "long_truth"} and measured["long"]["length"] == 47
    for part in measured.values():
        assert len(part["table"]) == 4 and part["last"]["mean"] >= 0.9
    wrong = {prompt: facts | {"background": "gray" if facts["background"] != "gray" else "navy"}
             for prompt, facts in facts_of.items()}
    measured = quickstart.evaluate(Truth(wrong), config(), sizes, suites=("long",))
    assert measured["long"]["last"]["background"]["share"] == 0 == measured["long_truth"]["fall"]["background"]


def test_the_story_and_the_samples_are_written(tmp_path):
    facts_of = {p: {**dict(zip(("style", "colour", "shape"), p.split()[1:4])), "direction": p.split()[5],
                    "speed": p.split()[6], "background": p.split()[8]} for p, _ in quickstart.STORY}
    pipe = Truth(facts_of)
    quickstart.tell(pipe, tmp_path, 8.0)
    video, fps = media.read_video(tmp_path / "story.mp4")
    assert video.shape == (47, 256, 256, 3) and fps == 8.0
    assert Truth.fingerprint in media.read_label(tmp_path / "story.gif")
    assert read_sidecar(tmp_path / "story.mp4.json")["frames"]["shape"] == [47, 32, 32]
    scenes = np.split(video[:, 4::8, 4::8], [11, 23, 35])
    for scene, fact in zip(judge_many(scenes), facts_of.values()):
        assert (scene.colour, scene.direction, scene.background) == (fact["colour"], fact["direction"], "navy")
    gif, _ = media.read_video(tmp_path / "story.gif")
    assert len(gif) == 47 and gif.shape[1] > 256 and gif.shape[2] == 256
    _, facts, prompts = quickstart.held_out_clips(np.random.default_rng([quickstart.SEED, 2]), 3, config())
    pipe.facts_of = dict(zip(prompts, facts))
    quickstart.show(pipe, tmp_path, config(), 3)
    picture = media.read_image(tmp_path / "samples.png")
    for fact in facts:
        assert (picture == sprite_world.BACKGROUNDS[fact["background"]]).all(-1).sum() > 1000


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch, capsys):
    from ml_collections import ConfigDict

    from phenaki_jax.training import loop
    called, finished = [], [True]
    fake = ConfigDict({"train": {"steps": 7}, "data": {"fps": 8.0}, "sampling": {"guidance_scale": 2.0}})
    table = [{"what": "colour", "bar": "≥ 90.0 %", "measured": "80.0 %", "met": False}]

    def step(name, files=()):
        def run(*args):
            called.append(name)
            for file in files:
                media.write_text(tmp_path / file, json.dumps({"table": table}))
            return table if name == "report" else types.SimpleNamespace(finished=finished[0])
        return run

    monkeypatch.setattr(quickstart, "_stage_config", lambda *_: fake)
    monkeypatch.setattr(quickstart, "_load_pipeline", step("pipeline"))
    monkeypatch.setattr(quickstart, "prepare", step("data"))
    monkeypatch.setattr(quickstart, "tell", step("story", ["story.mp4", "story.gif", "story.png"]))
    monkeypatch.setattr(quickstart, "show", step("samples", ["samples.png"]))
    monkeypatch.setattr(quickstart, "evaluate", step("evaluation"))
    monkeypatch.setattr(quickstart, "_report", step("report", ["report.json", "report.md"]))
    monkeypatch.setattr(loop, "train", step("train"))
    finished[0] = False
    assert quickstart.main(tmp_path) == 130 and called == ["data", "train"]
    called.clear()
    finished[0] = True
    assert quickstart.main(tmp_path) == 0
    assert called == ["data", "train", "train", "pipeline", "story", "samples", "evaluation", "report"]
    called.clear()
    capsys.readouterr()
    assert quickstart.main(tmp_path) == 0 and called == ["data", "train", "train"]
    said = capsys.readouterr().out
    assert "MISSED" in said and all(str(tmp_path / name) in said for name in ("story.gif", "samples.png", "report.md"))
    called.clear()
    (tmp_path / "samples.png").unlink()
    assert quickstart.main(tmp_path) == 0 and called == ["data", "train", "train", "pipeline", "story", "samples"]
    called.clear()
    fake.train.steps = 9  # trained further: what it tells is told anew
    assert quickstart.main(tmp_path) == 0 and called[-4:] == ["story", "samples", "evaluation", "report"]
