"""What each verb of the command line does: (options, overrides) -> exit code. Everything heavy is imported inside."""

import argparse
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError

STOPPED = 130
Overrides = Mapping[str, str]


# ------------------------------------------------------------------------------------------------- training

def quickstart(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import quickstart as program

    return program.main(options.workdir, options.config, _typed(f"{options.config}:generator", overrides))


def train(options: argparse.Namespace, overrides: Overrides) -> int:
    config = configs.load_config(options.config, _typed(options.config, overrides))
    from phenaki_jax.training import loop

    return 0 if loop.train(config, options.workdir).finished else STOPPED


def _typed(source: str, overrides: Overrides) -> dict[str, Any]:
    return configs.parse_overrides(source, overrides) if overrides else {}


# ------------------------------------------------------------------------------------------------- models at work

def generate(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import media

    output = Path(options.output)
    if options.frames is not None and options.frames < 1:
        raise UserError(f"--frames={options.frames} is no number of frames; it has to be at least 1.")
    one_frame = options.frames == 1 and not options.story
    _check_suffix("--output", output, media.IMAGES + media.VIDEOS if one_frame else media.VIDEOS)
    if options.scale < 1:
        raise UserError(f"--scale={options.scale} has to be at least 1.")
    config = model_config(options.model)
    scenes = read_story(options.story, config, options.frames) if options.story else []
    prompts = read_prompts(options.prompts) if options.prompts else options.prompt or []
    if not options.story and not all(prompt.strip() for prompt in prompts):
        raise UserError("--prompt is empty; say what the video shows.")
    sampler = _sampler(options, config)
    if options.negative_prompt is not None:
        if scenes:
            raise UserError("--negative_prompt goes with --prompt or --prompts, not with --story.")
        sampler["negative_prompt"] = options.negative_prompt
    pipe = load_pipeline(options.model)
    if scenes:
        videos = pipe.story(scenes, seed=options.seed, **sampler).frames
    else:
        count = options.frames or config.tokenizer.frames
        videos = pipe(prompts, num_frames=count, seed=options.seed, **sampler).frames
    for path, frames in zip(numbered(output, len(videos)), videos):
        write(path, frames, config.data.fps, options.scale)
        print(path)
    return 0


def animate(options: argparse.Namespace, overrides: Overrides) -> int:
    return _go_on(options, "image")


def extend(options: argparse.Namespace, overrides: Overrides) -> int:
    return _go_on(options, "video")


def inpaint(options: argparse.Namespace, overrides: Overrides) -> int:
    return _go_on(options, "video", mask=True)


def _go_on(options: argparse.Namespace, given: str, mask: bool = False) -> int:
    """Makes a video of --prompt and a file of the user's, which is cut and scaled to the model's size."""
    from phenaki_jax import media

    _check_suffix("--output", Path(options.output), media.VIDEOS)
    if options.scale < 1:
        raise UserError(f"--scale={options.scale} has to be at least 1.")
    if not options.prompt.strip():
        raise UserError("--prompt is empty; say what the video shows.")
    config = model_config(options.model)
    sampler, sizes = _sampler(options, config), (config.tokenizer.height, config.tokenizer.width)
    read = media.read_image if given == "image" else lambda path: media.read_video(path)[0]
    frames = read(getattr(options, given))
    frames = media.fit(frames[None] if frames.ndim == 3 else frames, *sizes)
    if mask:
        sampler["mask"] = media.fit(media.read_image(options.mask)[None], *sizes)[0].mean(-1) > 127
    elif options.frames is not None:
        sampler["num_frames"] = options.frames
    elif given == "video":
        sampler["num_frames"] = config.tokenizer.frames - 1
    pipe = load_pipeline(options.model)
    made = getattr(pipe, options.verb)(options.prompt, frames[0] if given == "image" else frames, seed=options.seed,
                                       **sampler)
    write(Path(options.output), made.frames[0], config.data.fps, options.scale)
    print(options.output)
    return 0


def reconstruct(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import media

    source, output = Path(options.input), Path(options.output)
    if source.is_dir():
        if output.is_file() or output.resolve() == source.resolve():
            raise UserError(f"--output={options.output!r} has to be another folder, for --input is one.")
    else:
        is_image = source.suffix.lower() in media.IMAGES
        _check_suffix("--input", source, media.IMAGES + media.VIDEOS)
        _check_suffix("--output", output, media.IMAGES if is_image else media.VIDEOS)
    config = model_config(options.model)
    from phenaki_jax import reconstruct as program

    return program.main(load_pipeline(options.model), source, output, options.size, config.data.fps)


def evaluate(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import quickstart as world

    suites = world.SUITES if options.suite == "all" else tuple(options.suite.split(","))
    unknown = [suite for suite in suites if suite not in world.SUITES]
    if unknown:
        known = ", ".join(world.SUITES)
        raise UserError(f"--suite={options.suite!r} has {unknown[0]!r}, which is not one of {known} or all.")
    if options.samples is not None and options.samples < 1:
        raise UserError(f"--samples={options.samples} has to be at least 1.")
    target = Path(options.report)
    if target.suffix not in ("", ".json", ".md"):
        raise UserError(f"--report={options.report!r} has to end in .json or .md, or to be a folder.")
    config = model_config(options.model)
    sampler = _sampler(options, config)
    pipe = load_pipeline(options.model)
    from phenaki_jax.evaluation import report

    sizes = world.Sizes(*[options.samples] * 4) if options.samples else world.Sizes()
    measurements = world.evaluate(pipe, config, sizes, suites, options.seed, **sampler)
    how = report.circumstances() | {"model": options.model, "seed": options.seed, "sampling": sampler}
    with tempfile.TemporaryDirectory() as folder:
        table = report.write_report(folder, measurements, how)
        for name in ("report.json", "report.md"):
            place = target / name if not target.suffix else target
            if place.suffix == Path(name).suffix:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(folder) / name, place)
                print(place)
    for row in table:
        if row["met"] is not None:
            print(f"  {row['what']}: {row['measured']} (bar {row['bar']}, {'met' if row['met'] else 'missed'})")
    return 0


def reproduce(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import reproduce as program

    program.check_known(options.table, options.scale)
    typed = _typed(f"configs/{options.table}.py", overrides)
    return program.main(options.table, options.workdir, options.scale, overrides=typed)


def benchmark(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import benchmark as program
    from phenaki_jax import long_video

    if options.what not in ("tokenizer", "length"):
        raise UserError(f"{options.what!r} cannot be benchmarked; it is one of tokenizer, length.")
    config = configs.load_config(options.config, _typed(options.config, overrides))
    if options.what == "length":
        for name in ("peer", "rounds"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} is not for `phenaki benchmark length`, which measures each length once.")
        return long_video.main(config, options.report)
    return program.main(config, options.peer, 5 if options.rounds is None else options.rounds, options.report)


def doctor(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import doctor as program

    return program.main(options.run)


# ------------------------------------------------------------------------------------------------- files in and out

def run_folder(model: str) -> Path:
    """The folder that holds the model: itself, or what a quickstart's folder has inside. Raises: UserError."""
    folder = Path(model)
    if not (folder / configs.RUN_CONFIG).exists():
        for name in ("generator", "tokenizer"):
            if (folder / name / configs.RUN_CONFIG).exists():
                return folder / name
    return folder


def model_config(model: str):
    """The resolved config of --model. Raises: UserError where there is none."""
    return configs.read_run_config(run_folder(model))


def load_pipeline(model: str):
    from phenaki_jax.parallel import enable_compilation_cache
    from phenaki_jax.pipeline import PhenakiPipeline

    enable_compilation_cache()
    return PhenakiPipeline.from_pretrained(model)


def read_prompts(path: str) -> list[str]:
    """One prompt a line; empty lines are left out. Raises: UserError where the file is missing or empty."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"There is no file {path!r}.")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{path!r} is no text file (it is not UTF-8).") from None
    prompts = [line for line in lines if line]
    if not prompts:
        raise UserError(f"{path!r} is empty; write one prompt a line.")
    return prompts


def read_story(path: str, config: Any, frames: int | None) -> list[dict]:
    """Scenes [{"prompt": str, "num_frames": int}, …] of a JSON file, or of a text file with one scene a line.

    A scene that does not say how long it is gets ``frames``, else a training clip in the first place and then whole
    latent steps of about the same length. Raises: UserError.
    """
    first, later = config.tokenizer.frames, config.tokenizer.frames + config.tokenizer.patch[0] - 1
    lines = read_prompts(path)
    if Path(path).suffix.lower() != ".json" and lines[0][0] not in "[{":
        scenes: Any = [{"prompt": line} for line in lines]
    else:
        try:
            scenes = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path!r} is not readable as JSON: {error}.") from None
    if not isinstance(scenes, list) or not scenes:
        raise UserError(f'{path!r} has to be a list of scenes, [{{"prompt": "…", "num_frames": {first}}}, …].')
    story = []
    for number, scene in enumerate(scenes, 1):
        scene = {"prompt": scene} if isinstance(scene, str) else scene
        if not isinstance(scene, dict) or not isinstance(scene.get("prompt"), str) or not scene["prompt"].strip():
            raise UserError(f'Scene {number} of {path!r} has no "prompt".')
        extra = sorted(set(scene) - {"prompt", "num_frames"})
        if extra:
            raise UserError(f'Scene {number} of {path!r} has {extra[0]!r}; a scene has "prompt" and "num_frames".')
        count = scene.get("num_frames", frames or (first if number == 1 else later))
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(f'Scene {number} of {path!r} has num_frames={count!r}; it has to be at least 1.')
        story.append({"prompt": scene["prompt"], "num_frames": count})
    return story


def numbered(path: Path, count: int) -> list[Path]:
    """story.gif -> [story.gif] for one, [story_0.gif, story_1.gif, …] for several."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}_{i}") for i in range(count)]


def write(path: Path, frames: Any, fps: float, scale: int = 1) -> None:
    """A video file; an image file where the name says so."""
    from phenaki_jax import media

    if path.suffix.lower() in media.IMAGES:
        media.write_image(path, frames[0], scale)
    else:
        media.write_video(path, frames, fps, scale)


def _check_suffix(option: str, path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{option}={str(path)!r} has to end in {', '.join(suffixes)}.")


def _sampler(options: argparse.Namespace, config: Any) -> dict[str, Any]:
    """The sampler's options that were given, checked."""
    from phenaki_jax.sampling.options import Sampling, chosen

    if options.seed < 0:
        raise UserError(f"--seed={options.seed} has to be 0 or more.")
    names = ("preset", *(field.name for field in dataclasses.fields(Sampling)))
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    chosen(config.sampling, **given)
    return given
