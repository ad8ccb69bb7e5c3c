"""What pixels tell of clips without facts: flicker, motion, seams, how scenes follow their prompts, altered controls.

Videos are uint8 [N, F, Y, X, 3]; changes are in grey levels of 255.
"""

import types
from collections.abc import Mapping, Sequence

import numpy as np

from phenaki_jax.errors import UserError, at_least
from phenaki_jax.evaluation.distances import checked_pair
from phenaki_jax.evaluation.scores import wasserstein
from phenaki_jax.evaluation.sprites import pooled, seams_of
from phenaki_jax.input.motion import motion_score

MOVING = 10  # grey levels of 255 from which on a pixel counts as changed; a choice, above the noise of most files
CONTROLS = ("static", "shuffled", "reversed", "copy_last", "blurred")


# --------------------------------------------------------------------------------------------------------- flicker

def temporal_error(video: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    """Flicker: what changes between neighbouring frames and should not, per video, in grey levels of 255.

    What should change is what changes in the reference. Three uses:
      a tokenizer: the reconstruction of a static clip (`controls(clips, "static")`) against that clip, which does not
        change: "error" and "change" are then the same, the tokenizer's own flicker;
      a generator: its clips of something at rest against the tokenizer's reconstruction of a static clip: "excess" is
        what generating adds to the tokenizer's own;
      a moving clip: its reconstruction against itself: "error" leaves the motion that both have out of account.

    Args:
      video, reference: uint8 [N, F, Y, X, 3] of the same shape, F at least 2.

    Returns:
      float64 [N] each: "change", the mean of |v[f+1] - v[f]| over frames, pixels and channels, 0 to 255; "reference",
      the same of the reference; "excess", change - reference, below 0 where the video is smoother; "error", the mean of
      |(v[f+1] - v[f]) - (r[f+1] - r[f])|, 0 to 510, at least |excess|, and 0 where the two differ by a picture that
      stays the same.
    """
    video, reference = checked_pair(video, reference)
    _checked("video", video, 2)
    change, at_rest = (frame_changes(x).mean(axis=1) for x in (video, reference))
    error = np.array([np.mean(np.abs(np.diff(v.astype(np.int16) - r, axis=0))) for v, r in zip(video, reference)])
    return {"change": change, "reference": at_rest, "excess": change - at_rest, "error": error}


def frame_changes(video: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring frames over pixels and channels.

    Args:
      video: uint8 [N, F, Y, X, 3], F at least 2.

    Returns:
      float64 [N, F - 1], 0 to 255.
    """
    video = _checked("video", video, 2)
    return np.array([np.abs(np.diff(clip.astype(np.int16), axis=0)).mean(axis=(1, 2, 3)) for clip in video])


# ---------------------------------------------------------------------------------------------------------- motion

def motion_statistics(video: np.ndarray, *, fps: float = 1.0) -> dict[str, np.ndarray]:
    """How much moves in each video, measured from its pixels.

    Args:
      video: uint8 [N, F, Y, X, 3], F at least 2. fps: frames a second.

    Returns:
      float64 [N] each: "change", the mean of `frame_changes`, grey levels of 255; "moving", the share of pixels, 0 to
      1, that differ from the frame before by at least MOVING grey levels in some channel, mean over frames; "motion",
      the `input.motion.motion_score`: per cent of the frame's longer side a second, or a frame where fps is 1.
    """
    video = _checked("video", video, 2)
    if not fps > 0:
        raise UserError(f"fps={fps!r} should be above 0")
    moving = [np.mean(np.abs(np.diff(clip.astype(np.int16), axis=0)).max(axis=-1) >= MOVING) for clip in video]
    return {"change": frame_changes(video).mean(axis=1), "moving": np.array(moving),
            "motion": np.array([motion_score(clip, fps) for clip in video])}


def compare_motion(real: Mapping[str, np.ndarray], generated: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """Whether two sets of clips move alike, as distributions: no clip needs a partner.

    Args:
      real, generated: what `motion_statistics` returns, of sets of any two sizes, at the same fps and frame size.

    Returns:
      For each statistic {"real": mean, "generated": mean, "wasserstein": see `scores.wasserstein`}, in its unit. The
      distance is at least the difference of the means, and as much where one set moves more throughout.
    """
    if set(real) != set(generated):
        raise UserError(f"real and generated have the statistics {sorted(real)} and {sorted(generated)}; "
                        "both should have the same")
    return {name: {"real": float(np.mean(real[name])), "generated": float(np.mean(generated[name])),
                   "wasserstein": wasserstein(real[name], generated[name])} for name in real}


# --------------------------------------------------------------------------------------------------------- stories

def seam_jump(video: np.ndarray, starts: Sequence[int]) -> dict:
    """The largest change between neighbouring frames across a seam over the largest inside scenes.

    The measure of `sprites.story_scores` ("seam", "pixels"), for stories without facts: all seams count, also those
    where the prompts change colours or the place, which should jump.

    Args:
      video: uint8 [N, F, Y, X, 3]. starts: the first frame of each scene; that of the first, 0, may be left out.

    Returns:
      "at_seams" and "inside", the largest mean absolute difference of two frames of all videos, 0 to 255; "ratio" of
      the two; "median_story" and "worst_story" of each video's own ratio; "stories_at_most_1.5", a share; "stories",
      how many were counted; "per_video", [{"at_seams", "inside"}]. Where no scene has two frames, "ratio" is None.
    """
    video = _checked("video", video, 2)
    frames = video.shape[1]
    seams = [start for start in _scene_starts(starts, frames) if start > 0]
    if not seams:
        raise UserError(f"starts={starts!r} names no seam; it should hold the first frame of a second scene")
    story = [{"num_frames": count, "facts": {}} for count in np.diff([0, *seams, frames])]
    unjudged = types.SimpleNamespace(centre=np.full((frames, 2), np.nan))
    measures = [seams_of(clip, story, [unjudged])["pixels"] for clip in video]
    return pooled(measures) | {"per_video": measures}


def drift(scores_by_scene: np.ndarray, *, level: float = 0.95) -> dict:
    """By how much a score changes from one scene to the next: the slope of the least-squares line over the scenes.

    The interval is Student's: over several stories, of the mean of their slopes, which asks nothing of the noise within
    a story; of a single story, from the residuals about its line, as if they were independent.

    Args:
      scores_by_scene: [S] of one story, or [N, S] of N stories; S at least 2, all finite.

    Returns:
      "slope", a scene, in the score's unit, the mean over stories; "interval" [low, high], None for a single story of
      two scenes; "level"; "per_story", the N slopes; "stories" and "scenes", how many.
    """
    from scipy import stats
    scores = np.atleast_2d(np.asarray(scores_by_scene, np.float64))
    N, S = scores.shape if scores.ndim == 2 else (0, 0)
    if N < 1 or S < 2 or not np.isfinite(scores).all():
        raise UserError(f"scores_by_scene has the shape {np.shape(scores_by_scene)}; it should be [S] or [N, S] with S "
                        "at least 2, of finite numbers")
    if not 0 < level < 1:
        raise UserError(f"level={level!r} should lie between 0 and 1, such as 0.95")
    scene = np.arange(S) - (S - 1) / 2
    slopes = scores @ scene / np.sum(scene ** 2)
    slope, freedom = float(slopes.mean()), N - 1 if N > 1 else S - 2
    if N > 1:
        error = np.std(slopes, ddof=1) / np.sqrt(N)
    else:
        residuals = scores[0] - scores[0].mean() - slope * scene
        error = np.sqrt(np.sum(residuals ** 2) / max(freedom, 1) / np.sum(scene ** 2))
    half = float(error * stats.t.ppf((1 + level) / 2, freedom)) if freedom else None
    return {"slope": slope, "interval": None if half is None else [slope - half, slope + half], "level": level,
            "per_story": slopes.tolist(), "stories": N, "scenes": S}


def switch_latency(shows_new: np.ndarray, starts: Sequence[int]) -> dict:
    """How many frames a story takes to follow its prompts: from each start on until the new is shown and stays shown.

    Args:
      shows_new: bool [F]: whether a frame shows the new attribute of the scene that it lies in.
      starts: the first frames of the scenes to be judged, rising; a scene ends where the next starts, or with the
        story. Leave 0 out where the first scene is not asked about.

    Returns:
      "latency": for each start the frames before the scene's last unbroken run of True that reaches its end; 0 where
      the scene begins with it, None where its last frame does not show it; "never", how many None; "median" over the
      scenes, None counted as longer than any, and None where that decides.
    """
    shows_new = np.asarray(shows_new)
    if shows_new.ndim != 1 or shows_new.dtype != bool:
        raise UserError(f"shows_new is {shows_new.dtype} {list(shows_new.shape)}; it should be bool [F]")
    starts = _scene_starts(starts, len(shows_new))
    latency: list[int | None] = []
    for start, end in zip(starts, [*starts[1:], len(shows_new)]):
        lacking = np.flatnonzero(~shows_new[start:end])
        waited = int(lacking[-1]) + 1 if len(lacking) else 0
        latency.append(waited if waited < end - start else None)
    median = float(np.median([np.inf if waited is None else waited for waited in latency]))
    return {"latency": latency, "never": latency.count(None), "median": median if np.isfinite(median) else None}


# -------------------------------------------------------------------------------------------------------- controls

def controls(video: np.ndarray, kind: str, *, given: int | None = None, sigma: float = 1.0,
             seed: int | Sequence[int] = 0) -> np.ndarray:
    """Clips altered in a known way, for figures beside a model's: no motion, motion without sense, less detail.

    Args:
      video: uint8 [N, F, Y, X, 3].
      kind: "static", the first frame held; "shuffled", each clip's frames in a random order of its own; "reversed";
        "copy_last", the first `given` frames, then the last of them held; "blurred", each frame smoothed.
      given: 1 to F, for copy_last only: how many frames a model that goes on with a clip is given.
      sigma: of the Gaussian in pixels, for blurred; at the edges the frame is mirrored.
      seed: of the orders, for shuffled.

    Returns:
      uint8 [N, F, Y, X, 3], a new array.
    """
    video = _checked("video", video, 1)
    frames = video.shape[1]
    if kind == "static":
        return np.repeat(video[:, :1], frames, axis=1)
    if kind == "shuffled":
        rng = np.random.default_rng(seed)
        return np.stack([clip[rng.permutation(frames)] for clip in video])
    if kind == "reversed":
        return video[:, ::-1].copy()
    if kind == "copy_last":
        at_least("given", given, 1)
        if given > frames:
            raise UserError(f"given={given} frames of clips of {frames}; it should be at most {frames}")
        return video[:, np.minimum(np.arange(frames), given - 1)]
    if kind == "blurred":
        if not 0 < sigma < np.inf:
            raise UserError(f"sigma={sigma!r} should be above 0, in pixels")
        from scipy import ndimage
        smooth = (ndimage.gaussian_filter(clip.astype(np.float64), (0, sigma, sigma, 0)) for clip in video)
        return np.stack([np.rint(clip).clip(0, 255).astype(np.uint8) for clip in smooth])
    raise UserError(f"kind={kind!r} is unknown; it is one of {', '.join(CONTROLS)}")


# ----------------------------------------------------------------------------------------------------------- forms

def _checked(name: str, video: np.ndarray, fewest: int) -> np.ndarray:
    """Raises: UserError unless it is uint8 [N, F, Y, X, 3] with at least `fewest` frames."""
    video = np.asarray(video)
    if video.ndim != 5 or video.shape[-1] != 3 or video.dtype != np.uint8 or video.size == 0:
        raise UserError(f"{name} is {video.dtype} {list(video.shape)}; it should be uint8 [N, F, Y, X, 3]")
    if video.shape[1] < fewest:
        raise UserError(f"{name} has {video.shape[1]} frames; it should have at least {fewest}")
    return video


def _scene_starts(starts: Sequence[int], frames: int) -> list[int]:
    found = np.asarray(starts)
    if (found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer) or found[0] < 0
            or found[-1] >= frames or np.any(np.diff(found) <= 0)):
        raise UserError(f"starts={starts!r} should be whole numbers that rise, from 0 to {frames - 1}, "
                        "the frame that each scene starts with")
    return found.tolist()
