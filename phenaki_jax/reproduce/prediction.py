"""Tables 4 and 5: how clips go on from their first frames, without text, in small. One model, asked for both tables."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from phenaki_jax import evaluation
from phenaki_jax.digest import digest
from phenaki_jax.evaluation.features import FEWEST_CLIPS
from phenaki_jax.evaluation.protocols import Protocol, read_protocol
from phenaki_jax.ledger import Ledger
from phenaki_jax.reproduce import common

CONFIG = "configs/prediction.py"
# By the number of given frames: the table, and the protocol that has what it says.
PAPER = {5: ("table4", "kinetics600_5_11"), 1: ("table5", "bair_1_15")}
FRAMES = 16  # of the paper's clips, given ones too; a model of 17 makes them
METRICS = ("fvd", "psnr", "ssim", "lpips", "motion")


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is measured.

    own: given frames of the table that is asked for, first in its report; a key of PAPER.
    clips: held-out clips N, the first N of `task`'s test split; train.evaluate_clips and train.evaluate_data, where
      they are set, go before the two.
    """
    own: int
    clips: int
    task: str


def _scales(own: int) -> dict[str, Scale]:
    return {"cpu": Scale(own, 96, "sprite_clips_32"), "accelerator": Scale(own, 512, "sprite_clips_64_digits")}


def main(workdir: pathlib.Path, scale: str, overrides: Mapping[str, Any] | None, sizes: Scale) -> int:
    """See `reproduce.main`; both tables may have the same folder, and then have the same model and figures."""
    common.check_installed(PAPER[sizes.own][0], ("train", "metrics"))
    runs = common.model_configs(f"{CONFIG}:{{stage}},{scale}", workdir, overrides)
    asked = protocols(runs["generator"], sizes)
    ledger = Ledger(workdir / "ledger.json")
    if not common.train_model(runs, workdir, ledger):
        return common.STOPPED
    run = workdir / "generator"
    common.heading("measuring", run)
    with ledger.timed("measuring", run):
        found = measure(runs["generator"], run, asked)
    measured = {"own": sizes.own, "figures": {name: found[name] for name in asked}, "made_by": found["made_by"],
                "directions": directions({given: found[_name(given)] for given in PAPER}, sizes.own)}
    measured["circumstances"] = common.circumstances(
        runs["generator"], scale, ledger, tokenizer_steps=int(runs["tokenizer"].train.steps),
        mixture=runs["generator"].data.mixture, sampling=runs["generator"].sampling.to_dict(),
        fvd=evaluation.FVD_PROTOCOL)
    pictures = [f"generator/{_name(given)}/sheet.png" for given in _ordered(sizes.own)]
    return common.finish(workdir, measured, report(measured), pictures, ledger)


def protocols(config: Any, sizes: Scale) -> dict[str, Protocol]:
    """What is asked, by name. Raises: UserError for clips that are too short to have anything left to predict."""
    frames = min(int(config.tokenizer.frames), FRAMES)
    task, clips = config.train.evaluate_data or sizes.task, config.train.evaluate_clips or sizes.clips
    return {_name(given): dataclasses.replace(
        read_protocol(of), name=_name(given), data=task, split=config.data.eval_split, clips=clips, repeats=1,
        frames=frames, given=given, height=0, width=0, metrics=METRICS,
        about=f"{given} given frames of {task} go on for {frames - given} more") for given, (_, of) in PAPER.items()}


def measure(config: Any, run: pathlib.Path, asked: Mapping[str, Protocol]) -> dict:
    """{a protocol's name: what `common.by_protocol` finds}, made_by; from measured.json where nothing has changed."""
    settings = [dataclasses.asdict(protocol) for protocol in asked.values()]
    made_by = common.made_by(config, run, settings, config.sampling.to_dict(), evaluation.FVD_PROTOCOL)

    def figures() -> dict:
        from phenaki_jax.pipeline import PhenakiPipeline
        pipe = PhenakiPipeline.from_pretrained(run)
        return {name: common.by_protocol(protocol, config, pipe, run) for name, protocol in asked.items()}

    return common.once(run, made_by | {"protocols": digest(settings)}, [run / name / "sheet.png" for name in asked],
                       figures)


def _name(given: int) -> str:
    return f"given_{given}"


def _ordered(own: int) -> list[int]:
    return sorted(PAPER, key=lambda given: given != own)


# ------------------------------------------------------------------------------------------------- the report

def directions(found: Mapping[int, Mapping[str, Mapping]], own: int) -> list[dict]:
    """Whether the model predicts: [{"what", "bar", "measured", "met" (None: not measured)}]; see `common.apart`.

    The tokenizer's ceiling stands with what is compared with real frames that are held: they are sharp, whatever the
    model, and where its own reconstructions lie behind them, no generator over it can pass. So they are also compared
    as it gives them back.

    found: {given frames: {"figures": {metric: {"value", "interval", "controls", "ceiling"}}, "restored"}}, as
      `common.by_protocol` returns them.
    """
    figures = {given: entry["figures"] for given, entry in found.items()}
    rows = []
    for given in _ordered(own):
        for name, title in (("fvd", "FVD"), ("lpips", "LPIPS"), ("psnr", "PSNR")):
            entry = figures.get(given, {}).get(name, {})
            row = common.apart(f"{given} given: {title} against the last given frame held", entry,
                               {"value": entry.get("controls", {}).get("copy_last")}, higher=name == "psnr")
            if row["met"] is not None:
                row["measured"] += f"; ceiling {common.show(entry.get('ceiling'))}"
            rows.append(row)
            if name in (restored := found.get(given, {}).get("restored", {}).get("copy_last", {})):
                rows.append(common.apart(f"{given} given: {title} against that frame as the tokenizer gives it back",
                                         entry, {"value": restored[name]}))
    for name, title in (("fvd", "FVD of whole clips"), ("lpips", "LPIPS of the new frames")):
        most, fewest = max(PAPER), min(PAPER)
        rows.append(common.apart(f"{title}: {most} given against {fewest}", figures.get(most, {}).get(name),
                                 figures.get(fewest, {}).get(name)))
    return rows


def report(measured: Mapping) -> str:
    """report.md of what `main` measured."""
    own, how, figures = measured["own"], measured["circumstances"], measured["figures"]
    table, _ = PAPER[own]
    rows = [_row(given, figures[_name(given)], own) for given in _ordered(own)]
    N = figures[_name(own)]["counts"]["real"]
    lines = [
        f"# Table {table[-1]} in small", "",
        f"A tokenizer ({how['tokenizer_steps']} steps) and a generator without text ({how['steps']} steps of "
        f"{how['batch_size']} rows of {how['mixture']}), asked to go on from the first frames of {N} held-out clips.",
        "",
        *common.table(["given", "", "FVD", "floor", "ceiling", "last frame held", "LPIPS", "last frame held", "PSNR",
                       "last frame held", "paper: FVD"], rows), "",
        "- In brackets: 95 %. Floor: of other real clips. Ceiling: what the tokenizer gives back of the true clips, "
        "beyond which its generator cannot go but by the given frames, which are as they are.",
        "- FVD is of whole clips, given frames too; LPIPS and PSNR are of the new frames alone.",
        "- The paper's FVD is of 16 frames of 64 x 64 of Kinetics-600 (5 given) and BAIR (1 given): only what lies "
        "above what can be compared."]
    if N < FEWEST_CLIPS:
        lines.append(f"- FVD of fewer than {FEWEST_CLIPS} clips depends on their number: compare within this report.")
    lines += ["", "## Directions", "", *common.directions_table(measured["directions"])]
    for given in _ordered(own):
        lines += ["", f"## {given} given", "", *common.protocol_lines(figures[_name(given)])]
    return "\n".join([*lines, "", "## Circumstances", "", *common.circumstances_list(how)]) + "\n"


def _row(given: int, found: Mapping, own: int) -> Sequence[Any]:
    fvd, lpips, psnr = (found["figures"][name] for name in ("fvd", "lpips", "psnr"))
    return [given, "this table" if given == own else PAPER[given][0].replace("table", "table "),
            common.between(fvd), common.show(fvd["floor"]), common.show(fvd["ceiling"]),
            common.show(fvd["controls"]["copy_last"]), common.between(lpips),
            common.show(lpips["controls"]["copy_last"]), common.between(psnr),
            common.show(psnr["controls"]["copy_last"]), found["protocol"]["paper"]["fvd"]]


TABLE4, TABLE5 = (types.SimpleNamespace(CONFIG=CONFIG, SCALES=_scales(own), main=main) for own in PAPER)
