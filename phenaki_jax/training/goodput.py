"""Where a run's time goes, and how much of the hardware's peak its steps use."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from phenaki_jax.errors import UserError
from phenaki_jax.layers.attention import plain_attention
from phenaki_jax.parallel import flops_of
from phenaki_jax.parallel.chips import chip_of

PRODUCT = 1024  # rows and columns of the float32 matrices whose product is a CPU's peak


class Goodput:
    """Seconds by what they went to; all that was not told of went to steps."""

    def __init__(self):
        self._begun, self.spent = time.monotonic(), dict.fromkeys((
            "compiling", "data", "checkpoints", "samples", "evaluation"), 0.0)

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.spent[what] += time.monotonic() - begun

    def shares(self) -> dict[str, float]:
        """goodput, the share of the time that went to steps, and that of all else by its name."""
        elapsed = max(time.monotonic() - self._begun, 1e-9)
        shares = {what: seconds / elapsed for what, seconds in self.spent.items()}
        return {"goodput": max(0.0, 1 - sum(shares.values()))} | shares


class Efficiency:
    """What a step computes, against what the devices could.

    Attributes: shapes: of the batch of the step that was last; which of those that were counted.
    """

    def __init__(self, devices: int, kind: str):
        self._devices, self._kind, self._peak = devices, kind, 0.0
        self._counts: dict[str, tuple[int, int]] = {}  # FLOPs of matrix products; tokens
        self.shapes = ""

    def count(self, shapes: str, step: Any, state: Any, batch: Mapping[str, Any], patch: tuple[int, int, int]) -> None:
        """Counts a pure step of (state, batch); nothing is computed."""
        with plain_attention(remat=False):
            flops = flops_of(step, state, batch)
        tokens = 0
        for stream in batch.values():
            B, F, Y, X, _ = stream["video"].shape
            tokens += B * (1 + (F - 1) // patch[0]) * (Y // patch[1]) * (X // patch[2])
        self._counts[shapes] = flops, tokens

    @property
    def peak(self) -> float:
        """FLOPs a second of all devices: from the table of chips, or, of a CPU, measured once."""
        if not self._peak:
            chip = chip_of(self._kind)
            self._peak = chip.flops * self._devices if chip else measured_peak()
        return self._peak

    def figures(self, steps_per_second: float) -> dict[str, float]:
        """tokens_per_second, flops_per_second and mfu; {} before the first step."""
        if self.shapes not in self._counts:
            return {}
        flops, tokens = (count * steps_per_second for count in self._counts[self.shapes])
        return {"tokens_per_second": tokens, "flops_per_second": flops, "mfu": flops / self.peak}


def measured_peak() -> float:
    """FLOPs a second of a float32 matrix product on this process's default device."""
    x = jnp.ones((PRODUCT, PRODUCT), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * PRODUCT**3 / min(times)


def device_memory() -> dict[str, float]:
    """device_gb, device_peak_gb: of this process's first device; {} where it does not count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {name: stats[key] / 1e9 for name, key in (
        ("device_gb", "bytes_in_use"), ("device_peak_gb", "peak_bytes_in_use")) if key in stats}


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """ "100:105" -> (100, 105), the first and the last step of a profile. Raises: UserError for anything else."""
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"--profile_steps={text!r} has to be FIRST:LAST, such as 100:105.")
    return int(first), int(last)


class Profile:
    """A profile of some steps, for TensorBoard's profiler or xprof, in the run's folder profile/."""

    def __init__(self, folder: Any, steps: tuple[int, int] | None):
        """steps: the first and the last."""
        self._folder, self._steps, self._on = str(folder), steps, False

    def before(self, step: int) -> None:
        if self._steps and self._steps[0] <= step <= self._steps[1] and not self._on:
            jax.profiler.start_trace(self._folder)
            self._on = True

    def after(self, step: int, values: Any) -> None:
        if self._on and step >= self._steps[1]:
            jax.block_until_ready(values)
            self.close()

    def close(self) -> None:
        if self._on:
            jax.profiler.stop_trace()
            self._on, self._steps = False, None
