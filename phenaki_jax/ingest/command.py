"""`phenaki ingest`: what the command line says, read into a job."""

from typing import Any

from phenaki_jax.errors import UserError
from phenaki_jax.ingest import places
from phenaki_jax.ingest.filters import parse_filters
from phenaki_jax.ingest.job import ingest
from phenaki_jax.ingest.prepare import Settings, default_name
from phenaki_jax.ingest.sources import find_units, read_samples
from phenaki_jax.input.records import MANIFEST, BadRecord
from phenaki_jax.input.schema import STREAMS


def main(options: Any) -> int:
    """Runs it; options are the parsed command line's."""
    _check_installed()
    units = find_units(options.source, options.form, {name: getattr(options, name) for name in (
        "videos", "data_dir", "media_feature", "caption_feature")})
    settings = Settings(
        kind=options.kind or _kind(units), name=options.name or default_name(options.output),
        sizes=parse_sizes(options.size), fps=options.fps, min_frames=options.min_frames, max_frames=options.max_frames,
        scene_threshold=options.scene_threshold, crop=options.crop, codec=options.codec, upscale=options.upscale,
        filters=parse_filters(options.filter or (), (options.keep_missing or "").replace(",", " ").split()),
        test_share=options.test_share)
    manifest = ingest(units, settings, options.output, source=options.source, workers=options.workers,
                      max_bad=options.max_bad, patience=options.patience, host=options.host, hosts=options.hosts)
    if manifest is None:
        return 0
    for split, found in manifest["splits"].items():
        sizes = ", ".join(f"{count} of {height} x {width}" for (height, width), count in found["sizes"])
        print(f"{split}: {found['records']:,} records, {found['bytes'] / 1e6:.1f} MB ({sizes})")
    print(f"{manifest['kept']:,} of {manifest['in']:,} samples kept: {places.join(options.output, MANIFEST)}")
    if not manifest["splits"]:
        raise UserError(f"nothing of --source={options.source!r} was kept; {MANIFEST} in --output has "
                        "the reasons")
    return 0


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """"64" or "64x64,48x80", heights first -> ((64, 64), (48, 80)). Raises: UserError."""
    sizes = []
    for part in text.split(","):
        height, _, width = part.strip().partition("x")
        width = width or height
        if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
            raise UserError(f"--size={text!r} has {part!r}; write a side, or HEIGHTxWIDTH, several with a comma")
        sizes.append((int(height), int(width)))
    return tuple(sizes)


def _kind(units: list) -> str:
    """"video" or "image", as the first sample is one that can be told."""
    for sample in read_samples(units[0]):
        try:
            sample.load()
        except BadRecord:
            continue
        return sample.kind
    raise UserError(f"--kind of --source cannot be told from {units[0].name}; give one of {', '.join(STREAMS)}")


def _check_installed() -> None:
    try:
        import array_record.python.array_record_module  # noqa: F401
    except ImportError:
        raise UserError("records are written by the package array_record; pip install 'phenaki_jax[ingest]'") from None
