"""The TFDS builder of `real_clips`; it needs the extra `clips` and no network.

In this folder: `tfds build --config=clips_32 --data_dir=DIR`, or without --config for all of them.
"""

import dataclasses
import pathlib
import sys
from typing import Any, Iterator

import numpy as np
import tensorflow_datasets as tfds

ROOT = str(pathlib.Path(__file__).resolve().parents[2])
if ROOT not in sys.path:  # `tfds build` imports this file from its own folder
    sys.path.append(ROOT)

from data.real_clips import films  # noqa: E402


@dataclasses.dataclass(eq=False)
class RealClipsConfig(tfds.core.BuilderConfig):
    """What a config cuts.

    Attributes:
      kind: "clips" (11 frames) or "images" (one frame).
      size: height and width of a frame in pixels.
    """

    kind: str = "clips"
    size: int = 32


class RealClips(tfds.core.GeneratorBasedBuilder):
    """Clips and frames of four real films, 8 frames a second, the middle square of the picture.

    Of each film the last third is the test split and what ends a clip (1.4 seconds) before it the train split, so the
    two share no frame. A record's source is the name of its film's file, its caption one sentence on the whole film,
    and its key ends with the number of its first frame at 8 frames a second.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}
    BUILDER_CONFIGS = [
        RealClipsConfig(name=f"{kind}_{size}", description=f"{kind}, {size} x {size}", kind=kind, size=size)
        for kind in ("clips", "images") for size in (32, 64)]

    def __init__(self, *, file_format: str | None = "array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)

    @property
    def frames(self) -> int:
        """Frames of a record."""
        return films.CLIP_FRAMES if self.builder_config.kind == "clips" else 1

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, disable_shuffling=True,
            features=tfds.features.FeaturesDict({
                "video": tfds.features.Tensor(shape=(self.frames, size, size, 3), dtype=np.uint8,
                                              encoding=tfds.features.Encoding.ZLIB),
                "caption": tfds.features.Text(),
                "fps": np.float32,
                "source": tfds.features.Text(),
                "key": tfds.features.Text(),
            }))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing is fetched
        videos = {film: films.read(film, self.builder_config.size) for film in films.FILMS}
        return {split: self._generate_examples(split, videos) for split in films.SPLITS}

    def _generate_examples(self, split: str, videos: dict[films.Film, np.ndarray]) -> Iterator[tuple[int, dict]]:
        cuts = films.cut({film: len(video) for film, video in videos.items()}, split, self.frames)
        for index, (film, first) in enumerate(cuts):
            yield index, {
                "video": videos[film][first:first + self.frames], "caption": film.caption, "fps": films.FPS,
                "source": film.source, "key": f"{self.builder_config.name}/{split}/{film.source}/{first:04d}"}
