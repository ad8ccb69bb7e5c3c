"""Between an NNX module and pure dicts of arrays, the form in which training keeps, shards and saves a model."""

from typing import Any, Callable

import jax
from flax import nnx

Tree = Any
ARRAYS = ("params", "variables")  # of a model, as another one's run carries them


def _axes(state: nnx.State) -> Tree:
    """The logical axes of each array, like the state as a pure dict; a stacked array's first axis is 'layers'."""
    def axes(variable):
        names, rank = variable.get_metadata()["axes"], len(variable.shape)
        return names if rank == len(names) else ("layers", *names)
    tree = jax.tree.map(axes, state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    return nnx.to_pure_dict(tree)


class Pure:
    """A module as pure functions. `make` builds it from an nnx.Rngs; nothing is computed until `init` is called.

    Attributes:
      module_config: the sizes it was made by. axes, variable_axes: logical axis names, like params and variables.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], module_config: Any = None):
        self._make, self.module_config = make, module_config
        abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        self.graphdef, params, variables = nnx.split(abstract, nnx.Param, ...)
        self.axes, self.variable_axes = _axes(params), _axes(variables)

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """(params, variables): pure dicts of arrays."""
        _, params, variables = nnx.split(self._make(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(variables)

    def bind(self, params: Tree, variables: Tree) -> nnx.Module:
        """The module over these arrays."""
        return nnx.merge(self.graphdef, params, variables, copy=True)

    @staticmethod
    def variables(module: nnx.Module) -> Tree:
        """The arrays of a bound module that are no parameters, as they are now."""
        return nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))
