"""How good a video is: the judge of the sprite world, distances between videos, protocols and reports.

Videos are uint8 [N, F, Y, X, 3]; figures are Python floats.
"""

from phenaki_jax.evaluation.attributes import Attributes, agreement, judge, judge_many
from phenaki_jax.evaluation.distances import psnr, psnr_per_video, ssim, ssim_per_video
from phenaki_jax.evaluation.features import (
    FVD_PROTOCOL, frechet_distance, frechet_video_distance, lpips, lpips_per_video, video_features)
from phenaki_jax.evaluation.report import BARS, Bar, circumstances, write_report
from phenaki_jax.evaluation.sprites import (
    codebook_use, prompt_protocol, story_protocol, story_scores, tokenizer_protocol)

__all__ = [
    "Attributes", "BARS", "Bar", "FVD_PROTOCOL", "agreement", "circumstances", "codebook_use", "frechet_distance",
    "frechet_video_distance", "judge", "judge_many", "lpips", "lpips_per_video", "prompt_protocol", "psnr",
    "psnr_per_video", "ssim", "ssim_per_video", "story_protocol", "story_scores", "tokenizer_protocol",
    "video_features", "write_report",
]
