"""Table 1: text to video of captions that training has not seen, in small, by the quickstart's text model."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from phenaki_jax import evaluation, quickstart, weights
from phenaki_jax.evaluation import sprites
from phenaki_jax.evaluation.attributes import ATTRIBUTES
from phenaki_jax.evaluation.features import FEWEST_CLIPS
from phenaki_jax.evaluation.protocols import Protocol, read_protocol
from phenaki_jax.ledger import Ledger
from phenaki_jax.reproduce import common
from phenaki_jax.reproduce.common import SEED

CONFIG = common.TEXT_MODELS["cpu"]
PROTOCOL = "zero_shot_t2v"
# FID-image and FID-video on Kinetics-400 (table 1); NUWA was trained on that data set.
PAPER = {"Phenaki, zero shot": (37.74, 3.84), "NUWA, fine-tuned": (28.46, 7.05)}
FAR = 0.3  # of the shares of attributes: so much more than by chance


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is measured.

    clips: held-out clips N, the first N of `task`'s test split, whose captions are asked for; train.evaluate_clips and
      train.evaluate_data, where they are set, go before the two. prompts: whose facts the judge of the sprite world
      looks for; it is not asked where train.evaluate_data is set.
    """
    clips: int
    prompts: int
    task: str


SCALES = {"cpu": Scale(96, 128, "sprite_clips_32"), "accelerator": Scale(512, 512, "sprite_clips_64_digits")}


def main(workdir: pathlib.Path, scale: str, overrides: Mapping[str, Any] | None, sizes: Scale) -> int:
    """See `reproduce.main`; `story` may have the same folder, and then has the same model."""
    common.check_installed("table1", ("train", "metrics"))
    runs = common.model_configs(f"{common.TEXT_MODELS[scale]}:{{stage}}", workdir, overrides)
    config, run = runs["generator"], workdir / "generator"
    asked = protocol(config, sizes)
    ledger = Ledger(workdir / "ledger.json")
    if not common.train_model(runs, workdir, ledger):
        return common.STOPPED
    common.heading("measuring", run)
    with ledger.timed("table1: measuring", run):
        found = measure(config, run, asked, sizes)
    measured = found | {"directions": directions(found["protocol"], found["judged"])}
    measured["circumstances"] = common.circumstances(
        config, scale, ledger, tokenizer_steps=int(runs["tokenizer"].train.steps), mixture=config.data.mixture,
        sampling=config.sampling.to_dict(), fvd=evaluation.FVD_PROTOCOL)
    return common.finish(workdir, measured, report(measured), [f"generator/{PROTOCOL}/sheet.png"], ledger)


def protocol(config: Any, sizes: Scale) -> Protocol:
    """What is asked. FID only where its network is installed, for it is no part of the extra `metrics`."""
    frames, task = int(config.tokenizer.frames), config.train.evaluate_data or sizes.task
    metrics = ("fvd", *(["fid"] if weights.installed(weights.INCEPTION) else []), "motion")
    return dataclasses.replace(
        read_protocol(PROTOCOL), data=task, split=config.data.eval_split, frames=frames, metrics=metrics, paper={},
        clips=config.train.evaluate_clips or sizes.clips, about=f"Text to video of the captions of {task}, held out")


def measure(config: Any, run: pathlib.Path, asked: Protocol, sizes: Scale) -> dict:
    """From table1.json of the run where nothing has changed.

    Returns:
      protocol: what `common.by_protocol` finds; judged: `judge`'s, or None where captions are no facts of sprites;
      made_by.
    """
    made_by = common.made_by(config, run, dataclasses.asdict(asked), dataclasses.asdict(sizes),
                             config.sampling.to_dict(), evaluation.FVD_PROTOCOL)

    def figures() -> dict:
        from phenaki_jax.pipeline import PhenakiPipeline
        pipe = PhenakiPipeline.from_pretrained(run)
        judged = None if config.train.evaluate_data else judge(pipe, config, sizes.prompts)
        return {"judged": judged, "protocol": common.by_protocol(asked, config, pipe, run)}

    return common.once(run, made_by, [run / PROTOCOL / "sheet.png"], figures, "table1.json")


def judge(pipe: Any, config: Any, count: int) -> dict:
    """Which facts clips of held-out combinations show: of their own captions, and of those of another clip each.

    Returns:
      {"own" | "others": {"agreement": {attribute: share}, "mean" of these, "all": `sprites.share` of the clips that
      show everything asked for}}.
    """
    prompts, facts = quickstart.held_out_prompts(np.random.default_rng([SEED, 3]), count)
    answer = sprites.prompt_protocol(pipe, prompts, facts, SEED, num_frames=int(config.tokenizer.frames),
                                     **config.sampling.to_dict())
    others = sprites.agreement_summary(evaluation.judge_many(answer["frames"]), [*facts[1:], facts[0]])
    return {"own": summary(answer), "others": summary(others)}


def summary(answer: Mapping) -> dict:
    """What a table needs of `agreement_summary`'s answer."""
    return {"agreement": answer["agreement"], "mean": float(np.mean(list(answer["agreement"].values()))),
            "all": sprites.share([all(row["agrees"].values()) for row in answer["per_clip"]])}


# ------------------------------------------------------------------------------------------------- the report

def directions(found: Mapping[str, Mapping], judged: Mapping | None) -> list[dict]:
    """Whether unseen captions are followed: [{"what", "bar", "measured", "met" (None: not measured)}].

    Real frames are sharp, whatever the model; so they, and other clips' at that, are compared as its tokenizer gives
    them back, too.

    Args:
      found: what `common.by_protocol` returns. judged: what `judge` returns.
    """
    fvd, judged = found["figures"].get("fvd", {}), judged or {}
    own, others = (judged.get(which, {}) for which in ("own", "others"))
    rows = []
    for kind, words in (("static", "first frames held"), ("shuffled", "frames shuffled")):
        restored = found["restored"].get(kind, {}).get("fvd")
        for of, control in (("real clips", fvd.get("controls", {}).get(kind)),
                            ("other clips as the tokenizer gives them back", restored)):
            rows.append(common.apart(f"FVD against {of}, {words}", fvd, {"value": control}))
    rows.append(common.apart("clips that show all of their caption, against another clip's caption", own.get("all"),
                             others.get("all"), higher=True, percent=True))
    means = own.get("mean"), others.get("mean")
    rows.append({"what": "agreement with captions, mean over the attributes, against another clip's caption",
                 "bar": f"≥ {100 * FAR:.0f} points above", "measured": "–", "met": None} | ({} if None in means else {
                     "measured": " against ".join(f"{100 * share:.1f} %" for share in means),
                     "met": bool(means[0] - means[1] >= FAR)}))
    return rows


def report(measured: Mapping) -> str:
    """report.md of what `main` measured."""
    how, found, judged = measured["circumstances"], measured["protocol"], measured["judged"]
    figures, N = found["figures"], found["counts"]["real"]
    lines = [
        "# Table 1 in small", "",
        f"A tokenizer ({how['tokenizer_steps']} steps) and a generator ({how['steps']} steps of {how['batch_size']} "
        f"rows of {how['mixture']}), asked for the captions of {N} held-out clips.", "",
        *common.table(["", "FID of frames", "FVD", "paper: FID-image", "paper: FID-video"], [
            ["ours, of these clips", common.between(figures.get("fid")), common.between(figures["fvd"]), "–", "–"],
            *([name, "–", "–", *values] for name, values in PAPER.items())]), "",
        "- In brackets: 95 %. The paper's figures are of Kinetics-400 and other networks' features; FID-video is no "
        "FVD. Neither compares with ours."]
    if N < FEWEST_CLIPS:
        lines.append(f"- FVD of fewer than {FEWEST_CLIPS} clips depends on their number: compare within this report.")
    lines += ["", "## Directions", "", *common.directions_table(measured["directions"]), "", "## Figures", "",
              *common.protocol_lines(found), "", "## Attributes", ""]
    if judged:
        lines += ["Held-out combinations, of which training has seen every part and no whole.", "", *common.table(
            ["caption", *ATTRIBUTES, "mean", "all"],
            [[words, *(common.between({"value": entry["agreement"].get(name)}, percent=True) for name in ATTRIBUTES),
              common.between({"value": entry["mean"]}, percent=True), common.between(entry["all"], percent=True)]
             for words, entry in (("its own", judged["own"]), ("another clip's", judged["others"]))])]
    else:
        lines.append("Not measured: the judge knows the sprite world alone.")
    return "\n".join([*lines, "", "## Circumstances", "", *common.circumstances_list(how)]) + "\n"
