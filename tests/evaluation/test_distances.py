"""PSNR and SSIM against closed forms, a brute-force twin and scikit-image."""

import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import distances


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 3, 20, 24, 3)).astype(np.uint8)
    b = np.clip(a + rng.normal(0, [[[[[10.0]]]], [[[[30.0]]]]], a.shape), 0, 255).astype(np.uint8)
    return a, b


def test_psnr_of_a_constant_error_is_its_closed_form():
    a = np.full((1, 2, 16, 16, 3), 100, np.uint8)
    for error in (1, 5, 60):
        expected = 20 * np.log10(255 / error)
        assert distances.psnr(a, a + np.uint8(error)) == pytest.approx(expected, abs=1e-9)
        assert distances.psnr(a, a - np.uint8(error)) == pytest.approx(expected, abs=1e-9)  # no wrap-around
    assert distances.psnr(np.zeros_like(a), np.full_like(a, 255)) == pytest.approx(0, abs=1e-9)
    assert distances.psnr(a, a) == np.inf


def test_psnr_averages_decibels_of_frames_not_their_errors():
    a = np.zeros((1, 2, 16, 16, 3), np.uint8)
    b = np.stack([np.full((16, 16, 3), 1), np.full((16, 16, 3), 100)]).astype(np.uint8)[None]
    expected = (20 * np.log10(255) + 20 * np.log10(2.55)) / 2
    assert distances.psnr(a, b) == pytest.approx(expected, abs=1e-9)


def test_per_video_values_belong_to_their_videos(pair):
    a, b = pair
    for one, many in ((distances.psnr, distances.psnr_per_video), (distances.ssim, distances.ssim_per_video)):
        each = [one(a[i:i + 1], b[i:i + 1]) for i in range(2)]
        np.testing.assert_allclose(many(a, b), each)
        assert one(a, b) == pytest.approx(np.mean(each))
        assert each[0] > each[1]  # less noise
        assert one(a, b) == pytest.approx(one(b, a))


def test_ssim_of_constant_frames_is_its_closed_form():
    a, b = np.full((1, 1, 16, 16, 3), 80, np.uint8), np.full((1, 1, 16, 16, 3), 120, np.uint8)
    c1 = (0.01 * 255) ** 2  # variances are 0: only the luminance term is left
    assert distances.ssim(a, b) == pytest.approx((2 * 80 * 120 + c1) / (80 ** 2 + 120 ** 2 + c1), abs=1e-7)
    assert distances.ssim(a, a) == pytest.approx(1.0)


def test_ssim_of_one_window_by_brute_force():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (2, 11, 11)).astype(np.float64)  # an 11 x 11 frame holds exactly one window
    weight = np.array([[np.exp(-(i * i + j * j) / (2 * 1.5 ** 2)) for j in range(-5, 6)] for i in range(-5, 6)])
    weight /= weight.sum()
    mx, my = (weight * x).sum(), (weight * y).sum()
    vx, vy, cov = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum(), (weight * (x - mx) * (y - my)).sum()
    c1, c2 = 2.55 ** 2, 7.65 ** 2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx ** 2 + my ** 2 + c1) * (vx + vy + c2))
    a, b = (np.repeat(v.astype(np.uint8)[None, None, :, :, None], 3, axis=-1) for v in (x, y))
    assert distances.ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_against_scikit_image(pair):
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pair
    frames = [(x, y) for u, v in zip(a, b) for x, y in zip(u, v)]
    ssim = [metrics.structural_similarity(x, y, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5,
                                          use_sample_covariance=False) for x, y in frames]
    assert distances.ssim(a, b) == pytest.approx(np.mean(ssim), abs=1e-7)
    psnr = [metrics.peak_signal_noise_ratio(x, y, data_range=255) for x, y in frames]
    assert distances.psnr(a, b) == pytest.approx(np.mean(psnr), abs=1e-7)


def test_refuses_other_forms(pair):
    a, b = pair
    for function in (distances.psnr, distances.ssim):
        for x, y in ((a, b[:1]), (a[0], b[0]), (a / 255.0, b / 255.0)):
            with pytest.raises(UserError):
                function(x, y)
    with pytest.raises(UserError):
        distances.ssim(a[:, :, :8, :8], b[:, :, :8, :8])
