"""The TFDS builder of `sprite_stories`; it needs no network.

In this folder: `tfds build --config=clips_32 --data_dir=DIR`, or without --config for all of them.

Record i of a split is a pure function of (config, split, i), and is the i-th that is read.
"""

import dataclasses
import json
import pathlib
import sys
import zlib
from typing import Any, Iterator

import numpy as np
import tensorflow_datasets as tfds

ROOT = str(pathlib.Path(__file__).resolve().parents[2])
if ROOT not in sys.path:  # `tfds build` imports this file from its own folder
    sys.path.append(ROOT)

from data.sprite_stories import world  # noqa: E402
from data.sprite_stories.captions import caption  # noqa: E402
from phenaki_jax.evaluation import sprite_world as sw  # noqa: E402

FPS = 8.0
CLIP_FRAMES = 11
PACED_FPS = (8.0, 16.0, 32.0)
PACED_SPEED = 11.0  # pixels a second at most, in a 32 x 32 frame


@dataclasses.dataclass(eq=False)
class SpriteStoriesConfig(tfds.core.BuilderConfig):
    """What a config draws.

    Attributes:
      kind: "clips" (one scene of 11 frames), "paced" (the same at any speed and several frame rates, of which captions
        tell nothing), "images" (one frame) or "stories" (2 to 4 scenes: 11, 12, 12, … frames).
      size: height and width of a frame in pixels.
      digits: whether handwritten digits occur besides the four shapes.
      num_train, num_test: records of the two splits.
    """

    kind: str = "clips"
    size: int = 32
    digits: bool = False
    num_train: int = 0
    num_test: int = 0


def _world(suffix: str, what: str, counts: dict[str, tuple[int, int]], **fields) -> list[SpriteStoriesConfig]:
    return [SpriteStoriesConfig(name=f"{kind}_{suffix}", description=f"{kind}: {what}", kind=kind, num_train=train,
                                num_test=test, **fields) for kind, (train, test) in counts.items()]


FULL = {"clips": (8192, 512), "images": (4096, 256), "stories": (2048, 128)}
PACED = {"paced": (8192, 512)}
TINY = {"clips": (48, 16), "images": (32, 16), "stories": (24, 8)}


class SpriteStories(tfds.core.GeneratorBasedBuilder):
    """Moving sprites whose captions are facts about their pixels.

    Clips and stories never show the style outlined or the colour orange; images show every style and colour.
    Of clips and stories, the test split begins with held-out combinations of colour, shape, style and motion, which
    the train split never shows. Captions of the test splits name every fact.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}
    BUILDER_CONFIGS = (
        _world("32", "four shapes, 32 x 32", FULL | PACED)
        + _world("64_digits", "four shapes and handwritten digits, 64 x 64", FULL, size=64, digits=True)
        + _world("32_tiny", "a few records, for tests", TINY)
    )

    def __init__(self, *, file_format: str | None = "array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        frames = {"clips": CLIP_FRAMES, "paced": CLIP_FRAMES, "images": 1, "stories": None}[self.builder_config.kind]
        features = {
            # Flat sprites compress well: a clip of 32 x 32 takes 1 KB and is read in 0.3 ms.
            "video": tfds.features.Tensor(shape=(frames, size, size, 3), dtype=np.uint8,
                                          encoding=tfds.features.Encoding.ZLIB),
            "caption": tfds.features.Text(),
            "fps": np.float32,
            "source": tfds.features.Text(),
            "key": tfds.features.Text(),
            "facts": tfds.features.Text(),
        }
        if self.builder_config.kind == "stories":
            features["captions"] = tfds.features.Sequence(tfds.features.Text())
            features["starts"] = tfds.features.Tensor(shape=(None,), dtype=np.int32)
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features),
            homepage="https://phenaki.github.io", disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing is fetched
        return {"train": self._generate_examples("train"), "test": self._generate_examples("test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        for index in range(config.num_train if split == "train" else config.num_test):
            yield index, make_record(config, split, index)


def _facts_json(scenes: list[tuple[world.Facts, int]]) -> str:
    return json.dumps([{**dataclasses.asdict(facts), "frames": frames} for facts, frames in scenes])


def make_record(config: SpriteStoriesConfig, split: str, index: int) -> dict[str, Any]:
    """Record `index` of a split: see `phenaki_jax.input.schema.Record`. A pure function of its arguments."""
    rng = np.random.default_rng([zlib.crc32(config.name.encode()), ("train", "test").index(split), index])
    test = split == "test"
    objects = sw.SHAPES + sw.DIGITS if config.digits else sw.SHAPES
    draw = {"size": config.size, "split": split}
    record = {"fps": FPS, "source": "sprite_stories", "key": f"{config.name}/{split}/{index:06d}"}
    if config.kind == "stories":
        scenes = world.sample_story(rng, objects=objects, held_out=test)
        captions = [caption(rng, facts, complete=test)[0] for facts, _ in scenes]
        starts = np.cumsum([0] + [frames for _, frames in scenes[:-1]]).astype(np.int32)
        return {**record, "video": world.make_story(rng, scenes, **draw), "caption": captions[0],
                "captions": captions, "starts": starts, "facts": _facts_json(scenes)}
    if config.kind == "images":
        facts = world.sample_facts(rng, objects=objects, held_out=None, image_only=True)
        facts, frames = dataclasses.replace(facts, direction=sw.STILL, speed=None), 1
    else:
        facts, frames = world.sample_facts(rng, objects=objects, held_out=test), CLIP_FRAMES
    if config.kind == "paced":
        fps, speed = float(rng.choice(PACED_FPS)), float(rng.uniform(0, PACED_SPEED)) * (facts.speed is not None)
        text, _ = caption(rng, facts, complete=test, unnamed=("speed",))
        return record | {"video": world.make_clip(rng, facts, frames=frames, pixels=speed / fps, **draw), "fps": fps,
                         "caption": text, "facts": json.dumps([{**dataclasses.asdict(facts), "speed": None,
                                                                "pixels_per_second": speed, "frames": frames}])}
    text, _ = caption(rng, facts, image=config.kind == "images", complete=test)
    return {**record, "video": world.make_clip(rng, facts, frames=frames, **draw), "caption": text,
            "facts": _facts_json([(facts, frames)])}
