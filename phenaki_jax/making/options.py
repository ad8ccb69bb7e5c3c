"""What the generating commands are asked for, read and checked; nothing heavy is imported."""

import argparse
import dataclasses
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phenaki_jax import config as configs
from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.export.folder import check_config
from phenaki_jax.sampling.options import Sampling, chosen

FRAMES = ""  # the suffix of a folder of png frames
FORMS = (*media.VIDEOS, ".png")  # that --form names; of videos the last is a folder of frames each
LARGEST = 8192  # pixels of a side
# Options of `generate` that a story, and what a sidecar describes, have nothing to do with, and their defaults.
NOT_OF_A_STORY = {"keyframes": None, "between": None, "num_videos_per_prompt": 1, "batch_size": 8, "devices": 1}
NOT_OF_A_SIDECAR = NOT_OF_A_STORY | {
    "frames": None, "negative_prompt": None, "parts": None, "redo": None, "context_frames": None, "preview_every": 0,
    "scale": 1, "fps": None, "motion": None, "seed": None, "preset": None, "form": None} | {
    field.name: None for field in dataclasses.fields(Sampling)}


def model_config(model: str, overrides: Mapping[str, str] | None = None) -> Any:
    """The resolved config of --model, with --config.FIELD=VALUE. Raises: UserError where there is none."""
    if Path(model).is_file():
        raise UserError(f"--model={model!r} is a file; give a run's folder, or an export's.")
    config = configs.read_model_config(check_config(model))
    configs.set_fields_of_model(config, typed(config, overrides))
    return config


def typed(config: Any, overrides: Mapping[str, str] | None) -> dict[str, Any]:
    """--config.FIELD=VALUE, by the types that the fields have."""
    return {name: configs.parse_field(config, name, text) for name, text in (overrides or {}).items()}


def load_pipeline(model: str, overrides: Mapping[str, str] | None = None, devices: int = 1) -> Any:
    """The `PhenakiPipeline` of --model, with --config.FIELD=VALUE, over the first `devices` of this process."""
    from phenaki_jax.pipeline import PhenakiPipeline

    return PhenakiPipeline.from_pretrained(model, overrides=typed(model_config(model), overrides),
                                           mesh=mesh_of(devices))


def mesh_of(devices: int) -> Any:
    """A mesh of that many of this process's devices; None for one."""
    import jax

    from phenaki_jax.parallel import make_mesh

    if devices > jax.local_device_count():
        raise UserError(f"--devices={devices} is more than there are here: {jax.local_device_count()}.")
    return None if devices == 1 else make_mesh({"data": devices}, jax.local_devices()[:devices])


def check_common(options: argparse.Namespace) -> None:
    """What is wrong with options that all the commands have, before anything is loaded. Raises: UserError."""
    for name in ("scale", "frames", "batch_size", "num_videos_per_prompt", "devices"):
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value} has to be at least 1.")
    if getattr(options, "preview_every", 0) < 0:
        raise UserError(f"--preview_every={options.preview_every} has to be at least 1, or 0 for none.")
    for name in ("fps", "input_fps"):
        value = getattr(options, name, None)
        if value is not None and not 0.01 <= value <= 1000:
            raise UserError(f"--{name}={value} has to be from 0.01 to 1000.")
    if options.sheet and Path(options.sheet).suffix.lower() not in media.IMAGES:
        raise UserError(f"--sheet={options.sheet!r} has to end in {', '.join(media.IMAGES)}.")
    if options.form and f".{options.form}" not in FORMS:
        raise UserError(f"--form={options.form!r} is unknown; it is one of {', '.join(name[1:] for name in FORMS)}.")
    output, known = Path(options.output), media.IMAGES + media.VIDEOS if _one_image(options) else media.VIDEOS
    if output.suffix and getattr(options, "sidecar", ""):
        known = media.IMAGES + media.VIDEOS
    if output.suffix and output.suffix.lower() not in known:
        raise UserError(f"--output={options.output!r} has to end in {', '.join(known)}, or be a folder.")
    if output.suffix and options.form:
        raise UserError(f"--form={options.form!r} goes with a folder; --output={options.output!r} says it already.")
    fit = getattr(options, "fit", "centre")
    if fit not in media.RULES:
        raise UserError(f"--fit={fit!r} is unknown; it is one of {', '.join(media.RULES)}.")


def check_alone(options: argparse.Namespace, with_what: str, defaults: Mapping[str, Any]) -> None:
    """Raises: UserError for an option that was given and means nothing with another one."""
    for name, default in defaults.items():
        if (value := getattr(options, name)) != default:
            raise UserError(f"--{name}={value} does not go with --{with_what}; leave it out.")


def check_places(paths: list[Path], sheet: str, inputs: Mapping[str, str], overwrite: bool) -> None:
    """Raises: UserError where a file cannot or must not be written."""
    for path in [*paths, *([Path(sheet)] if sheet else [])]:
        for name, given in inputs.items():
            if path.resolve() == Path(given).resolve():
                raise UserError(f"{path} is --{name} itself; give --output another name.")
        if path.is_dir() and not path.suffix and any(
                not re.fullmatch(r"[0-9]{5,}\.png", file.name) for file in path.iterdir()):
            raise UserError(f"{path} is a folder that holds more than numbered frames; give --output another name.")
        if path.is_dir() and path.suffix:
            raise UserError(f"{path} is a folder; give --output another name, or one without an ending.")
    if sheet and Path(sheet).resolve() in {path.resolve() for path in paths}:
        raise UserError(f"--sheet={sheet!r} is --output itself; give it another name.")
    if not overwrite and (mine := [path for path in paths if path.exists() and not sidecar_of(path).is_file()]):
        raise UserError(f"{mine[0]} is there and has no sidecar, so that it was not made here; give --output another "
                        "name, or --overwrite.")
    for folder in {path.parent for path in paths}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(f"nothing can be written in {str(folder)!r}: {error.strerror}.") from None


def sidecar_of(path: Path) -> Path:
    """FILE.json, beside a file or a folder of frames."""
    return path.with_name(path.name + ".json")


def check_size(options: argparse.Namespace, config: Any) -> None:
    """Raises: UserError where --scale makes more pixels than a file should have."""
    side = max(config.tokenizer.height, config.tokenizer.width)
    if options.scale * side > LARGEST:
        raise UserError(f"--scale={options.scale} makes sides of {options.scale * side} pixels; {LARGEST} is the most.")


def _one_image(options: argparse.Namespace) -> bool:
    return options.verb == "generate" and options.frames == 1 and not options.story


def paths_of(options: argparse.Namespace, count: int, suffix: str | None = None) -> list[Path]:
    """Where each video goes: FILE, or FILE_0, FILE_1, … of several; in a folder numbers of five digits.

    suffix: of files in a folder, instead of what --form says.
    """
    path = Path(options.output)
    if path.suffix:
        return [path] if count == 1 else [path.with_stem(f"{path.stem}_{i}") for i in range(count)]
    if path.is_file():
        raise UserError(f"--output={options.output!r} is a file without a known ending; name a folder.")
    image = _one_image(options)
    if suffix is None:
        suffix = f".{options.form}" if options.form else ".png" if image else ".mp4"
        suffix = FRAMES if suffix == ".png" and not image else suffix
    return [path / f"{i:05}{suffix}" for i in range(count)]


def check_prompts(prompts: list[str] | None, config: Any) -> None:
    """Raises: UserError where a model of texts is given none."""
    if prompts is None and config.get("text", {}).get("encoder") != "none":
        raise UserError("--prompt is missing; say what the video shows.")
    if not all(prompt.strip() for prompt in prompts or []):
        raise UserError("--prompt is empty; say what the video shows.")


def sampler_of(options: argparse.Namespace, config: Any) -> dict[str, Any]:
    """The sampler's options that were given, checked."""
    if options.seed is not None and options.seed < 0:
        raise UserError(f"--seed={options.seed} has to be 0 or more.")
    names = ("preset", *(field.name for field in dataclasses.fields(Sampling)))
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    chosen(config.sampling, **given)
    if options.fps is not None and "fps" in config.get("generator", {}).get("conditions", ()):  # else the file's alone
        given["fps"] = options.fps
    if options.motion is not None:
        try:
            given["motion"] = float(options.motion)
        except ValueError:
            given["motion"] = options.motion
    return given
