"""From a config to training's step on a mesh, by shapes alone: no data, no weights, no device."""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError
from phenaki_jax.input.mix import field_of, find_mixture, sources_of, stream_rows, stream_shares
from phenaki_jax.input.motion import TOLD
from phenaki_jax.input.schema import batch_shapes
from phenaki_jax.models.build import make_generator, make_tokenizer, tokenizer_config
from phenaki_jax.parallel import make_mesh, rows_sharding
from phenaki_jax.training.loop import stage_by_name
from phenaki_jax.training.metrics import quiet_stderr
from phenaki_jax.training.optimizer import make_optimizer
from phenaki_jax.training.stage import Stage
from phenaki_jax.training.state import TrainState, abstract_state, jit_step, make_step

Tree = Any
# Read by libtpu when it is loaded: there is no metadata server to ask, and other processes may have it open.
LIBTPU = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_STDERR_LOG_LEVEL": "3",
          "TPU_MIN_LOG_LEVEL": "3"}
MEGACORE = {"v4": "megacore"}  # as its two cores are used: one device


class Program(NamedTuple):
    """A step that can be lowered. state and batch are shapes with shardings; step is the jitted function of both."""
    mesh: jax.sharding.Mesh
    stage: Stage
    step: Any
    pure_step: Any
    state: TrainState
    batch: Tree

    def lower(self) -> Any:
        """The `jax.stages.Lowered` of (state, batch)."""
        with jax.set_mesh(self.mesh):
            return self.step.lower(self.state, self.batch)


def topology_devices(name: str, slices: int = 1) -> list[Any]:
    """The devices of a TPU topology such as "v5p:4x4x4", described by libtpu; of "local", those that are here.

    Raises: UserError for one that libtpu does not know, or where it is not installed.
    """
    if name == "local":
        if slices > 1:
            raise UserError(f"--slices={slices} is for TPU topologies; --topology=local has the devices that are here")
        return jax.devices()
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("TPU programs are compiled by libtpu; pip install 'phenaki_jax[aot]'")
    for variable, value in LIBTPU.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies
    options = {"num_slices": slices} if slices > 1 else {}
    if config_name := MEGACORE.get(name.partition(":")[0]):
        options["chip_config_name"] = config_name
    try:
        with quiet_stderr():  # libtpu logs at length what it misses of a machine with a TPU
            return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--topology={name!r} is none that libtpu knows ({reason}); write GENERATION:AxB or "
                        "GENERATION:AxBxC, such as v5e:16x16, v5p:4x4x4, v6e:8x8, tpu7x:2x2x2, or local") from None


def make_program(config: Any, devices: Sequence[Any]) -> Program:
    """The step of a config on some devices.

    Frozen models are known by their sizes in the config. Text comes as a cache's embeddings where the encoder is a
    pretrained one that text.path does not name.

    Raises: UserError for a config that does not fit the devices, or that training would refuse.
    """
    configs.check(config)
    config = configs.from_dict(config.to_dict())
    if config.text.get("encoder") == "t5" and not config.text.get("path") and config.stage != "tokenizer":
        config.text.cache = config.text.get("cache") or "assumed"
    mesh = make_mesh(config.mesh, devices)
    stage = stage_by_name(config.stage)(config, _frozen_shapes(config))
    optimizer, schedule = make_optimizer(config, stage.axes, stage.aids)
    with jax.set_mesh(mesh):
        state = abstract_state(stage, optimizer, mesh, config.seed)
        places = jax.tree.map(lambda x: x.sharding, state)
        step = jit_step(stage, optimizer, schedule, config, places)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows_sharding(mesh, x.shape)), batch_of(config))
    return Program(mesh, stage, step, make_step(stage, optimizer, schedule, config), state, batch)


def batch_of(config: Any) -> Tree:
    """The shapes of a step's batch of all hosts; with data.schedule that of the last phase."""
    mixture = configs.mixtures(config)[-1][1]
    tasks, rates = find_mixture(mixture, tuple(config.data.modules), field_of(config), config.data.data_dir or None)
    streams = {task.name: task.source.stream for task in tasks}
    shares = stream_shares(streams, rates)
    rows = stream_rows(shares, config.batch_size, mixture, field_of(config))
    is_told = config.stage != "tokenizer"
    names = (config.get("generator") or {}).get("conditions", ()) if is_told else ()
    cached = is_told and config.text.get("encoder") == "t5" and config.text.cache
    shapes = batch_shapes(
        rows, frames=config.tokenizer.frames, height=config.tokenizer.height, width=config.tokenizer.width,
        text_length=config.text.length, told=[name for name in names if name in TOLD],
        embeddings=(config.text.embed_dim, jnp.dtype(config.text.dtype)) if cached else None,
        token_grid=tokenizer_config(config).grid if is_told and config.data.get("token_cache") else None,
        sources=sources_of(streams))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(*x), shapes, is_leaf=lambda x: isinstance(x, tuple))


def _frozen_shapes(config: Any) -> Tree:
    """What a stage stands on, by shapes."""
    def shapes(pure):
        return dict(zip(("params", "variables"), jax.eval_shape(pure.init, jax.random.key(0))))
    if config.stage == "tokenizer":
        return {}
    tokenizer = shapes(make_tokenizer(config))
    return tokenizer if config.stage == "generator" else {
        "generator": shapes(make_generator(config)), "tokenizer": tokenizer}
