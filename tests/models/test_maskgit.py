"""The masked transformer: bidirectional, text by cross-attention, images as the first latent step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.positions import grid_places, rotary
from phenaki_jax.models.conditions import Conditions
from phenaki_jax.models.maskgit import (
    CodeTable, Critic, FactorTable, Generator, MaskGITConfig, Reading, code_digits, split_logits, surroundings)
from phenaki_jax.models.quantizers import FSQ
from phenaki_jax.models.t5 import T5Config
from phenaki_jax.models.tree import Pure

TEXT = T5Config(vocab_size=40, embed_dim=12, layers=1, heads=2, head_dim=6, mlp_dim=16)
SIZES = dict(codebook_size=20, grid=(3, 2, 2), text_dim=12, embed_dim=16, layers=2, heads=2, mlp_dim=32)


VARIANTS = {
    "paper": {},
    "factorised-digits": dict(attention="factorised", levels=(5, 4)),
    "grouped": dict(group=(2, 1), rotary=True),
    "big-codebook": dict(factors=(5, 4), neighbours=3),
    "grouped-neighbours-digits": dict(group=(1, 2), neighbours=3, rotary=True, levels=(5, 4)),
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def logits(request):
    sizes = MaskGITConfig(**request.param, **SIZES)
    pure = Pure(lambda rngs: Generator(sizes, TEXT, rngs=rngs))
    arrays = pure.init(jax.random.key(0))

    def call(tokens, text, mask):
        model = pure.bind(*arrays)
        return model.transformer(tokens, model.read(text, mask))

    return jax.jit(call)


def test_every_token_sees_every_other(logits):
    text = jnp.ones((1, 4), jnp.int32)
    tokens = jnp.zeros((1, 3, 2, 2), jnp.int32)
    base = logits(tokens, text, text > 0)
    assert base.shape[:4] == (1, 3, 2, 2) and base.shape[4] in (20, 9) and base.dtype == jnp.float32
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
    assert logits(jnp.zeros((2, 1, 2, 2), jnp.int32), text, text > 0).shape[:4] == (2, 1, 2, 2)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="generator.attention='axial'"):
        MaskGITConfig(attention="axial", **SIZES)
    with pytest.raises(UserError, match="generator.heads=3"):
        MaskGITConfig(**{**SIZES, "heads": 3})
    with pytest.raises(UserError, match=r"generator.group=\(3, 1\)"):
        MaskGITConfig(group=(3, 1), **SIZES)
    with pytest.raises(UserError, match="generator.rotary needs 6"):
        MaskGITConfig(rotary=True, **{**SIZES, "heads": 4})
    with pytest.raises(UserError, match="generator.neighbours=-1"):
        MaskGITConfig(neighbours=-1, **SIZES)


def test_digits_are_those_of_the_quantizer():
    """The nearest code of a quantizer's code vector, digit by digit: neighbours in a channel differ in that digit."""
    digits = code_digits((5, 4))
    assert digits.shape == (20, 9) and np.all(digits.sum(1) == 2)
    quantizer = FSQ(2, (5, 4), rngs=nnx.Rngs(0))
    quantizer.project_out[...] = jnp.eye(2)
    codes = np.asarray(quantizer.codes(jnp.arange(20)))
    np.testing.assert_allclose(codes[:, 0] * 2 + 2, digits[:, :5].argmax(1))
    np.testing.assert_allclose(codes[:, 1] * 2 + 2, digits[:, 5:].argmax(1))


def test_a_table_adds_what_digits_say_and_leaves_the_mask_alone():
    table = CodeTable(2, 21, (5, 4), 3, 1.0, rngs=nnx.Rngs(0))
    own, digits, vectors = (np.asarray(x) for x in (table.own[...], table.digits[...], table()))
    for slot, code in np.ndindex(2, 20):
        said = digits[slot, code % 5] + digits[slot, 5 + code // 5]
        np.testing.assert_allclose(vectors[slot, code], own[slot, code] + said, rtol=1e-5)
    np.testing.assert_array_equal(vectors[:, 20], own[:, 20])


def test_digits_of_a_big_codebook_are_embedded_and_predicted_by_themselves():
    table = FactorTable(2, (5, 4), 3, 1.0, rngs=nnx.Rngs(0))
    own, tokens = np.asarray(table.own[...]), jnp.asarray(np.random.default_rng(0).integers(0, 21, (6, 2)))
    vectors = np.asarray(table.lookup(tokens))
    for row, slot in np.ndindex(6, 2):
        code = int(tokens[row, slot])
        expected = own[slot, 9] if code == 20 else own[slot, code % 5] + own[slot, 5 + code // 5]
        np.testing.assert_allclose(vectors[row, slot], expected, rtol=1e-6)
    assert [part.shape for part in split_logits(jnp.zeros((2, 9)), (5, 4))] == [(2, 5), (2, 4)]


def test_what_is_not_told_has_no_say_and_what_is_told_has():
    sizes = MaskGITConfig(conditions=("motion", "fps"), **SIZES)
    pure = Pure(lambda rngs: Generator(sizes, None, rngs=rngs))
    arrays = pure.init(jax.random.key(0))
    tokens, text, nan = jnp.full((1, 3, 2, 2), 20), jnp.ones((1, 4, 12)), jnp.nan

    @jax.jit
    def logits(*numbers):
        model = pure.bind(*arrays)
        return model.transformer(tokens, model.read(text, jnp.ones((1, 4), bool), jnp.asarray([numbers])))

    model = pure.bind(*arrays)
    untold = model.transformer(tokens, model.read(text, jnp.ones((1, 4), bool)))
    np.testing.assert_allclose(logits(nan, nan), untold, atol=1e-6)
    told = model.read(text, jnp.ones((1, 4), bool), jnp.asarray([[5.0, 8.0]]))
    both = model.transformer(jnp.tile(tokens, (2, 1, 1, 1)), Reading.join([told, told.nothing()]))
    np.testing.assert_allclose(both[:1], logits(5.0, 8.0), atol=1e-6)
    alone = model.transformer(tokens, model.read(text, jnp.zeros((1, 4), bool)))
    np.testing.assert_allclose(both[1:], alone, atol=1e-6)
    found = [logits(*told) for told in ((nan, nan), (5.0, nan), (50.0, nan), (nan, 8.0), (5.0, 8.0))]
    for i, one in enumerate(found):
        assert all(np.abs(one - other).max() > 1e-4 for other in found[:i])


def test_conditions_are_a_vector_of_their_own_for_every_number_and_add_nothing_where_nothing_is_told():
    conditions = Conditions(("motion", "noise"), 32, rngs=nnx.Rngs(0))
    values = jnp.stack([jnp.linspace(0, 100, 50), jnp.full(50, jnp.nan)], axis=1)
    vectors = np.asarray(conditions(values))
    steps = np.linalg.norm(np.diff(vectors, axis=0), axis=1)
    assert np.isfinite(vectors).all() and steps.min() > 0 and steps.max() < 1.5 * np.linalg.norm(vectors, axis=1).max()
    assert np.abs(conditions(values.at[:, 1].set(0.0)) - vectors).max() > 0  # told 0 is not the same as not told
    np.testing.assert_array_equal(conditions(jnp.full((3, 2), jnp.nan)), np.zeros((3, 32)))
    with pytest.raises(UserError, match="generator.conditions"):
        MaskGITConfig(conditions=("speed",), **SIZES)


def test_a_critic_says_one_number_of_every_token():
    sizes = MaskGITConfig(group=(2, 1), **SIZES)
    critic = Critic(sizes, rngs=nnx.Rngs(0))
    read = critic.read(jnp.ones((2, 4, 12)), jnp.ones((2, 4), bool))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 20, (2, 3, 2, 2)))
    base = critic(tokens, read)
    assert base.shape == (2, 3, 2, 2)
    moved = critic(tokens.at[0, 2, 1, 1].add(1), read)
    assert np.all(moved[0] != base[0]) and np.all(moved[1] == base[1])


@pytest.mark.parametrize("group", [(1, 1), (2, 3)])
def test_surroundings_are_what_lies_around_a_group(group):
    """Against a walk over every place with an explicit test for the grid's borders."""
    T, H, W, (rows, columns) = 2, 4, 6, group
    x = np.random.default_rng(0).normal(size=(1, T, H, W, 2)).astype(np.float32)
    found = np.asarray(surroundings(jnp.asarray(x), group))
    assert found.shape == (1, T, H // rows, W // columns, 3 * (rows + 2) * (columns + 2) * 2)
    for t, row, column in np.ndindex(T, H // rows, W // columns):
        expected = []
        for step in (t - 1, t, t + 1):
            for y in range(row * rows - 1, row * rows + rows + 1):
                for z in range(column * columns - 1, column * columns + columns + 1):
                    inside = 0 <= step < T and 0 <= y < H and 0 <= z < W
                    expected.append(x[0, step, y, z] if inside else np.zeros(2))
        np.testing.assert_array_equal(found[0, t, row, column], np.concatenate(expected))


def test_rotary_scores_tell_the_distance_along_each_axis_and_not_the_place():
    places = grid_places((2, 3, 4))
    np.testing.assert_array_equal(places, list(np.ndindex(2, 3, 4)))
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 12)).astype(np.float32)

    def score(a, b):
        turned = [rotary(jnp.asarray(x), jnp.asarray([place])) for x, place in ((query, a), (key, b))]
        return float(jnp.sum(turned[0] * turned[1]))

    base = score((1, 2, 3), (0, 2, 1))
    assert score((4, 3, 9), (3, 3, 7)) == pytest.approx(base, abs=1e-4)  # moved as one
    for other in ((1, 2, 1), (0, 1, 1), (0, 2, 2)):
        assert abs(score((1, 2, 3), other) - base) > 1e-3
