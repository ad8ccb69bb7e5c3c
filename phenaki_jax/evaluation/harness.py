"""Measures made clips against real ones as a protocol says: figures with their floor, controls, ceiling and interval.

Whatever takes long is made piece by piece and kept: an evaluation that was killed goes on where it was.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax import weights
from phenaki_jax.digest import digest
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import distances, features, motion_stats, scores
from phenaki_jax.evaluation.clips import Clips, once
from phenaki_jax.evaluation.protocols import PAIRED, WITH_TRUTH, Protocol

CURVE = (8, 4, 2, 1)  # a distance is also told of a half, a quarter and an eighth of the clips
Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Network:
    """What clips are seen by: `of`, uint8 [N, F, Y, X, 3] -> float64 [N, D] or [N, F, D]; `about`, all that its figures
    depend on; how few clips or frames mean little."""
    of: Callable[[np.ndarray], np.ndarray]
    about: Mapping[str, Any]
    fewest: int
    what: str
    ready: Callable[[], Any] = lambda: None  # raises UserError where its weights are missing


def networks() -> dict[str, Network]:
    """By the metric that reads them first."""
    from phenaki_jax.evaluation import image_features

    def frames(video: np.ndarray) -> np.ndarray:
        return image_features.inception_features(video.reshape(-1, *video.shape[2:])).reshape(*video.shape[:2], -1)

    return {"fvd": Network(features.video_features, features.FVD_PROTOCOL, features.FEWEST_CLIPS, "clips",
                           weights.read_i3d),
            "fid": Network(frames, image_features.FID_PROTOCOL, image_features.FEWEST_IMAGES, "images",
                           weights.read_inception)}


def needed(protocol: Protocol) -> list[str]:
    """Which of `networks` a protocol's figures of sets are seen by."""
    seen = {"fvd": ("fvd", "kvd"), "fid": ("fid", "kid")}
    found = [name for name, metrics in seen.items() if set(metrics) & set(protocol.metrics)]
    if "precision" in protocol.metrics and not found:
        found = ["fid" if protocol.frames == 1 else "fvd"]
    return found


def check_installed(protocol: Protocol, seen_by: Mapping[str, Network]) -> None:
    """Raises: UserError where weights that a protocol's metrics want are missing, before anything takes long."""
    for name in needed(protocol):
        seen_by[name].ready()
    if "lpips" in protocol.metrics:
        weights.read_lpips()


def check_sizes(protocol: Protocol, real: int, made: int, seen_by: Mapping[str, Network], force: bool) -> list[str]:
    """What the sets are too small for, in words; [] where they are not.

    Raises: UserError where they are and `force` is not said.
    """
    small = []
    for name in needed(protocol):
        network, per_clip = seen_by[name], protocol.frames if seen_by[name].what == "images" else 1
        for side, count in (("real", real), ("made", made)):
            if count * per_clip < network.fewest:
                small.append(f"{name.upper()} of {count * per_clip} {side} {network.what} means little; "
                             f"it wants {network.fewest}")
    if small and not force:
        raise UserError(f"{small[0]}; give more, or --force and report the number")
    return small


def look(clips: Clips, network: Network, folder: pathlib.Path, log: Log = lambda line: None) -> np.ndarray:
    """What a network sees of all clips; of each piece kept in the folder, under a name made of its content."""
    seen = []
    for start, stop in clips.pieces():
        pixels = clips.read(start, stop)
        log(f"{network.what}: {clips.about}, {start} to {stop} of {clips.count}")
        seen.append(once(folder, digest(pixels, network.about), lambda: network.of(pixels)))
    return np.concatenate(seen)


def measure(protocol: Protocol, real: Clips, made: Clips, *, folder: pathlib.Path, seen_by: Mapping[str, Network],
            other: Clips | None = None, ceiling: Clips | None = None, clip_score: Callable | None = None,
            resamples: int = 100, seed: int = 0, log: Log = lambda line: None) -> dict[str, Any]:
    """The figures of a protocol.

    Args:
      made: N * repeats clips, those of real clip i at i * repeats and on.
      other: as many other real clips, for the floor; without any the halves of `real` are each other's.
      ceiling: the real clips as the model's tokenizer gives them back, beyond which it cannot go.
      clip_score: (videos, prompts) -> a cosine each [N]; needed for the metric 'clip'.

    Returns:
      "figures": {metric: {"value", "interval", "floor", "controls": {name: value}, "ceiling", "curve": [[N, value]]},
      as far as it has them}; "per_clip": {metric: a list}; "counts": {"real", "made"}.
    """
    found: dict[str, dict] = {}
    per_clip: dict[str, list] = {}
    if made.count != real.count * protocol.repeats and protocol.task != "compare":
        raise UserError(f"made has {made.count} clips; {real.count} real ones want {real.count * protocol.repeats}")
    for name in needed(protocol):
        sets = {"real": real, "made": made} | ({"other": other} if other else {}) | (
            {"ceiling": ceiling} if ceiling else {}) | {
            kind: real.altered(*change) for kind, change in _controls(protocol, seed).items()
            if seen_by[name].what == "clips" or kind != "shuffled"}  # frames by themselves have no order
        seen = {what: look(clips, seen_by[name], folder, log) for what, clips in sets.items()}
        found |= _of_sets(protocol, name, seen, resamples, seed)
    if paired := [name for name in protocol.metrics if name in PAIRED]:
        values = _paired(protocol, paired, real, made, ceiling)
        for name, of in values.items():
            per_clip[name] = of["made"].tolist()
            found[name] = _mean(of["made"], resamples, seed) | {
                what: _mean(of[what])["value"] for what in ("ceiling",) if what in of} | {
                "controls": {what: _mean(of[what])["value"] for what in ("copy_last", "static") if what in of}}
            per_clip[name] = [value if np.isfinite(value) else None for value in per_clip[name]]
    if "motion" in protocol.metrics:
        found["motion"], per_clip["motion"] = _motion(real, made, ceiling)
    if "clip" in protocol.metrics and clip_score is not None:
        cosines = {what: np.concatenate([clip_score(clips.read(a, b), captions[a:b]) for a, b in clips.pieces()])
                   for what, clips, captions in (("made", made, _captions(real, protocol)),
                                                 ("real", real, real.captions))}
        per_clip["clip"] = cosines["made"].tolist()
        found["clip"] = _mean(cosines["made"], resamples, seed) | {"floor": float(cosines["real"].mean())}
    return {"figures": found, "per_clip": per_clip, "counts": {"real": real.count, "made": made.count}}


def _captions(real: Clips, protocol: Protocol) -> tuple[str, ...]:
    return tuple(text for text in real.captions for _ in range(protocol.repeats))


def _controls(protocol: Protocol, seed: int) -> dict[str, tuple[str, Callable]]:
    """{name: (in words, clips -> clips)} of what is no model: what FVD must not like as much as the real clips."""
    if protocol.frames == 1:
        return {}
    kinds = {"static": "first frame held", "shuffled": "frames shuffled"}
    if protocol.given:
        kinds["copy_last"] = "last given frame held"
    change = lambda kind: lambda video: motion_stats.controls(video, kind, seed=seed, given=protocol.given or None)
    return {kind: (words, change(kind)) for kind, words in kinds.items()}


# ------------------------------------------------------------------------------------------------- sets of clips

def _of_sets(protocol: Protocol, network: str, seen: Mapping[str, np.ndarray], resamples: int, seed: int) -> dict:
    """The figures that come of one network's features."""
    rows = {what: x if x.ndim == 3 else x[:, None] for what, x in seen.items()}  # [N, frames or 1, D]
    flat = lambda x: x.reshape(-1, x.shape[-1])
    distance = lambda a, b: features.frechet_distance(flat(a), flat(b))
    kernel = lambda a, b: scores.kernel_distance(flat(a), flat(b), seed=seed)["value"]
    # Clips are drawn and not frames, which are alike within one.
    quick = {distance: lambda a, b: scores.quick_frechet(flat(a), flat(b)), kernel: kernel}
    real, made = rows["real"], rows["made"]
    half = len(real) // 2
    found = {}
    for name, of in ((network, distance), ({"fvd": "kvd", "fid": "kid"}[network], kernel)):
        if name not in protocol.metrics:
            continue
        entry: dict[str, Any] = {"value": of(real, made)}
        entry["floor"] = of(real, rows["other"]) if "other" in rows else of(real[:half], real[half:2 * half])
        entry["controls"] = {what: of(real, rows[what]) for what in ("static", "shuffled", "copy_last") if what in rows}
        if "ceiling" in rows:
            entry["ceiling"] = of(real, rows["ceiling"])
        entry["curve"] = [[len(real) // part, of(real[:len(real) // part], made[:len(made) // part])]
                          for part in CURVE if len(real) // part > 1 and len(made) // part > 1]
        count = resamples if of is distance else min(resamples, 20)  # a draw of the kernel's takes seconds
        if min(len(real), len(made)) >= 8:
            drawn = scores.half_sample_interval(quick[of], real, made, resamples=count, seed=seed,
                                                paired=protocol.task in WITH_TRUTH and protocol.repeats == 1)
            entry |= {what: drawn[what] for what in ("interval", "extrapolated", "resamples")}
        found[name] = entry
    if "precision" in protocol.metrics and network == needed(protocol)[0]:
        found |= {name: {"value": value} for name, value in zip(
            ("precision", "recall"), scores.precision_recall(flat(real), flat(made)))}
    return found


# ------------------------------------------------------------------------------------------------- clip by clip

def _paired(protocol: Protocol, names: Sequence[str], real: Clips, made: Clips, ceiling: Clips | None) -> dict:
    """{metric: {"made", "ceiling", "copy_last" or "static": [N] each}}; of a prediction over the new frames alone."""
    functions = {"psnr": distances.psnr_per_video, "ssim": distances.ssim_per_video, "lpips": features.lpips_per_video,
                 "flicker": lambda truth, video: motion_stats.temporal_error(video, truth)["error"]}
    values: dict[str, dict[str, list]] = {name: {} for name in names}
    for start, stop in real.pieces():
        truth = real.read(start, stop)
        sides = {"made": (made.read(start * protocol.repeats, stop * protocol.repeats), protocol.repeats)}
        if ceiling and protocol.task == "prediction":
            sides["ceiling"] = ceiling.read(start, stop), 1
        kind = "copy_last" if protocol.given else "static"
        if protocol.frames > 1:
            sides[kind] = motion_stats.controls(truth, kind, given=protocol.given or None), 1
        for what, (video, times) in sides.items():
            against = np.repeat(truth, times, axis=0)[:, protocol.given:]
            for name in names:
                values[name].setdefault(what, []).append(functions[name](against, video[:, protocol.given:]))
    return {name: {what: np.concatenate(parts) for what, parts in of.items()} for name, of in values.items()}


def _mean(values: np.ndarray, resamples: int = 0, seed: int = 0) -> dict[str, Any]:
    """The mean of those that are finite: the PSNR of equal clips is not, and "equal" is how many there are."""
    finite = values[np.isfinite(values)]
    equal = {"equal": len(values) - len(finite)} if len(finite) < len(values) else {}
    if not len(finite):
        return {"value": None} | equal
    if not resamples:
        return {"value": float(finite.mean())} | equal
    found = scores.bootstrap_interval(lambda x: float(np.mean(x)), finite, resamples=resamples, seed=seed)
    return {"value": found["value"], "interval": found["interval"], "resamples": resamples} | equal


def _motion(real: Clips, made: Clips, ceiling: Clips | None) -> tuple[dict, list]:
    """How much moves: its mean in made and in real clips, and how far apart its distributions are."""
    sides = {"made": made, "real": real} | ({"ceiling": ceiling} if ceiling else {})
    moved = {what: np.concatenate([motion_stats.motion_statistics(clips.read(*piece))["motion"]
                                   for piece in clips.pieces()]) for what, clips in sides.items()}
    entry = {"value": float(moved["made"].mean()), "floor": float(moved["real"].mean()),
             "apart": scores.wasserstein(moved["made"], moved["real"])}
    return entry | ({"ceiling": float(moved["ceiling"].mean())} if ceiling else {}), moved["made"].tolist()
