"""Steps that must not count: a loss or a gradient that is no number, or a loss far above those before it."""

from typing import Any

import jax
import jax.numpy as jnp

from phenaki_jax.errors import UserError

SETTLED = 100  # steps whose losses are known before one can be too high, and that their average spans
Guard = dict[str, jax.Array]


def new_guard() -> Guard:
    """in_a_row: steps that were skipped since the last that counted; taken: those that counted; mean, square: of their
    losses, averages over the last SETTLED or so."""
    return {"in_a_row": jnp.zeros((), jnp.int32), "taken": jnp.zeros((), jnp.int32),
            "mean": jnp.zeros(()), "square": jnp.zeros(())}


def judge(guard: Guard, loss: jax.Array, grad_norm: jax.Array, spike: float) -> tuple[jax.Array, Guard]:
    """Whether a step counts, and the guard after it.

    spike: standard deviations above the mean from which a loss is too high; 0: none is.
    """
    counts = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if spike:
        deviation = jnp.sqrt(jnp.maximum(guard["square"] - guard["mean"] ** 2, 0.0))
        counts &= (guard["taken"] < SETTLED) | (loss <= guard["mean"] + spike * deviation)
    weight = jnp.where(counts, 1.0 / jnp.minimum(guard["taken"] + 1, SETTLED), 0.0)
    known = jnp.where(counts, loss, 0.0)
    return counts, {
        "in_a_row": jnp.where(counts, 0, guard["in_a_row"] + 1), "taken": guard["taken"] + counts.astype(jnp.int32),
        "mean": guard["mean"] + weight * (known - guard["mean"]),
        "square": guard["square"] + weight * (known ** 2 - guard["square"])}


def check_skipped(config: Any, step: int, rows: Any) -> None:
    """Raises: UserError where the last of some steps' metrics is one too many that was skipped in a row."""
    most = config.train.get("max_skipped", 10)
    last = jax.device_get(rows[-1])
    if last["skipped_in_a_row"] >= most:
        raise UserError(
            f"The loss is {float(last['loss']):g} and its grad_norm is {float(last['grad_norm']):g} at step {step}, "
            f"and {int(last['skipped_in_a_row'])} steps in a row were skipped for such (train.max_skipped={most}); "
            "start again in another --workdir with a lower optimizer.learning_rate (now "
            f"{config.optimizer.learning_rate}) or optimizer.clip (now {config.optimizer.clip}).")
