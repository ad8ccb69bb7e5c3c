"""Video and image files in and out, as uint8 arrays (docs/media.md)."""

from phenaki_jax.media.files import IMAGES, IMAGES_IN, VIDEOS, VIDEOS_IN, atomic_path, frame_files, write_text
from phenaki_jax.media.films import rgb_of
from phenaki_jax.media.labels import read_label
from phenaki_jax.media.pixels import BLACK, RULES, enlarge, fit, resize, to_float, to_uint8
from phenaki_jax.media.reading import read_image, read_video
from phenaki_jax.media.writing import encode_mp4, open_video, write_frames, write_image, write_video

__all__ = [
    "BLACK", "IMAGES", "IMAGES_IN", "RULES", "VIDEOS", "VIDEOS_IN", "atomic_path", "encode_mp4", "enlarge", "fit",
    "frame_files", "open_video", "read_image", "read_label", "read_video", "resize", "rgb_of", "to_float", "to_uint8",
    "write_frames", "write_image", "write_text", "write_video",
]
