"""A stage: what is trained, as pure functions over trees of arrays. The loop knows stages only by this."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Tree = Any  # nested dict of arrays
Axes = Any  # the same nest, a tuple of logical axis names (or None) for each array


@dataclasses.dataclass(frozen=True)
class Stage:
    """A loss and what belongs to it. It knows nothing of files, steps or optimizers.

    Attributes:
      name: "tokenizer" or "generator".
      init: key -> (params, variables). Params get gradients; variables are carried and rewritten by the loss
        (codebook averages and the like).
      axes: like params, the logical axis names of each array, such as ("layers", "embed", "mlp").
      variable_axes: like variables.
      loss: (params, variables, frozen, batch, key, step) -> (loss, (variables, metrics)). The loss is a float32 scalar
        and metrics a dict of name -> scalar, or (scalar, taken) for what not every step takes, taken 0 or 1. The batch
        holds streams, {"video": {"video": uint8 [B,F,Y,X,3], ...}, ...}; `frozen` are the frozen and the given arrays;
        step is the number of updates done, int32.
      frozen: arrays that the loss reads and nobody trains, kept with the model; {} where there are none.
      samples: (params, variables, frozen, batch, key) -> uint8 [Y,X,3], a picture that shows how far the stage is.
        `frozen` are the frozen and the given arrays, as in the loss.
      given: arrays that the loss reads beside the frozen ones and that lie elsewhere, in an installed package or a
        folder of the user's; never saved.
      aids: top-level names of params and variables that only training needs (a discriminator): they have an optimizer
        and a clipping of their own, are not averaged, and are no part of the model.
      given_axes: like parts of `given`, the logical axis names of each array; what is not in it lies on every device.
    """

    name: str
    init: Callable[[jax.Array], tuple[Tree, Tree]]
    axes: Axes
    variable_axes: Axes
    loss: Callable[[Tree, Tree, Tree, Tree, jax.Array, jax.Array], tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]]
    frozen: Tree
    samples: Callable[[Tree, Tree, Tree, Tree, jax.Array], np.ndarray]
    given: Tree = dataclasses.field(default_factory=dict)
    aids: tuple[str, ...] = ()
    given_axes: Axes = dataclasses.field(default_factory=dict)

    def model_part(self, tree: Tree) -> Tree:
        """Params or variables (or what is laid out like them) without the aids."""
        return {name: part for name, part in tree.items() if name not in self.aids}
