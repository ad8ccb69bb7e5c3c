"""Whether what is given stays, and whether what is made between two pictures beats their blend."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from phenaki_jax.evaluation.distances import psnr_per_video


def blend(first: np.ndarray, last: np.ndarray, frames: int) -> np.ndarray:
    """Fades from one picture to another: uint8 [N, Y, X, 3] twice -> uint8 [N, frames, Y, X, 3]."""
    weight = np.linspace(0, 1, frames)[None, :, None, None, None]
    return np.rint((1 - weight) * first[:, None] + weight * last[:, None]).astype(np.uint8)


def editing_protocol(pipe: Any, clips: np.ndarray, prompts: Sequence[str], seed: int, **sampler: Any) -> dict:
    """Tasks by what is frozen, on clips in which something moves.

    Args:
      pipe: a `PhenakiPipeline`. clips: uint8 [N, F, Y, X, 3] of a training clip's size; prompts: their captions.

    Returns:
      "interpolate": mean PSNR of the frames between, of what is made ("psnr"), of linear blending ("blend") and of the
        tokenizer's reconstruction of the truth ("ceiling"), the share of clips in which what is made is nearer
        ("nearer"), and whether the end frames are the given ones ("ends_exact"); "inpaint": whether every token outside
        the region, a quarter of the picture, is the given clip's ("kept_exact"); "animate": whether the first frame is
        as the tokenizer gives it back ("first_exact"). Shares are 0 to 1.
    """
    prompts, (N, F, Y, X, _) = list(prompts), clips.shape
    made = pipe.interpolate(prompts, clips[:, 0], clips[:, -1], num_frames=F, seed=seed, **sampler).frames
    ours, faded, ceiling = (psnr_per_video(clips[:, 1:-1], x[:, 1:-1]) for x in (
        made, blend(clips[:, 0], clips[:, -1], F), pipe.reconstruct(clips)))
    mask = np.zeros((Y, X), bool)
    mask[:Y // 2, :X // 2] = True
    tokens, given = pipe.inpaint(prompts, clips, mask, seed=seed, **sampler).tokens, pipe.encode(clips)
    rows, columns = (np.arange(n) >= n // 2 for n in given.shape[2:])
    outside = rows[:, None] | columns
    moving = pipe.animate(prompts, clips[:, 0], num_frames=F, seed=seed, **sampler).frames
    same = lambda a, b: float(np.mean([np.array_equal(x, y) for x, y in zip(a, b)]))
    return {"clips": N,
            "interpolate": {"psnr": float(ours.mean()), "blend": float(faded.mean()), "ceiling": float(ceiling.mean()),
                            "gain": float((ours - faded).mean()), "nearer": float(np.mean(ours > faded)),
                            "ends_exact": same(made[:, [0, -1]], clips[:, [0, -1]])},
            "inpaint": {"kept_exact": same(tokens[:, :, outside], given[:, :, outside])},
            "animate": {"first_exact": same(moving[:, :1], pipe.reconstruct(clips[:, :1]))}}
