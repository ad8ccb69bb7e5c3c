"""What PyAV reads, whose wheel carries its own FFmpeg: videos."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.media.pixels import over, turned
from phenaki_jax.media.timing import Film, Shown

BT709 = 1
# Containers of one file. Without a list, a text file could name others, or addresses, and have them opened.
_CONTAINERS = {"format_whitelist": "mov,matroska,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg", "protocol_whitelist": "file"}
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave the alpha out


@contextlib.contextmanager
def opened(path: pathlib.Path, background: Sequence[int]) -> Iterator[Film]:
    """Yields the first video of a file, upright, on a background; a cover picture of sound is none.

    Frames of another size than the first are brought to its size. Pixels are those of the file, square or not.
    """
    from av.stream import Disposition
    with _container(path) as container:
        stream = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
        if stream is None:
            raise UserError(f"{path} holds no video stream.")
        if stream.codec_context is None:
            raise UserError(f"{path} holds a video of a codec that is not known here; convert it, to H.264 say.")
        rate = stream.average_rate or stream.guessed_rate

        def frames() -> Iterator[Shown]:
            time, turn, sizes = None, None, {}
            usual = 1 / (rate or Fraction(25))
            for frame in _decoded(container, stream):
                unit = frame.time_base or stream.time_base
                if turn is None:
                    turn, sizes = _turn(frame), {"width": frame.width, "height": frame.height}
                if frame.pts is not None:
                    time = frame.pts * unit
                else:
                    time = Fraction(0) if time is None else time + usual
                yield Shown(time, frame.duration * unit if frame.duration else usual,
                            lambda frame=frame: turned(_rgb(frame, background, **sizes), *turn))

        yield Film(frames(), stream.time_base, rate)


def comment(path: pathlib.Path) -> str:
    """What a container carries as its comment, or ""."""
    with _container(path) as container:
        return next((text for name, text in container.metadata.items() if name.lower() == "comment"), "")


def _container(path: pathlib.Path):
    import av
    try:  # an absolute path, for "a:b.mp4" would be an address
        return av.open(os.path.abspath(path), container_options=_CONTAINERS, metadata_errors="replace")
    except av.ArgumentError:  # which is what FFmpeg says of what is not on the list
        raise ValueError("it is of no container that is known here") from None


def _decoded(container, stream) -> Iterator:
    import av
    name = stream.codec_context.name
    has_alpha = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"
    if not has_alpha or name not in _WITH_ALPHA:
        yield from container.decode(stream)
        return
    context = av.CodecContext.create(_WITH_ALPHA[name], "r")
    for packet in container.demux(stream):
        yield from context.decode(packet)


def _turn(frame) -> tuple[bool, bool, bool]:
    """How a frame has to be turned (see `turned`) to stand upright: the signs of its display matrix, which makes of a
    point (x, y) the point (a x + c y, b x + d y), as phones note it."""
    try:
        a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)[:5])
    except KeyError:
        return False, False, False
    except ValueError:  # a kind of side data that PyAV has no name for hides them all, but not the rotation
        return {0: (False, False, False), 1: (True, True, False), 2: (False, True, True),
                3: (True, False, True)}[round(frame.rotation / 90) % 4]
    return (True, b < 0, c < 0) if abs(b) > abs(a) else (False, d < 0, a < 0)


def _rgb(frame, background: Sequence[int], width: int, height: int) -> np.ndarray:
    sizes = {} if (frame.width, frame.height) == (width, height) else {"width": width, "height": height}
    if frame.format.components[-1].is_alpha:
        return over(_array(frame, "rgba", **sizes), background)
    return rgb_of(frame, **sizes)


def rgb_of(frame, width: int | None = None, height: int | None = None) -> np.ndarray:
    """A frame of PyAV as uint8 [Y, X, 3], of another size where one is given."""
    return _array(frame, "rgb24", width, height)


def _array(frame, form: str, width: int | None = None, height: int | None = None) -> np.ndarray:
    # An untagged file is read as BT.601 up to standard definition and BT.709 above, as players do.
    space = frame.colorspace
    if space not in (BT709, 4, 5, 6, 7, 9):
        space = 5 if frame.height < 720 else BT709
    sizes = {} if width is None else {"width": width, "height": height, "interpolation": "AREA"}
    return frame.to_ndarray(format=form, src_colorspace=space, **sizes)
