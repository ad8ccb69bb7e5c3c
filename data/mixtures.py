"""Every mixture that a config can name, with the rates of its tasks. Rates of a mixture sum to 1."""

import seqio

from data.real_clips import tasks as _real_tasks  # noqa: F401  registers real_*
from data.sprite_stories import tasks as _sprite_tasks  # noqa: F401  registers sprite_*
from phenaki_jax.input.seqio_source import add_folder

add = seqio.MixtureRegistry.add
add_folder("laion", "image")
add_folder("pairs", "image")
add_folder("webvid", "video")

# Folders of data.data_dir, made by `phenaki ingest` (docs/data.md). Any other one is a task by its name, and
# --config.data.mixture=webvid:0.9,laion:0.1 a mixture.
add("laion_webvid_80_20", [("webvid", 0.8), ("laion", 0.2)])
add("laion_webvid_50_50", [("webvid", 0.5), ("laion", 0.5)])
add("laion_webvid_video_only", [("webvid", 1.0)])
# The paper's: 80 % videos, and 10 % each of two sets of images, one of them LAION-400M (section 3).
add("paper_80_10_10", [("webvid", 0.8), ("laion", 0.1), ("pairs", 0.1)])

# Four shapes, 32 x 32: the quickstart's world.
add("sprite_stories_80_20", [("sprite_clips_32", 0.6), ("sprite_stories_32", 0.2), ("sprite_images_32", 0.2)])
add("sprite_stories_50_50", [("sprite_clips_32", 0.375), ("sprite_stories_32", 0.125), ("sprite_images_32", 0.5)])
add("sprite_stories_video_only", [("sprite_clips_32", 0.75), ("sprite_stories_32", 0.25)])

# The same with clips at any speed and several frame rates, for a generator that is told motion and fps.
add("sprite_paced_80_20", [("sprite_paced_32", 0.6), ("sprite_stories_32", 0.2), ("sprite_images_32", 0.2)])

# For the tokenizer: a quarter of the clips are images that slide, so that what only images show is met in motion.
add("sprite_tokenizer_80_20", [
    ("sprite_clips_32", 0.4), ("sprite_stories_32", 0.2), ("sprite_sliding_32", 0.2), ("sprite_images_32", 0.2)])

# Shapes and handwritten digits, 64 x 64: the full world.
add("sprite_digits_80_20", [
    ("sprite_clips_64_digits", 0.6), ("sprite_stories_64_digits", 0.2), ("sprite_images_64_digits", 0.2)])
add("sprite_digits_tokenizer_80_20", [
    ("sprite_clips_64_digits", 0.4), ("sprite_stories_64_digits", 0.2), ("sprite_sliding_64_digits", 0.2),
    ("sprite_images_64_digits", 0.2)])
add("sprite_digits_50_50", [
    ("sprite_clips_64_digits", 0.375), ("sprite_stories_64_digits", 0.125), ("sprite_images_64_digits", 0.5)])
add("sprite_digits_video_only", [("sprite_clips_64_digits", 0.75), ("sprite_stories_64_digits", 0.25)])

# Images alone: the first phase of a tokenizer that meets videos later (data.schedule).
add("sprite_images_only_32", [("sprite_images_32", 1.0)])
add("sprite_images_only_64_digits", [("sprite_images_64_digits", 1.0)])

# A few records of the quickstart's world, built in a second: for tests.
add("sprite_tiny_80_20", [
    ("sprite_clips_32_tiny", 0.6), ("sprite_stories_32_tiny", 0.2), ("sprite_images_32_tiny", 0.2)])

# Real films, which the extra `clips` brings: docs/real_clips.md.
add("real_clips_32_80_20", [("real_clips_32", 0.8), ("real_images_32", 0.2)])
add("real_clips_64_80_20", [("real_clips_64", 0.8), ("real_images_64", 0.2)])
