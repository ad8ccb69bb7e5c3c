"""The masked transformer: bidirectional, text by cross-attention, images as the first latent step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.models.maskgit import Generator, MaskGITConfig, code_digits
from phenaki_jax.models.quantizers import FSQ
from phenaki_jax.models.t5 import T5Config
from phenaki_jax.models.tree import Pure

TEXT = T5Config(vocab_size=40, embed_dim=12, layers=1, heads=2, head_dim=6, mlp_dim=16)
SIZES = dict(codebook_size=20, grid=(3, 2, 2), text_dim=12, embed_dim=16, layers=2, heads=2, mlp_dim=32)


@pytest.fixture(scope="module", params=[("full", ()), ("factorised", (5, 4))], ids=["full", "factorised-digits"])
def logits(request):
    attention, levels = request.param
    sizes = MaskGITConfig(attention=attention, levels=levels, **SIZES)
    pure = Pure(lambda rngs: Generator(sizes, TEXT, rngs=rngs))
    arrays = pure.init(jax.random.key(0))

    def call(tokens, text, mask):
        model = pure.bind(*arrays)
        return model.transformer(tokens, model.embed(text), mask)

    return jax.jit(call)


def test_every_token_sees_every_other(logits):
    text = jnp.ones((1, 4), jnp.int32)
    tokens = jnp.zeros((1, 3, 2, 2), jnp.int32)
    base = logits(tokens, text, text > 0)
    assert base.shape == (1, 3, 2, 2, 20) and base.dtype == jnp.float32
    for place in np.ndindex(3, 2, 2):
        moved = logits(tokens.at[(0, *place)].set(20), text, text > 0)
        assert np.all(np.abs(moved - base).max(-1) > 0), place


def test_dropped_text_has_no_say_and_kept_text_has(logits):
    tokens = jnp.full((1, 3, 2, 2), 20)
    one, two = jnp.asarray([[5, 6, 1, 0]]), jnp.asarray([[8, 9, 1, 0]])
    np.testing.assert_array_equal(logits(tokens, one, one < 0), logits(tokens, two, two < 0))
    assert np.abs(logits(tokens, one, one > 0) - logits(tokens, two, two > 0)).max() > 1e-4


def test_an_image_is_a_grid_of_one_step(logits):
    text = jnp.ones((2, 4), jnp.int32)
    assert logits(jnp.zeros((2, 1, 2, 2), jnp.int32), text, text > 0).shape == (2, 1, 2, 2, 20)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="generator.attention='axial'"):
        MaskGITConfig(attention="axial", **SIZES)
    with pytest.raises(UserError, match="generator.heads=3"):
        MaskGITConfig(**{**SIZES, "heads": 3})


def test_digits_are_those_of_the_quantizer():
    """The nearest code of a quantizer's code vector, digit by digit: neighbours in a channel differ in that digit."""
    digits = code_digits((5, 4))
    assert digits.shape == (20, 9) and np.all(digits.sum(1) == 2)
    quantizer = FSQ(2, (5, 4), rngs=nnx.Rngs(0))
    quantizer.project_out[...] = jnp.eye(2)
    codes = np.asarray(quantizer.codes(jnp.arange(20)))
    np.testing.assert_allclose(codes[:, 0] * 2 + 2, digits[:, :5].argmax(1))
    np.testing.assert_allclose(codes[:, 1] * 2 + 2, digits[:, 5:].argmax(1))
