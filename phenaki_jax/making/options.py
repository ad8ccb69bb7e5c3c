"""What the generating commands are asked for, read and checked; nothing heavy is imported."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phenaki_jax import config as configs
from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.export.folder import run_folder
from phenaki_jax.sampling.options import Sampling, chosen

CHANGEABLE = ("sampling.", "provenance.", "text.path", "text.vocabulary")  # of a trained model's config
FRAMES = ""  # the suffix of a folder of png frames
FORMS = (*media.VIDEOS, ".png")  # that --form names; of videos the last is a folder of frames each


def model_config(model: str, overrides: Mapping[str, str] | None = None) -> Any:
    """The resolved config of --model, with --config.FIELD=VALUE. Raises: UserError where there is none."""
    config = configs.read_run_config(run_folder(model))
    for name, value in typed(config, overrides).items():
        configs.set_field(config, name, value)
    return config


def typed(config: Any, overrides: Mapping[str, str] | None) -> dict[str, Any]:
    """--config.FIELD=VALUE of a trained model, typed. Raises: UserError for what only training can change."""
    for name in overrides or {}:
        if not name.startswith(CHANGEABLE):
            raise UserError(f"--config.{name} cannot be changed of a trained model; what can is {', '.join(CHANGEABLE)}"
                            ".")
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
    for name in ("scale", "frames", "batch_size", "num_videos_per_prompt", "devices"):
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value} has to be at least 1.")
    if getattr(options, "preview_every", 0) < 0:
        raise UserError(f"--preview_every={options.preview_every} has to be at least 1, or 0 for none.")
    if options.sheet and Path(options.sheet).suffix.lower() not in media.IMAGES:
        raise UserError(f"--sheet={options.sheet!r} has to end in {', '.join(media.IMAGES)}.")
    form = getattr(options, "form", None)
    if form and f".{form}" not in FORMS:
        raise UserError(f"--form={form!r} is unknown; it is one of {', '.join(name[1:] for name in FORMS)}.")
    output, one_frame = Path(options.output), options.verb == "generate" and options.frames == 1 and not options.story
    known = media.IMAGES + media.VIDEOS if one_frame or getattr(options, "sidecar", None) else media.VIDEOS
    if output.suffix and output.suffix.lower() not in known:
        raise UserError(f"--output={options.output!r} has to end in {', '.join(known)}, or be a folder.")


def check_inputs(options: argparse.Namespace) -> None:
    if options.fit not in media.RULES:
        raise UserError(f"--fit={options.fit!r} is unknown; it is one of {', '.join(media.RULES)}.")
    if options.input_fps is not None and not 0 < options.input_fps <= 1000:
        raise UserError(f"--input_fps={options.input_fps} has to be above 0, and at most 1000.")


def paths_of(options: argparse.Namespace, count: int) -> list[Path]:
    """Where each video goes: FILE, or FILE_0, FILE_1, … of several; in a folder numbers of five digits."""
    path = Path(options.output)
    if path.suffix:
        return [path] if count == 1 else [path.with_stem(f"{path.stem}_{i}") for i in range(count)]
    suffix = f".{options.form}" if options.form else (".png" if options.frames == 1 and options.verb == "generate" and
                                                      not options.story else ".mp4")
    if suffix == ".png" and not (options.verb == "generate" and options.frames == 1):
        suffix = FRAMES
    if path.is_file():
        raise UserError(f"--output={options.output!r} is a file without a known ending; name a folder.")
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
