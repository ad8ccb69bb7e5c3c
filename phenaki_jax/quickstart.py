"""From nothing to a told story: data, tokenizer, generator, story, evaluation; each step is skipped once it is done."""

import dataclasses
import importlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax import config as configs
from phenaki_jax import media, pictures
from phenaki_jax.errors import UserError
from phenaki_jax.ledger import Ledger

WORLD = "data.sprite_stories"  # the data set whose captions are facts; it builds on this package, not this on it
SEED = 0
SUITES = ("tokenizer", "attributes", "stories")
MORE_SUITES = ("long", "control", "editing", "critic")  # no part of the quickstart
LONG_SCENES = 40

# Told at the end; every change is one that the world's own stories know.
STORY = (
    ("a solid yellow circle moves right quickly on navy", 11),
    ("a solid yellow circle moves left quickly on navy", 12),
    ("a solid yellow circle moves right slowly on navy", 12),
    ("a solid magenta circle moves right slowly on navy", 12),
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured: held-out clips, held-out prompts, prompts of each image-only value, stories of 3 scenes,
    stories of `LONG_SCENES`, which are told at once; clips that are edited, criticised, and moved as one is told."""
    clips: int = 256
    prompts: int = 128
    image_only: int = 64
    stories: int = 32
    long: int = 8
    edited: int = 48
    shown: int = 6  # rows of samples.png

    @classmethod
    def of_each(cls, count: int) -> "Sizes":
        return cls(**{field.name: count for field in dataclasses.fields(cls)})


def main(workdir: str | os.PathLike = "runs/quickstart", config_path: str = "configs/quickstart.py",
         overrides: Mapping[str, Any] | None = None, sizes: Sizes = Sizes()) -> int:
    """Runs what is not done yet and names the files.

    Args:
      workdir: gets data/, tokenizer/, generator/, story.mp4, story.gif, story.png, samples.png, report.json, report.md.
      config_path: a config file with the arguments tokenizer and generator.
      overrides: {field: typed value}, applied to both stages.

    Returns:
      0 when all is done; 130 when training was asked to stop (the same call goes on from there).

    Raises:
      UserError: a config, an override or a folder that does not fit.
    """
    workdir = pathlib.Path(workdir)
    stages = {stage: _stage_config(config_path, stage, workdir, overrides) for stage in ("tokenizer", "generator")}
    fps = float(stages["generator"].data.fps)
    ledger = Ledger(workdir / "quickstart.json")
    began = time.monotonic()

    _heading(1, "data", workdir / "data")
    with ledger.timed("data", workdir / "data"):
        prepare(stages.values())

    for number, (stage, config) in enumerate(stages.items(), 2):
        _heading(number, stage, workdir / stage)
        with ledger.timed(stage, workdir / stage):
            from phenaki_jax.training.loop import train
            result = train(config, workdir / stage)
        if not result.finished:
            return 130
    made_by = {stage: int(config.train.steps) for stage, config in stages.items()}

    pipeline = _Once(lambda: _load_pipeline(workdir))
    files = [workdir / name for name in ("story.mp4", "story.gif", "story.png", "samples.png")]
    _heading(4, "story", *files)
    if not ledger.is_done("story", made_by, files):
        with ledger.timed("story"):
            tell(pipeline(), workdir, fps)
            show(pipeline(), workdir, stages["generator"], sizes.shown)
        ledger.done("story", made_by)
    else:
        print("already told.")

    reports = [workdir / name for name in ("report.json", "report.md")]
    _heading(5, "evaluation", *reports)
    made_by = made_by | {"sizes": dataclasses.asdict(sizes)}
    if not ledger.is_done("evaluation", made_by, reports):
        with ledger.timed("evaluation"):
            measurements = evaluate(pipeline(), stages["generator"], sizes)
        table = _report(workdir, measurements, ledger, stages)
        ledger.done("evaluation", made_by)
    else:
        table = json.loads(reports[0].read_text())["table"]
    _print_table(table)

    now = (time.monotonic() - began) / 60
    print(f"\nDone: {ledger.seconds / 60:.1f} minutes of work in all, {now:.1f} of them now, "
          f"at most {ledger.peak_gb:.1f} GB of memory.")
    for path in [*files, *reports]:
        print(f"  {path}")
    print(f"Tell your own:\n  python -m phenaki_jax generate --model={workdir} "
          f'--prompt="a striped cyan cross moves up slowly on gray" --output=mine.gif')
    return 0


def _stage_config(config_path: str, stage: str, workdir: pathlib.Path, overrides: Mapping[str, Any] | None):
    config = configs.load_config(f"{config_path}:{stage}", overrides)
    config.data.data_dir = str(workdir / "data")
    if stage == "generator":
        config.tokenizer_run = str(workdir / "tokenizer")
    return config


def _load_pipeline(workdir: pathlib.Path):
    from phenaki_jax.pipeline import PhenakiPipeline
    return PhenakiPipeline.from_pretrained(workdir)


class _Once:
    """Makes a thing when it is first asked for."""

    def __init__(self, make: Callable[[], Any]):
        self._make, self._made = make, None

    def __call__(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made


def world(module: str):
    """A module of the data set, for example "world" or "captions"."""
    if str(configs.CHECKOUT) not in sys.path:
        sys.path.append(str(configs.CHECKOUT))  # where data/ lies
    return importlib.import_module(f"{WORLD}.{module}")


def prepare(stages) -> None:
    """Builds the records of the configs' mixtures that are not built yet."""
    from phenaki_jax.input import mix  # brings TensorFlow
    for config in stages:
        mix.prepare_run(config)


# ------------------------------------------------------------------------------------------------- story and samples

def tell(pipe: Any, workdir: pathlib.Path, fps: float, story=STORY) -> None:
    """Tells the story: story.mp4 (the plain video, with its sidecar), story.gif (captions beneath) and story.png (a row
    a scene)."""
    from phenaki_jax.making import files
    from phenaki_jax.making.requests import Request
    prompts, counts = zip(*story)
    scenes = [{"prompt": p, "num_frames": n} for p, n in story]
    frames = np.asarray(pipe.story(scenes, seed=SEED).frames)[0]
    starts = np.cumsum([0, *counts[:-1]])
    scale, origin = max(1, 256 // frames.shape[1]), files.Origin(pipe)
    look, path = files.Look(float(fps), scale), workdir / "story.mp4"
    files.write(path, [frames], look, origin, lambda found: files.write_sidecar(
        path, Request("story", scenes, SEED), look, pipe, str(workdir), found))
    captioned = pictures.captioned(frames, prompts, starts, scale)
    media.write_video(workdir / "story.gif", captioned, fps, label=origin.label)
    strip = pictures.story_strip(frames, prompts, starts, scale=max(1, scale // 2))
    media.write_image(workdir / "story.png", strip, label=origin.label)
    for prompt, count in story:
        print(f"  {count / fps:4.1f} s  {prompt}")


def show(pipe: Any, workdir: pathlib.Path, config: Any, count: int) -> None:
    """samples.png: held-out clips, what the tokenizer keeps of them, and what the generator makes of their captions."""
    clips, facts, prompts = held_out_clips(np.random.default_rng([SEED, 2]), count, config)
    generated = np.asarray(pipe(prompts, num_frames=clips.shape[1], seed=SEED).frames)
    columns = {"truth": clips, "reconstruction": np.asarray(pipe.reconstruct(clips)), "generated": generated}
    scale = max(1, 64 // clips.shape[2])
    media.write_image(workdir / "samples.png", pictures.sheet(columns, 4, prompts, scale))


# ------------------------------------------------------------------------------------------------- evaluation

def _size(config: Any) -> dict:
    height, width = int(config.tokenizer.height), int(config.tokenizer.width)
    if height != width:
        raise UserError(f"tokenizer.height={height} and tokenizer.width={width} differ; the sprite world is square.")
    return {"frames": int(config.tokenizer.frames), "size": height}


def held_out_clips(rng: np.random.Generator, count: int, config: Any, *, moving: bool = False,
                   unnamed: tuple[str, ...] = ()) -> tuple[np.ndarray, list[dict], list[str]]:
    """Clips uint8 [count, F, Y, X, 3] of combinations that no training video shows, their facts and full captions.

    moving: of objects that move only. unnamed: facts that the captions leave out, see `captions.caption`.
    """
    draw, facts = world("world"), []
    while len(facts) < count:
        scene = draw.sample_facts(rng, held_out=True)
        facts += [scene] if scene.speed is not None or not moving else []
    clips = np.stack([draw.make_clip(rng, f, **_size(config), split="test") for f in facts])
    return clips, [dataclasses.asdict(f) for f in facts], _captions(rng, facts, unnamed)


def _captions(rng: np.random.Generator, facts: list, unnamed: tuple[str, ...] = ()) -> list[str]:
    return [world("captions").caption(rng, f, complete=True, unnamed=unnamed)[0] for f in facts]


def held_out_prompts(rng: np.random.Generator, count: int) -> tuple[list[str], list[dict]]:
    """Captions that name every fact of combinations which no training video shows, and those facts."""
    facts = [world("world").sample_facts(rng, held_out=True) for _ in range(count)]
    return _captions(rng, facts), [dataclasses.asdict(f) for f in facts]


def image_only_prompts(rng: np.random.Generator, count: int) -> tuple[list[str], list[dict]]:
    """Moving scenes of each value that only images show, `count` of each and never two such values in one scene."""
    from phenaki_jax.evaluation.sprite_world import IMAGE_ONLY
    facts = []
    for field, value in IMAGE_ONLY.items():
        for _ in range(count):
            scene = world("world").sample_facts(rng, held_out=None)
            while scene.speed is None:
                scene = world("world").sample_facts(rng, held_out=None)
            facts.append(dataclasses.replace(scene, **{field: value}))
    return _captions(rng, facts), [dataclasses.asdict(f) for f in facts]


def sprite_stories(rng: np.random.Generator, count: int, scenes: int,
                   config: Any) -> tuple[list[list[dict]], list[np.ndarray]]:
    """Stories as lists of {"prompt", "num_frames", "facts"}, and a true video uint8 [F, Y, X, 3] of each."""
    draw = world("world")
    stories, videos = [], []
    for _ in range(count):
        story = draw.sample_story(rng, scenes=scenes, held_out=None)
        prompts = _captions(rng, [f for f, _ in story])
        stories.append([{"prompt": p, "num_frames": n, "facts": dataclasses.asdict(f)}
                        for p, (f, n) in zip(prompts, story)])
        videos.append(draw.make_story(rng, story, size=_size(config)["size"], split="test"))
    return stories, videos


def evaluate(pipe: Any, config: Any, sizes: Sizes = Sizes(), suites: Sequence[str] = SUITES, seed: int = SEED,
             **sampler: Any) -> dict:
    """The measurements of the report, named as it names them, with the judge's own score of true stories beside them.

    Args:
      suites: tokenizer (a run of its own is enough), attributes, stories; MORE_SUITES.
      seed: of the clips, prompts and stories that are asked for, and of what is generated.
      sampler: preset, guidance_scale and the like; left out or None: the run's own.
    """
    from phenaki_jax.evaluation import control, critic, editing, long_stories, sprites
    rng = [np.random.default_rng([seed, 1, part]) for part in range(5)]
    frames = _size(config)["frames"]
    sampler = {name: value for name, value in sampler.items() if value is not None}
    if "control" in suites:  # before minutes are spent on other suites
        control.check_untold(sampler)
    if "critic" in suites:
        critic.check_critic(pipe)
    measurements = {}
    if "tokenizer" in suites:
        print(f"  tokenizer: {sizes.clips} held-out clips", flush=True)
        clips, facts, _ = held_out_clips(rng[0], sizes.clips, config)
        measurements["tokenizer"] = sprites.tokenizer_protocol(pipe, clips, facts)
    if "attributes" in suites:
        print(f"  generator: {sizes.prompts} prompts of held-out combinations", flush=True)
        asked = held_out_prompts(rng[1], sizes.prompts)
        measurements["prompts"] = sprites.prompt_protocol(pipe, *asked, seed, num_frames=frames, **sampler)
        print(f"  generator: {2 * sizes.image_only} prompts of what only images showed", flush=True)
        asked = image_only_prompts(rng[2], sizes.image_only)
        measurements["image_only"] = sprites.prompt_protocol(pipe, *asked, seed + 1, num_frames=frames, **sampler)
    if "stories" in suites:
        print(f"  stories: {sizes.stories} of 3 scenes", flush=True)
        stories, videos = sprite_stories(rng[3], sizes.stories, 3, config)
        measurements["stories"] = sprites.story_protocol(pipe, stories, seed, **sampler)
        measurements["stories_truth"] = sprites.story_scores(videos, stories)
    if "long" in suites:
        print(f"  long stories: {sizes.long} of {LONG_SCENES} scenes", flush=True)
        stories, videos = sprite_stories(rng[4], sizes.long, LONG_SCENES, config)
        measurements["long"] = long_stories.long_story_protocol(pipe, stories, seed, **sampler)
        ends = np.cumsum([scene["num_frames"] for scene in stories[0]])[:-1]
        measurements["long_truth"] = long_stories.scene_agreement(np.split(np.stack(videos), ends, axis=1), stories)

    def moving_clips(**more):
        return held_out_clips(np.random.default_rng([seed, 1, 5]), sizes.edited, config, moving=True, **more)

    if "control" in suites:
        print(f"  control: {sizes.edited} prompts at each motion and frame rate", flush=True)
        _, _, prompts = moving_clips(unnamed=("speed",))
        measurements["control"] = control.control_protocol(pipe, prompts, seed, **sampler)
    if "editing" in suites:
        print(f"  editing: {sizes.edited} held-out clips", flush=True)
        clips, _, prompts = moving_clips()
        measurements["editing"] = editing.editing_protocol(pipe, clips, prompts, seed, **sampler)
    if "critic" in suites:
        print(f"  critic: {sizes.edited} held-out clips", flush=True)
        clips, _, prompts = moving_clips()
        measurements["critic"] = critic.critic_protocol(pipe, clips, prompts, seed)
    return measurements


def _report(workdir: pathlib.Path, measurements: dict, ledger: Ledger, stages: Mapping[str, Any]) -> list[dict]:
    import jax

    from phenaki_jax.evaluation import report
    run = {"minutes": ledger.seconds / 60, "peak_gb": ledger.peak_gb,
           "minutes_of": {step: seconds / 60 for step, seconds in ledger.book["seconds"].items()}}
    how = report.circumstances() | {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "steps": {stage: int(config.train.steps) for stage, config in stages.items()},
        "sampling": stages["generator"].sampling.to_dict(), "seed": SEED,
    }
    return report.write_report(workdir, measurements | {"run": run}, how)


# ------------------------------------------------------------------------------------------------- what it prints

def _heading(number: int, title: str, *files: pathlib.Path) -> None:
    line = f"── {number} of 5 · {title} "
    where = ", ".join(map(str, files))
    print(f"\n{line}{'─' * max(2, 100 - len(line) - len(where))} {where}", flush=True)


def _print_table(table: list[dict]) -> None:
    width = max(len(row["what"]) for row in table)
    for row in table:
        verdict = {True: "met", False: "MISSED", None: ""}[row["met"]]
        print(f"  {row['what']:<{width}}  {row['bar']:>11}  {row['measured']:>12}  {verdict}")
