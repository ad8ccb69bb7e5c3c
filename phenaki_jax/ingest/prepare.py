"""A sample to the records that it becomes: read, filtered, decoded, cut, brought to size, encoded."""

import collections
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax.errors import UserError, at_least
from phenaki_jax.ingest import cut
from phenaki_jax.ingest.decode import decode_image, decode_video, resample
from phenaki_jax.ingest.filters import ALIASES, DUPLICATE, OF_FRAMES, Filter, known_fields
from phenaki_jax.ingest.samples import Sample, readable
from phenaki_jax.input import order
from phenaki_jax.input.motion import motion_score
from phenaki_jax.input.records import BadRecord
from phenaki_jax.input.schema import STREAMS

LONGEST_CAPTION = 10_000  # characters; what is longer is no caption
LONGEST_SCENE = 256  # frames of a record, where nothing else is asked
CROPS, CODECS = ("centre", "random"), ("lossy", "lossless")
JPEG = {"quality": 95, "subsampling": 0}
H264 = {"preset": "medium", "crf": "14", "threads": "1"}
KEY_FRAMES = 12  # from one to the next, so that a clip out of the middle is decoded from nearby
KEPT_FIELDS = ("url", *ALIASES)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What becomes of samples; two runs with the same settings and sources have the same records.

    Attributes:
      kind: "video" or "image"; samples of the other kind are dropped.
      name: the records' `source`.
      sizes: (height, width) of records, several for buckets of aspects: each sample goes to the most alike.
      fps: of videos. min_frames, max_frames: of their clips.
      scene_threshold: see `cut.scenes`; 1 cuts nowhere.
      crop: the 'centre', or at 'random' along the longer side.
      codec: 'lossy' (jpeg and H.264, near lossless) or 'lossless' (png and pixels).
      upscale: whether samples that are smaller than their size are kept.
      filters: see `filters`.
      test_share: of the samples, by a hash of their keys; they make the split "test".
    """
    kind: str
    name: str
    sizes: tuple[tuple[int, int], ...]
    fps: float = 8.0
    min_frames: int = 11
    max_frames: int = LONGEST_SCENE
    scene_threshold: float = 0.4
    crop: str = "centre"
    codec: str = "lossy"
    upscale: bool = False
    filters: tuple[Filter, ...] = ()
    test_share: float = 0.01

    def __post_init__(self):
        for name, known in (("kind", STREAMS), ("crop", CROPS), ("codec", CODECS)):
            if getattr(self, name) not in known:
                raise UserError(f"--{name}={getattr(self, name)!r} is unknown; it is one of {', '.join(known)}")
        if not self.sizes or min(min(size) for size in self.sizes) < 1:
            raise UserError(f"--size={self.sizes} has to be sides of at least one pixel")
        at_least("min_frames", self.min_frames, 1)
        at_least("max_frames", self.max_frames, self.min_frames)
        if not 0 < self.fps <= 1000:
            raise UserError(f"--fps={self.fps} has to be above 0 and at most 1000")
        for name in ("scene_threshold", "test_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name}={getattr(self, name)} has to be from 0 to 1")

    @property
    def duplicates(self) -> bool:
        """Whether samples whose media another one has are left out."""
        return any(one.name == DUPLICATE for one in self.filters)

    def check(self, values: Mapping[str, Any], names: tuple[str, ...]) -> None:
        """Raises: BadRecord by the first of the filters of these names that does not want the sample."""
        for one in self.filters:
            if one.name in names:
                one.check(values)

    def split(self, key: str) -> str:
        return "test" if order.uniform("split", key) < self.test_share else "train"


Made = tuple[dict[str, Any], dict[str, bytes]]  # header and blobs of a record


def records_of(sample: Sample, settings: Settings, lost: collections.Counter) -> Iterator[Made]:
    """The records of a sample, one after another.

    Args:
      lost: counts the clips of a video that are left out, by reason.

    Raises: BadRecord where nothing of it can be used.
    """
    sample.load()
    if sample.kind != settings.kind:
        raise BadRecord(f"not {'an image' if settings.kind == 'image' else 'a video'}", sample.suffix)
    caption = _caption(sample.caption)
    guess = any(one.name == "language" for one in settings.filters)
    values = known_fields(sample.fields, caption, guess)
    settings.check(values, (*ALIASES, "caption_length"))
    fields = {name: values.get(name, sample.fields.get(name)) for name in KEPT_FIELDS}
    fields = {name: readable(value) if isinstance(value, str) else value for name, value in fields.items()
              if isinstance(value, (str, int, float)) and value == value}
    header = {"key": sample.key, "source": settings.name, "caption": caption, "fields": fields}
    if settings.kind == "image":
        frames = sample.media if isinstance(sample.media, np.ndarray) else decode_image(sample.media)[None]
        size = _size_for(*frames.shape[1:3], settings)
        frames = cut.to_size(frames, size, cut.crop_of(settings.crop, sample.key))
        yield header | {"fps": 0.0} | _shape(frames, settings), {"media": _encode_image(frames[0], settings.codec)}
        return
    yield from _clips(sample, settings, header, lost)


def _caption(text: str | bytes | None) -> str:
    try:
        text = text.decode() if isinstance(text, bytes) else "" if text is None else str(text)
        text.encode()  # tables are read with what is no UTF-8 left in
    except UnicodeError as error:
        raise BadRecord("caption not UTF-8", str(error)) from None
    text = " ".join(text.split())
    if not text:
        raise BadRecord("no caption")
    if len(text) > LONGEST_CAPTION:
        raise BadRecord("caption too long", f"{len(text)} characters")
    return text


def _size_for(height: int, width: int, settings: Settings) -> tuple[int, int]:
    """The size that frames of height x width are brought to. Raises: BadRecord where they are not wanted."""
    settings.check({"height": height, "width": width, "side": min(height, width), "aspect": width / height},
                   OF_FRAMES)
    size = cut.nearest_size(height, width, settings.sizes)
    if not settings.upscale and (height < size[0] or width < size[1]):
        raise BadRecord("too small", f"{height} x {width}")
    return size


def _shape(frames: np.ndarray, settings: Settings) -> dict[str, Any]:
    form = {"image": {"lossy": "jpeg", "lossless": "png"}, "video": {"lossy": "mp4", "lossless": "raw"}}
    return dict(zip(("frames", "height", "width"), frames.shape)) | {"media": form[settings.kind][settings.codec]}


def _clips(sample: Sample, settings: Settings, header: dict[str, Any], lost: collections.Counter) -> Iterator[Made]:
    size: list[int] = []

    def seen(height: int, width: int) -> int:
        """The shorter side that frames may be shrunk to, by which they still cover their size."""
        size[:] = _size_for(height, width, settings)
        return math.ceil(min(height, width) * max(size[0] / height, size[1] / width))

    if isinstance(sample.media, np.ndarray):
        seen(*sample.media.shape[1:3])
        frames = iter(resample(sample.media, sample.fps or settings.fps, settings.fps))
    else:
        frames = decode_video(sample.media, settings.fps, seen)
    story = sorted((second, _caption(text)) for second, text in sample.captions)
    failed, kept = None, False
    for first, clip in cut.scenes(frames, 1.0 if story else settings.scene_threshold, settings.max_frames):
        try:
            if len(clip) < settings.min_frames:
                raise BadRecord("clip too short", f"{len(clip)} frames")
            settings.check({"duration": len(clip) / settings.fps}, ("duration",))
            clip = cut.to_size(clip, tuple(size), cut.crop_of(settings.crop, sample.key))
            if any(one.name == "motion" for one in settings.filters):
                settings.check({"motion": motion_score(clip, settings.fps)}, ("motion",))
        except BadRecord as error:
            failed = failed or error
            lost[error.reason] += 1
            continue
        kept = True
        made = header | {"key": f"{sample.key}#{first:06}", "fps": settings.fps} | _shape(clip, settings)
        if story:
            made |= _scenes_of(story, first, len(clip), settings.fps)
        yield made, {"media": clip.tobytes() if settings.codec == "lossless" else _encode_video(clip, settings.fps)}
    if failed and not kept:
        raise failed


def _scenes_of(story: list[tuple[float, str]], first: int, count: int, fps: float) -> dict[str, Any]:
    """Captions and starts of `count` frames from `first`, each scene of which has one at least. story: sorted."""
    starts, captions = [], []
    for second, text in story:
        start = max(0, round(second * fps) - first)
        if starts and start >= count:
            break
        if starts and starts[-1] == start:
            captions[-1] = text
        else:
            starts, captions = [*starts, start], [*captions, text]
    starts[0] = 0
    return {"caption": captions[0], "captions": captions, "starts": starts}


def _encode_image(image: np.ndarray, codec: str) -> bytes:
    from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **({"format": "PNG"} if codec == "lossless" else {"format": "JPEG"} | JPEG))
    return buffer.getvalue()


def _encode_video(clip: np.ndarray, fps: float) -> bytes:
    from phenaki_jax.media import encode_mp4
    return encode_mp4(clip, fps, H264 | {"g": str(KEY_FRAMES)})


def default_name(output: str) -> str:
    """The name of a data set: its folder's."""
    return Path(output.rstrip("/")).name
