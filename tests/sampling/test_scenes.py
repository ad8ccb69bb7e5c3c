"""Scenes as they are written: what is left out, what goes before what, what is refused, and what a name stands for."""

import types

import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.sampling import scenes
from phenaki_jax.sampling.options import PRESETS, Sampling


def config(frames=11, step=2):
    return types.SimpleNamespace(tokenizer=types.SimpleNamespace(frames=frames, patch=(step, 8, 8)),
                                 sampling={"guidance_scale": 2.0, "num_inference_steps": 7})


def read(story, sizes=config(), **options):
    return scenes.read_scenes(story, sizes, options)


def test_what_is_left_out():
    first, later, cut = read(["a", {"prompt": "b", "seed": None}, {"prompt": "c", "transition": "cut"}])
    assert (first.num_frames, later.num_frames, cut.num_frames) == (11, 12, 11)
    assert (later.context_frames, later.transition, later.seed, later.negative_prompt) == (5, "hold", None, None)
    assert later.sampling == Sampling(guidance_scale=2.0, num_inference_steps=7)
    assert [scene.num_frames for scene in read(["a", {"prompt": "b", "num_frames": 3}], num_frames=20)] == [20, 3]
    assert read(["a"], config(5))[0].context_frames == 3  # a window must have room for something new
    assert read(["a"], config(10, 3))[0].context_frames == 4  # 1 + 3 k


def test_a_scene_goes_before_the_story_and_its_preset_before_the_storys_fields():
    story = ["a", {"prompt": "b", "temperature": 1}, {"prompt": "c", "preset": "nuwa", "remask": 0.5}]
    plain, own, preset = read(story, temperature=3.0, order="halton", context_frames=7, negative_prompt="d")
    assert plain.sampling == Sampling(7, 2.0, 3.0, order="halton")
    assert own.sampling == Sampling(7, 2.0, 1, order="halton") and own.context_frames == 7
    assert preset.sampling == Sampling(*[getattr(PRESETS["nuwa"], n) for n in
                                         ("num_inference_steps", "guidance_scale", "temperature")], remask=0.5)
    assert preset.negative_prompt == "d"
    assert scenes.overlay({"temperature": 1, "num_frames": 3}, {"preset": "nuwa", "seed": None}) == {
        "num_frames": 3, "preset": "nuwa"}


@pytest.mark.parametrize("story, words", [
    ([], "list of scenes"), ("a red circle", "list of scenes"), ({"prompt": "a"}, "list of scenes"),
    (None, "list of scenes"), (["a", 3], "scene 2: 3 is neither"), (["a", " "], "scene 2: prompt=' '"),
    ([{"num_frames": 3}], "scene 1: prompt=None"), ([{"prompt": True}], "prompt=True"),
    (["a", {"prompt": "b", "frames": 3}], "scene 2: 'frames' is unknown"),
    ([{"prompt": "a", True: 1}], "True is unknown"),
    ([{"prompt": "a", "num_frames": 0}], "num_frames=0"), ([{"prompt": "a", "num_frames": "12"}], "num_frames='12'"),
    ([{"prompt": "a", "seed": -1}], "seed=-1"), ([{"prompt": "a", "seed": True}], "seed=True"),
    ([{"prompt": "a", "seed": 2 ** 32}], "below 4294967296"),
    ([{"prompt": "a", "transition": "fade"}], "hold, cut, blend"), ([{"prompt": "a", "transition": []}], "transition="),
    ([{"prompt": "a", "context_frames": 4}], "one of 1, 3, 5, 7, 9"),
    ([{"prompt": "a", "context_frames": 11}], "7, 9$"), ([{"prompt": "a", "context_frames": 0}], "context_frames=0"),
    ([{"prompt": "a", "preset": "best"}], "preset='best'"),
    ([{"prompt": "a", "transition_frames": 0}], "transition_frames=0"),
    ([{"prompt": "a", "transition": "blend", "num_frames": 4}], "transition_frames=4 has to be below num_frames=4"),
    ([{"prompt": "a", "guidance_scale": "high"}], "scene 1: guidance_scale='high'"),
    ([{"prompt": "a", "order": "any"}], "order='any'"), ([{"prompt": "a", "negative_prompt": 3}], "negative_prompt=3"),
    ([{"prompt": "a", "negative_prompt": "b", "guidance_scale": 0}], "scene 1: negative_prompt needs")])
def test_wrong_scenes_are_one_sentence(story, words):
    with pytest.raises(UserError, match=words):
        read(story)


def test_an_option_that_no_story_has():
    with pytest.raises(UserError, match="'steps' is no option of a story"):
        read(["a"], steps=3)


def test_stories_told_together_differ_in_prompts_and_seeds_alone():
    one, two = read(["a", "b"]), read([{"prompt": "c", "seed": 3}, "d"])
    assert [[scene.prompt for scene in scenes_] for scenes_ in scenes.together([one, two])] == [["a", "c"], ["b", "d"]]
    for other, words in ((["a"], "same number of scenes"), (["a", {"prompt": "b", "num_frames": 3}], "same num_frames"),
                         (["a", {"prompt": "b", "remask": 0.5}], "scene 2: .* same sampling"),
                         ([{"prompt": "a", "negative_prompt": "b"}, "b"], "scene 1: .* a negative_prompt each")):
        with pytest.raises(UserError, match=words):
            scenes.together([one, read(other)])
    with pytest.raises(UserError, match="scenes"):
        scenes.together([])


STORY = ({"prompt": "a"}, {"prompt": "b"}, {"prompt": "c", "transition": "cut"}, {"prompt": "d"})


@pytest.mark.parametrize("change, anew", [
    ({}, ""), ({0: {"temperature": 4.0}}, ""),  # as by default
    ({0: {"prompt": "e"}}, "01"), ({1: {"num_frames": 13}}, "1"), ({1: {"seed": 0}}, "1"), ({2: {"remask": 0.1}}, "23"),
    ({0: {"context_frames": 3}}, "01"), ({1: {"negative_prompt": "e"}}, "1"), ({2: {"transition": "hold"}}, "23"),
    ({2: {"transition": "blend"}}, ""), ({3: {"transition": "cut"}}, "3"), ({0: {"transition": "cut"}}, ""),
    ({0: {"guidance_scale": 2}, 3: {"guidance_scale": np.float32(2)}}, "")])
def test_a_name_changes_with_all_that_a_scene_depends_on_and_with_nothing_else(change, anew):
    """A cut depends on nothing before it. What a scene fades in from is no part of what is kept."""
    def names(story, seeds=(0,), model="m"):
        sizes = config()
        return scenes.scene_names(scenes.together([scenes.read_scenes(story, sizes, {"num_frames": 12})]), seeds, model)

    before, now = names(STORY), names([scene | change.get(i, {}) for i, scene in enumerate(STORY)])
    assert "".join(str(i) for i in range(4) if before[i] != now[i]) == anew
    assert len(set(before)) == 4 and before[2].startswith("scene_003_")
    assert not set(before) & (set(names(STORY, seeds=(1,))) | set(names(STORY, model="n")))
