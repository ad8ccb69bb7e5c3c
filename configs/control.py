"""A quickstart's generator, taught how much moves, the frame rate, and how noisy what is given is.

    python -m phenaki_jax train --config=configs/control.py --workdir=runs/control/generator \\
        --config.tokenizer_run=runs/quickstart/tokenizer --config.train.init_from=runs/quickstart/generator
    python -m phenaki_jax generate --model=runs/control --prompt="a solid red circle moves left on navy" \\
        --motion=high --fps=16 --output=quick.gif
    python -m phenaki_jax evaluate --model=runs/control --suite=control --report=runs/control/report.md
"""

import pathlib

from ml_collections import ConfigDict

from phenaki_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(f"{pathlib.Path(__file__).with_name('quickstart.py')}:generator")
    config.generator.conditions = ("motion", "fps", "noise")
    config.train.noise_augmentation = 0.5
    config.data.mixture = "sprite_paced_80_20"
    config.data.sizes = ((11, 32, 32), (11, 32, 32), (5, 32, 32))  # short ones for what lies between key frames
    return config
