"""The tokenizers of the paper's table 3 in small: equal parameters, codebook, data, batches, steps and seed.

    python -m phenaki_jax reproduce table3 --workdir=runs/table3

trains and measures all of them; one alone:

    python -m phenaki_jax train --config=configs/table3.py:cvivit --workdir=runs/table3/cvivit
    python -m phenaki_jax train --config=configs/table3.py:cvivit,accelerator --workdir=runs/table3_64/cvivit

`conv` and `vit` see every frame alone: a VQ-GAN of convolutions and a ViT VQ-GAN. `conv_video` and `vit_video` are the
same under the video loss (I3D) too, as are `cvivit`, the paper's tokenizer, and `modern`, which has the same layers,
tokens and quantizer, but QK norm. All of them are trained with Muon, for AdamW takes none of them far in so few steps;
`paper` is `cvivit` trained with the paper's AdamW.

The weights of the loss are the paper's (B.1), but at scale `cpu` there is no adversary, for a discriminator doubles the
work, and the perceptual terms are taken at every fourth step, LPIPS of one frame a clip.
"""

import pathlib

from ml_collections import ConfigDict

from phenaki_jax.config import load_config, named

# tokenizer.*, where the models differ. conv has one layer of attention at its coarsest cells, as VQGAN has (arXiv
# 2012.09841); temporal_layers=0 with a patch of one frame leaves nothing that joins frames.
MODELS = {
    "cpu": {
        "conv": dict(patch=(1, 4, 4), spatial_layers=1, temporal_layers=0, stem=(48,), stem_frames=1),
        "vit": dict(patch=(1, 4, 4), spatial_layers=2, temporal_layers=0),
        "cvivit": dict(patch=(2, 4, 4), spatial_layers=1, temporal_layers=1),
        "modern": dict(patch=(2, 4, 4), spatial_layers=1, temporal_layers=1, qk_norm=True),
    },
    "accelerator": {
        "conv": dict(patch=(1, 8, 8), spatial_layers=1, temporal_layers=0, stem=(64, 256, 256), stem_blocks=2,
                     stem_frames=1),
        "vit": dict(patch=(1, 8, 8), spatial_layers=8, temporal_layers=0),
        "cvivit": dict(patch=(2, 8, 8), spatial_layers=4, temporal_layers=4),
        "modern": dict(patch=(2, 8, 8), spatial_layers=4, temporal_layers=4, qk_norm=True),
    },
}
NAMES = ("conv", "conv_video", "vit", "vit_video", "cvivit", "modern", "paper")
VIDEO_LOSS = ("conv_video", "vit_video", "cvivit", "modern", "paper")


def get_config(arg: str = "cvivit") -> ConfigDict:
    """arg: a model of NAMES, and after a comma the scale, cpu (default) or accelerator."""
    name, scale = named("configs/table3.py", arg, NAMES, MODELS)
    config = load_config(f"{pathlib.Path(__file__).with_name('quickstart.py')}:tokenizer")
    config.tokenizer.update(first_frame="apart", quantizer="vq", levels=(), qk_norm=False, code_noise=0.0)
    config.tokenizer.update(MODELS[scale]["cvivit" if name == "paper" else name.split("_")[0]])
    config.loss.update(l2=1.0, quantizer=1.0, image_perceptual=0.1,
                       video_perceptual=1.0 if name in VIDEO_LOSS else 0.0, frames=1, perceptual_every=4)
    # The paper clips at 10 too; the rates are for hundreds of steps instead of a million.
    config.optimizer.update(name="muon", learning_rate=4e-3, clip=10.0)
    config.train.update(steps=500, checkpoint_every=100, sample_every=500)
    if name == "paper":
        config.optimizer.update(name="adamw", learning_rate=2e-3)
    if scale == "accelerator":
        _enlarge(config)
    return config


def _enlarge(config: ConfigDict) -> None:
    """64 x 64 with digits, 13 M parameters, the paper's adversary from a quarter of the steps on."""
    config.tokenizer.update(height=64, width=64, embed_dim=256, heads=8, mlp_dim=1024, codebook_size=4096, code_dim=32,
                            unroll=False)
    config.loss.update(adversarial=0.1, kind="non_saturating", start=5_000, warmup=1_000, r1=10.0, frames=2,
                       perceptual_every=1)
    config.discriminator.update(base_channels=32, max_channels=128, levels=4)
    config.data.mixture = "sprite_digits_tokenizer_80_20"
    config.batch_size = 40
    config.optimizer.update(learning_rate=config.optimizer.learning_rate / 2, warmup_steps=500)
    config.train.update(steps=20_000, log_every=100, checkpoint_every=1_000, sample_every=5_000, ema_decay=0.999)
