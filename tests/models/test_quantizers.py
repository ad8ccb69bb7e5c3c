"""Quantizers: against brute force, with round trips, gradients that pass straight through, and dead codes revived."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax.models.quantizers import FSQ, VQ, make_quantizer, straight_through, swap_codes


def config(**values):
    return types.SimpleNamespace(**{**dict(embed_dim=6, quantizer="vq", codebook_size=32, code_dim=4, levels=(4, 3, 5),
                                           commitment=0.25), **values})


def vectors(count=200, width=6, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, width)) * 2, jnp.float32)


def test_fsq_rounds_each_channel_to_the_nearest_of_its_levels():
    levels = (4, 3, 5)
    quantizer = FSQ(6, levels, rngs=nnx.Rngs(0))
    z = np.asarray(vectors() @ quantizer.project_in[...])
    tokens = np.asarray(quantizer(vectors()).tokens)
    grids = [np.arange(level) - level // 2 for level in levels]
    for channel, (level, grid) in enumerate(zip(levels, grids)):
        half, offset = (level - 1) * (1 + 1e-3) / 2, 0.5 * (level % 2 == 0)
        bounded = np.tanh(z[:, channel] + np.arctanh(offset / half)) * half - offset
        nearest = np.abs(bounded[:, None] - grid).argmin(1)
        digit = tokens // int(np.prod(levels[:channel])) % level
        np.testing.assert_array_equal(digit, nearest)
    np.testing.assert_array_equal(np.round(np.tanh(0 + np.arctanh(0.5 / (1.5 * 1.001))) * 1.5015 - 0.5), 0)


def test_fsq_tokens_and_codes_are_one_to_one():
    quantizer = make_quantizer(config(quantizer="fsq", codebook_size=60), rngs=nnx.Rngs(0))
    codes = np.asarray(quantizer.codes(jnp.arange(60)))
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(codes, 2)) > 1e-3
    result = quantizer(vectors())
    np.testing.assert_allclose(quantizer.codes(result.tokens), result.codes, atol=1e-5)


def test_vq_picks_the_code_of_largest_cosine():
    quantizer = VQ(6, 32, 4, 0.25, rngs=nnx.Rngs(1))
    z = np.array(vectors() @ quantizer.project_in[...])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    table = np.asarray(quantizer.codebook[...])
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-5)
    best = ((z[:, None] - table[None]) ** 2).sum(-1).argmin(1)
    result = quantizer(vectors())
    np.testing.assert_array_equal(result.tokens, best)
    np.testing.assert_allclose(result.loss, 0.25 * ((z - table[best]) ** 2).sum(-1).mean(), rtol=1e-4)
    np.testing.assert_allclose(quantizer.codes(result.tokens), result.codes, atol=1e-5)


def test_the_gradient_passes_straight_through():
    x = jnp.asarray([0.2, 1.7])
    value, grad = jax.value_and_grad(lambda x: jnp.sum(3.0 * straight_through(x, jnp.round(x))))(x)
    assert value == 6.0
    np.testing.assert_array_equal(grad, [3.0, 3.0])


def test_vq_revives_dead_codes_and_follows_its_vectors():
    """Four clusters; half of the codes begin near one of them, half where nothing is: all four are found."""
    quantizer = VQ(4, 16, 4, 0.25, rngs=nnx.Rngs(0))
    quantizer.project_in[...] = jnp.eye(4)
    start = jnp.asarray([1.0, 0, 0, 0]) + 0.01 * quantizer.codebook[...]
    start = jnp.where(jnp.arange(16)[:, None] < 8, start, -start)  # the second half can be chosen by nobody
    quantizer.codebook[...] = start / jnp.linalg.norm(start, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.eye(4)[rng.integers(0, 4, 512)] + 0.02 * rng.normal(size=(512, 4)), jnp.float32)
    before = float(quantizer(x).loss)
    step = nnx.jit(lambda q, x, key: q(x, train=True, key=key).loss)
    for i in range(250):  # codes move by 2 % a step
        step(quantizer, x, jax.random.key(i))
    result = quantizer(x)
    assert float(result.loss) < 0.02 * before
    assert len(np.unique(result.tokens)) >= 12
    assert float(result.metrics["codebook_usage"]) >= 0.75


def test_usage_and_perplexity_have_their_closed_forms():
    quantizer = FSQ(3, (2, 2, 2), rngs=nnx.Rngs(0))
    quantizer.counts[...] = jnp.asarray([1.0, 1, 1, 1, 0, 0, 0, 0])
    metrics = quantizer(jnp.zeros((1, 3))).metrics
    assert float(metrics["codebook_usage"]) == 0.5
    np.testing.assert_allclose(metrics["codebook_perplexity"], 4.0, rtol=1e-4)


@pytest.mark.parametrize("name", ["fsq", "vq"])
def test_counts_follow_what_is_chosen_only_while_training(name):
    quantizer = make_quantizer(config(quantizer=name, codebook_size=60), rngs=nnx.Rngs(0))
    quantizer(vectors())
    assert float(quantizer.counts[...].sum()) == 0
    result = quantizer(vectors(), train=True, key=jax.random.key(0))
    expected = np.bincount(np.asarray(result.tokens), minlength=60) * 0.01
    if name == "fsq":
        np.testing.assert_allclose(quantizer.counts[...], expected, atol=1e-5)


def test_swapped_codes_are_the_batch_s_own_and_as_many_as_asked():
    """A quarter of the clips stays whole; the others' shares are even up to 0.6, so 0.225 of all places on average."""
    names = jnp.arange(400 * 3 * 4 * 4, dtype=jnp.float32).reshape(400, 3, 4, 4, 1) * jnp.ones(2)
    swapped = np.asarray(swap_codes(names, jax.random.key(0), 0.6))
    assert set(np.unique(swapped)) <= set(np.unique(names)) and np.all(swapped[..., 0] == swapped[..., 1])
    share = (swapped != np.asarray(names))[..., 0].mean((1, 2, 3))
    assert np.mean(share == 0) == pytest.approx(0.25, abs=0.08)
    assert share.mean() == pytest.approx(0.225, abs=0.03) and share.max() < 0.85
    np.testing.assert_array_equal(swap_codes(names, jax.random.key(0), 0.0), names)
