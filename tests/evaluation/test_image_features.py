"""FID against the same pictures through another framework, its protocol, and CLIP's score of videos."""

import importlib.util
import pathlib

import numpy as np
import pytest

from phenaki_jax import evaluation, weights
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import image_features

DATA = pathlib.Path(__file__).parent.parent / "data"
with_weights = pytest.mark.skipif(not weights.installed(weights.INCEPTION),
                                  reason=f"Inception's weights are not here; {weights.INCEPTION.install}")


def load(folder: str):
    spec = importlib.util.spec_from_file_location(f"make_{folder}", DATA / folder / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, np.load(DATA / folder / "expected.npz")


inception, INCEPTION = load("inception")
clip, CLIP = load("clip_tiny")


# -------------------------------------------------------------------------------------------------------- FID

@with_weights
def test_fid_and_features_against_the_golden_values():
    real, generated = inception.sets()
    seen = evaluation.inception_features(real)
    assert seen.shape == (32, 2048) and seen.dtype == np.float64
    np.testing.assert_allclose(seen[:2], INCEPTION["first"], atol=1e-5 * INCEPTION["first"].max())
    found = evaluation.frechet_distance(seen, evaluation.inception_features(generated))
    assert found == pytest.approx(float(INCEPTION["distance"]), rel=1e-4)


def test_every_frame_of_a_video_is_an_image(monkeypatch):
    """Whatever the network: here it gives a few pixels back."""
    monkeypatch.setattr(image_features, "inception_features", lambda images: images[:, 30, :5, 0].astype(float))
    frames = inception.pictures(30, 5)
    video, pixels = frames.reshape(10, 3, 72, 96, 3), frames[:, 30, :5, 0].astype(float)
    found = evaluation.frechet_inception_distance(video[:6], video[4:], force=True)
    assert found == pytest.approx(evaluation.frechet_distance(pixels[:18], pixels[12:]), rel=1e-6) and found > 1
    assert evaluation.frechet_inception_distance(video, frames[::-1], force=True) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("sides", [(72, 96), (299, 299), (400, 310), (5, 7)])
def test_resize_is_of_each_channel_in_float_and_held_within_its_range(sides):
    images = np.random.default_rng(0).integers(0, 2, (2, *sides, 3)).astype(np.uint8) * 255
    found = image_features.clean_resize(images)
    assert found.dtype == np.float32 and found.min() == 0 and found.max() == 255
    np.testing.assert_array_equal(found, inception.resized(images))
    if sides == (299, 299):
        np.testing.assert_array_equal(found, images)
    else:
        assert (found != np.rint(found)).mean() > 0.1


def test_fid_refuses_small_sets_and_other_forms():
    few, enough = np.zeros((23, 89, 2, 2, 3), np.uint8), np.zeros((2048, 2, 2, 3), np.uint8)
    with pytest.raises(UserError, match="real has 2047 images.*under 2048.*force=True"):
        evaluation.frechet_inception_distance(few, enough)
    with pytest.raises(UserError, match="generated has 2047 images"):
        evaluation.frechet_inception_distance(enough, few)
    for wrong in (enough / 255.0, enough[0], enough[..., :1], enough[:0]):
        with pytest.raises(UserError, match="should be uint8"):
            evaluation.frechet_inception_distance(wrong, enough, force=True)


def test_the_protocol_names_the_weights():
    assert evaluation.FID_PROTOCOL["weights_sha256"] == weights.INCEPTION.sha256


# ------------------------------------------------------------------------------------------------------- CLIP

def test_clip_resizes_and_crops_as_the_golden_values():
    frame = image_features.clip_resize(clip.frame()[None], 32)[0]
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    np.testing.assert_allclose((frame / 255 - np.array(mean)) / deviation, CLIP["frame"], atol=1e-5)
    upright = image_features.clip_resize(clip.frame().swapaxes(0, 1)[None], 32)[0]
    np.testing.assert_allclose(upright.swapaxes(0, 1).astype(int), frame, atol=1)


def test_clip_score_against_the_golden_values():
    """Two videos of two frames: of each frame with the video's own prompt, then the mean."""
    videos, prompts = clip.images().reshape(2, 2, 32, 32, 3), [clip.TEXTS[0], clip.TEXTS[4]]
    cosines = CLIP["image_quick_gelu_first"] @ CLIP["text_quick_gelu_first"].T
    each = [cosines[[0, 1], 0].mean(), cosines[[2, 3], 4].mean()]
    found = evaluation.clip_score(DATA / "clip_tiny", videos, prompts)
    np.testing.assert_allclose(found["per_video"], each, atol=1e-5)
    assert found["cosine"] == pytest.approx(np.mean(each), abs=1e-5)
    assert found["x100"] == pytest.approx(100 * found["cosine"])
    assert found["model"] == "clip_tiny: CLIP with a ViT of 3 layers of 48, patch 8, at 32 x 32"


def test_a_loaded_clip_scores_again_and_says_what_it_is():
    scorer = evaluation.ClipScore(DATA / "clip_tiny")
    videos = np.random.default_rng(0).integers(0, 256, (3, 2, 20, 30, 3), np.uint8)
    each = scorer(videos, ["a cat", "a dog", "a cat"])
    assert each.shape == (3,) and (np.abs(each) <= 1).all() and np.ptp(each) > 1e-3
    np.testing.assert_allclose(evaluation.clip_score(scorer, videos[1:2], ["a dog"])["per_video"], each[1:2], atol=1e-6)
    assert len(scorer.about["weights_sha256"]) == 64 and scorer.about["network"].startswith("clip_tiny")


def test_clip_score_refuses_what_does_not_fit_together():
    videos = np.zeros((2, 1, 32, 32, 3), np.uint8)
    for prompts in (["a cat"], "ab"):
        with pytest.raises(UserError, match="prompts has 1 texts; it should be a list of one for each of the 2 videos"):
            evaluation.clip_score(DATA / "clip_tiny", videos, prompts)
    for wrong in (videos[0], videos / 255.0, videos[:0]):
        with pytest.raises(UserError, match="videos is .*should be uint8"):
            evaluation.clip_score(DATA / "clip_tiny", wrong, ["a cat"] * len(wrong))
