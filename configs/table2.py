"""The mixes of images and videos of the paper's table 2 in small: one tokenizer, and a generator for each mix.

    python -m phenaki_jax reproduce table2 --workdir=runs/table2

trains and measures all of them; one alone:

    python -m phenaki_jax train --config=configs/table2.py:tokenizer --workdir=runs/table2/tokenizer
    python -m phenaki_jax train --config=configs/table2.py:80_20 --workdir=runs/table2/80_20 \\
        --config.tokenizer_run=runs/table2/tokenizer

`video_only`, `80_20` and `50_50` are the quickstart's generator, or with `,accelerator` behind the name that of
configs/sprites.py, and differ in their data alone. The tokenizer is theirs too: all mixes share one that has seen
images, as the paper's do.
"""

import pathlib

from ml_collections import ConfigDict

from phenaki_jax.config import load_config, named

NAMES = ("tokenizer", "video_only", "80_20", "50_50")
# The config that a scale builds on, and the beginning of its mixtures' names.
SCALES = {"cpu": ("quickstart.py", "sprite_stories_"), "accelerator": ("sprites.py", "sprite_digits_")}


def get_config(arg: str = "tokenizer") -> ConfigDict:
    """arg: one of NAMES, and after a comma the scale, cpu (default) or accelerator."""
    name, scale = named("configs/table2.py", arg, NAMES, SCALES)
    file, mixtures = SCALES[scale]
    stage = "tokenizer" if name == "tokenizer" else "generator"
    config = load_config(f"{pathlib.Path(__file__).with_name(file)}:{stage}")
    if stage == "generator":
        config.data.mixture = mixtures + name
        if scale == "cpu":
            config.train.update(steps=4800, checkpoint_every=400, sample_every=4800)
    return config
