"""TFDS data sets as sources: which of their features is the picture, and which says what it shows."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.ingest.samples import CAPTION_FIELDS, Sample, Unit, broken

MEDIA = ("video", "image", "image_sequence", "frames", "image_main", "image_aux1")
FPS_FIELDS = ("fps", "frame_rate")
RANGE = 1000  # records of a unit


def _builder(name: str, data_dir: str | None):
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(f"--source=tfds:{name} needs pip install 'phenaki_jax[train]'") from None
    built = sorted(Path(data_dir, name).glob("*/features.json")) if data_dir else []
    try:
        # What lies there is read as it says itself that it is, which needs no code of its own.
        return tfds.builder_from_directory(built[-1].parent) if built else tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UserError(f"--source=tfds:{name} is not known to TFDS, nor built in --data_dir={data_dir!r} "
                        f"({str(error).splitlines()[0]})") from None


def find_tfds_units(name: str, options: Mapping[str, Any]) -> list[Unit]:
    """Units of RANGE records of every split. Raises: UserError where it is unknown, not built, or has no picture."""
    builder = _builder(name, options.get("data_dir"))
    if not builder.info.splits:
        raise UserError(f"--source=tfds:{name} is not built in {builder.data_dir}; `tfds build` or "
                        "builder.download_and_prepare() does that")
    features = flat(builder.info.features)
    for option, known in (("media_feature", media_features(features)), ("caption_feature", list(features))):
        if (given := options.get(option)) is not None and given not in known:
            raise UserError(f"--{option}={given!r} is none of tfds:{name}'s; it has {', '.join(sorted(known))}")
    if not media_features(features):
        raise UserError(f"--source=tfds:{name} has no feature with pictures; it has {', '.join(features)}")
    return [Unit(f"{split}[{begin}:{min(begin + RANGE, info.num_examples)}]", "tfds", name, begin,
                 min(begin + RANGE, info.num_examples), (split,), tuple(sorted(options.items())))
            for split, info in builder.info.splits.items() for begin in range(0, info.num_examples, RANGE)]


def flat(features: Any) -> dict[str, Any]:
    """Features by dotted name: those of one record, also inside of dicts and of sequences of dicts (steps of an
    episode)."""
    import tensorflow_datasets as tfds
    found = {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", None) if isinstance(feature, tfds.features.Sequence) else feature
        if isinstance(inner, tfds.features.FeaturesDict):
            found |= {f"{name}.{part}": one for part, one in flat(inner).items()}
        else:
            found[name] = feature
    return found


def media_features(features: Mapping[str, Any]) -> list[str]:
    """The names of features with uint8 pictures, the likeliest first."""
    def pictures(feature: Any) -> bool:
        shape = tuple(feature.shape or ())
        return feature.np_dtype == np.uint8 and len(shape) >= 3 and shape[-1] in (1, 3, None)

    def rank(name: str) -> int:
        last = name.rpartition(".")[2]
        return MEDIA.index(last) if last in MEDIA else len(MEDIA)

    return sorted((name for name, feature in features.items() if getattr(feature, "shape", None) is not None
                   and not isinstance(feature.shape, dict) and pictures(feature)), key=rank)


def tfds_samples(unit: Unit) -> Iterator[Sample]:
    """The samples of a unit of `find_tfds_units`."""
    import tensorflow_datasets as tfds
    options, (split,) = dict(unit.options), unit.names
    builder = _builder(unit.path, options.get("data_dir"))
    features = flat(builder.info.features)
    media = options.get("media_feature") or media_features(features)[0]
    caption = options.get("caption_feature") or next(
        (name for wanted in CAPTION_FIELDS for name in features if name.rpartition(".")[2] == wanted), None)
    part = f"{split}[{unit.begin}:{unit.end}]"
    try:
        rows = builder.as_data_source(split=part)
        rows = (rows[i] for i in range(len(rows)))
    except NotImplementedError:  # TFRecord, which has no random access
        rows = tfds.as_numpy(builder.as_dataset(split=part, shuffle_files=False))
    for index, row in enumerate(rows, unit.begin):
        key = f"{split}/{index:08}"
        try:
            yield _sample(key, row, media, caption, features)
        except (KeyError, ValueError, TypeError) as error:
            yield broken(key, "record unreadable", error)


def _sample(key: str, row: Mapping[str, Any], media: str, caption: str | None, features: Mapping[str, Any]) -> Sample:
    pixels = np.asarray(_at(row, media))
    while pixels.ndim < 4:  # an image has one frame
        pixels = pixels[None]
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, -1)
    fields = {name: value for name in features if name != media
              and (value := _plain(_at(row, name))) is not None}
    text = fields.get(caption) if caption else None
    if caption and hasattr(features[caption], "int2str") and isinstance(text, int):
        text = features[caption].int2str(text).replace("_", " ")  # a class's name
    fps = next((float(fields[name]) for name in fields if name.rpartition(".")[2] in FPS_FIELDS), 0.0)
    return Sample(key, np.asarray(pixels, np.uint8), "", text, fields, fps)


def _at(row: Any, name: str) -> Any:
    """The value of a dotted name; of a sequence of records that is not transposed, the values of all."""
    first, _, rest = name.partition(".")
    value = row[first]
    if not rest:
        return value
    if isinstance(value, Mapping):
        return _at(value, rest)
    return np.stack([_at(step, rest) for step in value])


def _plain(value: Any) -> Any:
    """A scalar or a text as Python has it; None for anything larger."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    return array.item() if array.ndim == 0 and array.dtype.kind in "biufSU" else None
