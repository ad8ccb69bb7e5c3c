"""`phenaki generate`, `animate`, `extend`, `interpolate` and `inpaint`: from the command line to files and back."""

import argparse
import dataclasses
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax import media, pictures, story_files
from phenaki_jax.errors import UserError
from phenaki_jax.input.encoder import is_pretrained
from phenaki_jax.making import files
from phenaki_jax.making.files import Look, Origin
from phenaki_jax.making.options import (
    NOT_OF_A_SIDECAR, NOT_OF_A_STORY, check_alone, check_common, check_places, check_prompts, check_size, load_pipeline,
    mesh_of, model_config, paths_of, sampler_of, sidecar_of, typed,
)
from phenaki_jax.making.requests import VERBS, Input, Refused, Request, perform
from phenaki_jax.pipeline import PhenakiPipeline
from phenaki_jax.progress import Progress
from phenaki_jax.prompts import PromptReader
from phenaki_jax.sampling.scenes import check_seed, overlay, read_scenes

ON_A_SHEET = 64  # videos
# A file's stem, in the names that it and its parts have while they are being written.
TEMPORARY = re.compile(r"\.+(.+?)(?:\.part-[a-z0-9_]{8}){1,2}(?:\.[a-z0-9]+)?")
REFUSED = UNEQUAL = 1  # exit codes: the safety checker has refused something; frames made again are others


# -------------------------------------------------------------------------------------------------------- commands

def generate(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Videos or images of prompts, a story, or what a sidecar describes."""
    check_common(options)
    if options.sidecar:
        check_alone(options, "from", NOT_OF_A_SIDECAR)
        return _again(options, overrides)
    for name in ("parts", "redo", "context_frames"):
        if getattr(options, name) is not None and not options.story:
            raise UserError(f"--{name} goes with --story.")
    if options.story:
        check_alone(options, "story", NOT_OF_A_STORY)
    if not options.model:
        raise UserError("--model is missing; give a run's folder or an export's.")
    config = model_config(options.model, overrides)
    check_size(options, config)
    if options.story:
        return _tell(options, overrides, config)
    prompts = story_files.read_lines(options.prompts) if options.prompts else options.prompt
    check_prompts(prompts, config)
    _check_readable(prompts or [None], config)
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
    paths = paths_of(options, len(requests))
    check_places(paths, options.sheet, {}, options.overwrite)
    pipe = load_pipeline(options.model, overrides, options.devices)
    return _make_all(pipe, options, requests, paths, look_of(options, config))


def go_on(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """One video of --prompt and files of the user's: animate, extend, interpolate, inpaint."""
    check_common(options)
    config = model_config(options.model, overrides)
    check_size(options, config)
    check_prompts(None if options.prompt is None else [options.prompt], config)
    _check_readable([options.prompt], config)
    asked, paths = sampler_of(options, config), paths_of(options, 1)
    given = {name: getattr(options, name) for name in VERBS[options.verb]}
    check_places(paths, options.sheet, given, options.overwrite)
    inputs = {name: Input.of(name, path, options.fit, options.input_fps) for name, path in given.items()}
    if options.verb != "inpaint" and options.frames is not None:
        asked["num_frames"] = options.frames
    elif options.verb == "extend":
        asked["num_frames"] = config.tokenizer.frames - 1
    for file in inputs.values():
        file.frames  # what is wrong with it is said before a model is loaded
    if options.verb == "inpaint":
        sides = [inputs[name].frames.shape[1:3] for name in ("video", "mask")]
        if sides[0][0] * sides[1][1] != sides[0][1] * sides[1][0]:
            raise UserError(f"--mask has {sides[1][0]} x {sides[1][1]} pixels; it has to have the proportions of "
                            f"--video, {sides[0][0]} x {sides[0][1]}.")
    request = Request(options.verb, options.prompt, options.seed, asked, inputs)
    return _make_all(load_pipeline(options.model, overrides), options, [request], paths, look_of(options, config))


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
    paths = paths_of(options, 1)
    check_places(paths, options.sheet, {}, options.overwrite)
    pipe = load_pipeline(options.model, overrides)
    scenes = parts.drawn(scenes, seed, redo) if parts else scenes
    request = Request("story", scenes, seed, general, preview_every=options.preview_every)
    return _make_all(pipe, options, [request], paths, look_of(options, config, general.get("fps")), parts)


def _again(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """What a sidecar describes, made anew; says whether the frames are the same, and 1 where not."""
    found = files.read_sidecar(options.sidecar)
    request, model = found["request"], options.model or found["model"]["path"]
    config = model_config(model)
    before = {f"{group}.{name}": value for group in ("sampling", "provenance")
              for name, value in found["config"][group].items()}
    suffix = Path(found["file"]["name"]).suffix
    path = paths_of(options, 1, suffix)[0]
    if path.suffix.lower() in media.IMAGES and found["frames"]["shape"][0] != 1:
        raise UserError(f"--output={options.output!r} is an image; the sidecar's file has "
                        f"{found['frames']['shape'][0]} frames.")
    moved = {name: _beside(options.sidecar, file) for name, file in request.inputs.items()}
    request = dataclasses.replace(request, inputs=moved)
    check_places([path], options.sheet, {name: file.path for name, file in moved.items()}, options.overwrite)
    pipe = PhenakiPipeline.from_pretrained(model, overrides=before | typed(config, overrides),
                                           mesh=mesh_of(request.devices))
    if pipe.fingerprint != found["model"]["hash"]:
        raise UserError(f"--model={model!r} is another model than the sidecar's, whose hash is "
                        f"{found['model']['hash']}; its own is {pipe.fingerprint}.")
    code = _make_all(pipe, options, [request], [path], found["look"], model=model, anew=True)
    if code:
        return code
    same = files.read_sidecar(sidecar_of(path))["frames"] == found["frames"]
    print(f"{path}: its frames {'equal' if same else 'do NOT equal'} the sidecar's, bit for bit"
          + ("" if same else f", which were made on {found.get('platform')} with {found.get('versions')}"))
    return 0 if same else UNEQUAL


def _beside(sidecar: str, file: Input) -> Input:
    """The input where it was, or of the same name beside the sidecar."""
    here = Path(sidecar).absolute().parent / Path(file.path).name
    return file if Path(file.path).exists() or not here.exists() else dataclasses.replace(file, path=str(here))


# ---------------------------------------------------------------------------------------------------------- making

def _check_readable(prompts: Sequence[str | None], config: Any) -> None:
    """Says what is wrong with prompts before a model is loaded, unless that takes a pretrained encoder's vocabulary."""
    if config.stage != "tokenizer" and not is_pretrained(config):
        PromptReader(config).check(prompts, None)


def look_of(options: argparse.Namespace, config: Any, fps: float | None = None) -> Look:
    chosen = next(rate for rate in (options.fps, fps, config.data.fps) if rate is not None)
    return Look(float(chosen), options.scale)


def _make_all(pipe: PhenakiPipeline, options: argparse.Namespace, requests: Sequence[Request], paths: Sequence[Path],
              look: Look, parts: Any = None, *, model: str = "", anew: bool = False) -> int:
    """Makes what is not there yet, a batch at a time, and writes it with its sidecar."""
    origin, rows, refused = Origin(pipe), requests[0].rows, 0
    if requests[0].verb != "story":  # whose scenes are checked as they are read
        prompts = [request.prompt for request in requests]
        pipe.read.check(prompts, None)
        pipe.refuse(prompts)
    there = [not (options.overwrite or anew) and files.is_made(path, request, look, pipe, origin)
             for path, request in zip(paths, requests)]
    for path in (path for path, done in zip(paths, there) if done):
        print(f"{path} (was there)", flush=True)
    _clear([path for path, done in zip(paths, there) if not done])
    total, done = there.count(False), 0
    progress = Progress("making", total, unit="videos") if total > rows else None
    for first in range(0, len(requests), rows):
        batch = range(first, min(first + rows, len(requests)))
        missing = [index for index in batch if not there[index]]
        if not missing:
            continue
        preview = _preview_path(paths[missing[0]])
        try:
            made, reasons = perform(pipe, [requests[index] for index in batch], _shown_in(preview, look, origin),
                                    requests[missing[0]].row, parts)
            if parts is not None:
                parts.keep_draws()
            for index in missing:
                there[index] = _write(paths[index], requests[index], made[index - first], reasons[index - first], look,
                                      origin, pipe, model or options.model, parts)
                refused += not there[index]
        finally:
            preview.unlink(missing_ok=True)
        done += len(missing)
        if progress is not None:
            progress.update(done)
            progress.start_clock() if done == len(missing) else None
    if progress is not None:
        progress.close()
    if options.sheet:
        _write_sheet(Path(options.sheet), [(path, request) for path, request, is_there in zip(paths, requests, there)
                                           if is_there], origin)
    return REFUSED if refused else 0


def _write(path: Path, request: Request, frames: Iterable[np.ndarray], reason: str | None, look: Look, origin: Origin,
           pipe: PhenakiPipeline, model: str, parts: Any) -> bool:
    """Writes one video, if the safety checker has let it out; whether it has."""
    try:
        if reason is not None:
            raise Refused(reason)
        if request.verb == "story":
            frames = story_files.reported(frames, len(request.prompt), parts)
        files.write(path, frames, look, origin, lambda found: files.write_sidecar(
            path, request, look, pipe, model, found))
    except Refused as refusal:
        print(f"{path} is not written: {refusal}", flush=True)
        return False
    print(path, flush=True)
    return True


def _clear(paths: Sequence[Path]) -> None:
    """Removes what a kill left of files that are to be made: those of `media.atomic_path` and `media.write_frames`."""
    for path in paths:
        _preview_path(path).unlink(missing_ok=True)
    names = {(path.parent, name.stem) for path in paths for name in (path, sidecar_of(path), _preview_path(path))}
    for folder in {folder for folder, _ in names if folder.is_dir()}:
        for file in folder.iterdir():
            left = TEMPORARY.fullmatch(file.name)
            if left and (folder, left[1]) in names:
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def _preview_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.preview.gif")


def _shown_in(path: Path, look: Look, origin: Origin) -> Callable[[np.ndarray], None]:
    """What shows frames on the way, in FILE.preview.gif, each time whole."""
    return lambda frames: media.write_video(path, frames, min(look.fps, 50), look.scale, label=origin.label)


def _write_sheet(target: Path, made: Sequence[tuple[Path, Request]], origin: Origin) -> None:
    """A picture of the first videos, a row each, read back from their files."""
    clips = [media.read_video(path)[0] if path.is_dir() or path.suffix.lower() not in media.IMAGES else
             media.read_image(path)[None] for path, _ in made[:ON_A_SHEET]]
    if not clips:
        return
    shortest = min(map(len, clips))
    titles = [request.prompt if isinstance(request.prompt, str) else path.name for path, request in made[:ON_A_SHEET]]
    stacked = np.stack([clip[np.linspace(0, len(clip) - 1, shortest).round().astype(int)] for clip in clips])
    sheet = pictures.sheet({"": stacked}, min(6, shortest), titles, max(1, 96 // stacked.shape[2]))
    media.write_image(target, sheet, label=origin.label)
    print(target)
