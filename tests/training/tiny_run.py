"""A stage of a few hundred parameters and a loader of noise, for tests of what surrounds a model.

Run as a program it trains in a folder: ``python tiny_run.py WORKDIR STEPS``, slowed by $TINY_DELAY seconds a batch,
on one device or, with TINY_DEVICES=all, on all devices of all processes.
"""

import json
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from phenaki_jax.training.stage import Stage

WIDTH, PIXELS = 16, 3 * 4 * 4 * 3


def tiny_config(steps: int = 12, **optimizer) -> ConfigDict:
    return ConfigDict({
        "stage": "tokenizer",
        "seed": 3,
        "tokenizer": {"frames": 3, "height": 4, "width": 4, "patch": (2, 2, 2), "levels": (4, 4), "codebook_size": 16},
        "data": {"data_dir": "", "mixture": "noise"},
        "batch_size": 8,
        "optimizer": {
            "name": "adamw", "learning_rate": 1e-2, "b1": 0.9, "b2": 0.99, "weight_decay": 1e-2, "clip": 1.0,
            "warmup_steps": 4, "end_factor": 0.1, **optimizer,
        },
        "train": {
            "steps": steps, "log_every": 3, "checkpoint_every": 5, "keep": 2, "sample_every": 10**6, "ema_decay": 0.99,
        },
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
    })


def tiny_stage(config, frozen=None) -> Stage:
    """Two layers, stacked, that reconstruct a noisy clip; one variable counts the steps."""

    def init(key):
        k1, k2, k3 = jax.random.split(key, 3)
        params = {
            "inputs": jax.random.normal(k1, (PIXELS, WIDTH)) / PIXELS**0.5,
            "layers": {
                "kernel": jax.random.normal(k2, (2, WIDTH, WIDTH)) / WIDTH**0.5,
                "bias": jnp.zeros((2, WIDTH)),
            },
            "head": jax.random.normal(k3, (WIDTH, PIXELS)) / WIDTH**0.5,
        }
        return params, {"seen": jnp.zeros((), jnp.float32), "mean": jnp.zeros((PIXELS,))}

    def loss(params, variables, frozen, batch, key, step):
        video = batch["video"]["video"].astype(jnp.float32).reshape(-1, PIXELS) / 127.5 - 1.0
        x = (video + 0.1 * jax.random.normal(key, video.shape)) @ params["inputs"]

        def layer(x, p):
            return x + jnp.tanh(x @ p["kernel"] + p["bias"]), None

        x, _ = jax.lax.scan(layer, x, params["layers"])
        error = jnp.mean((x @ params["head"] - video) ** 2)
        variables = {
            "seen": variables["seen"] + video.shape[0],
            "mean": 0.9 * variables["mean"] + 0.1 * video.mean(0),
        }
        return error, (variables, {"mse": error, "seen": variables["seen"]})

    return Stage(
        name=config.stage,
        init=init,
        axes={
            "inputs": (None, "embed"),
            "layers": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")},
            "head": ("embed", None),
        },
        variable_axes={"seen": (), "mean": (None,)},
        loss=loss,
        frozen=frozen or {},
        # As a real stage does, it looks at whole arrays, which no process of several has.
        samples=lambda params, variables, frozen, batch, key: np.asarray(batch["video"]["video"][0, 0]) + np.isnan(
            np.asarray(params["head"])).any().astype(np.uint8),
    )


class TinyLoader:
    """Batches that depend on (seed, step) alone."""

    def __init__(self, config, train: bool = True, delay: float = 0.0):
        self.config, self.train, self.delay = config, train, delay

    def batch(self, step: int):
        rng = np.random.default_rng([self.config.seed, step, int(self.train)])
        color = rng.integers(0, 256, (self.config.batch_size, 1, 1, 1, 3))
        video = np.clip(color + rng.integers(-20, 20, (self.config.batch_size, 3, 4, 4, 3)), 0, 255)
        share = self.config.batch_size // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        return {"video": {"video": video.astype(np.uint8)[mine]}}

    def iterate(self, start_step: int = 0):
        step = start_step
        while True:
            time.sleep(self.delay)
            yield self.batch(step)
            step += 1


if __name__ == "__main__":
    from phenaki_jax.parallel import join_processes
    from phenaki_jax.training.loop import train

    join_processes()

    def slow_loader(config, train):
        return TinyLoader(config, train, float(os.environ.get("TINY_DELAY", 0)))

    config = tiny_config(int(sys.argv[2]))
    if "TINY_DECAY" in os.environ:
        config.optimizer.decay_steps = int(os.environ["TINY_DECAY"])
    config.mesh.update(json.loads(os.environ.get("TINY_MESH", "{}")))
    result = train(
        config, sys.argv[1], make_stage=tiny_stage, make_loader=slow_loader, tensorboard=False,
        devices=None if os.environ.get("TINY_DEVICES") == "all" else jax.devices()[:1],
    )
    sys.exit(0 if result.finished else 143)
