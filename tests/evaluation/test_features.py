"""The Fréchet distance against closed forms and scipy, FVD's protocol, LPIPS of videos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, ndimage

from phenaki_jax import evaluation
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import features

# ---------------------------------------------------------------------------------------------------- Fréchet


def with_moments(mean, covariance):
    """A set of features with exactly this mean and this unbiased covariance."""
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    x = np.random.default_rng(0).normal(size=(50, len(mean)))
    x = np.linalg.qr(x - x.mean(0))[0] * np.sqrt(49)
    return mean + x @ np.linalg.cholesky(covariance).T


def test_of_known_gaussians():
    a = with_moments([0, 0, 0], np.diag([1.0, 4.0, 9.0]))
    b = with_moments([1, -2, 3], np.diag([4.0, 1.0, 25.0]))
    expected = 1 + 4 + 9 + (1 - 2) ** 2 + (2 - 1) ** 2 + (3 - 5) ** 2  # means, then differences of deviations
    assert evaluation.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    given = (np.zeros(3), np.diag([1.0, 4.0, 9.0])), (np.array([1, -2, 3]), np.diag([4.0, 1.0, 25.0]))
    assert evaluation.frechet_distance(*given) == pytest.approx(expected, rel=1e-10)
    assert evaluation.frechet_distance(a, given[1]) == pytest.approx(expected, rel=1e-10)


def test_of_one_dimension():
    a, b = np.array([[0.0], [2.0]]), np.array([[1.0], [1.0], [4.0]])  # deviations sqrt 2 and sqrt 3, n - 1 below
    assert evaluation.frechet_distance(a, b) == pytest.approx(1 + (np.sqrt(2) - np.sqrt(3)) ** 2, rel=1e-12)


def test_of_covariances_that_do_not_commute_against_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 20)) @ rng.normal(size=(20, 20)), rng.normal(size=(200, 20)) + 0.5
    A, B = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(A @ B)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(A + B - 2 * root.real)
    assert evaluation.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert evaluation.frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)
    assert evaluation.frechet_distance(features.moments(a), features.moments(b)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("count", [2, 5, 500])
def test_of_a_set_and_itself_or_itself_moved(count):
    a = np.random.default_rng(count).normal(size=(count, 400)) * 10
    assert evaluation.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert evaluation.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-8)
    assert evaluation.frechet_distance(a, a + 3) == pytest.approx(400 * 9, rel=1e-10)


def test_of_sets_smaller_than_their_dimensions():
    """Rank-deficient covariances: in different subspaces nothing is shared; scaled in the same one, roots differ."""
    rng = np.random.default_rng(2)
    a, b = np.zeros((10, 400)), np.zeros((12, 400))
    a[:, :200], b[:, 200:] = rng.normal(size=(10, 200)), rng.normal(size=(12, 200))
    apart = (a.mean(0) - b.mean(0)) @ (a.mean(0) - b.mean(0)) + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    assert evaluation.frechet_distance(a, b) == pytest.approx(apart, rel=1e-10)
    centred = a - a.mean(0)
    assert evaluation.frechet_distance(centred, 3 * centred) == pytest.approx(4 * a.var(0, ddof=1).sum(), rel=1e-10)
    assert evaluation.frechet_distance(features.moments(centred), 3 * centred) == pytest.approx(
        4 * a.var(0, ddof=1).sum(), rel=1e-6)


def test_moments_are_numpys():
    a = np.random.default_rng(3).normal(size=(7, 11)) + 5
    mean, covariance = features.moments(a)
    np.testing.assert_allclose(mean, a.mean(0))
    np.testing.assert_allclose(covariance, np.cov(a.T), atol=1e-12)


def test_frechet_distance_refuses_other_forms():
    for a, b in ((np.ones((1, 4)), np.ones((5, 4))), (np.ones(4), np.ones(4)), (np.ones((5, 4)), np.ones((5, 3)))):
        with pytest.raises(UserError):
            evaluation.frechet_distance(a, b)


# -------------------------------------------------------------------------------------------------------- FVD


def clips(count: int, frames: int = 9, size: int = 40) -> np.ndarray:
    """Coloured discs on coloured grounds that move: uint8 [count, frames, size, size, 3]."""
    rng = np.random.default_rng(count)
    f, y, x = np.mgrid[:frames, :size, :size]
    found = []
    for _ in range(count):
        speed, start, radius = rng.uniform(-2, 2, 2), rng.uniform(12, 28, 2), rng.uniform(5, 10)
        inside = (y - start[0] - speed[0] * f) ** 2 + (x - start[1] - speed[1] * f) ** 2 < radius ** 2
        found.append(np.where(inside[..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3)))
    return np.stack(found).astype(np.uint8)


@pytest.mark.slow
def test_fvd_of_altered_clips_is_in_order():
    """A copy is at 0; noise that nobody sees is nearer than clips that stand still or are blurred."""
    real = clips(3)
    noise = np.random.default_rng(0).integers(-1, 2, real.shape)
    subtle = np.clip(real + noise, 0, 255).astype(np.uint8)
    blurred = ndimage.gaussian_filter(real, (0, 0, 2, 2, 0))
    static = np.repeat(real[:, :1], real.shape[1], axis=1)
    seen = evaluation.video_features(real)
    assert seen.shape == (3, 400) and seen.dtype == np.float64
    distances = {name: evaluation.frechet_distance(seen, evaluation.video_features(video))
                 for name, video in (("subtle", subtle), ("blurred", blurred), ("static", static))}
    assert evaluation.frechet_distance(seen, seen) < 1e-6
    assert 0 < 2 * distances["subtle"] < min(distances["blurred"], distances["static"]), distances
    expected = distances["static"]
    assert evaluation.frechet_video_distance(real, static, force=True) == pytest.approx(expected, rel=1e-6)


def test_short_clips_have_features():
    """No NaN for as few frames as one, each clip its own features, and a set is at 0 from itself in another order."""
    two = clips(2, frames=1)
    found = evaluation.video_features(two)
    assert found.shape == (2, 400) and found.dtype == np.float64 and np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() > 0.1
    assert evaluation.frechet_video_distance(two, two[::-1], force=True) == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [2, 8])
def test_short_clips_have_the_features_of_clips_that_come_to_rest(frames):
    short = clips(1, frames=frames)
    long = np.concatenate([short, np.repeat(short[:, -1:], 9 - frames, axis=1)], axis=1)
    np.testing.assert_allclose(evaluation.video_features(short), evaluation.video_features(long), atol=1e-4)


def test_fvd_refuses_small_sets_and_unlike_ones():
    few, enough = np.zeros((399, 1, 2, 2, 3), np.uint8), np.zeros((400, 1, 2, 2, 3), np.uint8)
    with pytest.raises(UserError, match="real has 399 clips.*under 400.*force=True"):
        evaluation.frechet_video_distance(few, enough)
    with pytest.raises(UserError, match="generated has 399 clips"):
        evaluation.frechet_video_distance(enough, few)
    with pytest.raises(UserError, match="1 frames and generated ones 2"):
        evaluation.frechet_video_distance(enough, np.zeros((400, 2, 2, 2, 3), np.uint8))
    for wrong in (enough / 255.0, enough[0], enough[..., :1], enough[:0]):
        with pytest.raises(UserError, match="should be uint8"):
            evaluation.frechet_video_distance(wrong, enough, force=True)


@pytest.mark.parametrize("sides", [(20, 33), (224, 224), (300, 64)])
def test_resize_interpolates_between_pixel_centres(sides):
    image = np.random.default_rng(0).normal(size=sides).astype(np.float32)
    rows, columns = ((np.arange(224) + 0.5) * n / 224 - 0.5 for n in sides)
    expected = ndimage.map_coordinates(image.astype(np.float64), np.meshgrid(rows, columns, indexing="ij"), order=1,
                                       mode="nearest")
    found = features.resize(image[None, None, :, :, None])
    assert found.shape == (1, 1, 224, 224, 1)
    np.testing.assert_allclose(found[0, 0, :, :, 0], expected, atol=1e-4)


@pytest.mark.parametrize("count", [1, 4, 9, 31, 40])
def test_every_device_gets_as_many_rows_whatever_their_number(count, monkeypatch):
    """Eight fake devices and one give the very same, for a function whose rounding depends on its batch."""
    seen = []

    def function(params, given):
        a, b = given
        seen.append(len(a))  # once a compilation
        return jnp.sin(a @ params) * b[:, None]

    rng = np.random.default_rng(0)
    params, a = rng.normal(size=(300, 7)).astype(np.float32), rng.normal(size=(count, 300)).astype(np.float32)
    b = np.arange(count) % 7
    many = features.in_batches(function, params, 4)(a, b)
    np.testing.assert_allclose(many, np.sin(a @ params) * b[:, None], atol=1e-4)
    alone = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: alone)
    np.testing.assert_array_equal(features.in_batches(function, params, 4)(a, b), many)
    assert set(seen) == {4}


# ------------------------------------------------------------------------------------------------------ LPIPS

def test_lpips_is_of_frames_then_videos():
    rng = np.random.default_rng(0)
    a = clips(3, frames=2, size=24)
    strength = np.array([0, 5, 60]).reshape(3, 1, 1, 1, 1)
    b = np.clip(a + rng.normal(size=a.shape) * strength, 0, 255).astype(np.uint8)
    each = evaluation.lpips_per_video(a, b)
    assert each.shape == (3,) and each[0] < 1e-9 < 1e-3 < each[1] < each[2]
    assert evaluation.lpips(a, b) == pytest.approx(each.mean())
    assert evaluation.lpips(a, b) == pytest.approx(evaluation.lpips(b, a), rel=1e-5)
    frames = evaluation.lpips_per_video(a.reshape(6, 1, 24, 24, 3), b.reshape(6, 1, 24, 24, 3))
    np.testing.assert_allclose(frames.reshape(3, 2).mean(1), each, rtol=1e-4, atol=1e-7)


def test_lpips_refuses_other_forms():
    a = np.zeros((1, 2, 16, 16, 3), np.uint8)
    for x, y in ((a, a[:, :1]), (a / 255.0, a / 255.0), (a[:, :, :8], a[:, :, :8])):
        with pytest.raises(UserError):
            evaluation.lpips(x, y)
