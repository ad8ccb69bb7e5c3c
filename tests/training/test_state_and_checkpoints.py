"""The state born on its mesh, the step against its formula, checkpoints restored strictly and onto other meshes."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError
from phenaki_jax.parallel import make_mesh, shard_batch
from phenaki_jax.training.checkpoints import Checkpoints, checkpoint_steps, flatten, load_run, nest
from phenaki_jax.training.optimizer import make_optimizer
from phenaki_jax.training.state import abstract_state, create_state, initial_state, make_step

sys.path.insert(0, str(Path(__file__).parent))
from tiny_run import PIXELS, TinyLoader, tiny_config, tiny_stage  # noqa: E402

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def made(config, mesh, frozen=None):
    stage = tiny_stage(config, frozen)
    optimizer, schedule = make_optimizer(config, stage.axes)
    return stage, optimizer, schedule, create_state(stage, optimizer, mesh, config.seed)


def equal(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_born_sharded(name):
    stage, optimizer, _, state = made(tiny_config(name=name), make_mesh(MESH))
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.mesh.size == 8
    arrays = flatten(state)
    for where, leaf in arrays.items():  # params, their average and every moment alike
        if where.endswith("layers/kernel"):
            assert {shard.data.shape for shard in leaf.addressable_shards} == {(2, 8, 8)}, where
        if where.endswith("head"):
            assert {shard.data.shape for shard in leaf.addressable_shards} == {(8, leaf.shape[1])}, where
    assert sum(where.endswith("layers/kernel") for where in arrays) == {"adamw": 4, "muon": 3}[name]
    alone = jax.jit(lambda: initial_state(stage, optimizer, 3))()
    equal(state.params, alone.params)
    equal(state.ema, state.params)


def test_the_state_is_shaped_before_it_is_made():
    config = tiny_config()
    mesh = make_mesh(MESH)
    frozen = {"codes": np.arange(6.0, dtype=np.float32)}
    stage, optimizer, _, state = made(config, mesh, frozen)
    shapes = abstract_state(stage, optimizer, mesh, config.seed)
    for wanted, leaf in zip(jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True):
        assert (wanted.shape, wanted.dtype, wanted.sharding) == (leaf.shape, leaf.dtype, leaf.sharding)
    equal(state.frozen, frozen)


def test_a_step_is_what_it_says():
    config = tiny_config()
    config.train.ema_decay = 0.15  # above (1 + s) / (10 + s) for s = 0 only
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    stage, optimizer, schedule, state = made(config, mesh)
    step = jax.jit(make_step(stage, optimizer, schedule, config))
    loader = TinyLoader(config)
    differentiate = jax.jit(jax.value_and_grad(stage.loss, has_aux=True))
    update = jax.jit(optimizer.update)
    params, variables, opt_state, ema = state.params, state.variables, state.opt_state, state.params
    for s, decay in enumerate((0.1, 0.15, 0.15)):
        batch = shard_batch(mesh, loader.batch(s))
        state, metrics = step(state, batch)
        key = jax.random.fold_in(jax.random.key(config.seed), s)
        (loss, (variables, _)), grads = differentiate(params, variables, {}, batch, key, s)
        updates, opt_state = update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["mse"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["learning_rate"], schedule(s), rtol=1e-6)
        norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
        assert int(state.step) == s + 1
        for ours, theirs in ((state.params, params), (state.ema, ema), (state.variables, variables)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)


def test_checkpoints_move_between_meshes_bit_for_bit(tmp_path):
    config = tiny_config(name="muon")
    stage, optimizer, _, state = made(config, make_mesh(MESH), {"codes": np.arange(6.0, dtype=np.float32)})
    state = dataclasses.replace(
        state, step=jnp.asarray(4, jnp.int32), ema=jax.tree.map(lambda x: x + 1, state.params)
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(4, state)
    checkpoints.close()
    for sizes, devices in (({"data": 1}, 1), ({"data": 1, "fsdp": 4, "tensor": 2}, 8), ({"data": 1, "fsdp": 2}, 2)):
        mesh = make_mesh(sizes, jax.devices()[:devices])
        target = abstract_state(stage, optimizer, mesh, config.seed)
        restored = Checkpoints(tmp_path).restore(4, target)
        equal(restored, state)
        for wanted, leaf in zip(jax.tree.leaves(target), jax.tree.leaves(restored), strict=True):
            assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


def test_a_mismatch_is_refused_by_name(tmp_path):
    config = tiny_config()
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    stage, optimizer, _, state = made(config, mesh)
    with_checkpoint = Checkpoints(tmp_path)
    with_checkpoint.save(2, state)
    with_checkpoint.wait()
    target = abstract_state(stage, optimizer, mesh, config.seed)

    def wrong(**changes):
        params = {name: leaf for name, leaf in (target.params | changes).items() if leaf is not None}
        return dataclasses.replace(target, params=params)

    with pytest.raises(UserError, match="no array 'params/extra'"):
        with_checkpoint.restore(2, wrong(extra=target.params["head"]))
    with pytest.raises(UserError, match="array 'params/head', which this config's model does not know"):
        with_checkpoint.restore(2, wrong(head=None))
    with pytest.raises(UserError, match=r"'params/head' of shape \(16, 144\).*\(144, 16\)"):
        with_checkpoint.restore(2, wrong(head=target.params["inputs"]))
    other = jax.ShapeDtypeStruct((16, 144), jnp.bfloat16, sharding=target.params["head"].sharding)
    with pytest.raises(UserError, match="'params/head' of dtype float32.*bfloat16"):
        with_checkpoint.restore(2, wrong(head=other))
    with_checkpoint.close()


def test_only_the_latest_are_kept_and_a_run_loads_without_its_optimizer(tmp_path):
    config = tiny_config()
    mesh = make_mesh(MESH)
    _, _, _, state = made(config, mesh)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (3, 6, 9):
        checkpoints.save(step, dataclasses.replace(state, ema=jax.tree.map(lambda x: x + step, state.params)))
    checkpoints.close()
    assert checkpoint_steps(tmp_path) == [6, 9]
    with pytest.raises(UserError, match="config.json"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text(configs.to_json(config))
    for item in (tmp_path / "checkpoints").glob("*/training"):
        item.rename(item.with_name("elsewhere"))
    run = load_run(tmp_path)
    assert run.step == 9 and run.config.tokenizer.patch == (2, 2, 2) and run.frozen == {}
    equal(run.params, jax.tree.map(lambda x: x + 9, state.params))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(run.params))
    equal(load_run(tmp_path, 6).params, jax.tree.map(lambda x: x + 6, state.params))
    with pytest.raises(UserError, match="no checkpoint of step 3; it has 6, 9"):
        load_run(tmp_path, 3)


def test_a_folder_without_checkpoints_is_no_model(tmp_path):
    with pytest.raises(UserError, match="no model folder"):
        load_run(tmp_path / "none")
    (tmp_path / "config.json").write_text(configs.to_json(tiny_config()))
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_run(tmp_path)


def test_nest_is_the_inverse_of_flatten():
    tree = {"a": {"b": {0: {"c": 2}, 11: {"c": 4}}}, "d": 3}
    assert nest(flatten(tree)) == tree


def test_a_batch_in_parts_updates_as_a_whole_one_does():
    """A loss that is a mean over rows, on a mesh: gradients, variables and metrics of one part and of four agree."""
    def loss(params, variables, frozen, batch, key, step):
        x = batch["video"]["video"].reshape(-1, PIXELS) / 127.5 - 1
        error = jnp.mean((jnp.tanh(x @ params["inputs"]) @ params["head"] - x) ** 2)
        return error, (variables | {"seen": variables["seen"] + len(x)}, {"mse": error})

    found = []
    for parts in (1, 4):
        config, mesh = tiny_config(), make_mesh(MESH)
        config.train.accumulate = parts
        stage = dataclasses.replace(tiny_stage(config), loss=loss)
        optimizer, schedule = make_optimizer(config, stage.axes)
        with jax.set_mesh(mesh):
            state = create_state(stage, optimizer, mesh, config.seed)
            batch = shard_batch(mesh, TinyLoader(config).batch(0))
            found.append(jax.jit(make_step(stage, optimizer, schedule, config))(state, batch))
    (one, of_one), (four, of_four) = found
    assert one.variables["seen"] == four.variables["seen"] == 8
    for name in ("loss", "mse", "grad_norm"):
        np.testing.assert_allclose(of_one[name], of_four[name], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_parts_that_do_not_divide_the_batch_are_refused():
    config = tiny_config()
    config.train.accumulate = 3
    stage, optimizer, schedule, state = made(config, make_mesh(MESH))
    with pytest.raises(UserError, match="train.accumulate=3 does not divide a stream of 8 rows"):
        make_step(stage, optimizer, schedule, config)(state, TinyLoader(config).batch(0))
