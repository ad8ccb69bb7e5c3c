"""`phenaki doctor --data=…`: what is in a data set, and what a mixture of several looks like to a training run."""

import collections
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax import media, pictures
from phenaki_jax.errors import UserError, at_least
from phenaki_jax.ingest.filters import guess_language_of
from phenaki_jax.input import order
from phenaki_jax.input.mix import Draws, find_mixture, stream_shares
from phenaki_jax.input.records import MANIFEST, BadRecord, read_manifest
from phenaki_jax.input.schema import to_text
from phenaki_jax.training.metrics import quiet_stderr

EXAMPLES, SHOWN, SIDE = 10_000, 24, 96
MANY_BAD, MANY_TWICE = 0.01, 0.05  # shares that are called a problem


@dataclasses.dataclass
class Seen:
    """What was seen of a task's records. Counters count records."""
    count: int = 0
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    rates: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    frames: list[int] = dataclasses.field(default_factory=list)
    captions: list[int] = dataclasses.field(default_factory=list)
    languages: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    bad: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    records: set[int] = dataclasses.field(default_factory=set)
    media: dict[str, int] = dataclasses.field(default_factory=dict)
    twice: int = 0

    def add(self, index: int, record: Mapping[str, Any]) -> None:
        video, text = np.asarray(record["video"]), to_text(record["caption"])
        self.sizes[f"{video.shape[1]} x {video.shape[2]}"] += 1
        self.rates[f"{float(record['fps']):g}"] += len(video) > 1
        self.frames.append(len(video))
        self.captions.append(len(text))
        if language := guess_language_of(text):
            self.languages[language] += 1
        if index not in self.records:  # a record that comes again is no duplicate
            key = hashlib.blake2b(video.tobytes(), digest_size=12).hexdigest()
            self.twice += key in self.media
            self.media[key] = index
        self.records.add(index)


def main(data: str, data_dir: str | None, split: str, sheet: str | None, examples: int = EXAMPLES) -> int:
    """Prints what is found, writes a contact sheet; 0, or 1 where something is wrong.

    Args:
      data: a data set's folder, or a mixture, see `mix.find_mixture`. data_dir: where the mixture's data sets lie.
      sheet: FILE.png, or none.

    Raises: UserError for what is no data set or no mixture.
    """
    at_least("--examples", examples, 1)
    if sheet and Path(sheet).suffix.lower() not in media.IMAGES:
        raise UserError(f"--sheet={sheet!r} has to end in one of {', '.join(media.IMAGES)}.")
    name, data_dir = data, data_dir or "."
    if (Path(data) / MANIFEST).is_file():
        name, data_dir = Path(data).resolve().name, str(Path(data).resolve().parent)
        for line in manifest_lines(Path(data)):
            print(line)
    with quiet_stderr():
        tasks, rates = find_mixture(name, field="--data", data_dir=data_dir)
    records = {task.name: task.source.records(split, data_dir) for task in tasks}
    keys = {task.name: order.source_key(0, task.source.name) for task in tasks}
    streams = {task.name: task.source.stream for task in tasks}
    draws, shares = Draws(streams, rates, seed=0), stream_shares(streams, rates)
    seen = {task.name: Seen() for task in tasks}
    shown: list[tuple[str, np.ndarray, str]] = []
    for stream, share in shares.items():
        for position in range(round(examples * share)):
            task, number = draws.at(stream, position)
            found, index = seen[task], order.record_index(keys[task], number, len(records[task]))
            found.count += 1
            try:
                record = records[task][index]
                found.add(index, record)
            except BadRecord as error:
                found.bad[error.reason] += 1
                continue
            if len(shown) < SHOWN * sum(list(shares.values())[:1 + list(shares).index(stream)]):
                shown.append((task, np.asarray(record["video"]), to_text(record["caption"])))
    problems = 0
    for task, found in seen.items():
        for good, line in lines_of(task, found, len(records[task]), rates[task] / sum(rates.values()), examples):
            print(f"  {'ok ' if good else '!! '} {line}")
            problems += not good
    if sheet and shown:
        media.write_image(sheet, contact_sheet(shown))
        print(sheet)
    print(f"{problems or 'no'} problem{'' if problems == 1 else 's'} found")
    return 1 if problems else 0


def manifest_lines(folder: Path) -> list[str]:
    """What a data set's manifest says of how it was made."""
    manifest = read_manifest(folder)
    lines = [f"{folder}: {manifest['kept']:,} of {manifest['in']:,} samples of {manifest['source']}"]
    lines += [f"  {split}: {found['records']:,} records, {found['bytes'] / 1e6:,.1f} MB" for split, found in
              manifest["splits"].items()]
    return lines + [f"  dropped: {count:,} {reason}" for reason, count in
                    sorted(manifest["dropped"].items(), key=lambda item: -item[1])]


def lines_of(task: str, found: Seen, size: int, rate: float, examples: int) -> list[tuple[bool, str]]:
    """(well, what was seen) of a task."""
    lines = [(True, f"{task}: {size:,} records; rate {rate:.1%}, seen {found.count / examples:.1%} of {examples:,}")]
    bad = found.bad.total()
    if not found.frames:
        return [*lines, (False, f"none of {found.count} can be read: {_counted(found.bad)}")]
    lines += [(True, f"sizes {_counted(found.sizes)}; frames {_spread(found.frames)}"
               + (f"; frames a second {_counted(+found.rates)}" if found.rates.total() else "")),
              (min(found.captions) > 0, f"characters of captions {_spread(found.captions)}"
               + (f"; languages {_counted(found.languages)}" if found.languages else ""))]
    if bad:
        lines.append((bad <= MANY_BAD * found.count, f"{bad} of {found.count} cannot be read: {_counted(found.bad)}"))
    share = found.twice / len(found.records)
    text = f"{found.twice} of {len(found.records):,} different records have another's pixels"
    return [*lines, (share <= MANY_TWICE, text)]


def _counted(counter: collections.Counter) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counter.most_common(6))


def _spread(values: list[int]) -> str:
    low, middle, high = np.percentile(values, (0, 50, 100)).astype(int)
    return f"{low} to {high}, half of them up to {middle}"


def contact_sheet(shown: list[tuple[str, np.ndarray, str]]) -> np.ndarray:
    """Pictures of records with their tasks and captions, uint8 [Y, X, 3]; of a clip four frames."""
    rows = []
    for task, video, caption in shown:
        frames = [media.fit(video[i:i + 1], SIDE, round(SIDE * video.shape[2] / video.shape[1]))[0]
                  for i in pictures.spread(len(video), 4)]
        text = pictures.label(f"{task}: {caption[:300]}", 4 * SIDE)
        rows.append([pictures.grid([frames]), text])
    half = -(-len(rows) // 2)
    return pictures.grid([[*rows[i], *(rows[half + i] if half + i < len(rows) else [])] for i in range(half)], gap=4)
