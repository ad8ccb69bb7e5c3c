"""Telling: frame counts, which frames are given, and which prompt speaks, with a window function that counts."""

import jax
import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.models.cvivit import CViViTConfig
from phenaki_jax.sampling.story import Scene, tell

SIZES = CViViTConfig(frames=11, height=8, width=8, patch=(2, 8, 8), quantizer="fsq", levels=(3, 3), codebook_size=9)


def counting_window(log):
    """A window whose new frames continue the given ones by one grey level a frame: any slip shows as a jump."""
    def window(given, prompts, keys, frozen):
        known_steps = int(frozen.all((1, 2)).sum())
        known = 1 + 2 * (known_steps - 1) if known_steps else 0
        first = int(np.rint((given[0, known - 1, 0, 0, 0] + 1) * 127.5)) + 1 if known else 0
        levels = np.arange(first - known, first - known + given.shape[1])
        video = np.broadcast_to(levels[None, :, None, None, None], given.shape).astype(np.uint8)
        log.append((prompts[0], known_steps, given.shape[1]))
        T = SIZES.latent_frames(given.shape[1])
        return np.zeros((given.shape[0], T, 1, 1), np.int32), video
    return window


def levels(log, counts, batch=1, parts=None, **options):
    """The grey levels of each scene, made by `counting_window`; `options` by the scene's number."""
    keys = jax.random.split(jax.random.key(0), batch)
    scenes = [Scene(counting_window(log), [f"scene {i}"] * batch, n, keys, name=str(i), **options.get(f"scene_{i}", {}))
              for i, n in enumerate(counts)]
    return [told.frames[0, :, 0, 0, 0].tolist() for told in tell(scenes, SIZES, parts=parts)]


@pytest.mark.parametrize("counts", [(11,), (11, 12), (11, 12, 12), (7, 3, 9), (1, 5), (2, 1, 1, 20), (23,)])
def test_frames_follow_each_other_without_gap_or_repetition(counts):
    log = []
    scenes = [Scene(counting_window(log), [f"scene {i}"] * 2, n, jax.random.split(jax.random.key(0), 2))
              for i, n in enumerate(counts)]
    told = list(tell(scenes, SIZES))
    assert [part.frames.shape for part in told] == [(2, n, 8, 8, 3) for n in counts]
    np.testing.assert_array_equal(np.concatenate([part.frames[0, :, 0, 0, 0] for part in told]), np.arange(sum(counts)))
    assert sum(part.tokens.shape[1] for part in told) == sum(
        SIZES.latent_frames(length) - known for _, known, length in log)


def test_each_scene_speaks_with_its_own_prompt_over_the_last_five_frames():
    log = []
    levels(log, (11, 12))
    assert log == [("scene 0", 0, 11), ("scene 1", 3, 11), ("scene 1", 3, 11)]


def test_a_scene_has_its_own_context():
    """K = 1, 3, 7, 9 frames are 1, 2, 4, 5 latent steps, and a window makes 11 - K new frames."""
    for context, steps in ((1, 1), (3, 2), (7, 4), (9, 5)):
        log = []
        told = levels(log, (11, 12), scene_1={"context_frames": context})
        assert told[1] == list(range(11, 23))
        assert log[1:] == [("scene 1", steps, 11)] * -(-12 // (11 - context))


def test_nothing_crosses_a_cut():
    """After it only its own frames are given, though there are fewer than K, and the scene after it counts on."""
    log = []
    told = levels(log, (11, 3, 12), scene_1={"transition": "cut"})
    assert told == [list(range(11)), [0, 1, 2], list(range(3, 15))]
    assert log == [("scene 0", 0, 11), ("scene 1", 0, 11), ("scene 2", 2, 11), ("scene 2", 3, 11)]


def test_a_blend_fades_in_and_hands_on_what_was_made():
    """Over four frames from level 10, in fifths: 10 + (j - 10) (j + 1) / 5."""
    log = []
    told = levels(log, (11, 9, 4), scene_1={"transition": "blend"})
    assert told[1] == [round(10 + (j - 10) * (j + 1) / 5) for j in range(4)] + [4, 5, 6, 7, 8]
    assert told[2] == [9, 10, 11, 12] and [steps for _, steps, _ in log] == [0, 0, 3]
    assert levels([], (3,), scene_0={"transition": "blend"}) == [[0, 1, 2]]  # there is nothing to fade in from


def test_what_is_kept_is_not_made_again():
    log, parts = [], {}
    whole = levels(log, (11, 12, 2, 12), parts=parts, scene_2={"transition": "blend", "transition_frames": 1})
    assert set(parts) == set("0123") and parts["2"].frames[0, :, 0, 0, 0].tolist() == [0, 1]
    for gone in ({"3"}, {"1"}, {"0", "2"}):
        log.clear()
        again = levels(log, (11, 12, 2, 12), parts={name: part for name, part in parts.items() if name not in gone},
                       scene_2={"transition": "blend", "transition_frames": 1})
        assert again == whole and {prompt[-1] for prompt, _, _ in log} == gone


def test_a_model_of_images_makes_one_frame():
    sizes = CViViTConfig(frames=1, height=8, width=8, patch=(2, 8, 8), quantizer="fsq", levels=(3, 3), codebook_size=9)
    scene = Scene(counting_window([]), ["a"], 2, jax.random.split(jax.random.key(0), 1))
    with pytest.raises(UserError, match="num_frames=1"):
        list(tell([scene], sizes))
