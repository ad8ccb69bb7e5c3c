"""The training loop: one function, read from top to bottom. Only here does training touch files."""

import collections
import dataclasses
import importlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax import config as configs
from phenaki_jax import media
from phenaki_jax.errors import DataError, UserError
from phenaki_jax.memory import unhurried_garbage
from phenaki_jax.parallel import enable_compilation_cache, free_unused_memory, make_mesh, shard_batch
from phenaki_jax.progress import Progress
from phenaki_jax.training import checkpoints as ckpt
from phenaki_jax.training import metrics as report
from phenaki_jax.training.by_source import named
from phenaki_jax.training.caches import check_caches
from phenaki_jax.training.goodput import Efficiency, Goodput, Profile, device_memory
from phenaki_jax.training.guard import check_skipped
from phenaki_jax.training.optimizer import make_optimizer
from phenaki_jax.training.stage import Stage
from phenaki_jax.training.start import begin_with, frozen_arrays, starting_arrays
from phenaki_jax.training.state import abstract_state, create_state, jit_step, make_step, place_frozen
from phenaki_jax.training.stop import Stop

# What may change between two starts of one run: where things lie, on which devices, and how far it goes.
FREE_FIELDS = ("train.steps", "train.log_every", "train.checkpoint_every", "train.sample_every", "train.keep",
               "train.wandb", "train.max_skipped", "train.save_patience", "train.init_from", "train.evaluate",
               "mesh.", "provenance.", "data.data_dir",
               "data.workers", "data.patience", "data.max_bad", "data.token_cache", "text.cache", "sampling.",
               "tokenizer.remat", "tokenizer.attention_block", "generator.remat", "generator.attention_block",
               "critic.remat", "critic.attention_block")

AHEAD = 2  # steps that have been asked for and not been done
COLLECT_EVERY = 100  # steps


@dataclasses.dataclass(frozen=True)
class Result:
    """How a call of train ended. step: updates done; finished: whether these are all; metrics: the last logged; signal:
    the one that ended it, if one did."""

    step: int
    finished: bool
    metrics: dict[str, float]
    signal: int | None = None


def train(
    config,
    workdir: str | os.PathLike,
    *,
    make_stage: Callable[..., Stage] | None = None,
    make_loader: Callable[..., Any] | None = None,
    devices: list[jax.Device] | None = None,
    tensorboard: bool = True,
    profile_steps: tuple[int, int] | None = None,
    evaluate: Callable[..., dict[str, float]] | None = None,
) -> Result:
    """Train ``config.stage`` in ``workdir``, from its last checkpoint if it has one; a finished run returns at once.

    make_stage(config, frozen) -> Stage and make_loader(config, train=bool) -> an object with ``batch(step)`` and
    ``iterate(start_step)`` replace the ones that the config names; devices: those of the mesh (default: all);
    tensorboard: also write TensorBoard events, which imports TensorFlow; profile_steps: the first and the last step of
    a profile, in the folder profile/ of the run; evaluate(step, params, variables, frozen) -> {name: figure} is asked
    every train.evaluate_every steps and at the end, of the averaged weights, and its figures go to evaluation.jsonl.
    A SIGTERM or Ctrl-C saves a checkpoint and returns with ``finished`` False. A checkpoint that was damaged on the
    disk is set aside for the one before it; a full disk is told of and does not end a run, unless at its end.

    A logged line has the means over the steps since the last one (`metrics.means`), where a stream is of several data
    sets also for each of them. Where ``data.schedule`` begins another phase, batches have other streams: the step is
    compiled once more, lines have other names from there on, and samples are of held-out records of the phase's
    mixture.

    Raises: UserError for a folder that holds another run, a mesh, a tokenizer or a checkpoint that does not fit.
    """
    if "://" in str(workdir):
        raise UserError(f"--workdir={workdir} is no local folder; runs are kept on a local or mounted disk for now.")
    workdir = Path(workdir)
    configs.check(config)
    config = configs.resolve(config, workdir)
    total = config.train.steps
    is_main = jax.process_index() == 0

    # ---------------------------------------------------------------- the folder: new, resumed, finished or another's
    steps_saved = ckpt.sound_steps(workdir)
    _check_folder(config, workdir, steps_saved)
    if steps_saved and steps_saved[-1] >= total:
        last = _last_metrics(workdir)
        _print(f"{workdir}: all {total} steps are done.")
        return Result(steps_saved[-1], True, last)

    # ---------------------------------------------------------------- mesh, stage, data: all that can be wrong first
    enable_compilation_cache()
    mesh = make_mesh(config.mesh, devices)
    frozen = frozen_arrays(config, workdir, steps_saved)
    check_caches(config, frozen.get("tokenizer", frozen))
    stage = (make_stage or stage_by_name(config.stage))(config, frozen)
    optimizer, schedule = make_optimizer(config, stage.axes, stage.aids)
    loader = (make_loader or data_loader)(config, train=True)
    (make_loader or data_loader)(config, train=False)  # whether there is what samples will show

    # ---------------------------------------------------------------- the state: born or restored on the mesh
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = ckpt.Checkpoints(workdir, config.train.keep, config.train.get("save_patience", ckpt.PATIENCE), _print)
    with jax.set_mesh(mesh):
        if steps_saved:
            start = steps_saved[-1]
            state = checkpoints.restore(start, abstract_state(stage, optimizer, mesh, config.seed))
            given = place_frozen(stage.given, jax.tree.map(lambda x: x.sharding, state.given))
            state = dataclasses.replace(state, given=given)
        else:
            start = 0
            state = create_state(stage, optimizer, mesh, config.seed)
            if begins := starting_arrays(config, frozen):
                state, own = begin_with(state, begins[1], begins[0])
                _print(f"begins with the weights of {begins[0]}; new: {', '.join(own) or 'none'}")
        places = jax.tree.map(lambda x: x.sharding, state)
        if is_main:
            media.write_text(workdir / configs.RUN_CONFIG, configs.to_json(config))
        step_fn = jit_step(stage, optimizer, schedule, config, places)

        later = [phase for phase in configs.mixtures(config) if phase[0] > start]
        for first, _ in later:  # whether its batches fit the mesh and the step is known before anything is spent
            jax.eval_shape(step_fn, state, shard_batch(mesh, loader.batch(first)))

    # ---------------------------------------------------------------- what it says of itself
    window = report.Window(workdir, start, config.train.keep)
    metrics_file = report.MetricsFile(workdir, start) if is_main else None
    evaluations = report.MetricsFile(workdir, start, report.EVALUATIONS) if is_main and evaluate else None
    writers = report.open_writers(workdir, config, tensorboard) if is_main else []
    devices_text = f"{mesh.size} × {mesh.devices.flat[0].device_kind}"
    _print(f"{stage.name}: {report.count_parameters(state.params):,} parameters on {devices_text}")
    _print(report.parameter_overview(state.params))
    if start:
        _print(f"resumed at step {start} of {total}")
    progress = Progress(stage.name, total, start)
    sources_at = getattr(loader, "sources_at", lambda step: {})
    spent, efficiency = Goodput(), Efficiency(mesh.size, mesh.devices.flat[0].device_kind)
    profile = Profile(workdir / "profile", profile_steps)

    def timing() -> dict[str, float]:
        found = progress.timing()
        return found | efficiency.figures(found["steps_per_second"]) | spent.shares() | device_memory()

    last_logged: dict[str, float] = {}

    def log(step: int, rows: list[report.Row]) -> None:
        check_skipped(config, step, rows)
        last_logged.clear()
        last_logged.update(named(report.means(rows), sources_at(step - 1)))
        if is_main:
            metrics_file.write(step, last_logged)
        for writer in writers:
            writer.scalars(step, {**last_logged, **timing()})
        progress.update(progress.step, f"loss {last_logged['loss']:.4g}")
        if last_logged.get("skipped"):
            progress.say(f"{last_logged['skipped']:g} of the {len(rows)} steps up to {step} were skipped: their loss "
                         "or its gradient was not finite, or too high")

    # ---------------------------------------------------------------- the steps
    # Nothing waits for the device but the log, and that only once the step after the logged one is on its way; and what
    # would run further ahead of it than AHEAD steps, whose batches would fill its memory.
    always_logged = {1, total, *(first for first, _ in configs.mixtures(config))}  # no line is of two phases
    sample_batches: dict[str, Any] = {}
    programs: dict[str, Callable] = {}
    under_way: collections.deque[jax.Array] = collections.deque()
    pending: tuple[int, list] | None = None
    finished_step, failed = start, None
    progress.update(start)
    with jax.set_mesh(mesh), checkpoints, Stop() as stop, unhurried_garbage() as collect:
        batches = loader.iterate(start)
        batch = shard_batch(mesh, next(batches))
        for step in range(start + 1, total + 1):
            if later and later[0][0] == step - 1:
                progress.say(f"from step {step} on: {later.pop(0)[1]}")
            shapes = str(jax.tree.map(lambda x: x.shape, batch))
            if shapes not in programs:  # once a phase
                with spent.of("compiling"):
                    programs[shapes] = step_fn.lower(state, batch).compile()
                    efficiency.count(shapes, make_step(stage, optimizer, schedule, config), state, batch,
                                     config.tokenizer.patch)
                free_unused_memory()
            efficiency.shapes = shapes
            profile.before(step)
            state, values = programs[shapes](state, batch)
            finished_step = step
            profile.after(step, values)
            under_way.append(values["loss"])
            if len(under_way) > AHEAD:
                jax.block_until_ready(under_way.popleft())
            if step < total:
                asked = time.monotonic()
                try:
                    host_batch = next(batches)
                    if values["loss"].is_ready():
                        progress.waited(time.monotonic() - asked)
                        spent.spent["data"] += time.monotonic() - asked
                    batch = shard_batch(mesh, host_batch)
                except DataError as error:
                    if jax.process_count() > 1:
                        raise  # the others wait for this one's rows, and cannot save without it
                    failed = error  # what is done is kept
                    stop.ask()
            if pending:
                log(*pending)
                pending = None
            window.add(values)
            if step % config.train.log_every == 0 or step in always_logged:
                pending = step, window.take()
            if step % COLLECT_EVERY == 0:
                collect()
            if start + 1 == step:
                jax.block_until_ready(values)
            progress.update(step)
            if start + 1 == step:
                progress.start_clock()

            stopping = stop.requested(step)
            saving = step % config.train.checkpoint_every == 0 or step == total or stopping
            sampling = step % config.train.sample_every == 0 or step == total
            if pending and (saving or sampling):
                log(*pending)  # a checkpoint never lies ahead of its metrics
                pending = None
            if saving:
                check_skipped(config, step, [values])
                with spent.of("checkpoints"):
                    if not is_main or _written("window.json", lambda: window.save(step)):
                        checkpoints.save(step, state)
                if is_main:
                    _written(report.TIMING, lambda: media.write_text(
                        workdir / report.TIMING, json.dumps(timing()) + "\n"))
            if sampling and not stopping:
                mixture = [name for first, name in configs.mixtures(config) if first < step][-1]
                if mixture not in sample_batches:
                    sample_batches[mixture] = _held_out(config, mixture, make_loader or data_loader)
                with spent.of("samples"):
                    picture = _in_the_first(state, lambda *arrays: stage.samples(
                        *arrays, sample_batches[mixture], jax.random.key(config.seed)))
                if is_main:
                    _written("a sample", lambda: media.write_image(workdir / "samples" / f"{step}.png",
                                                                   np.asarray(picture)))
                for writer in writers:
                    writer.image(step, picture)
            if evaluate and not stopping and (step == total or step % config.train.evaluate_every == 0):
                with spent.of("evaluation"):
                    figures = _in_the_first(state, lambda *arrays: evaluate(step, *arrays))
                if is_main:
                    evaluations.write(step, figures)
                for writer in writers:
                    writer.scalars(step, figures)
            if stopping:
                break

    # ---------------------------------------------------------------- the end
    progress.close()
    profile.close()
    with spent.of("checkpoints"):
        checkpoints.wait()
    if checkpoints.latest() != finished_step:  # the disk may have room again
        checkpoints.save(finished_step, state)
    checkpoints.close()
    last = checkpoints.latest()
    if last != finished_step and not failed:
        failed = DataError(f"step {finished_step} could not be saved, the last checkpoint is {last}")
    close = getattr(batches, "close", None)
    if close:
        close()
    if is_main:
        metrics_file.close()
        if evaluations:
            evaluations.close()
    for writer in writers:
        writer.close()
    if failed:
        kept = "nothing is saved" if last is None else (
            f"saved at step {last} of {total}, from where the same command goes on")
        raise DataError(f"{failed}; {kept}")
    if finished_step < total:
        _print(f"stopped and saved at step {finished_step} of {total}; the same command goes on from there.")
    else:
        found = spent.shares()
        _print(f"{stage.name}: {total} steps done, in {workdir} (peak memory {report.peak_memory_gb():.1f} GB; "
               f"{found.pop('goodput'):.0%} of the time in steps, "
               + ", ".join(f"{share:.0%} {what}" for what, share in found.items()) + ")")
    return Result(finished_step, finished_step == total, dict(last_logged), stop.signal)


def _check_folder(config, workdir: Path, steps_saved: list[int]) -> None:
    """Refuse a folder with another run in it."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; give a folder.")
    if not (workdir / configs.RUN_CONFIG).exists():
        if steps_saved:
            raise UserError(f"{str(workdir)!r} has checkpoints but no {configs.RUN_CONFIG}; give another --workdir.")
        return
    if not steps_saved:
        return  # begun and never saved: nothing is lost by another config
    old = configs.resolve(configs.read_run_config(workdir), workdir)
    free = FREE_FIELDS
    for name in ("tokenizer_run", "generator_run"):
        if old.get(name) and not Path(old[name]).exists():
            free += (name,)  # the run carries what it stands on, and the folder that it came from is gone
    difference = configs.differing_field(old, config, free)
    if difference:
        name, before, after = difference
        raise UserError(
            f"{str(workdir)!r} holds a run with {name}={before!r}, but this config has {after!r}; "
            "give another --workdir, or the config that the run was started with."
        )
    if config.train.steps < max(steps_saved, default=0):
        raise UserError(
            f"{str(workdir)!r} has done {steps_saved[-1]} steps, but train.steps is {config.train.steps}; "
            "steps can only grow."
        )


def stage_by_name(name: str) -> Callable[..., Stage]:
    """The `make_stage` of a stage's module."""
    return importlib.import_module(f"phenaki_jax.training.{name}_stage").make_stage


def data_loader(config, train: bool):
    """The loader of the config's mixture; builds its records first where they are absent."""
    with report.quiet_stderr():
        try:
            importlib.import_module("seqio")
        except ImportError as error:
            raise UserError(
                f"Training reads its data with {error.name!r}, which is not installed; "
                "install the extra: pip install 'phenaki_jax[train]'."
            ) from None
    from phenaki_jax.input import loader, mix

    if train:
        mix.prepare_run(config)
    return loader.make_loader(config, train)


def _held_out(config, mixture: str, make_loader: Callable[..., Any]):
    """The batch of a mixture's eval split that samples show."""
    config = configs.from_dict(config.to_dict())
    config.data.update(mixture=mixture, schedule=())
    return make_loader(config, train=False).batch(0)


def _last_metrics(workdir: Path) -> dict[str, float]:
    file = workdir / report.FILE
    lines = report.read_lines(file) if file.exists() else []
    return {name: value for name, value in lines[-1].items() if name not in ("step", "time")} if lines else {}


def _in_the_first(state: Any, use: Callable[..., Any]) -> Any:
    """use(averaged params, variables, frozen and given arrays); of several processes in the first one alone, on one of
    its devices, and others have None."""
    arrays = state.ema, state.variables, state.frozen | state.given
    if jax.process_count() == 1:
        return use(*arrays)
    from jax.experimental import multihost_utils
    arrays = multihost_utils.process_allgather(arrays, tiled=True)
    if jax.process_index():
        return None
    with jax.set_mesh(make_mesh({"data": 1}, jax.local_devices()[:1])):
        return use(*arrays)


def _written(what: str, write: Callable[[], None]) -> bool:
    """Whether it could be; a full disk is told of and does not end a run."""
    try:
        write()
        return True
    except OSError as error:
        _print(f"{what} could not be written ({error.strerror}); the run goes on")
        return False


def _print(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
