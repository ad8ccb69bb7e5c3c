"""Runs that begin with another one's weights."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from phenaki_jax.errors import UserError
from phenaki_jax.parallel import make_mesh
from phenaki_jax.training.checkpoints import load_run
from phenaki_jax.training.loop import train
from phenaki_jax.training.metrics import read_lines
from phenaki_jax.training.optimizer import make_optimizer
from phenaki_jax.training.start import begin_with, starting_arrays
from phenaki_jax.training.state import create_state

sys.path.insert(0, str(Path(__file__).parent))
from tiny_run import TinyLoader, tiny_config, tiny_stage  # noqa: E402


def run(workdir, config):
    return train(config, workdir, make_stage=tiny_stage, make_loader=TinyLoader, tensorboard=False,
                 devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    run(folder, tiny_config(12))
    return folder


def test_the_first_loss_is_that_of_the_weights_it_begins_with(first, tmp_path, capsys):
    config = tiny_config(6)
    config.train.init_from = str(first)
    run(tmp_path / "second", config)
    assert f"begins with the weights of {first}; new: none" in capsys.readouterr().out
    begun, batch = load_run(first), TinyLoader(config).batch(0)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    loss, _ = tiny_stage(config).loss(begun.params, begun.variables, {}, batch, key, 0)
    assert read_lines(tmp_path / "second" / "metrics.jsonl")[0]["loss"] == pytest.approx(float(loss), rel=1e-5)
    config.train.init_from, config.train.steps = "gone", 8  # once begun, it is not needed any more
    assert run(tmp_path / "second", config).step == 8


def test_arrays_of_another_shape_or_name_stay_as_they_were_born(first):
    config, mesh = tiny_config(), make_mesh(ConfigDict({"data": 1, "fsdp": 4, "tensor": 2, "sequence": 1}))
    stage, arrays = tiny_stage(config), load_run(first)
    optimizer, _ = make_optimizer(config, stage.axes)
    with jax.set_mesh(mesh):
        born = create_state(stage, optimizer, mesh, 0)
        given = {"params": {"inputs": arrays.params["inputs"], "head": np.zeros((3, 3)), "extra": np.zeros(2)},
                 "variables": {"mean": arrays.variables["mean"]}}
        state, own = begin_with(born, given, "elsewhere")
    assert own == ["head", "layers/bias", "layers/kernel"]
    for tree in (state.params, state.ema):
        np.testing.assert_array_equal(tree["inputs"], arrays.params["inputs"])
        np.testing.assert_array_equal(tree["head"], born.params["head"])
        assert tree["inputs"].sharding == born.params["inputs"].sharding
    np.testing.assert_array_equal(state.variables["mean"], arrays.variables["mean"])
    assert float(state.variables["seen"]) == 0
    with pytest.raises(UserError, match="'elsewhere' has no array of a name and shape"):
        begin_with(born, {"params": {"head": np.zeros((3, 3))}, "variables": {}}, "elsewhere")


def test_what_does_not_fit_is_refused_and_a_critic_begins_as_its_generator(first):
    config = tiny_config()
    assert starting_arrays(config, {}) is None
    config.stage, config.train.init_from = "generator", str(first)
    with pytest.raises(UserError, match="is a run of stage 'tokenizer'; a generator begins with a generator's weights"):
        starting_arrays(config, {})
    config.stage = "tokenizer"
    assert starting_arrays(config, {})[0] == str(first)
    with pytest.raises(UserError, match="over another tokenizer"):
        starting_arrays(config, {"params": {"kernel": np.zeros(2)}, "variables": {}})
    frozen = {"generator": {"params": {"transformer": {"null": np.ones(2)}, "text": {}}, "variables": {}}}
    critic = ConfigDict({"stage": "critic", "generator_run": "runs/g", "train": {"init_from": ""}})
    where, arrays = starting_arrays(critic, frozen)
    assert where == "runs/g" and arrays["params"] == frozen["generator"]["params"]["transformer"]
