"""How good a video is: the judge of the sprite world, distances between videos, protocols and reports.

Videos are uint8 [N, F, Y, X, 3]; figures are Python floats.
"""

from phenaki_jax.evaluation.attributes import Attributes, agreement, judge, judge_many
from phenaki_jax.evaluation.distances import psnr, psnr_per_video, ssim, ssim_per_video
from phenaki_jax.evaluation.features import (
    FVD_PROTOCOL, frechet_distance, frechet_video_distance, lpips, lpips_per_video, video_features)
from phenaki_jax.evaluation.image_features import (
    FID_PROTOCOL, ClipScore, clip_score, frechet_inception_distance, inception_features)
from phenaki_jax.evaluation.motion_stats import (
    compare_motion, controls, drift, motion_statistics, seam_jump, switch_latency, temporal_error)
from phenaki_jax.evaluation.report import BARS, Bar, circumstances, write_report
from phenaki_jax.evaluation.scores import (
    bootstrap_interval, frechet_interval, half_sample_interval, kernel_distance, kernel_mmd, precision_recall,
    wasserstein)
from phenaki_jax.evaluation.sprites import (
    codebook_use, prompt_protocol, story_protocol, story_scores, tokenizer_protocol)

__all__ = [
    "Attributes", "BARS", "Bar", "ClipScore", "FID_PROTOCOL", "FVD_PROTOCOL", "agreement", "bootstrap_interval",
    "circumstances", "clip_score", "codebook_use", "compare_motion", "controls", "drift", "frechet_distance",
    "frechet_inception_distance", "frechet_interval", "frechet_video_distance", "half_sample_interval",
    "inception_features", "judge", "judge_many", "kernel_distance", "kernel_mmd", "lpips", "lpips_per_video",
    "motion_statistics", "precision_recall", "prompt_protocol", "psnr", "psnr_per_video", "seam_jump", "ssim",
    "ssim_per_video", "story_protocol", "story_scores", "switch_latency", "temporal_error", "tokenizer_protocol",
    "video_features", "wasserstein", "write_report",
]
