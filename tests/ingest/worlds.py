"""Sources made here, as img2dataset and video2dataset write them, and every way in which their records go wrong."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from phenaki_jax.media import encode_mp4


def picture(seed: int, height: int = 72, width: int = 96) -> np.ndarray:
    """Smooth colours, uint8 [height, width, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray, form: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def film(seed: int, frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """A window that slides over a picture."""
    whole = picture(seed, height + 2 * frames, width)
    return np.stack([whole[2 * i:2 * i + height] for i in range(frames)])


def filmed(seed: int, fps: float = 8.0, **sizes) -> bytes:
    return encode_mp4(film(seed, **sizes), fps, {"preset": "ultrafast", "crf": "18", "threads": "1"})


JPEG = encoded(picture(0))
MP4 = filmed(0)
# What stands in a tar under a key, by what is wrong with it, and the reason that is counted for it.
DAMAGED_IMAGES = {
    "truncated": ({"jpg": JPEG[:len(JPEG) // 2], "txt": b"a"}, "truncated image"),
    "empty": ({"jpg": b"", "txt": b"a"}, "empty file"),
    "wrong": ({"jpg": b"<html>404</html>", "txt": b"a"}, "no image"),
    "no_utf8": ({"jpg": JPEG, "txt": b"a \xff\xfe cat"}, "caption not UTF-8"),
    "long": ({"jpg": JPEG, "txt": b"word " * 20_000}, "caption too long"),
    "no_caption": ({"jpg": JPEG, "txt": b" "}, "no caption"),
    "tiny": ({"png": encoded(picture(0, 1, 1), "PNG"), "txt": b"a"}, "too small"),
    "huge": ({"png": encoded(np.zeros((4320, 7680, 3), np.uint8), "PNG", compress_level=1), "txt": b"a"}, "too large"),
    "cmyk": ({"jpg": (lambda b: (Image.new("CMYK", (96, 72)).save(b, "JPEG"), b.getvalue())[1])(io.BytesIO()),
              "txt": b"a"}, "colour mode"),
    "animated": ({"webp": (lambda b: (Image.fromarray(picture(0)).save(
        b, "WEBP", save_all=True, append_images=[Image.fromarray(picture(1))]), b.getvalue())[1])(io.BytesIO()),
                  "txt": b"a"}, "animated image"),
    "json": ({"jpg": JPEG, "txt": b"a", "json": b"{"}, "json unreadable"),
    "alone": ({"txt": b"a"}, "no media"),
    "video": ({"mp4": MP4, "txt": b"a"}, "not an image"),
}
DAMAGED_VIDEOS = {
    "truncated": ({"mp4": MP4[:len(MP4) // 2], "txt": b"a"}, "video undecodable"),
    "empty": ({"mp4": b"", "txt": b"a"}, "empty file"),
    "wrong": ({"mp4": b"\0\0\0\x18ftyp nonsense", "txt": b"a"}, "video undecodable"),
    "no_utf8": ({"mp4": MP4, "txt": b"\xc3("}, "caption not UTF-8"),
    "long": ({"mp4": MP4, "txt": b"word " * 20_000}, "caption too long"),
    "short": ({"mp4": filmed(1, frames=3), "txt": b"a"}, "clip too short"),
    "small": ({"mp4": filmed(1, height=16, width=16), "txt": b"a"}, "too small"),
    "image": ({"jpg": JPEG, "txt": b"a"}, "not a video"),
}


def write_tar(path, samples) -> None:
    """samples: {key: {suffix: bytes}}, as webdataset's writer lays them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, parts in samples.items():
            for suffix, data in parts.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def image_sample(seed: int, **fields) -> dict[str, bytes]:
    return {"jpg": encoded(picture(seed), quality=95), "txt": f"picture {seed}".encode(),
            "json": json.dumps({"key": f"{seed:09}", "similarity": 0.2 + seed % 10 / 50, **fields}).encode()}


def video_sample(seed: int, **sizes) -> dict[str, bytes]:
    return {"mp4": filmed(seed, **sizes), "txt": f"film {seed}".encode(), "json": json.dumps({"fps": 8}).encode()}
