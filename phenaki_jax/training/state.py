"""The state of a run, born on its mesh, and the step that carries it on. Both are pure."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from phenaki_jax.parallel.rules import tree_shardings
from phenaki_jax.training.stage import Stage

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything that a step reads and writes.

    Attributes:
      step: int32 scalar, updates done so far; also the number of the batch that comes next.
      params: what is trained, float32.
      ema: moving average of params, which is what evaluates and generates.
      opt_state: the optimizer's.
      variables: the stage's other arrays (codebook averages and the like).
      frozen: arrays of another model that the loss reads; {} for a tokenizer.
    """

    step: jax.Array
    params: Tree
    ema: Tree
    opt_state: Tree
    variables: Tree
    frozen: Tree


def path_name(path: tuple) -> str:
    """A key path of jax.tree_util -> "params/encoder/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def initial_state(stage: Stage, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step, without its frozen arrays. A pure function, to be traced."""
    params, variables = stage.init(jax.random.fold_in(jax.random.key(seed), jnp.uint32(2**32 - 1)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        variables=variables,
        frozen={},
    )


def state_shardings(stage: Stage, state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """Where each array of a (shape-evaluated) state lies: params by their logical axes, the optimizer's moments where
    the parameter lies whose path they end in, frozen arrays and scalars everywhere."""
    params = tree_shardings(mesh, state.params, stage.axes)
    everywhere = NamedSharding(mesh, PartitionSpec())
    of_param = {
        path: (leaf.shape, place)
        for (path, leaf), place in zip(
            jax.tree_util.tree_flatten_with_path(state.params)[0], jax.tree.leaves(params), strict=True
        )
    }

    def moment(path, leaf):
        for start in range(len(path)):
            shape, place = of_param.get(path[start:], (None, None))
            if shape == leaf.shape:
                return place
        return everywhere

    return TrainState(
        step=everywhere,
        params=params,
        ema=params,
        opt_state=jax.tree_util.tree_map_with_path(moment, state.opt_state),
        variables=tree_shardings(mesh, state.variables, stage.variable_axes),
        frozen=jax.tree.map(lambda _: everywhere, state.frozen),
    )


def abstract_state(
    stage: Stage, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, seed: int = 0
) -> TrainState:
    """Shapes, dtypes and shardings of the state, with nothing computed: what a compiler or a checkpoint needs."""
    shapes = jax.eval_shape(lambda: initial_state(stage, optimizer, seed))
    shapes = dataclasses.replace(
        shapes, frozen=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stage.frozen)
    )
    places = state_shardings(stage, shapes, mesh)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)


def place_frozen(frozen: Tree, places: Tree) -> Tree:
    """Copies, because the step is given its state for good and the caller may still need these."""
    return jax.tree.map(lambda x, place: jax.device_put(x, place, may_alias=False), frozen, places)


def create_state(
    stage: Stage, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, seed: int
) -> TrainState:
    """The state before the first step, every array born where it will live: no device ever holds it whole."""
    places = jax.tree.map(lambda x: x.sharding, abstract_state(stage, optimizer, mesh, seed))
    born = dataclasses.replace(places, frozen={})
    state = jax.jit(lambda: initial_state(stage, optimizer, seed), out_shardings=born)()
    return dataclasses.replace(state, frozen=place_frozen(stage.frozen, places.frozen))


def make_step(
    stage: Stage, optimizer: optax.GradientTransformation, schedule: Callable, config
) -> Callable[[TrainState, Tree], tuple[TrainState, dict[str, jax.Array]]]:
    """The pure function (state, batch) -> (state, metrics); jit it with the state donated.

    The key of step s is fold_in(key(config.seed), s), so a step is a function of the state and the batch alone.
    The average's decay warms up, min(ema_decay, (1 + s) / (10 + s)), so that it does not remember the initial weights.
    Metrics are of this very step: loss, grad_norm (before clipping), learning_rate and what the stage reports.
    """
    decay_limit = config.train.ema_decay

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)

        def loss_fn(params):
            return stage.loss(params, state.variables, state.frozen, batch, key)

        (loss, (variables, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(decay_limit, (1.0 + count) / (10.0 + count))
        ema = jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), state.ema, params)
        metrics = {
            "loss": loss,
            "grad_norm": optax.global_norm(grads),
            "learning_rate": schedule(state.step),
            **metrics,
        }
        return TrainState(state.step + 1, params, ema, opt_state, variables, state.frozen), metrics

    return step
