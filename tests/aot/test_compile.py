"""`phenaki compile`: its step is training's own, and what it tells of one is what can be counted by hand."""

import importlib.util
import json
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from phenaki_jax.__main__ import main
from phenaki_jax.aot import figures, program
from phenaki_jax.aot.collectives import Collective, collectives
from phenaki_jax.config import load_config
from phenaki_jax.input import mix
from phenaki_jax.parallel import make_mesh, shard_batch
from phenaki_jax.training.loop import data_loader, stage_by_name
from phenaki_jax.training.optimizer import make_optimizer
from phenaki_jax.training.state import create_state, jit_step

TINY = {"tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 32, "tokenizer.spatial_layers": 1,
        "generator.embed_dim": 16, "generator.heads": 2, "generator.mlp_dim": 32, "generator.layers": 3,
        "text.embed_dim": 16, "text.heads": 2, "text.head_dim": 8, "text.mlp_dim": 32, "text.layers": 1,
        "data.mixture": "sprite_tiny_80_20", "batch_size": 40, "mesh.data": 2, "mesh.fsdp": 4,
        "optimizer.name": "adamw"}
PAPER = ["compile", "--config=configs/paper.py:generator", "--config.data.mixture=webvid"]


@pytest.mark.parametrize("stage", ["tokenizer", "generator"])
def test_it_is_the_step_that_training_runs(tmp_path, stage):
    """The text of what is compiled from shapes is that of what is compiled from data and weights."""
    config = load_config(f"configs/quickstart.py:{stage}", {**TINY, "data.data_dir": str(tmp_path)})
    mix.prepare_run(config, log=lambda line: None)
    mesh, frozen = make_mesh(config.mesh), {}
    if stage == "generator":
        frozen = dict(zip(("params", "variables"), stage_by_name("tokenizer")(config).init(jax.random.key(0))))
    built = stage_by_name(stage)(config, frozen)
    optimizer, schedule = make_optimizer(config, built.axes, built.aids)
    with jax.set_mesh(mesh):
        state = create_state(built, optimizer, mesh, config.seed)
        step = jit_step(built, optimizer, schedule, config, jax.tree.map(lambda x: x.sharding, state))
        trained = step.lower(state, shard_batch(mesh, data_loader(config, train=True).batch(0))).as_text()
    assert program.make_program(config, jax.devices()).lower().as_text() == trained


def test_what_it_tells_of_a_step(tmp_path):
    config = load_config("configs/quickstart.py:generator", {**TINY, "data.data_dir": str(tmp_path)})
    found = figures.figures(config, "local")
    assert found["chips"] == 8 and found["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
    assert found["rows"] == {"video": 32, "image": 8}
    made = program.make_program(config, jax.devices())
    assert found["parameters"] == sum(math.prod(x.shape) for x in jax.tree.leaves(made.state.params))
    # The state and the batch are given, each device its part.
    bytes_of = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    given = sum(bytes_of(x) for x in jax.tree.leaves((made.state, made.batch)))
    assert 0.8 * given <= found["memory"]["arguments"] <= 1.2 * given + 4096
    assert found["flops"]["model"] == found["flops"]["computed"] > 0
    again = figures.figures(figures.changed(config, {"remat": "full"}), "local")
    assert again["flops"]["model"] == found["flops"]["model"] < again["flops"]["computed"]
    lines = "\n".join(figures.report(found))
    assert "8 image, 32 video rows" in lines and "compiles:" in lines and "all-reduce" in lines


def test_collectives_are_counted_with_the_turns_of_their_loop():
    mesh = make_mesh({"fsdp": 8})
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))

    def run(x, layers):
        def layer(x, w):
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), rows), None
        x, _ = jax.lax.scan(layer, x, layers)
        return jnp.sum(x)

    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=rows)
    layers = jax.ShapeDtypeStruct((5, 32, 32), jnp.float32, sharding=split)
    found = collectives(jax.jit(run).lower(x, layers).compile().as_text())
    gathers = [one for one in found if one.kind == "all-gather"]
    assert gathers == [Collective("all-gather", 32 * 32 * 4, 5)]
    assert [one for one in found if one.kind == "all-reduce"] == [Collective("all-reduce", 4, 1)]


def test_spread_collectives_count_once():
    text = """HloModule m
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %start = (f32[8], f32[64]) all-gather-start(%x), channel_id=3, frontend_attributes={a={
}}
  %f = f32[64] fusion(%y), calls=%spread
}
%spread (y: f32[8]) -> f32[64] {
  ROOT %again = f32[64]{0} all-gather(%y), channel_id=3, dimensions={0}
}
%cond (p: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(24)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}
%never (y: f32[8]) -> f32[64] {
  ROOT %lost = f32[64]{0} all-gather(%y), channel_id=9
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%cond, body=%body
  %both = (bf16[4]{0}, f32[2,3]{1,0}) all-reduce(%a, %b), channel_id=5, to_apply=%add
}
"""
    assert sorted(collectives(text)) == [Collective("all-gather", 256, 24), Collective("all-reduce", 32, 1)]


@pytest.mark.parametrize("options, words", [
    (["--topology=v9z:2x2"], "--topology='v9z:2x2' is none that libtpu knows|pip install 'phenaki_jax.aot.'"),
    (["--topology=local", "--slices=0"], "--slices=0 must be"),
    (["--topology=local", "--slices=2"], "--slices=2 is for TPU topologies"),
    (["--topology=local", "--rows_a_chip=0"], "--rows_a_chip=0 must be at least 1"),
    (["--topology=local", "--config.mesh.fsdp=3"], "mesh.fsdp=3.* uses 3 devices, but there are 8"),
    (["--topology=local", "--config.data.mixture=nothing"], "data.mixture='nothing' is not registered")])
def test_wrong_input_is_one_sentence(capsys, options, words):
    assert main([*PAPER, *options]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and re.search(words, error), error


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, of the extra aot, compiles for TPUs")
@pytest.mark.parametrize("topology, slices, mesh", [("v5e:4x4", 1, ["--config.mesh.fsdp=16"]), ("v5e:2x2", 2, [
    "--config.mesh.data=2", "--config.mesh.fsdp=4"]), ("v5p:2x2x1", 1, ["--config.mesh.tensor=2"])])
def test_tpus(capsys, topology, slices, mesh):
    """Two layers of the paper's width fit, and what a layer gathers is gathered inside of the loop over layers."""
    code = main([*PAPER, f"--topology={topology}", f"--slices={slices}", "--rows_a_chip=2", "--json", "--no_estimate",
                 "--config.generator.layers=2", *mesh])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["fits"] and found["spare"] > 0.5
    if found.get("collectives"):
        assert found["outside"] <= 8193 * 2048 * 4 < found["collectives"]["all-reduce"]["bytes"]
