"""Metrics of each data set of a stream, where it is of several."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

Pairs = dict[str, tuple[jax.Array, jax.Array]]


def by_source(name: str, sources_BN: jax.Array | None, sums_B: jax.Array, counts_B: jax.Array | float = 1.0) -> Pairs:
    """{"NAME/N": (mean over the rows of the stream's n-th data set, 1 if it has any)}; {} for a stream of one.

    Args:
      sources_BN: of a batch (`input.schema`). sums_B, counts_B: of each row what is averaged, and over how much.
    """
    if sources_BN is None:
        return {}
    sources_BN = sources_BN.astype(jnp.float32)
    sums_N, counts_N = sums_B @ sources_BN, jnp.broadcast_to(counts_B, sums_B.shape) @ sources_BN
    means_N, taken_N = sums_N / jnp.maximum(counts_N, 1e-9), (counts_N > 0).astype(jnp.float32)
    return {f"{name}/{n}": (means_N[n], taken_N[n]) for n in range(sources_BN.shape[1])}


def named(metrics: Mapping[str, float], sources: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """"video/loss/0" -> "video/loss/TASK". sources: the data sets of each stream (`mix.sources_of`)."""
    def name_of(metric: str) -> str:
        stream, _, what = metric.partition("/")
        what, _, number = what.rpartition("/")
        return f"{stream}/{what}/{sources[stream][int(number)]}" if stream in sources and number.isdigit() else metric

    return {name_of(metric): value for metric, value in metrics.items()}
