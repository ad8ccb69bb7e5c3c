"""The paper's models and recipes, exactly (Phenaki, arXiv 2210.02399).

    python -m phenaki_jax train --config=configs/paper.py:tokenizer --workdir=runs/paper/tokenizer
    python -m phenaki_jax train --config=configs/paper.py:generator --workdir=runs/paper/generator \\
        --config.tokenizer_run=runs/paper/tokenizer

Arguments: `tokenizer` (table 6), `generator` (table 7, 1.8 B), `generator_0.9b` (B.3), `prediction` (5 frames to 11 at
64 x 64 without text, Kinetics-600; its dropout is on the residual branches, not on attention weights, and its tokenizer
is not `tokenizer`: train one of the same sizes). Their data is not open: name a mixture of your own with
--config.data.mixture. The generators read T5-XXL's embeddings: name its folder (--config.text.path)
and its SentencePiece file (--config.text.vocabulary), or give them an encoder of their own (--config.text.encoder=bytes
and its sizes).
"""

from ml_collections import ConfigDict

from phenaki_jax.errors import UserError

ARGUMENTS = ("tokenizer", "generator", "generator_0.9b", "prediction")


def get_config(arg: str = "tokenizer") -> ConfigDict:
    """arg: one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise UserError(f"configs/paper.py has no argument {arg!r}; it has {', '.join(ARGUMENTS)}.")
    config = _base()
    if arg == "tokenizer":
        return config

    # Table 7 and B.3: 1.8 B parameters with cross-attention to 4096-wide (T5-XXL) embeddings.
    config.stage = "generator"
    config.batch_size = 512
    config.text.dtype = "bfloat16"  # 9.5 GB
    config.optimizer.warmup_steps = 10_000
    config.optimizer.decay_steps = 4_000_000  # the model shown was taken at 1 M steps
    if arg == "generator_0.9b":
        config.generator.update(layers=20, embed_dim=1536, heads=24, mlp_dim=6144)
    elif arg == "prediction":
        # B.1's Kinetics-600 tokenizer. 5 + 11 frames are 16; 17 = 1 + 2 * 8 is the next count that fits its patches.
        config.tokenizer.update(
            frames=17, height=64, width=64, patch=(2, 4, 4), spatial_layers=8, temporal_layers=8,
        )
        config.generator.update(layers=24, embed_dim=768, heads=16, mlp_dim=3072, dropout=0.1)
        config.text.encoder = "none"
        config.data.update(mixture="kinetics600", text_drop=0.0)
        config.sampling.guidance_scale = 0.0
    return config


def _base() -> ConfigDict:
    """Every field, with the tokenizer's recipe (table 6 and B.1)."""
    config = ConfigDict()
    config.stage = "tokenizer"
    config.seed = 0
    config.tokenizer_run = ""  # a generator's tokenizer: the folder of its run

    config.tokenizer = ConfigDict({
        "frames": 11,
        "height": 128,
        "width": 128,
        "patch": (2, 8, 8),  # frames, rows, columns; the first frame's patches are 8 x 8
        "embed_dim": 512,
        "heads": 8,
        "mlp_dim": 2048,
        "spatial_layers": 4,
        "temporal_layers": 4,
        "quantizer": "vq",
        "codebook_size": 8192,
        "code_dim": 32,
        "levels": (),
        "commitment": 0.25,
        "codebook_update": "ema",
        "kmeans_start": False,
        "gradient": "straight_through",
        "entropy_weight": 0.5,
        "diversity": 1.0,
        "inverse_temperature": 1.0,
        "code_noise": 0.0,
        "window": 0,
        "blocks": "sequential",
        "stem": (),
        "stem_blocks": 1,
        "stem_frames": 3,
        "rotary": False,
        "qk_norm": False,
        "unroll": False,
        "remat": "none",
        "dtype": "bfloat16",
        "matmul_precision": "default",
    })
    config.loss = ConfigDict({  # 2.1 and B.1: L_VQ + 0.1 L_Adv + 0.1 L_IP + 1.0 L_VP + 1.0 L_2
        "l2": 1.0,
        "quantizer": 1.0,
        "image_perceptual": 0.1,
        "video_perceptual": 1.0,
        "adversarial": 0.1,
        "frames": 0,  # all; the paper does not say
        "perceptual_clips": 0,
        "perceptual_size": 0,
        "perceptual_every": 1,
        "kind": "non_saturating",  # StyleGAN's, with its R1; the paper says no more than StyleGAN
        "start": 0,
        "warmup": 0,
        "r1": 10.0,
        "r1_every": 16,
        "lecam": 0.0,
        "adaptive": False,
        "discriminator_rate": 2e-3,  # StyleGAN2's
    })
    config.discriminator = ConfigDict({  # StyleGAN's, blur resampling, channel multiplier 1 (B.1)
        "form": "image",
        "base_channels": 128,
        "multiplier": 1.0,
        "max_channels": 512,
        "levels": 5,
        "stddev_group": 4,
        "blur": (1, 3, 3, 1),
        "dtype": "bfloat16",
    })
    config.generator = ConfigDict({
        "embed_dim": 2048,
        "layers": 24,
        "heads": 32,
        "mlp_dim": 8192,
        "attention": "full",
        "dropout": 0.0,
        "qk_norm": False,
        "unroll": False,
        "remat": "dots",
        "dtype": "bfloat16",
    })
    config.text = ConfigDict({
        "encoder": "t5",
        "path": "",
        "vocabulary": "",
        "activation": "",
        "dtype": "float32",
        "cache": "",
        "length": 96,
        "embed_dim": 4096,
        "layers": 0,
        "heads": 0,
        "head_dim": 0,
        "mlp_dim": 0,
    })
    config.data = ConfigDict({
        "mixture": "video_text_80_image_text_20",
        "schedule": (),  # ((0, mixture), (step, mixture), …) instead: mixtures that take turns
        "modules": ("data.mixtures",),
        "data_dir": "",
        "token_cache": "",
        "split": "train",
        "eval_split": "test",
        "fps": 8.0,
        "text_drop": 0.1,
    })
    config.batch_size = 128
    config.optimizer = ConfigDict({
        "name": "adamw",
        "learning_rate": 1e-4,
        "b1": 0.9,
        "b2": 0.99,
        "weight_decay": 1e-4,
        "clip": 10.0,
        "warmup_steps": 100_000,
        "decay_steps": 1_000_000,
        "end_factor": 0.0,
    })
    config.train = ConfigDict({
        "steps": 1_000_000,
        "log_every": 100,
        "checkpoint_every": 5_000,
        "keep": 3,
        "sample_every": 5_000,
        "accumulate": 1,
        "ema_decay": 0.9999,
        "mask_schedule": "uniform",
        "first_given": 0.0,
        "label_smoothing": 0.0,
        "z_loss": 0.0,
    })
    config.sampling = ConfigDict({
        "num_inference_steps": 48,
        "guidance_scale": 12.0,
        "temperature": 8.0,
        "image_guidance_scale": 1.0,
        "guidance_schedule": "constant",
        "mask_schedule": "cosine",
        "order": "confidence",
        "remask": 0.0,
    })
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1})
    return config
