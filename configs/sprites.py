"""The full sprite world, 64 x 64 with handwritten digits beside the shapes: for an accelerator, or a night on a CPU.

    python -m phenaki_jax train --config=configs/sprites.py:tokenizer --workdir=runs/sprites/tokenizer
    python -m phenaki_jax train --config=configs/sprites.py:generator --workdir=runs/sprites/generator \\
        --config.tokenizer_run=runs/sprites/tokenizer
"""

import pathlib

from ml_collections import ConfigDict

from phenaki_jax.config import load_config


def get_config(arg: str = "tokenizer") -> ConfigDict:
    """arg: tokenizer or generator. The quickstart's recipe, larger."""
    config = load_config(f"{pathlib.Path(__file__).with_name('quickstart.py')}:{arg}")
    is_tokenizer = arg == "tokenizer"
    # 11 frames of 64 x 64 become 6 x 8 x 8 = 384 tokens of 4096 codes.
    config.tokenizer.update(height=64, width=64, patch=(2, 8, 8), embed_dim=256, heads=8, mlp_dim=1024,
                            spatial_layers=4, temporal_layers=2, levels=(8, 8, 8, 8), codebook_size=4096, unroll=False)
    config.generator.update(embed_dim=512, layers=8, heads=8, mlp_dim=2048, unroll=False)
    config.text.update(embed_dim=256, layers=3, heads=8, mlp_dim=512, unroll=False)
    config.data.mixture = f"sprite_digits{'_tokenizer' if is_tokenizer else ''}_80_20"
    config.batch_size = 40 if is_tokenizer else 80
    config.optimizer.update(learning_rate=2e-3, warmup_steps=500)
    config.train.update(steps=20_000 if is_tokenizer else 40_000, log_every=100, checkpoint_every=2_000,
                        sample_every=2_000, ema_decay=0.999)
    config.sampling.num_inference_steps = 24
    return config
