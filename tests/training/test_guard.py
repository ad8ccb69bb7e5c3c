"""Steps that must not count leave everything as it was, are counted, and are no end unless there are too many."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.parallel import make_mesh, shard_batch
from phenaki_jax.training import guard
from phenaki_jax.training.checkpoints import checkpoint_steps
from phenaki_jax.training.loop import train
from phenaki_jax.training.metrics import read_lines
from phenaki_jax.training.optimizer import make_optimizer
from phenaki_jax.training.state import create_state, make_step

sys.path.insert(0, str(Path(__file__).parent))
from tiny_run import TinyLoader, tiny_config, tiny_stage  # noqa: E402


def broken_at(steps, value=jnp.nan):
    """A stage whose loss at these steps is multiplied by a value."""
    def make(config, frozen=None):
        stage = tiny_stage(config, frozen)

        def loss(params, variables, frozen, batch, key, step):
            total, (variables, metrics) = stage.loss(params, variables, frozen, batch, key, step)
            wrong = jnp.where(jnp.isin(step, jnp.asarray(steps)), value, 1.0)
            return total * wrong, (jax.tree.map(lambda x: x * wrong, variables), metrics)

        return dataclasses.replace(stage, loss=loss)
    return make


def test_a_step_without_numbers_changes_nothing_but_the_count():
    config = tiny_config()
    stage, mesh = broken_at([2])(config), make_mesh({"data": 1}, jax.devices()[:1])
    optimizer, schedule = make_optimizer(config, stage.axes)
    with jax.set_mesh(mesh):
        state, step, loader = create_state(stage, optimizer, mesh, 0), None, TinyLoader(config)
        step = jax.jit(make_step(stage, optimizer, schedule, config))
        for number in range(4):
            before, (state, metrics) = state, step(state, shard_batch(mesh, loader.batch(number)))
            same = [np.array_equal(a, b) for a, b in zip(*(jax.tree.leaves((s.params, s.ema, s.opt_state, s.variables))
                                                           for s in (before, state)))]
            assert int(state.step) == number + 1
            assert all(same) if number == 2 else not any(same[:4]), number
            assert int(metrics["skipped_in_a_row"]) == (number == 2)
            assert np.isnan(metrics["loss"]) == (number == 2)
    assert int(state.guard["taken"]) == 3


def test_it_is_counted_told_and_left_out_of_the_means(tmp_path, capsys):
    options = dict(make_loader=TinyLoader, tensorboard=False, devices=jax.devices()[:1])
    train(tiny_config(12), tmp_path, make_stage=broken_at([4, 7]), **options)
    lines = {line["step"]: line for line in read_lines(tmp_path / "metrics.jsonl")}
    assert {step: line.get("skipped") for step, line in lines.items()} == {1: None, 3: None, 6: 1, 9: 1, 12: None}
    assert all(np.isfinite(list(line.values())).all() for line in lines.values())
    assert "1 of the 3 steps up to 6 were skipped" in capsys.readouterr().err


def test_too_many_in_a_row_end_the_run_with_what_was_good(tmp_path):
    options = dict(make_loader=TinyLoader, tensorboard=False, devices=jax.devices()[:1])
    config = tiny_config(40)
    config.train.max_skipped = 6
    with pytest.raises(UserError, match=r"The loss is nan .* at step 15, and 7 steps in a row were skipped"):
        train(config, tmp_path, make_stage=broken_at(range(8, 40)), **options)
    assert checkpoint_steps(tmp_path) == [5, 10]
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 3, 6, 9, 12]


def test_a_spike_is_what_lies_deviations_above_the_mean():
    state, rng = guard.new_guard(), np.random.default_rng(0)
    losses = rng.normal(-3.0, 0.5, 300)  # a generator's adversarial loss may well be negative
    losses[[50, 250]] = 10.0
    losses[270] = -20.0
    judge = jax.jit(guard.judge, static_argnums=3)
    counted = []
    for loss in losses:
        counts, state = judge(state, jnp.float32(loss), jnp.float32(1.0), 8.0)
        counted.append(bool(counts))
    assert np.flatnonzero(~np.asarray(counted)).tolist() == [250]  # at 50 too little is known
    assert int(state["taken"]) == 299 and int(state["in_a_row"]) == 0
    counts, _ = guard.judge(state, jnp.float32(1e9), jnp.float32(1.0), 0.0)
    assert bool(counts)
    counts, _ = guard.judge(state, jnp.float32(-3.0), jnp.float32(jnp.inf), 0.0)
    assert not bool(counts)
