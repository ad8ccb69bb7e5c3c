"""What devices send each other in a compiled program, read from its text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
         "u64": 8, "f64": 8}
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_SHAPE = re.compile(r"\b(" + "|".join(BYTES) + r")\[([\d,]*)\]")
_OPERATION = re.compile(r"= (.*?) (" + "|".join(KINDS) + r")(-start)?\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations|branch_computations|async_execution_thread)"
                     r"=\{?((?:%[\w.\-]+(?:, )?)+)")
_WHILE = re.compile(r" while\(.*condition=%([\w.\-]+), body=%([\w.\-]+)")
_CONSTANT = re.compile(r"%([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")


class Collective(NamedTuple):
    """One of KINDS. bytes: of its largest array, a time and device; times: that it runs a step."""
    kind: str
    bytes: int
    times: int


def collectives(text: str) -> list[Collective]:
    """All of an HLO module's text.

    An operation that the compiler has spread over several others stands in the text more than once, with one channel;
    it counts once. A loop whose count cannot be told counts as one turn.
    """
    bodies = dict(_computations(text))
    times = _times(bodies, re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)[1])
    found: dict[str, Collective] = {}
    for name, lines in bodies.items():
        for number, line in enumerate(lines):
            match = _OPERATION.search(line)
            if not match or name not in times:
                continue
            shapes = [_bytes(*shape) for shape in _SHAPE.findall(match[1])]
            # What is begun and ended apart has its operands beside its results: each as large as the other, or smaller.
            size = max(shapes, default=0) if match[3] or match[2] != "all-reduce" else sum(shapes)
            channel = _CHANNEL.search(line)
            key = channel[1] if channel else f"{name} {number}"
            if key not in found or times[name] > found[key].times:
                found[key] = Collective(match[2], size, times[name])
    return list(found.values())


def _bytes(dtype: str, sides: str) -> int:
    return BYTES[dtype] * math.prod(int(side) for side in sides.split(",") if side)


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = None, []
    for line in text.splitlines():
        if match := _HEAD.match(line):
            name, lines = match[1], []
        elif line.rstrip() == "}" and name:
            yield name, lines
            name = None
        elif name:
            lines.append(line)


def _times(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs a step; those that nothing calls are left out."""
    times = {entry: 1}
    waiting = [entry]
    while waiting:
        caller = waiting.pop()
        for line in bodies.get(caller, ()):
            loop = _WHILE.search(line)
            turns = _turns(bodies.get(loop[1], ())) if loop else 1
            for group in _CALLED.findall(line):
                for called in re.findall(r"%([\w.\-]+)", group):
                    count = times[caller] * turns
                    if times.get(called, 0) < count:
                        times[called] = count
                        waiting.append(called)
    return times


def _turns(condition: list[str]) -> int:
    """A loop counts up to the constant of its condition."""
    constants = {match[1]: int(match[2]) for line in condition if (match := _CONSTANT.search(line))}
    for line in condition:
        if "compare(" in line and "direction=LT" in line:
            for name, value in constants.items():
                if f"%{name}" in line.partition("compare(")[2]:
                    return value
    return max(constants.values(), default=1)
