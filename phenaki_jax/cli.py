"""What each verb of the command line does: (options, overrides) -> exit code. Everything heavy is imported inside."""

import argparse
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError
from phenaki_jax.export.folder import run_folder
from phenaki_jax.making.options import load_pipeline, model_config, sampler_of

STOPPED = 130
WATERMARKED = 200  # clips of each kind, for the watermark's bars
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
    from phenaki_jax.making import command

    return command.generate(options, overrides)


def animate(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax.making import command

    return command.go_on(options, overrides)


extend = interpolate = inpaint = animate


def verify(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax.provenance import verify as program

    return program.main(options.file, options.json, options.anchors)


def export(options: argparse.Namespace, overrides: Overrides) -> int:
    from phenaki_jax.export import command

    return command.main(options.model, options.output, options.form, dtype=options.dtype,
                        step=options.step, batch_size=options.batch_size, license=options.license,
                        text_encoder=options.with_text_encoder, overwrite=options.overwrite)


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
        suffix = source.suffix.lower()
        is_image = suffix in media.IMAGES or suffix in media.IMAGES_IN and suffix not in media.VIDEOS_IN
        _check_suffix("--input", source, tuple(dict.fromkeys(media.IMAGES_IN + media.VIDEOS_IN)))
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
    sampler = sampler_of(options, config)
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
    sampler = sampler_of(options, model_config(options.model)) if options.model else {}
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

    own = ("input", "networks", "pipeline", "watermark")  # which choose what they measure
    if options.what not in (*program.SUBJECTS, "length", *own):
        raise UserError(f"{options.what!r} cannot be benchmarked; it is one of {', '.join(program.SUBJECTS)}, length, "
                        f"{', '.join(own)}.")
    if options.workers is not None and options.what != "input":
        raise UserError("--workers is for `phenaki benchmark input`.")
    if options.model and options.what != "pipeline":
        raise UserError("--model is for `phenaki benchmark pipeline`.")
    if options.what in own:
        if options.peer or options.config or overrides:
            raise UserError(f"`phenaki benchmark {options.what}` takes neither --peer nor --config: what it reads is "
                            "its own.")
        from phenaki_jax.benchmark import input as reading
        from phenaki_jax.benchmark import networks, pipeline, watermark
        rounds = 3 if options.rounds is None else options.rounds
        return {"input": lambda: reading.main(options.workers, rounds, options.report),
                "networks": lambda: networks.main(rounds, options.report),
                "pipeline": lambda: pipeline.main(options.model, rounds, options.report),
                "watermark": lambda: watermark.main(WATERMARKED, options.report)}[options.what]()
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


def _check_suffix(option: str, path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{option}={str(path)!r} has to end in {', '.join(suffixes)}.")
