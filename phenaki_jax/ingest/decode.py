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
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # others may start programs (EPS) or hide anything (TIFF)
TRUNCATED = 0.9  # share of the promised time with less of which a video counts as cut off
LONGEST_GAP = 60  # seconds from one time stamp to the next


def decode_image(data: bytes) -> np.ndarray:
    """A file's bytes -> uint8 [Y, X, 3], turned as its EXIF says; transparency is laid on black."""
    from PIL import Image, ImageOps
    if not data:
        raise BadRecord("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadRecord("too large", f"{image.width} x {image.height}")
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # a camera's MPO is a jpeg with a preview
                raise BadRecord("animated image", f"{image.n_frames} frames")
            if image.mode not in MODES:
                raise BadRecord("colour mode", image.mode)
            image.load()
            try:
                image = ImageOps.exif_transpose(image)
            except Exception:  # noqa: BLE001  EXIF that is none says nothing
                pass
            if "A" in image.getbands() or "transparency" in image.info:
                rgba = np.asarray(image.convert("RGBA"), np.float32)
                return np.rint(rgba[..., :3] * rgba[..., 3:] / 255).astype(np.uint8)
            return np.asarray(image.convert("RGB"))
    except Image.UnidentifiedImageError:
        raise BadRecord("no image", repr(data[:8])) from None
    except Image.DecompressionBombError as error:
        raise BadRecord("too large", str(error)) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        reason = "truncated image" if "trunc" in str(error).lower() else "image undecodable"
        raise BadRecord(reason, str(error)) from None


def decode_video(data: bytes, fps: float, seen: Callable[[int, int], int] | None = None) -> Iterator[np.ndarray]:
    """A file's bytes -> frames uint8 [Y, X, 3] at `fps` a second, one after another.

    Frame k is what is on the screen at k / fps seconds after the first frame: the last one whose time stamp is not
    later. So a video of a lower rate shows frames twice, one of a higher rate leaves some out, and one whose frames are
    uneven in time comes out even.

    Args:
      seen: if given, it is told the height and width of the first frame, upright, and says to which shorter side frames
        are shrunk while they are converted; it may raise.

    Raises: BadRecord, also after some frames, where the file breaks off.
    """
    import av
    if not data:
        raise BadRecord("empty file")
    step = 1 / fractions.Fraction(fps).limit_denominator(1001)
    emitted, count, shown, last, side = 0, 0, None, None, None
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise BadRecord("no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # the same frames on every machine, and a worker a core
            context = stream.codec_context
            if context.width * context.height > MAX_PIXELS:
                raise BadRecord("too large", f"{context.width} x {context.height}")
            usual = 1 / (stream.average_rate or stream.guessed_rate or fractions.Fraction(25))
            unit = stream.time_base
            slack = 0 if (usual / unit).denominator == 1 else unit / 2  # of rounded stamps, such as webm's, in ms
            start = None
            for frame in container.decode(stream):
                time = None if frame.pts is None else frame.pts * fractions.Fraction(frame.time_base)
                time = (0 if last is None else last + usual) if time is None else time
                if start is None:
                    start = time
                    if seen is not None:
                        shape = frame.height, frame.width
                        side = seen(*(shape[::-1] if _quarter_turns(frame) % 2 else shape))
                if last is not None and abs(time - last) > LONGEST_GAP:
                    raise BadRecord("gap in time", f"{float(time - last):.0f} seconds")
                if frame.width * frame.height > MAX_PIXELS:
                    raise BadRecord("too large", f"{frame.width} x {frame.height}")
                while shown is not None and start + emitted * step < time - slack:
                    yield _shrunk(shown, side)
                    emitted += 1
                shown, last, count = frame, time, count + 1
            if shown is not None:
                end = last + usual
                while start + emitted * step < end - slack:
                    yield _shrunk(shown, side)
                    emitted += 1
            # Frames that a container counts may be hidden by its edit list, and its own length be that of the sound.
            promised = (stream.duration or 0) * (stream.time_base or 0)
    except av.InvalidDataError as error:
        raise BadRecord("video undecodable" if not count else "truncated video", error.strerror) from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadRecord("video undecodable", str(error)) from None
    if not count:
        raise BadRecord("no frames")
    if end - start < TRUNCATED * promised:
        raise BadRecord("truncated video", f"{float(end - start):.2f} of {float(promised):.2f} seconds")


def _shrunk(frame, side: int | None) -> np.ndarray:
    """A frame as uint8 [Y, X, 3], upright."""
    sizes = {}
    if side is not None and min(frame.width, frame.height) > side:
        ratio = side / min(frame.width, frame.height)
        sizes = {name: math.ceil(getattr(frame, name) * ratio - 1e-6) for name in ("width", "height")}
    turns, pixels = _quarter_turns(frame), rgb_of(frame, **sizes)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _quarter_turns(frame) -> int:
    """How often a frame has to be turned counterclockwise to stand upright, as a phone notes it."""
    return round(getattr(frame, "rotation", 0) / 90) % 4


def resample(frames: np.ndarray, rate: float, fps: float) -> np.ndarray:
    """Frames [F, Y, X, 3] of a steady rate, as `decode_video` would give them at `fps`."""
    count = max(1, int(np.ceil(len(frames) / rate * fps - 1e-9)))
    return frames[np.minimum(np.floor(np.arange(count) * rate / fps + 1e-9).astype(int), len(frames) - 1)]
