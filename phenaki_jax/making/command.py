"""`phenaki generate`, `animate`, `extend`, `interpolate` and `inpaint`: from the command line to files and back."""

import argparse
import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax import media, pictures, story_files
from phenaki_jax.errors import UserError
from phenaki_jax.making import files
from phenaki_jax.making.files import Look, Origin
from phenaki_jax.making.options import (
    check_common, check_inputs, check_prompts, load_pipeline, mesh_of, model_config, paths_of, sampler_of, typed,
)
from phenaki_jax.making.requests import Input, Request, perform
from phenaki_jax.pipeline import PhenakiPipeline
from phenaki_jax.progress import Progress
from phenaki_jax.sampling.scenes import check_seed, overlay, read_scenes

ON_A_SHEET = 64  # videos
# A file's stem, in the names that it and its parts have while they are being written.
TEMPORARY = re.compile(r"\.+(.+?)(?:-[a-z0-9_]{8}){1,2}(?:\.[a-z0-9]+)?")
REFUSED = 1  # exit code: the safety checker has refused something


# -------------------------------------------------------------------------------------------------------- commands

def generate(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Videos or images of prompts, a story, or what a sidecar describes."""
    check_common(options)
    for name in ("parts", "redo", "context_frames"):
        if getattr(options, name) is not None and not options.story:
            raise UserError(f"--{name} goes with --story.")
    for name in ("keyframes", "between"):
        if getattr(options, name) is not None and options.story:
            raise UserError(f"--{name} goes with --prompt or --prompts, not with --story.")
    if options.sidecar:
        return _again(options, overrides)
    if not options.model:
        raise UserError("--model is missing; give a run's folder or an export's.")
    config = model_config(options.model, overrides)
    if options.story:
        return _tell(options, overrides, config)
    prompts = story_files.read_lines(options.prompts) if options.prompts else options.prompt
    check_prompts(prompts, config)
    asked = sampler_of(options, config)
    if options.keyframes is None and options.between is not None:
        raise UserError("--between goes with --keyframes.")
    if options.keyframes is not None and (options.frames or options.negative_prompt is not None):
        raise UserError("--keyframes goes with --prompt or --prompts, and without --frames and --negative_prompt: "
                        "there are 1 + (keyframes - 1) (1 + between) frames.")
    verb = "generate" if options.keyframes is None else "keyframes"
    if options.preview_every and (verb != "generate" or options.negative_prompt is not None):
        raise UserError("--preview_every goes with neither --keyframes nor --negative_prompt.")
    if options.keyframes is None:
        asked["num_frames"] = options.frames or config.tokenizer.frames
        asked |= {} if options.negative_prompt is None else {"negative_prompt": options.negative_prompt}
    else:
        between = {} if options.between is None else {"between": options.between}
        asked |= {"num_keyframes": options.keyframes} | between
    seed, each = options.seed or 0, options.num_videos_per_prompt
    how = {"preview_every": options.preview_every, "devices": options.devices}
    requests = [Request(verb, prompt, seed + number, asked, **how) for number, prompt in
                enumerate(prompt for prompt in prompts or [None] for _ in range(each))]
    check_seed(requests[-1].seed)
    rows = min(options.batch_size, len(requests))
    requests = [dataclasses.replace(request, rows=rows, row=number % rows) for number, request in enumerate(requests)]
    pipe = load_pipeline(options.model, overrides, options.devices)
    return _make_all(pipe, options, requests, look_of(options, config))


def go_on(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """One video of --prompt and files of the user's: animate, extend, interpolate, inpaint."""
    check_common(options)
    check_inputs(options)
    config = model_config(options.model, overrides)
    check_prompts(None if options.prompt is None else [options.prompt], config)
    asked = sampler_of(options, config)
    names = [name for name in ("image", "last_image", "video", "mask") if getattr(options, name, None)]
    inputs = {name: Input.of(getattr(options, name), options.fit, options.input_fps) for name in names}
    if options.verb != "inpaint" and options.frames is not None:
        asked["num_frames"] = options.frames
    elif options.verb == "extend":
        asked["num_frames"] = config.tokenizer.frames - 1
    for name, file in inputs.items():  # what is wrong with it is said before a model is loaded
        frames = file.read(config.tokenizer.height, config.tokenizer.width)
        if name in ("image", "last_image") and len(frames) != 1:
            raise UserError(f"--{name}={getattr(options, name)!r} has {len(frames)} frames; it has to be an image.")
    request = Request(options.verb, options.prompt, options.seed, asked, inputs)
    pipe = load_pipeline(options.model, overrides)
    return _make_all(pipe, options, [request], look_of(options, config))


def _tell(options: argparse.Namespace, overrides: Mapping[str, str], config: Any) -> int:
    """Tells --story; what the command line says goes before what the file says of all scenes."""
    scenes, general = story_files.read_story(options.story)
    special = sampler_of(options, config) | {
        "seed": options.seed, "num_frames": options.frames, "context_frames": options.context_frames,
        "negative_prompt": options.negative_prompt}
    general = {"seed": 0} | overlay(general, special)
    seed = general.pop("seed")
    check_seed(seed)
    read_scenes(scenes, config, general)
    redo = options.redo or []
    for number in redo:
        if not 1 <= number <= len(scenes):
            raise UserError(f"--redo={number} has to be the number of a scene, 1 to {len(scenes)}.")
    if redo and not options.parts:
        raise UserError("--redo needs --parts=DIR, the folder that has the scenes that are not made anew.")
    parts = story_files.Parts(Path(options.parts)) if options.parts else None
    pipe = load_pipeline(options.model, overrides)
    scenes = parts.drawn(scenes, seed, redo) if parts else scenes
    request = Request("story", scenes, seed, general, preview_every=options.preview_every)
    return _make_all(pipe, options, [request], look_of(options, config, general.get("fps")), parts=parts)


def _again(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """What a sidecar describes, made anew; says whether the frames are the same."""
    found = files.read_sidecar(options.sidecar)
    request, look = Request.of_json(found["request"]), Look(**found["look"])
    model = options.model or found["model"]["path"]
    sampling = {f"sampling.{name}": value for name, value in found["config"]["sampling"].items()}
    pipe = PhenakiPipeline.from_pretrained(model, overrides=sampling | typed(model_config(model), overrides),
                                           mesh=mesh_of(request.devices))
    if pipe.fingerprint != found["model"]["hash"]:
        raise UserError(f"--model={model!r} is another model than the sidecar's, whose hash is "
                        f"{found['model']['hash']}; its own is {pipe.fingerprint}.")
    path = paths_of(options, 1)[0]
    code = _make_all(pipe, options, [request], look, model=model, anew=True)
    same = files.read_sidecar(files.sidecar_of(path))["frames"] == found["frames"] if code == 0 else False
    print(f"{path}: its frames {'equal' if same else 'do NOT equal'} the sidecar's, bit for bit"
          + ("" if same else f", which were made on {found.get('platform')} with {found.get('versions')}"))
    return code


# ---------------------------------------------------------------------------------------------------------- making

def look_of(options: argparse.Namespace, config: Any, fps: float | None = None) -> Look:
    return Look(float(options.fps or fps or config.data.fps), options.scale)


def _make_all(pipe: PhenakiPipeline, options: argparse.Namespace, requests: Sequence[Request], look: Look, *,
              model: str = "", parts: Any = None, anew: bool = False) -> int:
    """Makes what is not there yet, a batch at a time, and writes it with its sidecar."""
    paths, origin, refused = paths_of(options, len(requests)), Origin(pipe), 0
    if requests[0].verb != "story":  # whose scenes are checked as they are read
        prompts = [request.prompt for request in requests]
        pipe.read.check(prompts, None)
        pipe.refuse(prompts)
    there = [not (options.overwrite or anew) and files.is_made(path, request, look, pipe, origin)
             for path, request in zip(paths, requests)]
    for path in (path for path, done in zip(paths, there) if done):
        print(f"{path} (was there)", flush=True)
    _clear([path for path, done in zip(paths, there) if not done])
    progress = Progress("making", there.count(False), unit="videos") if there.count(False) > requests[0].rows else None
    done = 0
    for first in range(0, len(requests), requests[0].rows):
        batch = range(first, min(first + requests[0].rows, len(requests)))
        missing = [index for index in batch if not there[index]]
        if not missing:
            continue
        preview = _previews(paths[missing[0]], look)
        made, reasons = perform(pipe, [requests[index] for index in batch], preview, parts)
        if parts is not None:
            parts.keep_draws()
        for index in missing:
            path, frames, reason = paths[index], made[index - first], reasons[index - first]
            if reason is not None:
                refused += 1
                print(f"{path} is not written: {reason}", flush=True)
                continue
            if requests[index].verb == "story":
                frames = story_files.reported(frames, len(requests[index].prompt), parts)
            found = files.write(path, frames, look, origin)
            files.write_sidecar(path, requests[index], look, pipe, model or options.model, found)
            print(path, flush=True)
        _preview_path(paths[missing[0]]).unlink(missing_ok=True)
        done += len(missing)
        if progress is not None:
            progress.update(done)
            progress.start_clock() if done == len(missing) else None
    if progress is not None:
        progress.close()
    if options.sheet:
        _write_sheet(Path(options.sheet), [(path, request) for path, request in zip(paths, requests) if path.exists()])
    return REFUSED if refused else 0


def _clear(paths: Sequence[Path]) -> None:
    """Removes what a kill left of files that are to be made: those of `media.atomic_path` and `media.write_frames`."""
    names = {(path.parent, name.stem) for path in paths for name in (path, files.sidecar_of(path), _preview_path(path))}
    for folder in {folder for folder, _ in names if folder.is_dir()}:
        for file in folder.iterdir():
            left = TEMPORARY.fullmatch(file.name)
            if left and (folder, left[1]) in names:
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def _preview_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.preview.gif")


def _previews(path: Path, look: Look) -> Any:
    """What shows frames on the way, in FILE.preview.gif, each time whole."""
    def show(frames: np.ndarray) -> None:
        media.write_video(_preview_path(path), frames, min(look.fps, 50), look.scale)

    return show


def _write_sheet(target: Path, made: Sequence[tuple[Path, Request]]) -> None:
    """A picture of the first videos, a row each, read back from their files."""
    clips = [media.read_video(path)[0] if path.is_dir() or path.suffix.lower() not in media.IMAGES else
             media.read_image(path)[None] for path, _ in made[:ON_A_SHEET]]
    if not clips:
        return
    shortest = min(map(len, clips))
    titles = [request.prompt if isinstance(request.prompt, str) else path.name for path, request in made[:ON_A_SHEET]]
    stacked = np.stack([clip[np.linspace(0, len(clip) - 1, shortest).round().astype(int)] for clip in clips])
    media.write_image(target, pictures.sheet({"": stacked}, min(6, shortest), titles, max(1, 96 // stacked.shape[2])))
    print(target)
