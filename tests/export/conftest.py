"""What the tests of exports share: a run of each stage."""

import pathlib
import sys

import pytest

import phenaki_jax
from phenaki_jax.models.build import make_critic, make_generator, make_tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from untrained import STEP, TINY, arrays, write_run  # noqa: E402


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A quickstart's folder: tokenizer/, generator/ (of steps 7 and 8) and critic/."""
    root = tmp_path_factory.mktemp("export") / "runs"
    config = {stage: phenaki_jax.load_config(f"configs/quickstart.py:{stage}", TINY) for stage in (
        "tokenizer", "generator", "critic")}
    tokenizer, generator, critic = (dict(zip(("params", "variables"), arrays(make(config["critic"]), seed)))
                                    for seed, make in enumerate((make_tokenizer, make_generator, make_critic)))
    write_run(root / "tokenizer", config["tokenizer"], **tokenizer, frozen={})
    config["generator"].tokenizer_run = str(root / "tokenizer")
    write_run(root / "generator", config["generator"], **generator, frozen=tokenizer, steps=(STEP, STEP + 1))
    config["critic"].generator_run = str(root / "generator")
    write_run(root / "critic", config["critic"], **critic, frozen={"generator": generator, "tokenizer": tokenizer})
    return root
