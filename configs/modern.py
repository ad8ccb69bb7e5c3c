"""The paper's tokenizer with Muon, which has beaten it here at equal parameters by far, and QK norm, which adds little
(docs/table3.md).

    python -m phenaki_jax train --config=configs/modern.py:tokenizer --workdir=runs/modern/tokenizer

Sizes, loss and data are the paper's (configs/paper.py). Chosen at 32 x 32 on two cores; nobody has trained it at this
size yet, and its learning rate is a guess from there.
"""

import pathlib

from ml_collections import ConfigDict

from phenaki_jax.config import load_config
from phenaki_jax.errors import UserError

ARGUMENTS = ("tokenizer",)


def get_config(arg: str = "tokenizer") -> ConfigDict:
    """arg: tokenizer."""
    if arg not in ARGUMENTS:
        raise UserError(f"configs/modern.py has no argument {arg!r}; it has {', '.join(ARGUMENTS)}.")
    config = load_config(f"{pathlib.Path(__file__).with_name('paper.py')}:{arg}")
    config.tokenizer.update(qk_norm=True)
    config.optimizer.update(name="muon", learning_rate=2e-4)
    return config
