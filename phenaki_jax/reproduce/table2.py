"""Table 2: joint training on images and videos in small. One tokenizer, a generator for each mix, measured alike.

The judge of the sprite world stands for the CLIP score: it counts which facts of its prompt each clip and each image
shows. Two values, a style and a colour, are in images only; whether they come out in motion is what images are for.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from phenaki_jax import evaluation, media, pictures, quickstart
from phenaki_jax.evaluation import sprites
from phenaki_jax.evaluation.attributes import ATTRIBUTES
from phenaki_jax.evaluation.clips import save
from phenaki_jax.evaluation.features import FEWEST_CLIPS
from phenaki_jax.evaluation.sprite_world import IMAGE_ONLY
from phenaki_jax.ledger import Ledger
from phenaki_jax.reproduce import common
from phenaki_jax.reproduce.common import SEED, prepare, show
from phenaki_jax.sampling.options import chosen
from phenaki_jax.training import metrics

CONFIG = "configs/table2.py"
# Title, and CLIP, FID, FVD of text to video and CLIP, FID of text to image in the paper's table 2.
MIXES = {
    "video_only": ("100/0", (0.298, 19.2, 168.9, 0.240, 53.9)),
    "80_20": ("80/20", (0.303, 21.4, 198.4, 0.289, 29.4)),
    "50_50": ("50/50", (0.302, 21.4, 239.7, 0.287, 30.5)),
}
CONTROL, WITH_IMAGES = "video_only", ("80_20", "50_50")
KINDS = {"video": "text to video", "image": "text to image"}
STILL = ("colour", "shape", "style", "background")  # the facts of an image
FAR, KEPT = 0.3, 0.05  # shares: far above the control, and the loss up to which motion is kept


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is measured of each mix, with as many images as clips.

    prompts: of what videos show (clips: held-out combinations). image_only: of each value that only images show.
    shown: rows of each of these three in the pictures. fvd: whether I3D is asked, a second a clip on two cores.
    mixes: which of MIXES.
    """
    prompts: int = 128
    image_only: int = 96
    shown: int = 2
    fvd: bool = False
    mixes: tuple[str, ...] = tuple(MIXES)


SCALES = {"cpu": Scale(), "accelerator": Scale(512, 256, fvd=True)}


def main(workdir: pathlib.Path, scale: str, overrides: Mapping[str, Any] | None, sizes: Scale) -> int:
    """See `reproduce.main`."""
    done = train_and_measure("table2", workdir, scale, overrides, sizes)
    if done is None:
        return common.STOPPED
    asked, models, how, ledger = done
    measured = {"models": models, "directions": directions(models), "circumstances": how}
    draw_samples(workdir, asked, sizes)
    return common.finish(workdir, measured, report(measured), [f"{kind}s.png" for kind in KINDS], ledger)


def train_and_measure(table: str, workdir: pathlib.Path, scale: str, overrides: Mapping[str, Any] | None,
                      sizes: Scale) -> tuple["Asked", dict[str, dict], dict, Ledger] | None:
    """Trains the tokenizer and the mixes of `sizes`, and measures each.

    Returns:
      What was asked for, what `measure` found of each mix, the circumstances and the ledger; None where training was
      asked to stop.
    """
    common.check_installed(table, ("train", *(["metrics"] if sizes.fvd else [])))
    runs = {name: common.run_config(f"{CONFIG}:{name},{scale}", workdir, overrides)
            for name in ("tokenizer", *sizes.mixes)}
    for name in sizes.mixes:
        runs[name].tokenizer_run = str(workdir / "tokenizer")
        chosen(runs[name].sampling)  # a wrong option is said now
    ledger = Ledger(workdir / "ledger.json")

    common.heading("data", workdir / "data")
    with ledger.timed("data"):
        prepare(runs)
        asked, real = ask(runs["tokenizer"], sizes)
    if not common.train(runs["tokenizer"], workdir / "tokenizer", "tokenizer", ledger):
        return None

    models = {}
    for name in sizes.mixes:
        title = f"{MIXES[name][0]} videos/images"
        if not common.train(runs[name], workdir / name, title, ledger):
            return None
        with ledger.timed(f"{name}: measuring"):
            models[name] = measure(runs[name], workdir / name, asked, real, sizes)
        print("  " + ", ".join(f"{what} {_percent(found['share'])}" for kind in KINDS
                               for what, found in _headline(models[name], kind).items()), flush=True)

    any_mix = runs[sizes.mixes[0]]
    return asked, models, common.circumstances(
        any_mix, scale, ledger, tokenizer_steps=int(runs["tokenizer"].train.steps),
        mixtures={name: runs[name].data.mixture for name in runs}, sampling=any_mix.sampling.to_dict(),
        fvd=evaluation.FVD_PROTOCOL if sizes.fvd else "not measured"), ledger


# ------------------------------------------------------------------------------------------------- what is asked for

Asked = Mapping[str, Mapping[str, tuple[list[str], list[dict]]]]


def ask(config: Any, sizes: Scale) -> tuple[Asked, np.ndarray]:
    """Prompts and their facts, and true clips.

    Returns:
      {"video" | "image": {"known" | "image_only": (prompts, facts)}}: known is what videos show, clips of combinations
      that no training video shows; of image_only, `sizes.image_only` for each value. And true clips of the video's
      known prompts, uint8 [N, F, Y, X, 3].
    """
    rng = [np.random.default_rng([SEED, 2, part]) for part in range(4)]
    real, facts, prompts = quickstart.held_out_clips(rng[0], sizes.prompts, config)
    stills = [image_prompts(rng[3], sizes.image_only, **{field: value}) for field, value in IMAGE_ONLY.items()]
    return {
        "video": {"known": (prompts, facts), "image_only": quickstart.image_only_prompts(rng[1], sizes.image_only)},
        "image": {"known": image_prompts(rng[2], sizes.prompts),
                  "image_only": tuple([*first, *second] for first, second in zip(*stills))},
    }, real


def image_prompts(rng: np.random.Generator, count: int, **values: str) -> tuple[list[str], list[dict]]:
    """Captions of images that name every fact, and those facts: what videos show too, but for `values` in all."""
    draw = quickstart.world("world").sample_facts
    scenes = [dataclasses.replace(draw(rng, held_out=None), **values) for _ in range(count)]
    caption = quickstart.world("captions").caption
    prompts = [caption(rng, scene, image=True, complete=True)[0] for scene in scenes]
    return prompts, [{name: getattr(scene, name) for name in STILL} for scene in scenes]


# ------------------------------------------------------------------------------------------------- measuring

def measure(config: Any, run: pathlib.Path, asked: Asked, real: np.ndarray, sizes: Scale) -> dict:
    """The figures of a trained mix, from its measured.json where they were made by this checkpoint and these settings.

    Returns:
      parameters, losses (`losses`), video and image: {"known", "image_only": `summary`}, fvd (None: not asked),
      made_by.
    """
    sampling = config.sampling.to_dict()
    of_one = dataclasses.asdict(sizes)
    del of_one["mixes"]  # a mix is measured alike whichever others are
    made_by = common.made_by(config, run, asked, sampling, of_one)
    files = {kind: run / f"shown_{kind}s.npy" for kind in KINDS}

    def figures() -> dict:
        from phenaki_jax.pipeline import PhenakiPipeline
        pipe = PhenakiPipeline.from_pretrained(run)
        found: dict[str, Any] = {"parameters": metrics.count_parameters(pipe.generator.params), "losses": losses(run)}
        made = {}
        for kind, frames in (("video", real.shape[1]), ("image", 1)):
            answers = {what: sprites.prompt_protocol(pipe, *asked[kind][what], SEED + part, num_frames=frames,
                                                     **sampling)
                       for part, what in enumerate(("known", "image_only"))}
            found[kind] = {what: summary(answer) for what, answer in answers.items()}
            made[kind] = answers["known"]["frames"]
            save(files[kind], np.concatenate(
                [answer["frames"][shown(what, sizes)] for what, answer in answers.items()]))
        features = [common.video_features(clips, run.parent / "features") for clips in (real, made["video"])
                    ] if sizes.fvd else None
        return found | {"fvd": evaluation.frechet_distance(*features) if features else None}

    return common.once(run, made_by, list(files.values()), figures)


def summary(answer: Mapping) -> dict:
    """What a table needs of `prompt_protocol`'s answer.

    Returns:
      agreement, interval and count of each attribute, all (share of clips that show everything asked), mean (of the
      attributes' agreements); and, of each value of IMAGE_ONLY that is asked for, {"share", "of", "interval", "motion"
      (share of these clips that move as asked; None for images), "instead" (what they show, counted)} in "values".
    """
    values = {}
    for field, value in IMAGE_ONLY.items():
        rows = [row for row in answer["per_clip"] if row["facts"][field] == value]
        if rows:
            moves = [row["agrees"]["motion"] for row in rows if "motion" in row["agrees"]]
            values[value] = sprites.share([row["agrees"][field] for row in rows]) | {
                "motion": sprites.share(moves)["share"],
                "instead": dict(collections.Counter(str(row["shown"][field]) for row in rows).most_common())}
    return {name: answer[name] for name in ("agreement", "interval", "count", "all")} | {
        "mean": float(np.mean(list(answer["agreement"].values()))), "values": values}


def losses(run: pathlib.Path) -> dict[str, float]:
    """Cross-entropy of each source, nats a masked token: mean over the last tenth of what a run has logged."""
    lines = metrics.read_lines(run / metrics.FILE)
    last = lines[-max(1, len(lines) // 10):]
    return {name: float(np.mean([line[name] for line in last])) for name in last[-1] if name.endswith("cross_entropy")}


def shown(what: str, sizes: Scale) -> list[int]:
    """Which of the clips of a part of `Asked` the pictures show."""
    if what == "known":
        return list(range(min(sizes.shown, sizes.prompts)))
    return [part * sizes.image_only + i for part in range(len(IMAGE_ONLY))
            for i in range(min(sizes.shown, sizes.image_only))]


def draw_samples(workdir: pathlib.Path, asked: Asked, sizes: Scale) -> None:
    """videos.png and images.png: what the mixes make of the same prompts, those of what only images show among them."""
    for kind in KINDS:
        columns = {MIXES[name][0]: np.load(workdir / name / f"shown_{kind}s.npy") for name in sizes.mixes}
        prompts = [asked[kind][what][0][i] for what in ("known", "image_only") for i in shown(what, sizes)]
        height = next(iter(columns.values())).shape[2]
        media.write_image(workdir / f"{kind}s.png", pictures.sheet(columns, 4, prompts, max(1, 96 // height)))


# ------------------------------------------------------------------------------------------------- the report

def directions(models: Mapping[str, Mapping]) -> list[dict]:
    """Whether images do what they do in the paper: [{"what", "bar", "measured", "met" (None: not measured)}]."""
    rows = []

    def compare(name: str, what: str, at_least: float, *key: str) -> None:
        ours, theirs = (_find(models, model, *key) for model in (name, CONTROL))
        both = ours is not None and theirs is not None
        bar = (f"≥ {100 * at_least:.0f} points above" if at_least > 0 else "higher" if at_least == 0 else
               f"at most {-100 * at_least:.0f} points below")
        rows.append({
            "what": f"{what}: {MIXES[name][0]} against {MIXES[CONTROL][0]}", "bar": bar,
            "measured": f"{_percent(ours)} against {_percent(theirs)}" if both else "–",
            "met": (ours > theirs if at_least == 0 else ours - theirs >= at_least) if both else None})

    for value in IMAGE_ONLY.values():
        for name in WITH_IMAGES:
            compare(name, f"{value} in motion", FAR, "video", "image_only", "values", value, "share")
    for what, part in (("motion, held-out prompts", "known"), ("motion, values of images only", "image_only")):
        for name in WITH_IMAGES:
            compare(name, what, -KEPT, "video", part, "agreement", "motion")
    for kind, title in KINDS.items():
        for name in WITH_IMAGES:
            compare(name, f"{title}, agreement", 0, kind, "known", "mean")
    for name in WITH_IMAGES:
        ours, theirs = (_find(models, model, "fvd") for model in (name, CONTROL))
        both = ours is not None and theirs is not None
        rows.append({"what": f"FVD: {MIXES[name][0]} against {MIXES[CONTROL][0]}", "bar": "higher",
                     "measured": f"{show(ours)} against {show(theirs)}" if both else "–",
                     "met": ours > theirs if both else None})
    return rows


def _find(tree: Any, *path: str) -> Any:
    for part in path:
        tree = tree.get(part) if tree else None
    return tree


def report(measured: Mapping) -> str:
    """report.md of what `main` measured."""
    models, how = measured["models"], measured["circumstances"]
    first = next(iter(models.values()))
    N = first["video"]["known"]["count"]["colour"]
    new = next(iter(first["video"]["image_only"]["values"].values()))["of"]
    fvd = "FVD is not measured at this scale, for I3D takes about a second a clip on two cores."
    if first["fvd"] is not None:
        few = f"; N is under {FEWEST_CLIPS}, so that only figures of this table compare" if N < FEWEST_CLIPS else ""
        fvd = f"FVD is between {N} true and generated clips of the same prompts{few}."
    sources = list(dict.fromkeys(source for entry in models.values() for source in entry["losses"]))
    return "\n".join([
        "# Table 2 in small", "",
        f"Generators of {first['parameters']:,} parameters, {how['steps']} steps of {how['batch_size']} rows each, on "
        f"one tokenizer of {how['tokenizer_steps']} steps; they differ in the mixture of their data alone. {N} prompts "
        f"of what videos show and {new} for each value that only images show, for videos and for images.", "",
        *common.table(
            ["videos/images", "text to video: agreement", "FID", "FVD", "text to image: agreement", "FID",
             "paper: text to video: CLIP", "FID", "FVD", "paper: text to image: CLIP", "FID"],
            [[MIXES[name][0], _percent(entry["video"]["known"]["mean"]), "–", show(entry["fvd"]),
              _percent(entry["image"]["known"]["mean"]), "–", *MIXES[name][1]] for name, entry in models.items()]), "",
        "- Agreement stands for the CLIP score: which of the facts in its prompt a clip or an image shows, mean over "
        "the attributes. Prompts of clips are of combinations that no training video shows.",
        f"- {fvd} FID is not measured yet.",
        "- The paper's figures are of other data: only their order can be compared.", "",
        "## What only images show", "", *_image_only(models), "",
        "## Attributes", "", *_attributes(models), "",
        "## Training losses", "", "Nats a masked token, mean over the last tenth of the steps.", "",
        *common.table(["videos/images", *sources], [[MIXES[name][0], *(show(entry["losses"].get(s)) for s in sources)]
                                                    for name, entry in models.items()]), "",
        "## Directions", "", *common.directions_table(measured["directions"]), "",
        "## Circumstances", "", *common.circumstances_list(how)]) + "\n"


def _image_only(models: Mapping[str, Mapping]) -> list[str]:
    columns = [f"{title}: {value}" for title in KINDS.values() for value in IMAGE_ONLY.values()]
    rows, instead = [], []
    for name, entry in models.items():
        values = {kind: entry[kind]["image_only"]["values"] for kind in KINDS}
        rows.append([MIXES[name][0], *(_with_interval(values[kind][value]) for kind in KINDS
                                       for value in IMAGE_ONLY.values()),
                     _percent(entry["video"]["image_only"]["agreement"]["motion"])])
        instead.append(f"- {MIXES[name][0]}: " + "; ".join(
            f"{value} asked: " + ", ".join(f"{count} {what}" for what, count in found["instead"].items())
            for value, found in values["video"].items()))
    return [*common.table(["videos/images", *columns, "motion of these clips"], rows), "",
            "In brackets: 95 % (Wilson). What the clips show:", "", *instead]


def _attributes(models: Mapping[str, Mapping]) -> list[str]:
    rows = [[MIXES[name][0], f"{title}: {prompts}", *(_percent(found["agreement"].get(a)) for a in ATTRIBUTES),
             _percent(found["all"])]
            for kind, title in KINDS.items()
            for what, prompts in (("known", "what videos show"), ("image_only", "what only images show"))
            for name, entry in models.items() for found in [entry[kind][what]]]
    return common.table(["videos/images", "prompts", *ATTRIBUTES, "all"], rows)


def _headline(entry: Mapping, kind: str) -> dict:
    """The shares that a mix's line on the terminal has."""
    return {f"{KINDS[kind]}: agreement": {"share": entry[kind]["known"]["mean"]}} | entry[kind]["image_only"]["values"]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _with_interval(found: Mapping) -> str:
    low, high = (100 * bound for bound in found["interval"])
    return f"{_percent(found['share'])} [{low:.0f}, {high:.0f}]"
