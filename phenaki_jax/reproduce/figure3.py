"""Figure 3: what only images show, generated in video, in small. Two mixes of table 2, with and without images."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from phenaki_jax import media, pictures
from phenaki_jax.evaluation.sprite_world import IMAGE_ONLY
from phenaki_jax.reproduce import common, table2

CONFIG = table2.CONFIG
JOINT = "80_20"
# Table 2's own sizes: in its folder nothing is trained or measured anew.
SCALES = {scale: dataclasses.replace(sizes, mixes=(table2.CONTROL, JOINT)) for scale, sizes in table2.SCALES.items()}
PICTURE = "figure3.png"


def main(workdir: pathlib.Path, scale: str, overrides: Mapping[str, Any] | None, sizes: table2.Scale) -> int:
    """See `reproduce.main`."""
    done = table2.train_and_measure("figure3", workdir, scale, overrides, sizes)
    if done is None:
        return common.STOPPED
    asked, models, how, ledger = done
    shares = {name: models[name]["video"]["image_only"] for name in sizes.mixes}
    measured = {"models": shares, "directions": directions(shares), "circumstances": how}
    draw(workdir, asked, sizes)
    return common.finish(workdir, measured, report(measured), [PICTURE], ledger)


def draw(workdir: pathlib.Path, asked: table2.Asked, sizes: table2.Scale) -> None:
    """figure3.png: clips of prompts for what only images show, of the joint model and of the control."""
    known = len(table2.shown("known", sizes))  # which come first in what a mix keeps to be shown
    columns = {table2.MIXES[name][0]: np.load(workdir / name / "shown_videos.npy")[known:]
               for name in sizes.mixes[::-1]}
    prompts = [asked["video"]["image_only"][0][i] for i in table2.shown("image_only", sizes)]
    height = next(iter(columns.values())).shape[2]
    media.write_image(workdir / PICTURE, pictures.sheet(columns, 5, prompts, max(1, 96 // height)))


def directions(models: Mapping[str, Mapping]) -> list[dict]:
    """Whether images bring it into videos: [{"what", "bar", "measured", "met" (None: not measured)}]."""
    def of(name: str, value: str) -> Mapping | None:
        return models.get(name, {}).get("values", {}).get(value)

    joint, control = (table2.MIXES[name][0] for name in (JOINT, table2.CONTROL))
    return [common.apart(f"{value} in motion: {joint} against {control}", of(JOINT, value), of(table2.CONTROL, value),
                         higher=True, percent=True) for value in IMAGE_ONLY.values()]


def report(measured: Mapping) -> str:
    """report.md of what `main` measured."""
    models, how = measured["models"], measured["circumstances"]
    values = " or the ".join(f"{field} *{value}*" for field, value in IMAGE_ONLY.items())
    rows = [[table2.MIXES[name][0], value, common.between(found, percent=True), found["of"],
             common.between({"value": found["motion"]}, percent=True),
             ", ".join(f"{count} {what}" for what, count in found["instead"].items())]
            for name, entry in models.items() for value, found in entry["values"].items()]
    return "\n".join([
        "# Figure 3 in small", "",
        f"No video of the data shows the {values}; images do. Two generators of {how['steps']} steps on one tokenizer, "
        "which has seen both slide as images, are asked for moving scenes of either: one learned from videos and "
        "images, the control from videos alone.", "",
        *common.table(["videos/images", "asked for", "shown", "of clips", "moving as asked", "what clips show"], rows),
        "",
        "- In brackets: 95 % (Wilson). The judge of the sprite world reads it from the pixels.",
        "- The paper shows a pencil drawing's style in videos and gives no figure for it.",
        f"- {PICTURE}: the same prompts, joint training on the left.", "",
        "## Directions", "", *common.directions_table(measured["directions"]), "",
        "## Circumstances", "", *common.circumstances_list(how)]) + "\n"
