"""`phenaki benchmark tokenizer`: C-ViViT trains, encodes and decodes a batch of clips."""

import math
from typing import Any

from phenaki_jax.benchmark import side

CALLS = ("train", "encode", "decode")
PEER_HAS = {"tokenizer.quantizer": "vq", "tokenizer.dtype": "float32", "tokenizer.stem": (), "tokenizer.rotary": False,
            "tokenizer.blocks": "sequential", "optimizer.name": "adamw",
            "loss.image_perceptual": 0.0, "loss.video_perceptual": 0.0, "loss.adversarial": 0.0, "train.accumulate": 1}


def peer_has(config: Any) -> dict[str, Any]:
    return PEER_HAS | {"tokenizer.mlp_dim": 4 * config.tokenizer.embed_dim}


def peer_sizes(config: Any) -> dict[str, Any]:
    names = "frames height width patch embed_dim heads spatial_layers temporal_layers codebook_size".split()
    return {"tokenizer": {name: config.tokenizer[name] for name in names}, "batch": config.batch_size}


class Ours(side.Ours):
    """Our tokenizer of a config with random clips.

    The step is the training loop's: the same state, made and placed alike, donated, with clipping, metrics and the
    average of the weights. Clips are uint8 and lie on the device, as the loop has them by the time of a step.
    """

    def __init__(self, config: Any):
        import jax
        import numpy as np

        from phenaki_jax.bound import Tokenizer
        from phenaki_jax.models.build import make_tokenizer
        from phenaki_jax.training.tokenizer_stage import make_stage

        super().__init__()
        video = np.random.default_rng(config.seed).integers(0, 256, clips(config), dtype=np.uint8)
        self.train = side.Training(config, make_stage(config), {"video": {"video": video}})
        self.devices = self.train.devices
        self._tokenizer, self._tokens = Tokenizer(make_tokenizer(config), *self.train.model()), None
        self.parameters = sum(x.size for x in jax.tree.leaves(self._tokenizer.params))
        self.flops = matrix_flops(config)
        self.tokens = dict.fromkeys(CALLS, config.batch_size * math.prod(self._tokenizer.config.grid))
        self.frames = dict.fromkeys(CALLS, config.batch_size * config.tokenizer.frames)

    def encode(self) -> None:
        self._tokenizer.params, self._tokenizer.variables = self.train.model()
        self._tokens = self._tokenizer.encode(self.train.batch["video"]["video"]).block_until_ready()

    def decode(self) -> None:
        self._tokenizer.params, self._tokenizer.variables = self.train.model()
        self._tokenizer.decode(self._tokens).block_until_ready()


def clips(config: Any) -> tuple[int, ...]:
    """[B, F, Y, X, 3] of a batch."""
    sizes = config.tokenizer
    return config.batch_size, sizes.frames, sizes.height, sizes.width, 3


def matrix_flops(config: Any) -> dict[str, int]:
    """Floating-point operations of the matrix products of each of CALLS for a whole batch; nothing is computed."""
    import jax

    from phenaki_jax.models.build import make_tokenizer
    from phenaki_jax.parallel import flops_of
    from phenaki_jax.training.tokenizer_stage import make_stage

    stage, pure, shape = make_stage(config), make_tokenizer(config), clips(config)
    model = [stage.model_part(part) for part in jax.eval_shape(stage.init, jax.random.key(0))]
    given = {"encode": jax.ShapeDtypeStruct(shape, "float32"),
             "decode": jax.ShapeDtypeStruct((shape[0], *pure.module_config.grid), "int32")}
    batch = {"video": {"video": jax.ShapeDtypeStruct(shape, "uint8")}}
    return {"train": side.training_flops(config, stage, batch)} | {
        method: flops_of(lambda params, variables, x: getattr(pure.bind(params, variables), method)(x), *model, x)
        for method, x in given.items()}


TOKENIZER = side.Subject("tokenizer", CALLS, Ours, peer_has, peer_sizes)
