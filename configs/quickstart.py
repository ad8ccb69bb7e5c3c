"""Both stages of the quickstart, for two CPU cores: four shapes at 32 x 32, minutes a stage.

    python -m phenaki_jax quickstart --workdir=runs/quickstart

runs both; one alone:

    python -m phenaki_jax train --config=configs/quickstart.py:tokenizer --workdir=runs/quickstart/tokenizer
    python -m phenaki_jax train --config=configs/quickstart.py:generator --workdir=runs/quickstart/generator \\
        --config.tokenizer_run=runs/quickstart/tokenizer

A critic over its generator, to be sampled from instead of it:

    python -m phenaki_jax train --config=configs/quickstart.py:critic --workdir=runs/quickstart/critic \\
        --config.generator_run=runs/quickstart/generator
"""

from ml_collections import ConfigDict

from phenaki_jax.errors import UserError

ARGUMENTS = ("tokenizer", "generator", "critic")


def get_config(arg: str = "tokenizer") -> ConfigDict:
    """arg: tokenizer, generator, or critic, which `phenaki quickstart` does not run."""
    if arg not in ARGUMENTS:
        raise UserError(f"configs/quickstart.py has no argument {arg!r}; it has {', '.join(ARGUMENTS)}.")
    config = ConfigDict()
    config.stage = arg
    config.seed = 0
    config.tokenizer_run = ""  # a generator's tokenizer: the folder of its run
    config.generator_run = ""  # a critic's generator

    # 11 frames of 32 x 32 become 6 x 8 x 8 = 384 tokens of 256 codes. Few codes, and a decoder that mends wrong ones,
    # leave the generator less to learn: what it gets wrong here and there does not tear the picture.
    config.tokenizer = ConfigDict({
        "frames": 11,
        "height": 32,
        "width": 32,
        "patch": (2, 4, 4),
        "first_frame": "repeated",  # images and clips have the same words for the same thing
        "embed_dim": 64,
        "heads": 2,
        "mlp_dim": 256,
        "spatial_layers": 1,
        "temporal_layers": 1,
        "quantizer": "fsq",
        "codebook_size": 256,
        "code_dim": 16,
        "levels": (4, 4, 4, 4),
        "commitment": 0.25,
        "codebook_update": "ema",
        "kmeans_start": False,
        "gradient": "straight_through",
        "entropy_weight": 0.5,
        "diversity": 1.0,
        "inverse_temperature": 1.0,
        "code_noise": 0.4,
        "window": 0,
        "blocks": "sequential",
        "stem": (),
        "stem_blocks": 1,
        "stem_frames": 3,
        "rotary": False,
        "qk_norm": True,
        "unroll": True,
        "remat": "none",
        "dtype": "float32",
        "matmul_precision": "default",
    })
    # Pixels alone: perceptual and adversarial terms want minutes more, and the extra `metrics`.
    config.loss = ConfigDict({
        "l2": 1.0,
        "quantizer": 1.0,
        "image_perceptual": 0.0,
        "video_perceptual": 0.0,
        "adversarial": 0.0,
        "frames": 2,
        "perceptual_clips": 0,
        "perceptual_size": 0,
        "perceptual_every": 1,
        "kind": "hinge",
        "start": 0,
        "warmup": 0,
        "r1": 0.0,
        "r1_every": 16,
        "lecam": 0.0,
        "adaptive": False,
        "discriminator_rate": 2e-3,
    })
    config.discriminator = ConfigDict({
        "form": "image",
        "base_channels": 16,
        "multiplier": 1.0,
        "max_channels": 64,
        "levels": 3,
        "stddev_group": 4,
        "blur": (1, 3, 3, 1),
        "dtype": "float32",
    })
    transformer = {
        "embed_dim": 128,
        "layers": 4,
        "heads": 4,
        "mlp_dim": 512,
        "group": (2, 2),  # 96 positions for 384 tokens
        "neighbours": 24,
        "rotary": True,
        "attention": "full",
        "dropout": 0.0,
        "qk_norm": True,
        "unroll": True,
        "remat": "none",
        "dtype": "float32",
    }
    config.generator = ConfigDict({"conditions": (), **transformer})
    config.critic = ConfigDict(transformer)  # the generator's, for it begins with that one's weights
    # A small T5 encoder over bytes, trained along with the generator.
    config.text = ConfigDict({
        "encoder": "bytes",
        "length": 88,
        "vocab_size": 384,
        "embed_dim": 64,
        "layers": 2,
        "heads": 4,
        "head_dim": 16,
        "mlp_dim": 128,
        "local": 6.0,  # heads begin by looking at the letters before: words are read four times sooner
        "unroll": True,
    })
    config.data = ConfigDict({
        "mixture": "sprite_tokenizer_80_20" if arg == "tokenizer" else "sprite_stories_80_20",
        "schedule": (),  # ((0, mixture), (step, mixture), …) instead: mixtures that take turns
        "sizes": (),  # ((frames, height, width), …): lengths and resolutions that steps have by turns
        "modules": ("data.mixtures",),
        "data_dir": "",
        "split": "train",
        "eval_split": "test",
        "fps": 8.0,
        "text_drop": 0.1,
    })
    config.batch_size = 10 if arg == "tokenizer" else 20
    # Matrices inside the network are Muon's (2 dB ahead of AdamW after 200 steps); embeddings, heads and norms AdamW's.
    config.optimizer = ConfigDict({
        "name": "muon",
        "learning_rate": 4e-3 if arg == "tokenizer" else 6e-3,
        "b1": 0.9,
        "b2": 0.99,
        "weight_decay": 1e-4,
        "clip": 1.0,
        "warmup_steps": 50,
        "end_factor": 0.01,
    })
    config.train = ConfigDict({
        "steps": {"tokenizer": 1200, "generator": 3600, "critic": 600}[arg],
        "log_every": 20,
        "checkpoint_every": 500,
        "keep": 2,
        "sample_every": 1000,
        "accumulate": 1,
        "init_from": "",  # a run whose weights this one begins with, wherever names and shapes agree
        "ema_decay": 0.995,
        "mask_schedule": "uniform" if arg == "critic" else "mixed",
        "first_given": 0.4,  # clips whose first latent step is known: from them motion is learned
        "ends_given": 0.1,  # clips whose first and last latent steps are known: from them interpolation is learned
        "label_smoothing": 0.0,
        "z_loss": 0.0,
        "noise_augmentation": 0.0,  # up to how much of what is given is random, for generator.conditions of "noise"
    })
    config.sampling = ConfigDict({
        "num_inference_steps": 24,
        "guidance_scale": 1.5,
        "temperature": 5.0 if arg == "critic" else 2.0,
        "image_guidance_scale": 1.0,
        "guidance_schedule": "constant",
        "mask_schedule": "cosine",
        "order": "critic" if arg == "critic" else "confidence",
        "remask": 0.0,
        "noise_augmentation": 0.0,
    })
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1})
    return config
