"""Frames to files.

mp4 and webm go through PyAV, whose wheel carries its own FFmpeg; images through Pillow. Files are written beside their
place and then moved there, so that a failure leaves the old file as it was.
"""

import contextlib
import fractions
import functools
import io
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.media import labels
from phenaki_jax.media.files import IMAGES, VIDEOS, atomic_path, check_suffix
from phenaki_jax.media.films import BT709
from phenaki_jax.media.gif import open_gif
from phenaki_jax.media.pixels import enlarge

# In both, colours are converted as BT.709 and tagged so, which is what browsers assume of what is tagged. bitexact: a
# webm's tracks are numbered by chance otherwise.
_CODECS = {
    ".mp4": ("libx264", {"preset": "slow", "crf": "12", "movflags": "+faststart"}),
    ".webm": ("libvpx-vp9", {"crf": "12", "b": "0", "cpu-used": "2", "fflags": "+bitexact"}),
}
_OF_CONTAINER = ("movflags", "fflags")
_CRF = {".mp4": (1, 51), ".webm": (0, 63)}  # H.264 of crf 0 is of a profile that browsers do not know
_NAME = "{:05d}.png"


def write_image(path: str | os.PathLike, image: np.ndarray, scale: int = 1, label: str = "") -> None:
    """Writes uint8 [Y, X, 3] as png, jpg (quality 95) or webp (lossless), every pixel enlarged to scale x scale.

    label: a text that the file carries (see `read_label`), beside the IPTC's mark of what is generated; "": neither.
    """
    path = pathlib.Path(path)
    check_suffix(path, IMAGES)
    _check_array(image, 3)
    with atomic_path(path) as temporary:
        _save(temporary, enlarge(image, scale), label)


def _save(path: pathlib.Path, image: np.ndarray, label: str) -> None:
    from PIL import Image
    picture = Image.fromarray(image)
    match path.suffix.lower():
        case ".png":
            picture.save(path, pnginfo=labels.png_chunks(label) if label else None)
        case ".webp":
            picture.save(path, lossless=True, xmp=labels.xmp(label) if label else b"")
        case _:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=95)
            path.write_bytes(labels.labelled_jpeg(buffer.getvalue(), label) if label else buffer.getvalue())


def write_frames(folder: str | os.PathLike, frames: np.ndarray, scale: int = 1, label: str = "") -> None:
    """Writes uint8 [F, Y, X, 3] as 00000.png, 00001.png, … of a folder, which is there with all of them or not at all.

    A folder of that name is replaced where such files are all that it holds.

    Args:
      scale, label: of each of the images, as in `write_image`.

    Raises:
      UserError: an array that does not fit, or a file or another folder is in the way.
    """
    folder = pathlib.Path(folder)
    _check_array(frames, 4)
    if folder.exists() and (not folder.is_dir() or any(not re.fullmatch(r"[0-9]{5,}\.png", old.name)
                                                       for old in folder.iterdir())):
        raise UserError(f"{folder} is there already, and is no folder of nothing but numbered png files.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.part-", dir=folder.parent) as temporary:
        new, old = pathlib.Path(temporary, "new"), pathlib.Path(temporary, "old")
        new.mkdir()
        for number, frame in enumerate(frames):
            _save(new / _NAME.format(number), enlarge(frame, scale), label)
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)


def write_video(path: str | os.PathLike, frames: np.ndarray, fps: float, scale: int = 1, label: str = "",
                crf: int | None = None) -> None:
    """Writes frames as mp4 (H.264), webm (VP9) or gif, or a single one as png, jpg or webp.

    mp4 and webm are near lossless (crf 12) and keep one colour for 2 x 2 pixels (yuv420p, which every player knows);
    enlarge small frames by an even `scale` and that costs nothing. Their sides must be even, so an odd one is
    lengthened by repeating its last row or column. A gif is exact where all frames together, or else each for itself,
    have at most 256 colours. Equal arguments give equal bytes.

    Args:
      frames: uint8 [F, Y, X, 3], RGB.
      fps: frames a second, above 0; a gif keeps time in hundredths of a second, exact over the whole clip.
      scale: every pixel becomes scale x scale of them.
      label: a text that the file carries as its comment (see `read_label`); an image also the IPTC's mark of what is
        generated. It changes no pixel.
      crf: the quality of an mp4 (1, the best, to 51) or a webm (0 to 63).

    Raises:
      UserError: a suffix, an array, an fps, a label or a crf that does not fit.
    """
    path = pathlib.Path(path)
    check_suffix(path, VIDEOS + IMAGES)
    _check_array(frames, 4)
    if path.suffix.lower() in IMAGES:
        if len(frames) != 1:
            raise UserError(f"{path} can hold one frame, not {len(frames)}; name an mp4, webm or gif.")
        return write_image(path, frames[0], scale, label)
    with open_video(path, fps, scale, label, crf) as append:
        append(frames)


@contextlib.contextmanager
def open_video(path: str | os.PathLike, fps: float, scale: int = 1, label: str = "",
               crf: int | None = None) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes a video as its frames come, in the memory of those that came last: yields the function that takes them.

    The file is there once the block is left, and only if that is without an error. A gif's palette is made anew for
    each call of the function. The rest is as in `write_video`, except that a video is mp4, webm or gif.
    """
    path = pathlib.Path(path)
    check_suffix(path, VIDEOS)
    suffix, size, label = path.suffix.lower(), None, labels.safe(label)
    if not 0 < fps <= 1000:
        raise UserError(f"fps={fps!r} is not in the range above 0 and up to 1000.")
    if suffix == ".gif" and not 0.0016 <= fps <= 50:
        raise UserError(f"fps={fps!r} is none that a gif can show; it should be from 0.0016 to 50.")
    if crf is not None:
        _check_crf(suffix, crf)
    with atomic_path(path) as temporary, contextlib.ExitStack() as stack:
        append = stack.enter_context(open_gif(temporary, fps, label.encode()) if suffix == ".gif" else
                                     _open_av(temporary, fps, label, crf))

        def checked(frames: np.ndarray) -> None:
            nonlocal size
            _check_array(frames, 4)
            size = frames.shape[1:3] if size is None else size
            if frames.shape[1:3] != size:
                raise UserError(f"frames of {frames.shape[1]} x {frames.shape[2]} cannot follow such of "
                                f"{size[0]} x {size[1]}.")
            append(enlarge(frames, scale))

        yield checked
        if size is None:
            raise UserError(f"{path} cannot be written without a frame.")


def _check_crf(suffix: str, crf: int) -> None:
    if suffix not in _CRF:
        raise UserError(f"crf={crf!r} is of mp4 and webm; a gif has none.")
    least, most = _CRF[suffix]
    if isinstance(crf, bool) or not isinstance(crf, (int, np.integer)) or not least <= crf <= most:
        raise UserError(f"crf={crf!r} should be a whole number from {least} to {most} for {suffix[1:]}.")


def _check_array(array: np.ndarray, rank: int) -> None:
    if array.dtype != np.uint8 or array.ndim != rank or array.shape[-1] != 3 or array.size == 0:
        letters = "[F, Y, X, 3]" if rank == 4 else "[Y, X, 3]"
        raise UserError(f"an array of {array.dtype} {list(array.shape)} cannot be written; "
                        f"it should be uint8 {letters} with at least one pixel.")


@contextlib.contextmanager
def _open_av(path: pathlib.Path, fps: float, label: str, crf: int | None) -> Iterator[Callable[[np.ndarray], None]]:
    codec, options = _CODECS[path.suffix.lower()]
    if crf is not None:
        options = options | {"crf": str(crf)}
    # An absolute path, for "a:b.mp4" would be an address.
    with _encoding(os.path.abspath(path), path.suffix[1:].lower(), codec, fps, options, label=label) as append:
        yield append


def encode_mp4(frames: np.ndarray, fps: float, options: dict[str, str]) -> bytes:
    """The bytes of an mp4 (H.264, BT.709, a colour for each pixel) of uint8 [F, Y, X, 3].

    Odd sides are lengthened by their last line. options: the encoder's; with threads=1 equal frames give equal bytes.
    """
    buffer = io.BytesIO()
    with _encoding(buffer, "mp4", "libx264", fps, options, "yuv444p") as append:
        append(frames)
    return buffer.getvalue()


@functools.cache
def _without_avx512() -> dict[str, str]:
    """x264's macroblock tree, as it is written for AVX-512, reads past rows that are no multiple of 8 blocks: what it
    makes of them is a matter of chance. With AVX2 it is not, and other rows become the same, bit for bit."""
    cpu = pathlib.Path("/proc/cpuinfo")
    return {"x264-params": "asm=AVX2"} if cpu.is_file() and "avx512" in cpu.read_text() else {}


@contextlib.contextmanager
def _encoding(file: str | IO[bytes], form: str, codec: str, fps: float, options: dict[str, str],
              pixels: str = "yuv420p", label: str = "") -> Iterator[Callable[[np.ndarray], None]]:
    import av
    with av.open(file, "w", form, options={k: v for k, v in options.items() if k in _OF_CONTAINER}) as container:
        if label:
            container.metadata["comment"] = label
        options = {k: v for k, v in options.items() if k not in _OF_CONTAINER}
        if codec == "libx264":
            options |= _without_avx512()
        stream = container.add_stream(codec, rate=fractions.Fraction(fps).limit_denominator(1001), options=options)
        context = stream.codec_context
        stream.pix_fmt = pixels
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # 16 to 235, as video has it
        written = 0

        def append(frames: np.ndarray) -> None:
            nonlocal written
            frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
            if not written:
                stream.height, stream.width = frames.shape[1:3]
            for array in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
                frame = frame.reformat(format=pixels, dst_colorspace=BT709)
                frame.pts, frame.time_base = written, 1 / context.framerate
                container.mux(stream.encode(frame))
                written += 1

        yield append
        if written:
            container.mux(stream.encode())
