"""Prediction without text, the model of the paper's tables 4 and 5 in small: clips go on from their first frames.

    python -m phenaki_jax reproduce table4 --workdir=runs/prediction

trains and measures it, as does `reproduce table5` in the same folder; one stage alone:

    python -m phenaki_jax train --config=configs/prediction.py:tokenizer --workdir=runs/prediction/tokenizer
    python -m phenaki_jax train --config=configs/prediction.py:generator --workdir=runs/prediction/generator \\
        --config.tokenizer_run=runs/prediction/tokenizer

The quickstart's two stages, or with `,accelerator` behind the name those of configs/sprites.py, on clips alone and
without text, their tokenizers with LPIPS in the loss. The paper's own sizes are `configs/paper.py:prediction`.
"""

import pathlib

from ml_collections import ConfigDict

from phenaki_jax.config import load_config, named

NAMES = ("tokenizer", "generator")
SCALES = {"cpu": ("quickstart.py", "sprite_clips_32"), "accelerator": ("sprites.py", "sprite_clips_64_digits")}


def get_config(arg: str = "tokenizer") -> ConfigDict:
    """arg: one of NAMES, and after a comma the scale, cpu (default) or accelerator."""
    stage, scale = named("configs/prediction.py", arg, NAMES, SCALES)
    file, task = SCALES[scale]
    config = load_config(f"{pathlib.Path(__file__).with_name(file)}:{stage}")
    config.data.update(mixture=task, text_drop=0.0)
    config.text.encoder = "none"
    config.loss.update(image_perceptual=0.1, frames=1)  # the paper's weight: predictions are seen beside sharp frames
    config.sampling.guidance_scale = 0.0
    # What is asked for is what is learned: to go on from one frame, and from several.
    config.train.update(first_given=0.3, ends_given=0.0, several_given=0.4)
    if scale == "cpu" and stage == "tokenizer":
        config.train.steps = 2400
    return config
