"""Stories: scenes that grow out of the last frames of the one before (section 2.3), against scenes made alone."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax import evaluation, media, pictures, quickstart
from phenaki_jax.evaluation import motion_stats, scores, sprites
from phenaki_jax.ledger import Ledger
from phenaki_jax.reproduce import common
from phenaki_jax.reproduce.common import SEED

CONFIG = common.TEXT_MODELS["cpu"]
# Title, and the options of the two ways of telling.
WAYS = {"context": ("five frames of context", {}), "independent": ("no context", {"transition": "cut"})}
TRUTH = "truth"
LEAVABLE = ("style", "background")  # what a caption may leave unsaid and a story goes on with
SEEN = ("colour", "background")  # what a single frame shows of a change
PICTURE = "story.png"
WAIT = 2  # frames: a latent step


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is told: so many held-out stories of so many scenes each, once with every fact named and once with as little
    as captions may say."""
    stories: int
    scenes: int


SCALES = {"cpu": Scale(48, 4), "accelerator": Scale(128, 6)}

Stories = Sequence[Sequence[Mapping]]


def main(workdir: pathlib.Path, scale: str, overrides: Mapping[str, Any] | None, sizes: Scale) -> int:
    """See `reproduce.main`; `table1` may have the same folder, and then has the same model."""
    common.check_installed("story", ("train",))
    runs = common.model_configs(f"{common.TEXT_MODELS[scale]}:{{stage}}", workdir, overrides)
    config, run = runs["generator"], workdir / "generator"
    ledger = Ledger(workdir / "ledger.json")
    if not common.train_model(runs, workdir, ledger):
        return common.STOPPED
    common.heading("telling", run)
    with ledger.timed("story: measuring", run):
        told = measure(config, run, sizes)
    measured = {"told": told, "directions": directions(told), "circumstances": common.circumstances(
        config, scale, ledger, tokenizer_steps=int(runs["tokenizer"].train.steps), mixture=config.data.mixture,
        sampling=config.sampling.to_dict(), **dataclasses.asdict(sizes))}
    media.write_image(workdir / PICTURE, media.read_image(run / PICTURE))
    return common.finish(workdir, measured, report(measured), [PICTURE], ledger)


def measure(config: Any, run: pathlib.Path, sizes: Scale) -> dict:
    """{a way or TRUTH: `summary`}, made_by; from story.json of the run where nothing has changed."""
    made_by = common.made_by(config, run, dataclasses.asdict(sizes), config.sampling.to_dict())

    def figures() -> dict:
        from phenaki_jax.pipeline import PhenakiPipeline
        pipe = PhenakiPipeline.from_pretrained(run)
        rng = np.random.default_rng([SEED, 4])
        stories, videos = quickstart.sprite_stories(rng, sizes.stories, sizes.scenes, config)
        short = left_unsaid(stories)
        found, shown = {}, {}
        for way, (title, options) in WAYS.items():
            options = config.sampling.to_dict() | options
            answers = []
            for words, asked in (("every fact named", stories), ("little said", short)):
                print(f"  {len(asked)} stories, {title}, {words}", flush=True)
                answers.append(sprites.story_protocol(pipe, asked, SEED, **options))
            found[way] = summary(answers[0], stories, answers[0]["frames"], answers[1])
            shown[title] = answers[0]["frames"][0]
        truth = sprites.story_scores(videos, stories)
        media.write_image(run / PICTURE, strips(shown | {"the true story": videos[0]}, stories[0]))
        return found | {TRUTH: summary(truth, stories, videos, truth)}

    return common.once(run, made_by, [run / PICTURE], figures, "story.json")


def left_unsaid(stories: Stories) -> list[list[dict]]:
    """The same stories; captions after the first leave out the style, and the background where it stays."""
    world, captions = quickstart.world("world"), quickstart.world("captions")
    rng, told = np.random.default_rng([SEED, 5]), []
    for story in stories:
        scenes = [dict(story[0])]
        for before, scene in zip(story, story[1:]):
            unnamed = tuple(name for name in LEAVABLE if before["facts"][name] == scene["facts"][name])
            prompt, _ = captions.caption(rng, world.Facts(**scene["facts"]), complete=True, unnamed=unnamed)
            scenes.append(dict(scene) | {"prompt": prompt})
        told.append(scenes)
    return told


# ------------------------------------------------------------------------------------------------- what is counted

def summary(answer: Mapping, stories: Stories, frames: Sequence[np.ndarray], short: Mapping) -> dict:
    """What a table needs of `story_scores`, of stories with every fact named and, `short`, with little said.

    Returns:
      seam_pixels (0 to 255), seam_displacement (pixels of 32): {"value": mean over stories of the largest at a seam,
      "interval", "inside": the like inside scenes}; kept, unsaid, new_motion, old_motion: `sprites.share`; motion: the
      same of all scenes; latency: `waited`; drift: `motion_stats.drift` of the share of the facts that a scene shows;
      agreement: mean of that share.
    """
    per_story, agreed = answer["per_story"], scene_scores(answer["per_story"])
    return {
        "seam_pixels": _seams(per_story, "pixels"), "seam_displacement": _seams(per_story, "displacement"),
        "kept": {name: answer["kept_as_seen"][name] for name in ("share", "of", "interval")},
        "unsaid": sprites.share(stays(short["per_story"], LEAVABLE)),
        "motion": {name: answer["motion"][name] for name in ("share", "of", "interval")},
        "new_motion": sprites.share(turns(per_story, new=True)),
        "old_motion": sprites.share(turns(per_story, new=False)),
        "latency": waited(frames, stories), "agreement": float(agreed.mean()),
        "drift": {name: value for name, value in motion_stats.drift(agreed).items() if name != "per_story"}}


def _seams(per_story: Sequence[Mapping], kind: str) -> dict:
    """Of the stories that have such a seam; an interval wants at least 8 of them."""
    rows = [row[kind] for row in per_story if row[kind]["at_seams"] is not None and row[kind]["inside"] is not None]
    at_seams, inside = (np.array([row[name] for row in rows]) for name in ("at_seams", "inside"))
    if not rows:
        return {"value": None, "inside": None, "stories": 0}
    found = {"value": float(at_seams.mean()), "inside": float(inside.mean()), "stories": len(rows)}
    if len(rows) >= 8:
        found["interval"] = scores.bootstrap_interval(lambda x: float(np.mean(x)), at_seams, seed=SEED)["interval"]
    return found


def _scenes(per_story: Sequence[Mapping]):
    """(facts before, facts, shown before, shown) of every scene after the first."""
    for row in per_story:
        yield from zip(row["facts"], row["facts"][1:], row["shown"], row["shown"][1:])


def stays(per_story: Sequence[Mapping], names: Sequence[str]) -> list[bool]:
    """Whether what stays in the story is shown as the scene before showed it, for each such attribute of each scene."""
    return [now[name] is not None and now[name] == before[name] for old, new, before, now in _scenes(per_story)
            for name in names if old[name] == new[name]]


def turns(per_story: Sequence[Mapping], new: bool) -> list[bool]:
    """Of scenes that ask for another direction than the one before: whether they show it, or (not new) the old one."""
    return [now["direction"] == (asked if new else old)["direction"] for old, asked, _, now in _scenes(per_story)
            if old["direction"] != asked["direction"]]


def scene_scores(per_story: Sequence[Mapping]) -> np.ndarray:
    """Share of its facts that each scene shows, float [N, scenes]."""
    return np.array([[np.mean([shown[name] == fact for name, fact in facts.items() if fact is not None])
                      for facts, shown in zip(row["facts"], row["shown"])] for row in per_story])


def waited(frames: Sequence[np.ndarray], stories: Stories) -> dict:
    """After how many frames a scene shows the new colour or background that it asks for, frame by frame.

    Returns:
      "median" frames (None where most never do), "never", and "of" how many scenes; see `motion_stats.switch_latency`.
    """
    latency: list[int | None] = []
    for video, story in zip(frames, stories):
        starts = np.cumsum([0, *(scene["num_frames"] for scene in story)])
        for index, (before, scene) in enumerate(zip(story, story[1:]), 1):
            changed = [name for name in SEEN if before["facts"][name] != scene["facts"][name]]
            if changed:
                judged = evaluation.judge_many(np.asarray(video)[starts[index]:starts[index + 1], None])
                shows = [all(getattr(frame, name) == scene["facts"][name] for name in changed) for frame in judged]
                latency += motion_stats.switch_latency(np.array(shows, bool), [0])["latency"]
    median = float(np.median([np.inf if frame is None else frame for frame in latency])) if latency else np.inf
    return {"median": median if np.isfinite(median) else None, "never": latency.count(None), "of": len(latency)}


def strips(shown: Mapping[str, np.ndarray], story: Sequence[Mapping]) -> np.ndarray:
    """One story told in several ways, side by side: {title: frames} -> uint8 [Y, X, 3]."""
    starts = np.cumsum([0, *(scene["num_frames"] for scene in story[:-1])])
    prompts = [scene["prompt"] for scene in story]
    parts = {title: pictures.story_strip(frames, prompts, starts, scale=max(1, 96 // frames.shape[1]))
             for title, frames in shown.items()}
    return pictures.grid([[pictures.label(title, part.shape[1], 16) for title, part in parts.items()],
                          list(parts.values())], gap=6)


# ------------------------------------------------------------------------------------------------- the report

def directions(told: Mapping[str, Mapping]) -> list[dict]:
    """Whether context makes a story of scenes: [{"what", "bar", "measured", "met" (None: not measured)}]."""
    ours, alone = (told.get(way, {}) for way in WAYS)
    rows = [common.apart(f"{what}: context against none", ours.get(key), alone.get(key), **how) for what, key, how in (
        ("largest change of pixels at a seam", "seam_pixels", {}),
        ("largest step of the object at a seam", "seam_displacement", {}),
        ("what the prompt keeps is as it was seen", "kept", {"higher": True, "percent": True}),
        ("what the prompt does not say stays", "unsaid", {"higher": True, "percent": True}))]
    rows.append(common.apart("a new direction is followed, against going on in the old one", ours.get("new_motion"),
                             ours.get("old_motion"), higher=True, percent=True))
    latency, drift = ours.get("latency") or {}, ours.get("drift") or {}
    waits = "–" if not latency.get("of") else f"{_frames(latency)}, never in {latency['never']} of {latency['of']}"
    rows.append({"what": "a new colour or place is there and stays", "bar": f"median ≤ {WAIT} frames",
                 "measured": waits, "met": None if waits == "–" else (latency["median"] or 0) <= WAIT
                 and latency["median"] is not None})
    slope, ends = drift.get("slope"), drift.get("interval")
    rows.append({"what": "share of a prompt's facts that is shown, from scene to scene",
                 "bar": "no fall that its interval tells from 0",
                 "measured": "–" if ends is None else f"{100 * slope:+.2f} points a scene "
                 f"[{', '.join(f'{100 * end:+.2f}' for end in ends)}]", "met": None if ends is None else ends[1] >= 0})
    return rows


def _frames(latency: Mapping) -> str:
    """The median of `waited` in words."""
    return "no end" if latency["median"] is None else f"{latency['median']:g}"


def report(measured: Mapping) -> str:
    """report.md of what `main` measured."""
    told, how = measured["told"], measured["circumstances"]
    rows = []
    for way, title in (*((way, title) for way, (title, _) in WAYS.items()), (TRUTH, "the true stories")):
        entry = told[way]
        seams = [f"{common.between(entry[key])} ({common.show(entry[key]['inside'])} inside)"
                 for key in ("seam_pixels", "seam_displacement")]
        shares = [common.between(entry[key], percent=True) for key in ("kept", "unsaid", "motion", "new_motion")]
        agreement = common.between({"value": entry["agreement"]}, percent=True)
        rows.append([title, *seams, *shares, _frames(entry["latency"]), agreement,
                     f"{100 * entry['drift']['slope']:+.2f}"])
    return "\n".join([
        "# Stories in small", "",
        f"A tokenizer ({how['tokenizer_steps']} steps) and a generator ({how['steps']} steps of {how['batch_size']} "
        f"rows of {how['mixture']}) tell {how['stories']} held-out stories of {how['scenes']} scenes: each scene out "
        "of the last five frames of the one before, and each by itself.", "",
        *common.table(["told with", "change of pixels at a seam", "step of the object at a seam", "kept", "kept unsaid",
                       "motion", "new direction", "frames to a new colour", "facts shown", "points a scene"], rows), "",
        "- In brackets: 95 %. Change of pixels: of 255, at seams where the prompt changes the motion alone; step: "
        "pixels of a frame of 32; both the largest of a story, mean over stories.",
        "- Kept: shown as the scene before showed it, of what the story keeps; unsaid: of style and background where "
        "captions after the first do not name them, as the true stories do without being told.",
        "- The paper shows stories in pictures and gives no figures for them.",
        f"- {PICTURE}: one story, told each way.", "",
        "## Directions", "", *common.directions_table(measured["directions"]), "",
        "## Circumstances", "", *common.circumstances_list(how)]) + "\n"
