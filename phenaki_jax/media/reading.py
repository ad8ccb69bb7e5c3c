"""Files to frames. What a file is, its first bytes say: its suffix has to be a known one, and may be the wrong one."""

import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from phenaki_jax.errors import UserError, at_least
from phenaki_jax.media import films, stills
from phenaki_jax.media.files import IMAGES_IN, VIDEOS_IN, decoding, existing, frame_files
from phenaki_jax.media.pixels import BLACK
from phenaki_jax.media.timing import Film, at_rate, mean_rate

# Bytes of frames, which are there twice at the end: half of the memory, where the system tells it.
MOST = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 1 << 40


def read_video(path: str | os.PathLike, fps: float | None = None, limit: int | None = None,
               background: Sequence[int] = BLACK) -> tuple[np.ndarray, float]:
    """The frames of a video, an animation, an image, or a folder of numbered images (one frame each, natural order).

    Without `fps` they are those that the file holds, each once, however long it is shown, and the rate is their mean:
    the file's stated one where its time stamps could be that rate's, rounded to its clock, or else frames over seconds.
    With `fps`, frame i is the one that is shown i / fps seconds after the first one appears: the last whose time stamp
    is not later, where stamps are taken as rounded to the file's clock. So frames are repeated or left out, and the
    last is shown as long as the file says. Images and folders of them have no time: `fps` leaves them as they are.

    Args:
      path: of a kind in VIDEOS_IN or IMAGES_IN, or a folder.
      fps: above 0 and up to 1000, or None.
      limit: the most frames that are read; decoding ends there.
      background: red, green and blue, 0 to 255, that transparency is laid on.

    Returns:
      frames uint8 [F, Y, X, 3], RGB, upright, and frames a second: `fps` where it is given, 0.0 of what has no time.

    Raises:
      UserError: the path is missing, of another kind, cannot be decoded, or holds more than half of the memory can.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise UserError(f"fps={fps!r} is not in the range above 0 and up to 1000.")
    if limit is not None:
        at_least("limit", limit, 1)
    path = pathlib.Path(path)
    if path.is_dir():
        return _gathered(_of_folder(path, background), limit, path), 0.0
    path = existing(path, VIDEOS_IN + IMAGES_IN)
    if not stills.is_image(path):
        with decoding(path, "a video"), films.opened(path, background) as film:
            return _timed(film, fps, limit, path)
    with decoding(path, "an image"), stills.opened(path) as image:
        if stills.is_animation(image):
            return _timed(stills.film(image, background), fps, limit, path)
        return stills.rgb(image, background)[None], 0.0


def read_image(path: str | os.PathLike, background: Sequence[int] = BLACK) -> np.ndarray:
    """An image file of a kind in IMAGES_IN as uint8 [Y, X, 3], upright; an animation's first frame.

    Transparency is laid on `background`. Raises UserError as `read_video` does.
    """
    path = existing(path, IMAGES_IN)
    with decoding(path, "an image"), stills.opened(path) as image:
        return stills.rgb(image, background)


def _timed(film: Film, fps: float | None, limit: int | None, path: pathlib.Path) -> tuple[np.ndarray, float]:
    if fps is not None:
        return _gathered(at_rate(film, fps), limit, path), float(fps)
    times = []

    def each() -> Iterator[np.ndarray]:
        for shown in film.frames:
            times.append((shown.time, shown.time + shown.duration))
            yield shown.pixels()

    return _gathered(each(), limit, path), mean_rate(film, times)


def _gathered(frames: Iterator[np.ndarray], limit: int | None, path: pathlib.Path) -> np.ndarray:
    kept: list[np.ndarray] = []
    for frame in itertools.islice(frames, limit):
        if (len(kept) + 1) * frame.nbytes > MOST:
            raise UserError(f"{path} holds more than the {len(kept)} frames of {frame.shape[0]} x {frame.shape[1]} "
                            "that half of the memory can; set a limit, or fewer frames a second.")
        kept.append(frame)
    if not kept:
        raise UserError(f"{path} holds no frame that can be decoded.")
    return np.stack(kept)


def _of_folder(folder: pathlib.Path, background: Sequence[int]) -> Iterator[np.ndarray]:
    files, size = frame_files(folder), None
    if not files:
        raise UserError(f"{folder} is a folder without numbered images, such as 00000.png.")
    for file in files:
        frame = read_image(file, background)
        size = frame.shape if size is None else size
        if frame.shape != size:
            raise UserError(f"{file} is of {frame.shape[0]} x {frame.shape[1]}, and the frames before it are of "
                            f"{size[0]} x {size[1]}.")
        yield frame
