"""Adversarial losses and what keeps them steady, as pure functions of logits and gradients; all results float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from phenaki_jax.errors import UserError

KINDS = ("hinge", "non_saturating")
LARGEST_LOGIT = 1e15  # far beyond any use; squares and sums of such logits are still finite in float32
LARGEST_WEIGHT = 1e4


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise UserError(f"adversarial.kind={kind!r} is unknown; it is one of {', '.join(KINDS)}")


def _bounded(logits: jax.Array) -> jax.Array:
    return jnp.clip(logits.astype(jnp.float32), -LARGEST_LOGIT, LARGEST_LOGIT)


def generator_loss(kind: str, fake_logits: jax.Array) -> jax.Array:
    """What the generator minimises so that its output is taken for real: logits of any shape -> scalar.

    kind: "hinge", the mean of -fake (arXiv 1705.02894), or "non_saturating", the mean of log(1 + exp(-fake))
      (arXiv 1406.2661, section 3).

    Raises: UserError for another kind.
    """
    _check(kind)
    fake = _bounded(fake_logits)
    return jnp.mean(-fake if kind == "hinge" else jax.nn.softplus(-fake))


def discriminator_loss(kind: str, real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """What the discriminator minimises so as to tell real from generated: logits of any shape -> scalar.

    kind: "hinge", mean max(0, 1 - real) + mean max(0, 1 + fake), or "non_saturating", the cross-entropies
      mean log(1 + exp(-real)) + mean log(1 + exp(fake)); not halved. Undecided logits of 0 cost 2 and 2 log 2.

    Raises: UserError for another kind.
    """
    _check(kind)
    real, fake = _bounded(real_logits), _bounded(fake_logits)
    cost = (lambda x: jax.nn.relu(1 + x)) if kind == "hinge" else jax.nn.softplus
    return jnp.mean(cost(-real)) + jnp.mean(cost(fake))


def r1_penalty(logits_of: Callable[[jax.Array], jax.Array], real: jax.Array) -> jax.Array:
    """R1: the mean over rows of the squared norm of the logits' gradient in the real input
    (arXiv 1801.04406, section 4.1).

    The caller multiplies by gamma / 2 (and by the interval where it is taken at every k-th step only).

    Args:
      logits_of: [N, ...] -> logits [N].
      real: [N, ...], floats or what becomes floats.
    """
    gradient = jax.grad(lambda x: jnp.sum(logits_of(x).astype(jnp.float32)))(real.astype(jnp.float32))
    return jnp.sum(jnp.square(gradient)) / len(real)


def lecam_state() -> dict[str, jax.Array]:
    """LeCam's running sums of the real and of the generated logits' means, and of their weights; nothing seen yet."""
    return {name: jnp.zeros(()) for name in ("real", "fake", "weight")}


def lecam(state: dict[str, jax.Array], real_logits: jax.Array, fake_logits: jax.Array,
          decay: float = 0.99) -> tuple[jax.Array, dict[str, jax.Array]]:
    """LeCam's penalty on the discriminator, and the next state (arXiv 2104.03310).

    mean (real - running fake)^2 + mean (running real - fake)^2, either only where the difference is positive, as in
    its authors' code: a discriminator that is wrong is not held back from learning. The running means count this
    batch and are without bias from the first on; they carry no gradient.

    Args:
      decay: of the running means, at least 0 and less than 1.
    """
    real, fake = _bounded(real_logits), _bounded(fake_logits)
    batch = {"real": jnp.mean(real), "fake": jnp.mean(fake), "weight": 1.0}
    state = jax.lax.stop_gradient({name: decay * state[name] + (1 - decay) * value for name, value in batch.items()})
    running_real, running_fake = state["real"] / state["weight"], state["fake"] / state["weight"]
    penalty = (jnp.mean(jnp.square(jax.nn.relu(real - running_fake)))
               + jnp.mean(jnp.square(jax.nn.relu(running_real - fake))))
    return penalty, state


def ramp(step: jax.Array | int, start: int, warmup: int) -> jax.Array:
    """Factor of a loss that joins later: exactly 0 before step `start`, then rising evenly to 1 at `start + warmup`.

    The rise has warmup + 1 equal parts, the first of them at `start`; with warmup = 0 it is a jump. Steps may be
    traced.
    """
    return jnp.clip((jnp.asarray(step) - start + 1) / (warmup + 1), 0.0, 1.0).astype(jnp.float32)


def balance(reconstruction_gradient: Any, adversarial_gradient: Any, eps: float = 1e-12) -> jax.Array:
    """Weight of the adversarial loss at which it pulls as hard as the reconstruction's (arXiv 2012.09841, section 3.1).

    |reconstruction_gradient| / (|adversarial_gradient| + eps), clipped to [0, 1e4], without a gradient. VQGAN takes
    the two losses' gradients in the last layer's weights; here they are in the reconstruction, the model's output, so
    that there is no layer to name and images, clips and any decoder are served alike. Such gradients are as small as
    1 / sqrt(pixels), hence the small eps. The weight is 0 only where the reconstruction's gradient is.

    Args: arrays (or trees of arrays) alike, such as [B, F, Y, X, 3].
    """
    wanted, given = (optax.global_norm(jax.tree.map(lambda x: x.astype(jnp.float32), gradient))
                     for gradient in (reconstruction_gradient, adversarial_gradient))
    return jax.lax.stop_gradient(jnp.clip(wanted / (given + eps), 0.0, LARGEST_WEIGHT))
