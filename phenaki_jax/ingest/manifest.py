"""manifest.json: what a data set has, made of what its units have; the same bytes whoever made them and when."""

import collections
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax.ingest import places
from phenaki_jax.ingest.unit import SHOWN, SPLITS, file_of
from phenaki_jax.input.records import MANIFEST


def write_manifest(output: str, about: Mapping[str, Any], units: Sequence[Mapping[str, Any]],
                   duplicates: bool) -> dict[str, Any]:
    """Makes it of all units/*.json, in their order, and writes it.

    Args:
      about: what the job was told: source, settings, units.
      duplicates: whether samples whose media an earlier one has are left out.

    Returns:
      {"format", **about, "in", "kept", "dropped": {reason: samples}, "clips_dropped": {reason: clips}, "records",
      "splits": {split: {"records", "bytes", "sizes": [[[height, width], records]]}}, "shards": [{"file", "split",
      "size", "records", "bytes", "checksum", "duplicates": positions that are left out}], "examples": {reason:
      [[unit, key, detail]]}}
    """
    twice = _duplicates(output, units) if duplicates else {}
    shards, dropped, clips = [], collections.Counter(), collections.Counter()
    shown: dict[str, list] = {}
    kept = sum(unit["kept"] for unit in units)
    splits = {split: {"records": 0, "bytes": 0, "sizes": collections.Counter()} for split in SPLITS}
    for unit in units:
        dropped.update(unit["dropped"])
        clips.update(unit["clips_dropped"])
        for reason, found in unit["examples"].items():
            shown.setdefault(reason, []).extend([unit["unit"], *one] for one in found)
        for place, entry in enumerate(unit["shards"]):
            out = twice.get((unit["number"], place), {})
            entry = entry | {"duplicates": sorted(position for positions in out.values() for position in positions)}
            kept -= len(out)
            dropped["duplicate"] += len(out)
            split = splits[entry["split"]]
            split["records"] += entry["records"] - len(entry["duplicates"])
            split["bytes"] += entry["bytes"]
            split["sizes"][tuple(entry["size"])] += entry["records"] - len(entry["duplicates"])
            shards.append(entry)
    manifest = {
        "format": 1, **about, "in": sum(unit["in"] for unit in units), "kept": kept,
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "clips_dropped": dict(sorted(clips.items())),
        "splits": {name: split | {"sizes": [[list(s), n] for s, n in sorted(split["sizes"].items())]}
                   for name, split in splits.items() if split["records"]},
        "shards": shards, "examples": {reason: found[:SHOWN] for reason, found in sorted(shown.items())}}
    places.write(places.join(output, MANIFEST), (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def _duplicates(output: str, units: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], dict[int, range]]:
    """{(unit, shard): {first record of a sample: its records}} of all samples whose media an earlier sample has.

    Sorted as numbers, so that some hundred million samples fit in memory.
    """
    rows = []
    for unit in units:
        table = np.load(io.BytesIO(places.read(places.join(output, file_of(unit["number"], "media.npy")))))
        rows.append(np.concatenate([table, np.full((len(table), 1), unit["number"])], axis=1))
    table = np.concatenate(rows) if rows else np.zeros((0, 5), np.int64)
    order = np.argsort(table[:, 0], kind="stable")
    again = order[1:][np.diff(table[order, 0]) == 0] if len(order) else order
    found: dict[tuple[int, int], dict[int, range]] = {}
    for _, shard, first, count, number in table[again].tolist():
        found.setdefault((number, shard), {})[first] = range(first, first + count)
    return found
