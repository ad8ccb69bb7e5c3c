"""Telling: frame counts, which frames are given, and which prompt speaks, with a window function that counts."""

import jax
import numpy as np
import pytest

from phenaki_jax.models.cvivit import CViViTConfig
from phenaki_jax.sampling.story import tell

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


@pytest.mark.parametrize("counts", [(11,), (11, 12), (11, 12, 12), (7, 3, 9), (1, 5), (2, 1, 1, 20), (23,)])
def test_frames_follow_each_other_without_gap_or_repetition(counts):
    log = []
    scenes = [([f"scene {i}"] * 2, n) for i, n in enumerate(counts)]
    frames, tokens = tell(counting_window(log), scenes, SIZES, jax.random.split(jax.random.key(0), 2))
    assert frames.shape == (2, sum(counts), 8, 8, 3)
    np.testing.assert_array_equal(frames[0, :, 0, 0, 0], np.arange(sum(counts)))
    assert tokens.shape[1] == sum(SIZES.latent_frames(length) - known for _, known, length in log)


def test_each_scene_speaks_with_its_own_prompt_over_the_last_five_frames():
    log = []
    tell(counting_window(log), [(["one"], 11), (["two"], 12)], SIZES, jax.random.split(jax.random.key(0), 1))
    assert log == [("one", 0, 11), ("two", 3, 11), ("two", 3, 11)]
