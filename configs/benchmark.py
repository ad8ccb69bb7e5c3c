"""What `phenaki benchmark` measures: C-ViViT at the size at which other implementations are compared with it.

    python -m phenaki_jax benchmark tokenizer --config=configs/benchmark.py --report=benchmark.json

The model is the paper's (configs/paper.py) at width 256, in float32 with products of bfloat16, on 4 clips of 11 x 64 x
64, 384 tokens of 1024 codes each. The loss is L_2 and the quantizer's; clips are random, so the data of the config are
never read.
"""

import pathlib

from ml_collections import ConfigDict

from phenaki_jax.config import load_config
from phenaki_jax.errors import UserError

ARGUMENTS = ("tokenizer",)


def get_config(arg: str = "tokenizer") -> ConfigDict:
    """arg: tokenizer."""
    if arg not in ARGUMENTS:
        raise UserError(f"configs/benchmark.py has no argument {arg!r}; it has {', '.join(ARGUMENTS)}.")
    config = load_config(f"{pathlib.Path(__file__).with_name('paper.py')}:{arg}")
    config.tokenizer.update(height=64, width=64, embed_dim=256, mlp_dim=1024, codebook_size=1024, unroll=True,
                            dtype="float32", matmul_precision="bfloat16")
    config.loss.update(image_perceptual=0.0, video_perceptual=0.0, adversarial=0.0)
    config.data.mixture = "sprite_tokenizer_80_20"
    config.batch_size = 4
    config.optimizer.update(warmup_steps=100, decay_steps=0)
    config.train.update(steps=10_000)
    config.mesh.update(data=-1, fsdp=1)
    return config
