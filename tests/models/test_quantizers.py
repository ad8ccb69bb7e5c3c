"""Quantizers: against brute force, with round trips, gradients that pass straight through, and dead codes revived.

What all have in common, FSQ and VQ's choice are here; how VQ's codebook is learned in test_vq, LFQ and BSQ in
test_binary_quantizers.
"""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.models.codes import join_tokens, split_tokens, usage_metrics
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


ALL = [("fsq", {}), ("lfq", {}), ("bsq", {}), ("bsq", {"gradient": "rotation"}), ("vq", {}),
       ("vq", {"gradient": "rotation"}), ("vq", {"codebook_update": "gradient"}), ("vq", {"kmeans_start": True})]


@pytest.mark.parametrize("name, values", ALL)
def test_every_quantizer_keeps_the_contract(name, values):
    """Tokens in range, codes that tokens give back, a gradient to what comes before, jit, and no luck but the key's."""
    quantizer = make_quantizer(config(quantizer=name, codebook_size=64, levels=(4, 4, 4), **values), rngs=nnx.Rngs(0))
    graph, state = nnx.split(quantizer)

    @jax.jit
    def call(x, key):
        def total(x):
            model = nnx.merge(graph, state, copy=True)
            result = model(x, train=True, key=key)
            return jnp.sum((result.codes - 1) ** 2), (vars(result), nnx.state(model))
        return jax.grad(total, has_aux=True)(x)

    x = vectors().reshape(2, 5, 20, 6)
    grads, (result, after) = call(x, jax.random.key(0))
    codes, tokens, metrics = result["codes"], result["tokens"], result["metrics"]
    assert tokens.dtype == jnp.int32 and tokens.shape == (2, 5, 20) and codes.shape == x.shape
    assert int(tokens.min()) >= 0 and int(tokens.max()) < 64 and len(np.unique(tokens)) > 8
    assert np.isfinite(grads).all() and np.all(np.any(np.asarray(grads) != 0, axis=-1)) and np.isfinite(result["loss"])
    for metric in ("codebook_usage", "codebook_perplexity", "codebook_dead"):
        assert metrics[metric].shape == () and np.isfinite(metrics[metric])
    jax.tree.map(np.testing.assert_array_equal, call(x, jax.random.key(0)), (grads, (result, after)))
    if not values.get("kmeans_start"):
        np.testing.assert_allclose(quantizer.codes(tokens), codes, atol=1e-5)
        np.testing.assert_array_equal(quantizer(x).tokens, tokens)
    trained = nnx.merge(graph, after)
    result = trained(x)
    np.testing.assert_allclose(trained.codes(result.tokens), result.codes, atol=1e-5)


def test_usage_perplexity_and_dead_codes_of_counts():
    """The mean is 2.5: dead are the counts below 0.05."""
    metrics = usage_metrics(jnp.asarray([0.0, 0.006, 0.049, 0.051, 9.894, 5, 5, 0]))
    assert float(metrics["codebook_dead"]) == 4 and float(metrics["codebook_usage"]) == 5 / 8
    p = np.asarray([0.006, 0.049, 0.051, 9.894, 5, 5]) / 20
    np.testing.assert_allclose(metrics["codebook_perplexity"], np.exp(-(p * np.log(p)).sum()), rtol=1e-4)


@pytest.mark.parametrize("factors", [(7,), (2, 2, 2, 2), (8, 6, 5), (512, 512)])
def test_tokens_split_into_digits_and_join_again(factors):
    size = int(np.prod(factors))
    tokens = np.random.default_rng(0).integers(0, size, (3, 4, 5)).astype(np.int32)
    digits = split_tokens(jnp.asarray(tokens), factors)
    expected = np.stack(np.unravel_index(tokens, factors, order="F"), axis=-1)  # F: the first digit is the lowest
    np.testing.assert_array_equal(digits, expected)
    assert digits.dtype == jnp.int32
    np.testing.assert_array_equal(join_tokens(digits, factors), tokens)
    assert int(split_tokens(jnp.asarray(size - 1), factors)[-1]) == factors[-1] - 1


@pytest.mark.parametrize("values, words", [
    ({"quantizer": "pq"}, "tokenizer.quantizer='pq' is unknown; it is one of fsq, vq, lfq, bsq"),
    ({"codebook_update": "sgd"}, "tokenizer.codebook_update='sgd' is unknown; it is one of ema, gradient"),
    ({"gradient": "gumbel"}, "tokenizer.gradient='gumbel' is unknown; it is one of straight_through, rotation"),
    ({"quantizer": "fsq", "codebook_size": 60, "gradient": "rotation"}, "quantizer='fsq' takes 'straight_through'"),
    ({"quantizer": "lfq", "gradient": "rotation"}, "quantizer='lfq' takes 'straight_through'"),
    ({"quantizer": "lfq", "codebook_size": 1000}, "tokenizer.codebook_size=1000 .* 512 or 1024"),
    ({"quantizer": "bsq", "codebook_size": 1}, "tokenizer.codebook_size=1 .* 2 or 4"),
    ({"quantizer": "lfq", "entropy_weight": -0.1}, "tokenizer.entropy_weight=-0.1 must be 0 or more"),
    ({"quantizer": "bsq", "diversity": -1.0}, "tokenizer.diversity=-1.0 must be 0 or more"),
    ({"quantizer": "bsq", "inverse_temperature": 0.0}, "tokenizer.inverse_temperature=0.0 must be over 0")])
def test_what_does_not_fit_is_refused_in_one_sentence(values, words):
    with pytest.raises(UserError, match=words):
        make_quantizer(config(**values), rngs=nnx.Rngs(0))
