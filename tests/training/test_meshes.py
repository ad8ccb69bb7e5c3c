"""However a step is spread over devices, it is the same step: losses, and what a checkpoint brings to another mesh."""

import jax
import numpy as np
import pytest

from phenaki_jax.config import load_config
from phenaki_jax.parallel import AXES, make_mesh, shard_batch
from phenaki_jax.training import checkpoints, generator_stage, tokenizer_stage
from phenaki_jax.training.optimizer import make_optimizer
from phenaki_jax.training.state import abstract_state, create_state, jit_step

TINY = {"tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 32, "tokenizer.spatial_layers": 1,
        "generator.embed_dim": 16, "generator.heads": 2, "generator.mlp_dim": 32, "generator.layers": 2,
        "text.embed_dim": 16, "text.heads": 2, "text.head_dim": 8, "text.mlp_dim": 32, "text.layers": 1,
        "text.length": 16, "train.steps": 40, "optimizer.warmup_steps": 1,
        "optimizer.name": "adamw", "optimizer.learning_rate": 1e-3}
ONE = (1, 1, 1, 1)
MESHES = [(8, 1, 1, 1), (4, 2, 1, 1), (2, 2, 2, 1), (1, 8, 1, 1), (2, 1, 1, 4), (1, 2, 2, 2)]


def make(name):
    config = load_config(f"configs/quickstart.py:{name}", TINY)
    frozen = {}
    if name == "generator":
        params, variables = tokenizer_stage.make_stage(config).init(jax.random.key(1))
        frozen = {"params": params, "variables": variables}
    return config, {"tokenizer": tokenizer_stage, "generator": generator_stage}[name].make_stage(config, frozen)


def batch_of(step):
    rng = np.random.default_rng(step)
    return {stream: {"video": rng.integers(0, 256, (8, frames, 32, 32, 3), dtype=np.uint8),
                     "text": rng.integers(3, 200, (8, 16)).astype(np.int32),
                     "known_frames": np.asarray([0, 5] * 4 if frames > 1 else [0] * 8, np.int32)}
            for stream, frames in (("video", 11), ("image", 1))}


class Trained:
    """A state on a mesh, and the step that moves it on."""

    def __init__(self, config, stage, axes):
        self.mesh = make_mesh(dict(zip(AXES, axes)), jax.devices()[:int(np.prod(axes))])
        self.stage, (self.optimizer, schedule) = stage, make_optimizer(config, stage.axes, stage.aids)
        with jax.set_mesh(self.mesh):
            self.abstract = abstract_state(stage, self.optimizer, self.mesh)
            places = jax.tree.map(lambda x: x.sharding, self.abstract)
            self.step = jit_step(stage, self.optimizer, schedule, config, places)

    def begin(self):
        with jax.set_mesh(self.mesh):
            self.state = create_state(self.stage, self.optimizer, self.mesh, 0)

    def losses(self, steps):
        found = []
        with jax.set_mesh(self.mesh):
            for step in steps:
                self.state, metrics = self.step(self.state, shard_batch(self.mesh, batch_of(step)))
                found.append(float(metrics["loss"]))
        return found


@pytest.mark.parametrize("name, meshes, steps", [
    ("tokenizer", MESHES[-1:], 5), ("generator", MESHES[-1:], 5),
    pytest.param("tokenizer", MESHES, 20, marks=pytest.mark.slow),
    pytest.param("generator", MESHES, 20, marks=pytest.mark.slow)])
def test_every_mesh_has_the_losses_of_one_device(name, meshes, steps):
    config, stage = make(name)
    found = {}
    for axes in (ONE, *meshes):
        trained = Trained(config, stage, axes)
        trained.begin()
        found[axes] = trained.losses(range(steps))
    assert found[ONE][-1] < found[ONE][0]
    for axes in meshes:
        np.testing.assert_allclose(found[axes], found[ONE], rtol=1e-5, err_msg=f"{axes}")


@pytest.mark.parametrize("meshes", [[(1, 2, 2, 2), (4, 2, 1, 1)], pytest.param(
    [ONE, *MESHES], marks=pytest.mark.slow)])
def test_a_checkpoint_of_one_mesh_goes_on_on_another(tmp_path, meshes):
    """Every array bit-equal, and the losses after it those of the run that went on where it was."""
    config, stage = make("generator")
    trained = {axes: Trained(config, stage, axes) for axes in meshes}
    for number, (axes, run) in enumerate(trained.items()):
        run.begin()
        run.losses(range(3))
        saved = checkpoints.Checkpoints(tmp_path / f"{number}")
        saved.save(3, run.state)
        saved.wait()
        arrays = jax.device_get(run.state)
        goes_on = run.losses(range(3, 6))
        for other in trained.values():
            if other is run:
                continue
            other.state = saved.restore(3, other.abstract)
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(other.state), arrays)
            np.testing.assert_allclose(other.losses(range(3, 6)), goes_on, rtol=1e-5)
        saved.close()
