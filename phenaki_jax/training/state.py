"""The state of a run, born on its mesh, and the step that carries it on. Both are pure."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from phenaki_jax.errors import UserError
from phenaki_jax.parallel.rules import tree_shardings
from phenaki_jax.training.guard import Guard, judge, new_guard
from phenaki_jax.training.stage import Stage

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything that a step reads and writes.

    Attributes:
      step: int32 scalar, updates done so far; also the number of the batch that comes next.
      params: what is trained, float32.
      ema: moving average of params without aids, which is what evaluates and generates.
      opt_state: the optimizer's.
      variables: the stage's other arrays (codebook averages and the like).
      frozen: arrays of another model that the loss reads; {} for a tokenizer.
      given: arrays that lie elsewhere, as in an installed package; no part of a checkpoint.
      guard: what tells whether a step counts (`training.guard`).
    """

    step: jax.Array
    params: Tree
    ema: Tree
    opt_state: Tree
    variables: Tree
    frozen: Tree
    given: Tree
    guard: Guard


def path_name(path: tuple) -> str:
    """A key path of jax.tree_util -> "params/encoder/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def initial_state(stage: Stage, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step, without its frozen and given arrays. A pure function, to be traced."""
    params, variables = stage.init(jax.random.fold_in(jax.random.key(seed), jnp.uint32(2**32 - 1)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, stage.model_part(params)),
        opt_state=optimizer.init(params),
        variables=variables,
        frozen={},
        given={},
        guard=new_guard(),
    )


def state_shardings(stage: Stage, state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """Where each array of a (shape-evaluated) state lies: params by their logical axes, the optimizer's moments where
    the parameter lies whose path they end in, given arrays by their axes if they have some, all else everywhere."""
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
        ema=stage.model_part(params),
        opt_state=jax.tree_util.tree_map_with_path(moment, state.opt_state),
        variables=tree_shardings(mesh, state.variables, stage.variable_axes),
        frozen=jax.tree.map(lambda _: everywhere, state.frozen),
        given={
            name: tree_shardings(mesh, part, stage.given_axes[name]) if name in stage.given_axes else
            jax.tree.map(lambda _: everywhere, part)
            for name, part in state.given.items()
        },
        guard=jax.tree.map(lambda _: everywhere, state.guard),
    )


def abstract_state(
    stage: Stage, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, seed: int = 0
) -> TrainState:
    """Shapes, dtypes and shardings of the state, with nothing computed: what a compiler or a checkpoint needs."""
    shapes = jax.eval_shape(lambda: initial_state(stage, optimizer, seed))
    frozen, given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (stage.frozen, stage.given))
    shapes = dataclasses.replace(shapes, frozen=frozen, given=given)
    places = state_shardings(stage, shapes, mesh)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)


def place_frozen(frozen: Tree, places: Tree) -> Tree:
    """Copies, because the step is given its state for good and the caller may still need these."""
    return jax.tree.map(  # by way of NumPy: one of the devices may own the array, and would share it all the same
        lambda x, place: jax.device_put(np.asarray(x), place, may_alias=False), frozen, places)


def create_state(
    stage: Stage, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, seed: int
) -> TrainState:
    """The state before the first step, every array born where it will live: no device ever holds it whole."""
    places = jax.tree.map(lambda x: x.sharding, abstract_state(stage, optimizer, mesh, seed))
    born = dataclasses.replace(places, frozen={}, given={})
    state = jax.jit(lambda: initial_state(stage, optimizer, seed), out_shardings=born)()
    frozen, given = place_frozen((stage.frozen, stage.given), (places.frozen, places.given))
    return dataclasses.replace(state, frozen=frozen, given=given)


def _over_parts(metric: Any) -> Any:
    """The mean of a metric's values [parts]; of (values, taken) over the parts that took it."""
    if not isinstance(metric, tuple):
        return metric.mean(0)
    values, taken = metric
    return jnp.sum(values * taken, axis=0) / jnp.maximum(jnp.sum(taken, axis=0), 1), jnp.max(taken, axis=0)


def make_step(
    stage: Stage, optimizer: optax.GradientTransformation, schedule: Callable, config
) -> Callable[[TrainState, Tree], tuple[TrainState, dict[str, jax.Array]]]:
    """The pure function (state, batch) -> (state, metrics); jit it with the state donated.

    The key of step s is fold_in(key(config.seed), s), so a step is a function of the state and the batch alone.
    The average's decay warms up, min(ema_decay, (1 + s) / (10 + s)), so that it does not remember the initial weights.
    A step whose loss or gradient is not finite, or whose loss is train.spike standard deviations above the mean of
    those before it, leaves all but the count of steps as it was (`training.guard`).
    Metrics are of this very step: loss, grad_norm (before clipping), parameter_norm, learning_rate, skipped_in_a_row
    and what the stage reports; one that not every step takes is a pair (value, taken), taken 0 or 1.
    With train.accumulate = n a step goes through its batch in n parts, one after the other, and updates once with the
    mean of their gradients: the memory of a part. Part i has rows i, i + n, ... of each stream and the key fold_in(key,
    i); metrics are means over the parts. That is the whole batch's step where a loss is a mean over rows (the
    tokenizer's l2 and perceptual terms), and nearly so elsewhere: the generator's is a mean over the tokens that were
    masked, whose number differs from part to part, so a part with few of them counts each for more; averages of a
    codebook and LeCam's are carried from part to part, and a discriminator's minibatch deviation sees a part alone.
    """
    decay_limit = config.train.ema_decay
    parts = config.train.get("accumulate", 1)

    def gradients(state: TrainState, variables: Tree, batch: Tree, key: jax.Array):
        def loss_fn(params):
            return stage.loss(params, variables, state.frozen | state.given, batch, key, state.step)

        (loss, (variables, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return grads, variables, {"loss": loss, **metrics}

    def accumulated(state: TrainState, batch: Tree, key: jax.Array):
        def part(carry, index_and_batch):
            sums, variables = carry
            index, batch = index_and_batch
            grads, variables, metrics = gradients(state, variables, batch, jax.random.fold_in(key, index))
            return (jax.tree.map(jnp.add, sums, grads), variables), metrics

        def divide(x):  # neighbours go to different parts, so that a part is spread over the devices as a batch is
            if x.shape[0] % parts:
                raise UserError(f"train.accumulate={parts} does not divide a stream of {x.shape[0]} rows; "
                                "choose another batch_size, or a divisor of its streams' rows")
            return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        (sums, variables), metrics = jax.lax.scan(
            part, (zeros, state.variables), (jnp.arange(parts), jax.tree.map(divide, batch)))
        mean = lambda tree: jax.tree.map(lambda x: x / parts, tree)
        return mean(sums), variables, {name: _over_parts(value) for name, value in metrics.items()}

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        grads, variables, metrics = (accumulated(state, batch, key) if parts > 1 else
                                     gradients(state, state.variables, batch, key))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(decay_limit, (1.0 + count) / (10.0 + count))
        ema = jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), state.ema, stage.model_part(params))
        grad_norm = optax.global_norm(grads)
        counts, guard = judge(state.guard, metrics["loss"], grad_norm, config.train.get("spike", 0.0))
        params, ema, opt_state, variables = jax.tree.map(
            lambda new, old: jnp.where(counts, new, old), (params, ema, opt_state, variables),
            (state.params, state.ema, state.opt_state, state.variables))
        metrics |= {"grad_norm": grad_norm, "parameter_norm": optax.global_norm(stage.model_part(params)),
                    "learning_rate": schedule(state.step), "skipped_in_a_row": guard["in_a_row"]}
        return TrainState(state.step + 1, params, ema, opt_state, variables, state.frozen, state.given, guard), metrics

    return step


def jit_step(stage: Stage, optimizer: optax.GradientTransformation, schedule: Callable, config, places: Tree):
    """`make_step`, jitted as training runs it: the state is given away, and the new one lies where the old one lay."""
    return jax.jit(make_step(stage, optimizer, schedule, config), donate_argnums=0, out_shardings=(places, None))
