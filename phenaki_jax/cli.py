"""What each verb of the command line does: (options, overrides) -> exit code. Everything heavy is imported inside."""

import argparse
import dataclasses
import shutil
import signal
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
    from phenaki_jax.parallel import join_processes
    from phenaki_jax.training import loop

    join_processes()
    from phenaki_jax.evaluate import in_training
    from phenaki_jax.training.goodput import parse_steps

    result = loop.train(config, options.workdir, profile_steps=parse_steps(options.profile_steps),
                        evaluate=in_training(config, options.workdir))
    # A SIGTERM asks for room, and what was done is saved: all is well.
    return 0 if result.finished or result.signal == signal.SIGTERM else STOPPED


def _typed(source: str, overrides: Overrides) -> dict[str, Any]:
    return configs.parse_overrides(source, overrides) if overrides else {}


# ------------------------------------------------------------------------------------------------- models at work

def generate(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import media, story_files

    output = Path(options.output)
    if options.frames is not None and options.frames < 1:
        raise UserError(f"--frames={options.frames} is no number of frames; it has to be at least 1.")
    one_frame = options.frames == 1 and not options.story
    _check_suffix("--output", output, media.IMAGES + media.VIDEOS if one_frame else media.VIDEOS)
    if options.scale < 1:
        raise UserError(f"--scale={options.scale} has to be at least 1.")
    for name in ("parts", "redo", "context_frames"):
        if getattr(options, name) is not None and not options.story:
            raise UserError(f"--{name} goes with --story.")
    for name in ("keyframes", "between"):
        if getattr(options, name) is not None and options.story:
            raise UserError(f"--{name} goes with --prompt or --prompts, not with --story.")
    config = model_config(options.model)
    if options.story:
        return _tell(options, config)
    prompts = story_files.read_lines(options.prompts) if options.prompts else options.prompt
    _check_prompts(prompts, config)
    sampler = _sampler(options, config) | {"seed": options.seed or 0}
    if options.negative_prompt is not None:
        sampler["negative_prompt"] = options.negative_prompt
    if options.keyframes is None and options.between is not None:
        raise UserError("--between goes with --keyframes.")
    if options.keyframes is not None and (options.frames or options.negative_prompt is not None):
        raise UserError("--keyframes goes with --prompt or --prompts, and without --frames and --negative_prompt: "
                        "there are 1 + (keyframes - 1) (1 + between) frames.")
    pipe = load_pipeline(options.model)
    if options.keyframes is None:
        videos = pipe(prompts, num_frames=options.frames or config.tokenizer.frames, **sampler).frames
    else:
        between = {} if options.between is None else {"between": options.between}
        videos = pipe.keyframes(prompts, num_keyframes=options.keyframes, **between, **sampler).frames
    for path, frames in zip(numbered(output, len(videos)), videos):
        write(path, frames, options.fps or config.data.fps, options.scale)
        print(path)
    return 0


def _tell(options: argparse.Namespace, config: Any) -> int:
    """Tells --story; what the command line says goes before what the file says of all scenes."""
    from phenaki_jax import story_files
    from phenaki_jax.sampling.scenes import check_seed, overlay, read_scenes

    scenes, general = story_files.read_story(options.story)
    special = _sampler(options, config) | {
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
    pipe = load_pipeline(options.model)
    scenes = parts.drawn(scenes, seed, redo) if parts else scenes
    story_files.write_story(pipe, scenes, Path(options.output), file_fps=general.get("fps") or config.data.fps,
                            scale=options.scale, parts=parts, seed=seed, **general)
    print(options.output)
    return 0


def animate(options: argparse.Namespace, overrides: Overrides) -> int:
    return _go_on(options, "image")


def extend(options: argparse.Namespace, overrides: Overrides) -> int:
    return _go_on(options, "video")


def interpolate(options: argparse.Namespace, overrides: Overrides) -> int:
    return _go_on(options, "image")


def inpaint(options: argparse.Namespace, overrides: Overrides) -> int:
    return _go_on(options, "video", mask=True)


def _go_on(options: argparse.Namespace, given: str, mask: bool = False) -> int:
    """Makes a video of --prompt and a file of the user's, which is cut and scaled to the model's size."""
    from phenaki_jax import media

    _check_suffix("--output", Path(options.output), media.VIDEOS)
    if options.scale < 1:
        raise UserError(f"--scale={options.scale} has to be at least 1.")
    config = model_config(options.model)
    _check_prompts(None if options.prompt is None else [options.prompt], config)
    sampler, sizes = _sampler(options, config), (config.tokenizer.height, config.tokenizer.width)
    read = media.read_image if given == "image" else lambda path: media.read_video(path)[0]
    frames = read(getattr(options, given))
    frames = media.fit(frames[None] if frames.ndim == 3 else frames, *sizes)
    if mask:
        is_video = Path(options.mask).suffix.lower() in media.VIDEOS
        white = media.read_video(options.mask)[0] if is_video else media.read_image(options.mask)[None]
        anew = media.fit(white, *sizes).mean(-1) > 127
        sampler["mask"] = anew if is_video else anew[0]
    elif options.frames is not None:
        sampler["num_frames"] = options.frames
    elif given == "video":
        sampler["num_frames"] = config.tokenizer.frames - 1
    if options.verb == "interpolate":
        sampler["last_image"] = media.fit(read(options.last_image)[None], *sizes)[0]
    pipe = load_pipeline(options.model)
    made = getattr(pipe, options.verb)(options.prompt, frames[0] if given == "image" else frames, seed=options.seed,
                                       **sampler)
    write(Path(options.output), made.frames[0], options.fps or config.data.fps, options.scale)
    print(options.output)
    return 0


def ingest(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax.ingest import command

    return command.main(options)


def precompute(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import precompute as program

    what = tuple(options.what.split(","))
    unknown = [name for name in what if name not in program.WHAT]
    if unknown:
        raise UserError(f"--what={options.what!r} has {unknown[0]!r}, which is not one of {', '.join(program.WHAT)}.")
    source = options.config or str(run_folder(options.model))
    config = configs.load_config(source, _typed(source, overrides))
    return program.main(config, None if options.config else source, what, options.output, options.host, options.hosts)


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
    if options.samples is not None and options.samples < 1:
        raise UserError(f"--samples={options.samples} has to be at least 1.")
    if options.protocol:
        from phenaki_jax.evaluation.protocols import read_protocol

        protocol = read_protocol(options.protocol, clips=options.samples)
        if protocol.task != "sprites":
            return _evaluate_protocol(options, protocol)
        options.suite = ",".join(protocol.suites)
    if not options.model:
        raise UserError("--model is missing; a suite of the sprite world measures one.")
    from phenaki_jax import quickstart as world

    known = (*world.SUITES, *world.MORE_SUITES)
    suites = world.SUITES if options.suite == "all" else tuple(options.suite.split(","))
    unknown = [suite for suite in suites if suite not in known]
    if unknown:
        raise UserError(f"--suite={options.suite!r} has {unknown[0]!r}, which is not one of {', '.join(known)} or all.")
    target = Path(options.report)
    if target.suffix not in ("", ".json", ".md"):
        raise UserError(f"--report={options.report!r} has to end in .json or .md, or to be a folder.")
    config = model_config(options.model)
    sampler = _sampler(options, config)
    pipe = load_pipeline(options.model)
    from phenaki_jax.evaluation import report

    sizes = world.Sizes.of_each(options.samples) if options.samples else world.Sizes()
    measurements = world.evaluate(pipe, config, sizes, suites, options.seed, **sampler)
    how = report.circumstances() | {"model": options.model, "seed": options.seed, "sampling": sampler}
    bars = report.BARS if set(suites) & set(world.SUITES) else ()
    bars += tuple(bar for suite in suites for bar in report.MORE_BARS.get(suite, ()))
    with tempfile.TemporaryDirectory() as folder:
        table = report.write_report(folder, measurements, how, bars=bars)
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


def _evaluate_protocol(options: argparse.Namespace, protocol: Any) -> int:
    from phenaki_jax import evaluate as program

    is_compared = protocol.task == "compare"
    if bool(options.model) == is_compared or bool(options.generated) != is_compared:
        raise UserError(f"the protocol {protocol.name} wants " + (
            "--generated=FOLDER and no --model." if is_compared else "--model and no --generated."))
    sampler = _sampler(options, model_config(options.model)) if options.model else {}
    sources = program.Sources(options.data, options.data_dir, real=options.real, generated=options.generated)
    program.main(protocol, sources, options.report, load_pipeline(options.model) if options.model else None,
                 model=options.model or "", seed=options.seed, sampler=sampler, force=options.force, clip=options.clip)
    return 0


def vote(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax.evaluation import votes

    return votes.main(**{name: getattr(options, name) for name in (
        "a", "b", "output", "question", "seed", "tally", "key")})


def reproduce(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import reproduce as program

    program.check_known(options.table, options.scale)
    typed = _typed(program.TABLES[options.table].CONFIG, overrides)
    return program.main(options.table, options.workdir, options.scale, overrides=typed)


def compile(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax.aot import command

    config = configs.load_config(options.config, _typed(options.config, overrides))
    return command.main(config, options.topology, options.slices, options.rows_a_chip, options.json,
                        not options.no_estimate)


def benchmark(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax import benchmark as program
    from phenaki_jax import long_video

    if options.what not in (*program.SUBJECTS, "length", "input", "networks"):
        raise UserError(f"{options.what!r} cannot be benchmarked; it is one of {', '.join(program.SUBJECTS)}, length, "
                        "input, networks.")
    if options.workers is not None and options.what != "input":
        raise UserError("--workers is for `phenaki benchmark input`.")
    if options.what in ("input", "networks"):
        if options.peer or options.config or overrides:
            raise UserError(f"`phenaki benchmark {options.what}` takes neither --peer nor --config: what it reads is "
                            "its own.")
        rounds = 3 if options.rounds is None else options.rounds
        from phenaki_jax.benchmark import input as reading
        from phenaki_jax.benchmark import networks
        return networks.main(rounds, options.report) if options.what == "networks" else reading.main(
            options.workers, rounds, options.report)
    stage = program.SUBJECTS[options.what].stage if options.what in program.SUBJECTS else "tokenizer"
    source = options.config or f"configs/benchmark.py:{stage}"
    config = configs.load_config(source, _typed(source, overrides))
    if options.what == "length":
        for name in ("peer", "rounds"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} is not for `phenaki benchmark length`, which measures each length once.")
        return long_video.main(config, options.report)
    return program.main(options.what, config, options.peer, 5 if options.rounds is None else options.rounds,
                        options.report)


def doctor(options: argparse.Namespace, overrides: Overrides) -> int:
    if options.data:
        if options.run:
            raise UserError("--run and --data are both given; give one of them.")
        from phenaki_jax import inspect_data

        return inspect_data.main(options.data, options.data_dir, options.split, options.sheet, options.examples)
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


def _check_prompts(prompts: list[str] | None, config: Any) -> None:
    """Raises: UserError where a model of texts is given none."""
    if prompts is None and config.get("text", {}).get("encoder") != "none":
        raise UserError("--prompt is missing; say what the video shows.")
    if not all(prompt.strip() for prompt in prompts or []):
        raise UserError("--prompt is empty; say what the video shows.")


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

    if options.seed is not None and options.seed < 0:
        raise UserError(f"--seed={options.seed} has to be 0 or more.")
    names = ("preset", *(field.name for field in dataclasses.fields(Sampling)))
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    chosen(config.sampling, **given)
    if options.fps is not None:
        given["fps"] = options.fps
    if options.motion is not None:
        try:
            given["motion"] = float(options.motion)
        except ValueError:
            given["motion"] = options.motion
    return given
