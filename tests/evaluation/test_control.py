"""Control, editing and critic protocols against pipelines whose answers are known."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from data.sprite_stories import world
from phenaki_jax.evaluation.control import control_protocol
from phenaki_jax.evaluation.editing import blend, editing_protocol
from phenaki_jax.sampling.critique import roc_auc

FACTS = world.Facts("red", "square", "solid", "right", "slowly", "black")


def clip(pixels):
    return world.make_clip(np.random.default_rng(0), FACTS, pixels=pixels)


@pytest.mark.filterwarnings("ignore:An input array is constant")  # the speeds of one that does not obey
@pytest.mark.parametrize("obeys", [True, False])
def test_control_is_seen_in_the_pixels(obeys):
    def pipe(prompts, *, seed, motion=None, fps):
        pixels = (20.0 if motion is None or not obeys else motion) * 32 / 100 / fps
        return types.SimpleNamespace(frames=np.stack([clip(pixels)] * len(prompts)))

    found = control_protocol(pipe, ["a", "b"], 0)
    assert found["fps"]["falls"] and found["fps"]["measured"] == pytest.approx([2.5, 1.25, 0.625], rel=0.1)
    if obeys:
        assert found["motion"]["rank_means"] == pytest.approx(1) and found["motion"]["rank_clips"] > 0.95
        assert found["motion"]["measured"] == pytest.approx(found["motion"]["asked"], rel=0.1)
    else:
        assert not found["motion"]["rank_clips"] > 0.1


def test_a_pipeline_that_knows_the_truth_is_nearer_than_the_blend():
    clips = np.stack([clip(0.8), clip(1.2)])

    class Knows:
        interpolate = animate = lambda self, prompts, *given, **more: types.SimpleNamespace(frames=clips)
        reconstruct = lambda self, video: video
        encode = lambda self, video: np.zeros((2, 6, 8, 8), int)

        def inpaint(self, prompts, video, mask, **more):
            assert mask.mean() == 0.25
            tokens = np.zeros((2, 6, 8, 8), int)
            tokens[:, :, :4, :4] = 5
            tokens[1, 0, 7, 7] = 1  # of the second clip, something outside the region was changed
            return types.SimpleNamespace(tokens=tokens)

    found = editing_protocol(Knows(), clips, ["a", "b"], 0)
    assert found["interpolate"]["nearer"] == found["interpolate"]["ends_exact"] == found["animate"]["first_exact"] == 1
    assert found["inpaint"]["kept_exact"] == 0.5 and found["interpolate"]["gain"] > 10


def test_a_blend_is_the_truth_where_nothing_but_brightness_changes():
    video = np.linspace(0, 200, 11).round().astype(np.uint8)[None, :, None, None, None].repeat(3, -1)
    np.testing.assert_array_equal(blend(video[:, 0], video[:, -1], 11), video)


def test_the_area_under_the_roc_curve_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels, counts = rng.random((40, 5)) < 0.3, rng.random((40, 5)) < 0.8
    scores = rng.normal(size=(40, 5)) + labels
    expected = roc_auc_score(labels[counts], scores[counts])
    found = roc_auc(*map(jnp.asarray, (scores, labels, counts)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
