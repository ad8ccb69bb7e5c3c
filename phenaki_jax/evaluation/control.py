"""Whether what a generator is told beside the text shows: motion in the speed seen, fps in the steps a frame."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.attributes import judge_many

MOTIONS = (2.0, 8.0, 14.0, 20.0, 26.0)  # per cent of the frame a second
RATES = (8.0, 16.0, 32.0)  # frames a second
FRAME = 32  # pixels, in which the judge's velocities are


def check_untold(sampler: Mapping[str, Any]) -> None:
    """Raises: UserError where the options of sampling say what the protocol varies."""
    for name in ("motion", "fps"):
        if name in sampler:
            raise UserError(f"{name}={sampler[name]!r} is what this suite varies itself; leave it out")


def control_protocol(pipe: Any, prompts: Sequence[str], seed: int, *, motions: Sequence[float] = MOTIONS,
                     rates: Sequence[float] = RATES, **sampler: Any) -> dict:
    """Measures the speed of the same prompts at several motions, and their displacement a frame at several rates.

    Args:
      pipe: called with prompts, `seed`, `motion`, `fps` and `sampler`; its answer has uint8 `frames`.
      prompts: of things that move, without a word of how quickly.
      motions: asked for at each of `rates`; rates: asked for without a motion.

    Returns:
      "motion": {"asked": motions, "measured": mean speed at each, per cent of the frame a second, "rank_means":
        Spearman's correlation of the two, "rank_clips": that over all single clips}; "fps": {"asked": rates,
        "measured": mean displacement a frame in per cent of the frame, "falls": whether each is lower than the one
        before}; "clips": of each value.
    """
    from scipy.stats import spearmanr

    check_untold(sampler)

    def speeds(**told) -> np.ndarray:
        """Per cent of the frame a frame; clips in which nothing is seen count as resting."""
        frames = np.asarray(pipe(list(prompts), seed=seed, **told, **sampler).frames)
        return np.array([np.linalg.norm(clip.velocity) for clip in judge_many(frames)]) * 100 / FRAME

    moved = np.stack([np.concatenate([speeds(motion=motion, fps=fps) * fps for fps in rates]) for motion in motions])
    asked = np.repeat(np.asarray(motions)[:, None], moved.shape[1], axis=1)
    steps = [float(speeds(fps=fps).mean()) for fps in rates]
    return {"clips": len(prompts),
            "motion": {"asked": list(motions), "measured": moved.mean(1).tolist(),
                       "rank_means": float(spearmanr(motions, moved.mean(1))[0]),
                       "rank_clips": float(spearmanr(asked.ravel(), moved.ravel())[0])},
            "fps": {"asked": list(rates), "measured": steps,
                    "falls": all(later < before for before, later in zip(steps, steps[1:]))}}
