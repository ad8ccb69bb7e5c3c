"""The end of long stories against their beginning: what their scenes show, and the memory that they were made in."""

import gc
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from phenaki_jax.evaluation import sprite_world as sw
from phenaki_jax.evaluation.attributes import ATTRIBUTES, agreement, judge_many
from phenaki_jax.evaluation.sprites import share, story_scores

ENDS = 10  # scenes that are a beginning, or an end


def long_story_protocol(pipe: Any, stories: Sequence[Sequence[Mapping]], seed: int, *, ends: int = ENDS,
                        objects: Sequence[str] = sw.SHAPES, **sampler: Any) -> dict:
    """Tells stories all at once and holds their last scenes against their first.

    Args:
      pipe: has `tell(list of [{"prompt", "num_frames"}, ...], seed=...)`, an iterator of scenes with uint8 `frames`
        [N, F, Y, X, 3].
      stories: N lists of scenes {"prompt": str, "num_frames": int, "facts": dict}, at least 2 * ends of them.

    Returns:
      What `scene_agreement` returns, with the memory after each scene in "table"; "scores", see `story_scores`;
      "length": frames of a story; "memory": after the second scene, at whose end three windows have been made where a
      window adds half a scene, and after the last one: "resident_*", of the process, and "live_*", of JAX's arrays, in
      bytes; "resident_ratio", last over second; "live_growth", last less second.
    """
    told = [[{"prompt": scene["prompt"], "num_frames": scene["num_frames"]} for scene in story] for story in stories]
    memory = []
    with tempfile.TemporaryDirectory() as folder:  # kept in memory, the frames would be measured with it
        files = [pathlib.Path(folder) / f"{index}.npy" for index in range(len(stories[0]))]
        for file, scene in zip(files, pipe.tell(told, seed=seed, **sampler), strict=True):
            np.save(file, scene.frames)
            memory.append(_memory())
        scenes = [np.load(file) for file in files]
    second, last = memory[1], memory[-1]
    found = scene_agreement(scenes, stories, ends=ends, objects=objects)
    for row, used in zip(found["table"], memory):
        row |= {"resident MB": used["resident"] / 1e6, "live MB": used["live"] / 1e6}
    return found | {
        "scores": story_scores(np.concatenate(scenes, 1), stories, objects=objects),
        "length": sum(scene["num_frames"] for scene in stories[0]),
        "memory": {f"{name}_{when}": used[name] for name in ("resident", "live")
                   for when, used in (("second", second), ("last", last))}
        | {"resident_ratio": last["resident"] / second["resident"], "live_growth": last["live"] - second["live"]},
    }


def scene_agreement(scenes: Sequence[np.ndarray], stories: Sequence[Sequence[Mapping]], *, ends: int = ENDS,
                    objects: Sequence[str] = sw.SHAPES) -> dict:
    """Which facts the scenes show, one after the other and in the first and last `ends` of them.

    Args:
      scenes: uint8 [N, F, Y, X, 3] each, of N stories with "facts" for each scene.

    Returns:
      "table": a row a scene, {"scene": from 1, attribute: share of the stories that show it}; "first" and "last": each
      attribute as `share` counts it over all those scenes, and "mean", the mean of these shares; "fall": by how many
      percentage points the last are below the first, for each attribute and their mean.
    """
    agreed = []
    for index, frames in enumerate(scenes):
        judged = judge_many(frames, objects=objects)
        agreed.append([agreement(shown, story[index]["facts"]) for shown, story in zip(judged, stories, strict=True)])

    def shares(rows):
        return {name: share([row[name] for row in rows if name in row]) for name in ATTRIBUTES}

    def counted(part):
        found = shares([row for rows in part for row in rows])
        return found | {"mean": float(np.mean([one["share"] for one in found.values() if one["of"]]))}

    first, last = counted(agreed[:ends]), counted(agreed[-ends:])
    fall = {name: _points(first[name]["share"], last[name]["share"]) for name in ATTRIBUTES
            if first[name]["of"] and last[name]["of"]}
    return {"table": [{"scene": number} | {name: one["share"] for name, one in shares(rows).items()}
                      for number, rows in enumerate(agreed, 1)],
            "first": first, "last": last, "fall": fall | {"mean": _points(first["mean"], last["mean"])}}


def _points(first: float, last: float) -> float:
    return round(100 * (first - last), 9)  # 100 * (0.95 - 0.9) is a little more than 5


def _memory() -> dict[str, int]:
    """Bytes: "resident", of this process, 0 where the system does not tell; "live", of the arrays that JAX holds."""
    gc.collect()
    statm = pathlib.Path("/proc/self/statm")
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
    return {"resident": resident, "live": sum(array.nbytes for array in jax.live_arrays())}
