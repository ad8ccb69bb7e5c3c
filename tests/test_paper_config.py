"""The paper's presets: parameter counts by shape evaluation, and the numbers of its tables."""

import jax
import pytest

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError
from phenaki_jax.models.build import make_generator, make_tokenizer
from phenaki_jax.training.metrics import count_parameters
from phenaki_jax.training.optimizer import make_schedule


def paper(argument):
    return configs.load_config(f"configs/paper.py:{argument}")


def shapes(config):
    """(params, variables) of a stage's model, as shapes: nothing is computed."""
    make = {"tokenizer": make_tokenizer, "generator": make_generator}[config.stage]
    return jax.eval_shape(make(config).init, jax.random.key(0))


@pytest.mark.parametrize("argument, millions, tolerance", [
    ("tokenizer", 51, 0.02), ("generator", 1800, 0.05), ("generator_0.9b", 900, 0.06),
])
def test_parameter_counts(argument, millions, tolerance):
    params, _ = shapes(paper(argument))
    assert count_parameters(params) == pytest.approx(millions * 1e6, rel=tolerance)


def test_the_prediction_model_has_no_text_and_dropout():
    config = paper("prediction")
    assert (config.generator.layers, config.generator.embed_dim, config.generator.dropout) == (24, 768, 0.1)
    assert config.text.encoder == "none"
    params, _ = shapes(config)
    # 24 layers of attention (4 D^2) and MLP (2 * 4 D^2), tables in and out of the codebook: no cross-attention.
    assert count_parameters(params) == pytest.approx(24 * 12 * 768**2 + 2 * 8192 * 768, rel=0.03)


def test_tokens_of_a_clip():
    tokenizer = paper("tokenizer").tokenizer
    pt, py, px = tokenizer.patch
    steps = 1 + (tokenizer.frames - 1) / pt
    assert (steps, tokenizer.height / py, tokenizer.width / px) == (6, 16, 16)  # 1536, table 3


def test_learning_rates():
    tokenizer, generator = make_schedule(paper("tokenizer")), make_schedule(paper("generator"))
    assert float(tokenizer(99_999)) == pytest.approx(1e-4) and float(tokenizer(1_000_000)) == pytest.approx(0, abs=1e-9)
    assert float(generator(9_999)) == pytest.approx(1e-4)
    assert float(generator(1_000_000)) == pytest.approx(1e-4 * 0.855, rel=0.01)  # a quarter of a cosine over 4 M
    assert float(generator(4_000_000)) == pytest.approx(0, abs=1e-9)


def test_an_unknown_argument_is_refused():
    with pytest.raises(UserError, match="generator_0.9b"):
        paper("generator_3b")
