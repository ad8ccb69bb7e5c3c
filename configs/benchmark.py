"""What `phenaki benchmark` measures: both stages at the size at which other implementations are compared with them.

    python -m phenaki_jax benchmark tokenizer --config=configs/benchmark.py:tokenizer --report=tokenizer.json
    python -m phenaki_jax benchmark generator --config=configs/benchmark.py:generator --report=generator.json
    python -m phenaki_jax benchmark sampling --config=configs/benchmark.py:generator --report=sampling.json

The models are the paper's (configs/paper.py) at width 256, in float32, on 4 clips of 11 x 64 x 64, 384 tokens of 1024
codes each; the tokenizer's with products of bfloat16. Its loss is L_2 and the quantizer's. The generator has 6 layers
and reads 32 positions of 512-wide text embeddings (T5-small's). Clips, tokens and embeddings are random, so the data of
the config are never read.
"""

import pathlib

from ml_collections import ConfigDict

from phenaki_jax.config import load_config
from phenaki_jax.errors import UserError

ARGUMENTS = ("tokenizer", "generator")


def get_config(arg: str = "tokenizer") -> ConfigDict:
    """arg: tokenizer or generator."""
    if arg not in ARGUMENTS:
        raise UserError(f"configs/benchmark.py has no argument {arg!r}; it has {', '.join(ARGUMENTS)}.")
    config = load_config(f"{pathlib.Path(__file__).with_name('paper.py')}:{arg}")
    config.tokenizer.update(height=64, width=64, embed_dim=256, mlp_dim=1024, codebook_size=1024, unroll=True,
                            dtype="float32", matmul_precision="bfloat16")
    config.loss.update(image_perceptual=0.0, video_perceptual=0.0, adversarial=0.0)
    config.generator.update(embed_dim=256, layers=6, heads=8, mlp_dim=1024, unroll=True, remat="none", dtype="float32")
    config.text.update(length=32, embed_dim=512, cache="random")  # not read: both sides draw their embeddings
    config.data.update(mixture="sprite_tokenizer_80_20", text_drop=0.25)  # the peer's share
    config.batch_size = 4
    config.optimizer.update(warmup_steps=100, decay_steps=0)
    config.train.update(steps=10_000, mask_schedule="cosine")
    config.sampling.update(num_inference_steps=18, guidance_scale=2.0)
    config.mesh.update(data=-1, fsdp=1)
    return config
