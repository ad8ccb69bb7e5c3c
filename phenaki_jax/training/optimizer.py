"""Optimizers by name: AdamW and Muon behind one schedule, told what is a matrix by the logical axes.

A stacked bias ``[layers, D]`` has two dimensions and is no matrix, and a stacked kernel ``[layers, D, M]`` is a
matrix a layer: shapes cannot tell, the axes' names can.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from phenaki_jax.errors import UserError

OPTIMIZERS = ("adamw", "muon")
MU_DTYPES = ("float32", "bfloat16")
# Axes inside the network. A matrix between two of them is Muon's; embeddings, heads and tables touch another axis.
HIDDEN_AXES = frozenset({"embed", "mlp", "heads", "kv", "joined_kv"})
MUON_RMS = 0.2  # update's root mean square, so that AdamW's learning rate fits (arXiv 2502.16982, section 2.2)


def make_schedule(config) -> Callable[[jax.Array | int], jax.Array]:
    """Linear warm-up over ``optimizer.warmup_steps``, then a cosine to ``end_factor`` of the peak at ``train.steps``.

    ``optimizer.decay_steps``, where given and not 0, is where the cosine ends instead: the paper's generator was shown
    at 1 M steps of a cosine over 4 M. The first update already moves: its factor is 1 / warmup_steps.
    Paper: B.1 and B.3.
    """
    options = config.optimizer
    steps = options.get("decay_steps", 0) or config.train.steps
    peak, warmup, end = options.learning_rate, options.warmup_steps, options.end_factor

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        warm = jnp.minimum(1.0, (count + 1.0) / max(warmup, 1))
        progress = jnp.clip((count - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        return peak * warm * (end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))

    return schedule


def is_axes(node: Any) -> bool:
    """True for a leaf of an axes tree: a tuple of axis names and None."""
    return isinstance(node, tuple) and all(name is None or isinstance(name, str) for name in node)


def decay_mask(axes: Any) -> Any:
    """axes tree -> tree of bool: True where weight decay applies, which is on matrices (also stacked ones)."""
    return jax.tree.map(lambda names: sum(name != "layers" for name in names) >= 2, axes, is_leaf=is_axes)


def matrix_dimensions(names: tuple[str | None, ...]) -> MuonDimensionNumbers | None:
    """Which dimensions of a kernel are summed over and which are outputs; None where Muon is not to be used.

    ("layers", "embed", "heads", "kv") is a matrix embed x (heads kv) a layer; ("heads", "kv", "embed") its mirror.
    """
    inner = [i for i, name in enumerate(names) if name != "layers"]
    if len(inner) < 2 or not all(names[i] in HIDDEN_AXES for i in inner):
        return None
    split = -1 if names[inner[-1]] == "embed" else 1
    return MuonDimensionNumbers(reduction_axis=tuple(inner[:split]), output_axis=tuple(inner[split:]))


def make_optimizer(config, axes: Any, aids: tuple[str, ...] = ()) -> tuple[optax.GradientTransformation, Callable]:
    """The optimizer named by ``config.optimizer.name`` and its schedule (update count -> learning rate).

    axes: the stage's tree of logical axes, like its params. Gradients are clipped to the global norm
    ``optimizer.clip`` first (0: not at all). Under "muon" the matrices inside the network are orthogonalised, a layer
    at a time, and scaled so that one learning rate serves both; all the rest is AdamW's. ``optimizer.mu_dtype``, one of
    MU_DTYPES, is the type in which the model's first moments are kept.
    aids: top-level names of params that help training, such as a discriminator: Adam's, at the constant rate
    ``loss.discriminator_rate`` and clipped apart, so that the model is updated as it would be without them.

    Raises: UserError for an unknown name or type.
    """
    options, schedule = config.optimizer, make_schedule(config)
    if aids:
        axes = {name: part for name, part in axes.items() if name not in aids}
    mu_dtype = options.get("mu_dtype", "float32")
    if mu_dtype not in MU_DTYPES:
        raise UserError(f"optimizer.mu_dtype is {mu_dtype!r}, which is not one of {', '.join(MU_DTYPES)}.")
    if options.name == "adamw":
        update = optax.adamw(
            schedule, b1=options.b1, b2=options.b2, weight_decay=options.weight_decay, mask=decay_mask(axes),
            mu_dtype=mu_dtype,
        )
    elif options.name == "muon":
        update = muon(
            schedule,
            beta=options.get("momentum", 0.95),
            weight_decay=options.weight_decay,
            adam_b1=options.b1,
            adam_b2=options.b2,
            muon_weight_dimension_numbers=jax.tree.map(matrix_dimensions, axes, is_leaf=is_axes),
            consistent_rms=MUON_RMS,
            mu_dtype=mu_dtype,
        )
    else:
        raise UserError(f"optimizer.name is {options.name!r}, which is not one of {', '.join(OPTIMIZERS)}.")
    clip = [optax.clip_by_global_norm(options.clip)] if options.clip else []
    update = optax.chain(*clip, update) if clip else update
    if aids:  # b1 = 0 as in StyleGAN2: a discriminator chases what moves
        aid = optax.chain(*clip, optax.adam(config.loss.discriminator_rate, b1=0.0, b2=0.99))
        update = _apart(update, aid, aids)
    return update, schedule


def _apart(
    model: optax.GradientTransformation, aid: optax.GradientTransformation, aids: tuple[str, ...]
) -> optax.GradientTransformation:
    """Two optimizers side by side, one for the top-level names in `aids`, one for all others."""

    def split(tree):
        return tuple({name: part for name, part in tree.items() if (name in aids) == which} for which in (False, True))

    def init(params):
        return tuple(side.init(part) for side, part in zip((model, aid), split(params)))

    def update(grads, state, params=None):
        parts = zip((model, aid), split(grads), state, split(params))
        updates, states = zip(*[side.update(*rest) for side, *rest in parts])
        return updates[0] | updates[1], states

    return optax.GradientTransformation(init, update)
