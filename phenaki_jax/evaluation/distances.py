"""Distances between videos, frame by frame: PSNR and SSIM on uint8 values, data range 255."""

import numpy as np

from phenaki_jax.errors import UserError

DATA_RANGE = 255.0


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: mean over videos of `psnr_per_video`; inf if a video has an equal frame."""
    return float(np.mean(psnr_per_video(a, b)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity, at most 1: mean over videos of `ssim_per_video`."""
    return float(np.mean(ssim_per_video(a, b)))


def psnr_per_video(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """PSNR of each video: 10 log10(255^2 / MSE) of every frame over pixels and channels, then the mean over frames.

    Args:
      a, b: uint8 [N, F, Y, X, 3].

    Returns:
      float64 [N] in dB.
    """
    a, b = checked_pair(a, b)
    error = np.stack([np.mean(np.square(x.astype(np.float64) - y), axis=(1, 2, 3)) for x, y in zip(a, b)])
    with np.errstate(divide="ignore"):
        return np.mean(10 * np.log10(DATA_RANGE ** 2 / error), axis=1)


def ssim_per_video(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """SSIM of each video: of every frame and channel, then the mean over both.

    Gaussian window of 11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance, mean over the pixels whose
    window lies inside the frame (Wang et al. 2004, Image quality assessment: from error visibility to structural
    similarity).

    Args:
      a, b: uint8 [N, F, Y, X, 3], Y and X at least 11.

    Returns:
      float64 [N].
    """
    a, b = checked_pair(a, b)
    if min(a.shape[2:4]) < 11:
        raise UserError(f"frames are {a.shape[2]} x {a.shape[3]}; SSIM's window wants at least 11 x 11")
    return np.array([np.mean(_ssim(x.astype(np.float64), y.astype(np.float64))) for x, y in zip(a, b)])


def _ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM map [F, Y - 10, X - 10, C] of frames [F, Y, X, C]."""
    from scipy import ndimage
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window /= window.sum()

    def local_mean(values):
        for axis in (1, 2):
            values = ndimage.correlate1d(values, window, axis=axis)
        return values[:, 5:-5, 5:-5]

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x ** 2
    variance_y = local_mean(y * y) - mean_y ** 2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    return ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)
            / ((mean_x ** 2 + mean_y ** 2 + c1) * (variance_x + variance_y + c2)))


def checked_pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 5 or a.size == 0:
        raise UserError(f"videos have shapes {a.shape} and {b.shape}; both must be the same [N, F, Y, X, 3]")
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise UserError(f"videos have dtypes {a.dtype} and {b.dtype}; both must be uint8")
    return a, b
