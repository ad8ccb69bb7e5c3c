"""Video and image files in and out, as uint8 arrays.

mp4 and webm go through PyAV, whose wheel carries its own FFmpeg; gif, png and jpg through Pillow. Files are written
beside their place and then moved there, so that a failure leaves the old file as it was.
"""

import contextlib
import fractions
import io
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from phenaki_jax.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg")
VIDEOS = (".mp4", ".webm", ".gif")

# In both, colours are converted as BT.709 and tagged so, which is what browsers assume of what is tagged.
_CODECS = {
    ".mp4": ("libx264", {"preset": "slow", "crf": "12", "movflags": "+faststart"}),
    ".webm": ("libvpx-vp9", {"crf": "12", "b": "0", "cpu-used": "2"}),
}
_BT709 = 1


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, with its suffix; on success it takes the name `path`, else it is removed.

    Missing parent folders are made.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's own mode would hide the file from others
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_float(video):
    """uint8 0..255 -> float32 -1..1; NumPy and JAX arrays alike."""
    return video.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def to_uint8(video) -> np.ndarray:
    """float -1..1 -> uint8 0..255, rounded and clipped."""
    return np.clip(np.rint((np.asarray(video) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Repeats every pixel of [..., Y, X, 3] `scale` times in rows and columns."""
    if scale < 1 or scale != int(scale):
        raise UserError(f"scale={scale!r} is not a whole number of 1 or more.")
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [F, Y, X, 3] -> [F, height, width, 3], by Pillow's bicubic filter, which does not alias when shrinking."""
    from PIL import Image
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames])


def fit(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest middle part of [F, Y, X, 3] that has the sides' ratio, as `resize` makes it [F, height, width, 3]."""
    Y, X = frames.shape[1:3]
    if (Y, X) == (height, width):
        return frames
    rows, columns = min(Y, max(1, round(X * height / width))), min(X, max(1, round(Y * width / height)))
    top, left = (Y - rows) // 2, (X - columns) // 2
    return resize(frames[:, top:top + rows, left:left + columns], height, width)


# ------------------------------------------------------------------------------------------------- reading

def read_video(path: str | os.PathLike) -> tuple[np.ndarray, float]:
    """All frames of an mp4, webm, gif, png or jpg file.

    Returns:
      frames uint8 [F, Y, X, 3], RGB, and frames a second; an image is one frame at 0.0 frames a second.
      Frames are those that the file holds, each once: one of uneven durations is not resampled.

    Raises:
      UserError: the file is missing, of another kind, or cannot be decoded.
    """
    path = _existing(path, IMAGES + VIDEOS)
    if path.suffix.lower() in IMAGES:
        return read_image(path)[None], 0.0
    return _read_gif(path) if path.suffix.lower() == ".gif" else _read_av(path)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """An image file (png, jpg) as uint8 [Y, X, 3]; transparency is laid on black. Raises UserError as read_video."""
    from PIL import Image
    path = _existing(path, IMAGES)
    try:
        with Image.open(path) as image:
            return _rgb(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be decoded as an image: {error}.") from error


def _existing(path: str | os.PathLike, suffixes: tuple[str, ...]) -> pathlib.Path:
    path = pathlib.Path(path)
    _check_suffix(path, suffixes)
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file.")
    return path


def _check_suffix(path: pathlib.Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path} has the suffix {path.suffix!r}; it should be one of {', '.join(suffixes)}.")


def _rgb(image) -> np.ndarray:
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"), np.float32)
        return np.rint(rgba[..., :3] * rgba[..., 3:] / 255).astype(np.uint8)
    return np.array(image.convert("RGB"))


def _read_gif(path: pathlib.Path) -> tuple[np.ndarray, float]:
    from PIL import Image, ImageSequence
    frames, milliseconds = [], 0.0
    try:
        with Image.open(path) as image:
            if image.format != "GIF":
                raise OSError(f"it is {image.format}")
            for frame in ImageSequence.Iterator(image):
                frames.append(_rgb(frame))
                milliseconds += frame.info.get("duration", 0) or 100  # players show frames of no duration for 0.1 s
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{path} cannot be decoded as a gif: {error}.") from error
    fps = 1000.0 * len(frames) / milliseconds
    if round(100 * len(frames) / max(round(fps), 1)) == round(milliseconds / 10):
        fps = float(max(round(fps), 1))  # a whole rate, told in hundredths of a second
    return np.stack(frames), fps


def _read_av(path: pathlib.Path) -> tuple[np.ndarray, float]:
    import av
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video stream.")
            stream = container.streams.video[0]
            frames = [rgb_of(frame) for frame in container.decode(stream)]
            rate = stream.average_rate or stream.guessed_rate or fractions.Fraction(0)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} cannot be decoded as a video: {error}.") from error
    if not frames:
        raise UserError(f"{path} holds no frame that can be decoded.")
    return np.stack(frames), float(rate)


def rgb_of(frame, width: int | None = None, height: int | None = None) -> np.ndarray:
    """A frame of PyAV as uint8 [Y, X, 3], of another size where one is given."""
    # An untagged file is read as BT.601 up to standard definition and BT.709 above, as players do.
    space = frame.colorspace
    if space not in (_BT709, 4, 5, 6, 7, 9):
        space = 5 if frame.height < 720 else _BT709
    sizes = {} if width is None else {"width": width, "height": height, "interpolation": "AREA"}
    return frame.to_ndarray(format="rgb24", src_colorspace=space, **sizes)


# ------------------------------------------------------------------------------------------------- writing

def write_image(path: str | os.PathLike, image: np.ndarray, scale: int = 1) -> None:
    """Writes uint8 [Y, X, 3] as png or jpg, every pixel enlarged to scale x scale."""
    from PIL import Image
    path = pathlib.Path(path)
    _check_suffix(path, IMAGES)
    _check_array(image, 3)
    with atomic_path(path) as temporary:
        Image.fromarray(enlarge(image, scale)).save(temporary, quality=95)


def write_video(path: str | os.PathLike, frames: np.ndarray, fps: float, scale: int = 1) -> None:
    """Writes frames as mp4 (H.264), webm (VP9) or gif, or a single one as png or jpg.

    mp4 and webm are near lossless (crf 12) and keep one colour for 2 x 2 pixels (yuv420p, which every player knows);
    enlarge small frames by an even `scale` and that costs nothing. Their sides must be even, so an odd one is
    lengthened by repeating its last row or column. A gif is exact where all frames together, or else each for itself,
    have at most 256 colours.

    Args:
      frames: uint8 [F, Y, X, 3], RGB.
      fps: frames a second, above 0; a gif keeps time in hundredths of a second, exact over the whole clip.
      scale: every pixel becomes scale x scale of them.

    Raises:
      UserError: a suffix, an array or an fps that does not fit.
    """
    path = pathlib.Path(path)
    _check_suffix(path, VIDEOS + IMAGES)
    _check_array(frames, 4)
    if path.suffix.lower() in IMAGES:
        if len(frames) != 1:
            raise UserError(f"{path} can hold one frame, not {len(frames)}; name an mp4, webm or gif.")
        return write_image(path, frames[0], scale)
    with open_video(path, fps, scale) as append:
        append(frames)


@contextlib.contextmanager
def open_video(path: str | os.PathLike, fps: float, scale: int = 1) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes a video as its frames come, in the memory of those that came last: yields the function that takes them.

    The file is there once the block is left, and only if that is without an error. A gif's palette is made anew for
    each call of the function. The rest is as in `write_video`, except that a video is mp4, webm or gif.
    """
    path = pathlib.Path(path)
    _check_suffix(path, VIDEOS)
    gif = path.suffix.lower() == ".gif"
    if not 0 < fps <= 1000:
        raise UserError(f"fps={fps!r} is not in the range above 0 and up to 1000.")
    if gif and fps > 50:
        raise UserError(f"fps={fps!r} is more than a gif can show; it should be at most 50.")
    size = None
    with atomic_path(path) as temporary, (_open_gif if gif else _open_av)(temporary, fps) as append:
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


def _check_array(array: np.ndarray, rank: int) -> None:
    if array.dtype != np.uint8 or array.ndim != rank or array.shape[-1] != 3 or array.size == 0:
        letters = "[F, Y, X, 3]" if rank == 4 else "[Y, X, 3]"
        raise UserError(f"an array of {array.dtype} {list(array.shape)} cannot be written; "
                        f"it should be uint8 {letters} with at least one pixel.")


@contextlib.contextmanager
def _open_av(path: pathlib.Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    codec, options = _CODECS[path.suffix.lower()]
    with _encoding(str(path), path.suffix[1:].lower(), codec, fps, options) as append:
        yield append


def encode_mp4(frames: np.ndarray, fps: float, options: dict[str, str]) -> bytes:
    """The bytes of an mp4 (H.264, BT.709, a colour for each pixel) of uint8 [F, Y, X, 3].

    Odd sides are lengthened by their last line. options: the encoder's; with threads=1 equal frames give equal bytes.
    """
    buffer = io.BytesIO()
    with _encoding(buffer, "mp4", "libx264", fps, options, "yuv444p") as append:
        append(frames)
    return buffer.getvalue()


@contextlib.contextmanager
def _encoding(file: str | IO[bytes], form: str, codec: str, fps: float, options: dict[str, str],
              pixels: str = "yuv420p") -> Iterator[Callable[[np.ndarray], None]]:
    import av
    with av.open(file, "w", form, options={k: v for k, v in options.items() if k == "movflags"}) as container:
        stream = container.add_stream(codec, rate=fractions.Fraction(fps).limit_denominator(1001),
                                      options={k: v for k, v in options.items() if k != "movflags"})
        context = stream.codec_context
        stream.pix_fmt = pixels
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # 16 to 235, as video has it
        written = 0

        def append(frames: np.ndarray) -> None:
            nonlocal written
            frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
            if not written:
                stream.height, stream.width = frames.shape[1:3]
            for array in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
                frame = frame.reformat(format=pixels, dst_colorspace=_BT709)
                frame.pts, frame.time_base = written, 1 / context.framerate
                container.mux(stream.encode(frame))
                written += 1

        yield append
        if written:
            container.mux(stream.encode())


# Pillow's own writer of animations merges equal neighbours, so that a clip at rest would lose frames; here each frame
# is written as an image of its own. Format: https://www.w3.org/Graphics/GIF/spec-gif89a.txt

@contextlib.contextmanager
def _open_gif(path: pathlib.Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    from PIL import Image
    from PIL.GifImagePlugin import getdata
    with open(path, "wb") as file:
        written = 0

        def append(frames: np.ndarray) -> None:
            nonlocal written
            if not written:  # no global table; loops for ever
                file.write(b"GIF89a" + np.array([frames.shape[2], frames.shape[1]], "<u2").tobytes() + b"\x70\x00\x00"
                           + b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
            for indices, palette in _indexed(frames):
                image = Image.fromarray(indices)
                image.putpalette(palette.tobytes())
                duration = round(100 * (written + 1) / fps) - round(100 * written / fps)
                file.write(b"\x21\xf9\x04\x00" + np.array(duration, "<u2").tobytes() + b"\x00\x00")
                file.writelines(getdata(image, include_color_table=True))
                written += 1

        yield append
        file.write(b"\x3b")


def _indexed(frames: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each frame as (indices uint8 [Y, X], palette uint8 [N <= 256, 3])."""
    from PIL import Image
    codes = frames.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours = [np.unique(c) for c in codes]
    together = np.unique(np.concatenate(colours))
    shared = None
    if max(map(len, colours)) > 256:  # one palette for all that need it, so that still parts do not flicker
        known = np.stack([together >> 16, together >> 8 & 255, together & 255], -1).astype(np.uint8)
        flat = Image.fromarray(frames.reshape(-1, frames.shape[2], 3))
        shared = flat.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        palette = np.frombuffer(bytes(shared.getpalette()), np.uint8).reshape(-1, 3)
        nearest = np.concatenate([((block[:, None].astype(np.int32) - palette.astype(np.int32)) ** 2).sum(-1).argmin(1)
                                  for block in np.array_split(known, len(known) // 4096 + 1)]).astype(np.uint8)
    for code, own in zip(codes, colours):
        if len(own) > 256:
            yield nearest[np.searchsorted(together, code)], palette
        else:
            table = together if len(together) <= 256 else own
            yield (np.searchsorted(table, code).astype(np.uint8),
                   np.stack([table >> 16, table >> 8 & 255, table & 255], -1).astype(np.uint8))
