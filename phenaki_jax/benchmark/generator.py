"""`phenaki benchmark generator` and `sampling`: MaskGIT trains on a batch, and makes a clip out of masks alone.

Text comes as embeddings of a pretrained encoder, training clips as tokens: neither T5 nor C-ViViT's encoder is timed.
"""

from typing import Any

from phenaki_jax.benchmark import side, tokenizer

PEER_HAS = {
    "text.encoder": "t5", "generator.attention": "full", "generator.dtype": "float32",
    "generator.group": (1, 1), "generator.neighbours": 0, "generator.rotary": False, "generator.dropout": 0.0,
    "optimizer.name": "adamw", "train.accumulate": 1, "train.mask_schedule": "cosine", "train.first_given": 0.0,
    "train.ends_given": 0.0, "train.several_given": 0.0, "train.noise_augmentation": 0.0, "generator.conditions": (),
    "train.label_smoothing": 0.0, "train.z_loss": 0.0, "sampling.mask_schedule": "cosine",
    "sampling.order": "confidence", "sampling.remask": 0.0, "sampling.guidance_schedule": "constant",
    "sampling.image_guidance_scale": 1.0,
}


def peer_has(config: Any) -> dict[str, Any]:
    decoder = {name: value for name, value in tokenizer.peer_has(config).items() if name.startswith("tokenizer.")}
    return PEER_HAS | decoder | {"generator.mlp_dim": 4 * config.generator.embed_dim}


def peer_sizes(config: Any) -> dict[str, Any]:
    sizes = {name: config.generator[name] for name in ("embed_dim", "layers", "heads")} | {
        "frames": config.tokenizer.frames, "text_length": config.text.length, "text_dim": config.text.embed_dim,
        "text_drop": config.data.text_drop, "steps": config.sampling.num_inference_steps,
        "cond_scale": 1 + config.sampling.guidance_scale}
    return tokenizer.peer_sizes(config) | {"generator": sizes}


class Training(side.Ours):
    """A batch of random tokens and text embeddings. The step is the training loop's, with clipping, metrics and the
    average of the weights; its state holds a frozen tokenizer, as a run's does."""

    def __init__(self, config: Any):
        import jax
        import numpy as np

        from phenaki_jax.bound import create_tokenizer
        from phenaki_jax.training.generator_stage import make_stage

        super().__init__()
        codec = create_tokenizer(config, config.seed)
        stage = make_stage(config, {"params": codec.params, "variables": codec.variables})
        tokens, text = random_inputs(config, config.batch_size, codec.config.grid)
        batch = {"video": {"tokens": tokens, "text_embeds": text, "text": np.ones(text.shape[:2], np.int32),
                           "known_frames": np.zeros(len(text), np.int32)}}
        self.train = side.Training(config, stage, batch)
        self.devices = self.train.devices
        self.parameters = sum(x.size for x in jax.tree.leaves(self.train.model()[0]))
        self.flops = {"train": side.training_flops(config, stage, batch)}
        self.tokens, self.frames = {"train": tokens.size}, {"train": config.batch_size * config.tokenizer.frames}


class Sampling(side.Ours):
    """One clip. `sample` is `Sampler`'s, which every way of sampling goes through: masks and text embeddings in,
    tokens and pixels out; `decode` is the part of it from tokens to pixels."""

    def __init__(self, config: Any):
        import jax
        import jax.numpy as jnp
        import numpy as np

        from phenaki_jax.bound import create_generator, create_tokenizer
        from phenaki_jax.parallel import flops_of
        from phenaki_jax.sampling.decoding import Sampler
        from phenaki_jax.sampling.options import chosen

        super().__init__()
        codec, generator = create_tokenizer(config, config.seed), create_generator(config, config.seed)
        grid, sizes, options = codec.config.grid, config.tokenizer, chosen(config.sampling)
        sampler = Sampler(generator.pure, codec.pure)
        tokens, text = map(jnp.asarray, random_inputs(config, 1, grid))
        video = jnp.zeros((1, sizes.frames, sizes.height, sizes.width, 3))
        keys, nothing = jax.random.key(config.seed)[None], np.zeros(grid, bool)

        def sample(arrays, text):
            mask = jnp.ones(text.shape[:2], bool)
            return sampler(arrays, video, text, mask, keys, options, frozen=nothing)

        def decode(arrays, tokens):
            return codec.pure.bind(**arrays["tokenizer"]).decode(tokens)

        arrays = {"generator": {"params": generator.params, "variables": generator.variables},
                  "tokenizer": {"params": codec.params, "variables": codec.variables}}
        self.sample = lambda: jax.block_until_ready(sample(arrays, text))
        self.decode = lambda: codec.decode(tokens).block_until_ready()
        self.devices = jax.local_devices()[:1]
        self.parameters = sum(x.size for x in jax.tree.leaves(generator.params))
        self.flops = {"sample": flops_of(sample, arrays, text), "decode": flops_of(decode, arrays, tokens)}
        self.tokens = dict.fromkeys(self.flops, tokens.size)
        self.frames = dict.fromkeys(self.flops, sizes.frames)


def random_inputs(config: Any, clips: int, grid: tuple[int, int, int]) -> tuple:
    """tokens int32 [B, T, H, W] and text embeddings float32 [B, P, E], every position of which counts."""
    import numpy as np

    random = np.random.default_rng(config.seed)
    return (random.integers(0, config.tokenizer.codebook_size, (clips, *grid), dtype=np.int32),
            random.normal(size=(clips, config.text.length, config.text.embed_dim)).astype(np.float32))


GENERATOR = side.Subject("generator", ("train",), Training, peer_has, peer_sizes)
SAMPLING = side.Subject("generator", ("sample", "decode"), Sampling, peer_has,
                        lambda config: peer_sizes(config) | {"batch": 1})
