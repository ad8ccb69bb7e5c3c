"""Files to frames: images by Pillow, videos by PyAV, frame for frame by their time stamps.

Everything that cannot be used raises `BadRecord`, whose reasons are what a manifest counts.
"""

import fractions
import io
import math
from collections.abc import Callable, Iterator

import numpy as np

from phenaki_jax.input.records import BadRecord
from phenaki_jax.media import rgb_of

MAX_PIXELS = 1 << 24  # of a frame, 4096 x 4096: what is larger is no training data, and may be meant to fill memory
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")
TRUNCATED = 0.9  # share of the promised frames with less of which a video counts as cut off


def decode_image(data: bytes) -> np.ndarray:
    """A file's bytes -> uint8 [Y, X, 3], turned as its EXIF says; transparency is laid on black."""
    from PIL import Image, ImageOps
    if not data:
        raise BadRecord("empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadRecord("too large", f"{image.width} x {image.height}")
            if getattr(image, "n_frames", 1) > 1:
                raise BadRecord("animated image", f"{image.n_frames} frames")
            if image.mode not in MODES:
                raise BadRecord("colour mode", image.mode)
            image.load()
            image = ImageOps.exif_transpose(image)
            if "A" in image.getbands() or "transparency" in image.info:
                rgba = np.asarray(image.convert("RGBA"), np.float32)
                return np.rint(rgba[..., :3] * rgba[..., 3:] / 255).astype(np.uint8)
            return np.asarray(image.convert("RGB"))
    except Image.UnidentifiedImageError:
        raise BadRecord("no image", repr(data[:8])) from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "truncated image" if "trunc" in str(error).lower() else "image undecodable"
        raise BadRecord(reason, str(error)) from None


def decode_video(data: bytes, fps: float, seen: Callable[[int, int], int] | None = None) -> Iterator[np.ndarray]:
    """A file's bytes -> frames uint8 [Y, X, 3] at `fps` a second, one after another.

    Frame k is what is on the screen at k / fps seconds after the first frame: the last one whose time stamp is not
    later. So a video of a lower rate shows frames twice, one of a higher rate leaves some out, and one whose frames are
    uneven in time comes out even.

    Args:
      seen: if given, it is told the frames' height and width before the first is decoded, and says to which shorter
        side they are shrunk while they are converted; it may raise.

    Raises: BadRecord, also after some frames, where the file breaks off.
    """
    import av
    if not data:
        raise BadRecord("empty file")
    step = 1 / fractions.Fraction(fps).limit_denominator(1001)
    emitted, count, shown, last, side = 0, 0, None, None, None
    try:
        with av.open(io.BytesIO(data)) as container:
            if not container.streams.video:
                raise BadRecord("no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # the same frames on every machine, and a worker a core
            context = stream.codec_context
            if context.width * context.height > MAX_PIXELS:
                raise BadRecord("too large", f"{context.width} x {context.height}")
            if seen is not None:
                side = seen(context.height, context.width)
            usual = 1 / (stream.average_rate or stream.guessed_rate or fractions.Fraction(25))
            start = None
            for frame in container.decode(stream):
                time = None if frame.pts is None else frame.pts * fractions.Fraction(frame.time_base)
                time = (0 if last is None else last + usual) if time is None else time
                start = time if start is None else start
                while shown is not None and start + emitted * step < time:
                    yield _shrunk(shown, side)
                    emitted += 1
                shown, last, count = frame, time, count + 1
            if shown is not None:
                end = last + usual
                while start + emitted * step < end:
                    yield _shrunk(shown, side)
                    emitted += 1
            promised = stream.frames
            if not promised and container.duration:
                promised = int(container.duration / av.time_base / usual)
    except av.InvalidDataError as error:
        raise BadRecord("video undecodable" if not count else "truncated video", error.strerror) from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadRecord("video undecodable", str(error)) from None
    if not count:
        raise BadRecord("no frames")
    if count < TRUNCATED * promised:
        raise BadRecord("truncated video", f"{count} of {promised} frames")


def _shrunk(frame, side: int | None) -> np.ndarray:
    if side is None or min(frame.width, frame.height) <= side:
        return rgb_of(frame)
    ratio = side / min(frame.width, frame.height)
    return rgb_of(frame, width=math.ceil(frame.width * ratio - 1e-6), height=math.ceil(frame.height * ratio - 1e-6))


def resample(frames: np.ndarray, rate: float, fps: float) -> np.ndarray:
    """Frames [F, Y, X, 3] of a steady rate, as `decode_video` would give them at `fps`."""
    count = max(1, int(np.ceil(len(frames) / rate * fps - 1e-9)))
    return frames[np.minimum(np.floor(np.arange(count) * rate / fps + 1e-9).astype(int), len(frames) - 1)]
