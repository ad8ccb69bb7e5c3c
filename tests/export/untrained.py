"""Runs that never took a step, with what a trained run has beside its weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.config import resolve, to_json
from phenaki_jax.pipeline import PhenakiPipeline
from phenaki_jax.training.checkpoints import Checkpoints
from phenaki_jax.training.guard import new_guard
from phenaki_jax.training.state import TrainState

STEP = 7
TINY = {"tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 32, "tokenizer.spatial_layers": 1,
        "tokenizer.patch": (2, 8, 4), "tokenizer.levels": (8, 5, 5, 5), "tokenizer.codebook_size": 1000,
        "generator.embed_dim": 16, "generator.heads": 2, "generator.mlp_dim": 32, "generator.layers": 2,
        "generator.conditions": ("motion", "fps", "noise"), "text.embed_dim": 16, "text.heads": 2, "text.head_dim": 8,
        "text.mlp_dim": 32, "text.layers": 2, "critic.embed_dim": 16, "critic.heads": 2, "critic.mlp_dim": 32,
        "critic.layers": 2, "data.mixture": "sprite_tiny_80_20", "batch_size": 5, "train.steps": 9,
        "sampling.num_inference_steps": 2}
LOGGED = [{"step": 3, "time": 1.0, "loss": 8.25, "video/psnr": 11.0},
          {"step": STEP, "time": 2.0, "loss": 6.54321, "video/psnr": 21.98765},
          {"step": 9, "time": 3.0, "loss": 0.125, "video/psnr": 33.0}]


def write_run(folder, config, params, variables, frozen, steps=(STEP,)):
    """A run's folder with checkpoints; each step's parameters are those of the one before, doubled."""
    config = resolve(config, folder)
    folder.mkdir(parents=True)
    checkpoints = Checkpoints(folder)
    for number, step in enumerate(steps):
        ema = jax.tree.map(lambda leaf: leaf * 2**number, params)
        checkpoints.save(step, TrainState(jnp.array(step), params, ema, {}, variables, frozen, {}, new_guard()))
    checkpoints.close()
    (folder / "config.json").write_text(to_json(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOGGED))
    return folder


def arrays(pure, seed):
    """(params, variables) of random numbers, without compiling anything."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.3 * draw.standard_normal(leaf.shape)).astype(leaf.dtype),
                        jax.eval_shape(pure.init, jax.random.key(0)))


def pipeline(run):
    return PhenakiPipeline.of_arrays(run.config, run.params, run.variables, run.frozen)
