"""LFQ and BSQ: against enumeration of all codes, and at 2^18 codes without a table of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax.models.codes import bit_entropies, bit_groups
from phenaki_jax.models.cvivit import CViViTConfig
from phenaki_jax.models.quantizers import BSQ, LFQ, Quantized

KINDS = pytest.mark.parametrize("kind", [LFQ, BSQ])


def quantizer(kind, bits, width=6, commitment=0.25, **options):
    return kind(width, 2 ** bits, commitment, rngs=nnx.Rngs(0), **options)


def call(model, x):
    """The model's answer, compiled."""
    return Quantized(**jax.jit(lambda x: vars(model(x)))(x))


def vectors(count=200, width=6, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, width)), jnp.float32)


def all_codes(kind, bits):
    """Every code by its definition, [V, L]: bit i of the token is the sign of channel i."""
    signs = 2.0 * (np.arange(2 ** bits)[:, None] >> np.arange(bits) & 1) - 1
    return signs if kind is LFQ else signs / np.sqrt(bits)


def before(model, kind, x):
    z = np.asarray(x @ model.project_in[...], np.float64)
    return z if kind is LFQ else z / np.linalg.norm(z, axis=-1, keepdims=True)


def soft(z, codes, inverse_temperature):
    """softmax over all codes of -inverse_temperature |z - c|^2, where codes are of ±1: [N, V]."""
    q = -inverse_temperature * (((z[:, None] - codes) / np.abs(codes).max()) ** 2).sum(-1)
    q = np.exp(q - q.max(1, keepdims=True))
    return q / q.sum(1, keepdims=True)


def entropy(p):
    return -(p * np.log(p + 1e-300)).sum(-1)


@KINDS
@pytest.mark.parametrize("inverse_temperature", [0.3, 1.0, 10.0])
def test_entropies_and_loss_are_those_of_the_softmax_over_all_codes(kind, inverse_temperature):
    model = quantizer(kind, 7, entropy_weight=0.5, diversity=0.8, inverse_temperature=inverse_temperature)
    result = call(model, vectors())
    z, codes = before(model, kind, vectors()), all_codes(kind, 7)
    q = soft(z, codes, inverse_temperature)
    sample, batch = entropy(q).mean(), entropy(q.mean(0))
    np.testing.assert_allclose(result.metrics["codebook_sample_entropy"], sample, rtol=1e-4)
    np.testing.assert_allclose(result.metrics["codebook_batch_entropy"], batch, rtol=1e-4)
    distance = ((z[:, None] - codes) ** 2).sum(-1)
    np.testing.assert_array_equal(result.tokens, distance.argmin(1))
    expected = 0.5 * (sample - 0.8 * batch) + 0.25 * distance.min(1).mean()
    np.testing.assert_allclose(result.loss, expected, rtol=1e-4)


def test_beyond_nine_bits_groups_are_exact_and_their_sum_is_an_upper_bound():
    """Bits that repeat one another across groups: the bound is over by what they share, and by no more."""
    z = np.random.default_rng(0).normal(size=(300, 5))
    logits = np.concatenate([z, z], axis=1)  # ten bits, in groups of five that are copies
    sample, batch = jax.jit(bit_entropies)(jnp.asarray(logits, jnp.float32))
    p = 1 / (1 + np.exp(-logits))
    bits = np.arange(1024)[:, None] >> np.arange(10) & 1
    q = np.prod(np.where(bits[None] == 1, p[:, None], 1 - p[:, None]), axis=-1)
    np.testing.assert_allclose(sample, entropy(q).mean(), rtol=1e-4)
    group = q.mean(0).reshape(32, 32).sum(0)  # the first five bits, the lowest ones
    np.testing.assert_allclose(batch, 2 * entropy(group), rtol=1e-4)
    assert float(batch) >= entropy(q.mean(0)) - 1e-4
    assert [bit_groups(n) for n in (1, 9, 10, 13, 18, 19)] == [(1,), (9,), (5, 5), (7, 6), (9, 9), (7, 6, 6)]


@pytest.mark.parametrize("scale", [0.0, 1e-3, 30.0, 1e4])
def test_entropies_and_their_gradients_are_finite_from_no_certainty_to_all(scale):
    logits = scale * vectors(64, 9)
    for which in (0, 1):
        value, grad = jax.jit(jax.value_and_grad(lambda x: bit_entropies(x)[which]))(logits)
        assert -1e-4 <= float(value) <= 9 * np.log(2) + 1e-4 and np.isfinite(grad).all()
    if scale == 0:
        np.testing.assert_allclose(value, 9 * np.log(2), rtol=1e-5)


@KINDS
def test_tokens_and_codes_are_one_to_one(kind):
    model = quantizer(kind, 6)
    model.project_out[...] = jnp.eye(6)
    codes = np.asarray(model.codes(jnp.arange(64)))
    np.testing.assert_allclose(codes, all_codes(kind, 6), atol=1e-6)
    if kind is BSQ:
        np.testing.assert_allclose(np.linalg.norm(codes, axis=-1), 1, atol=1e-6)
    model.project_in[...] = jnp.eye(6)
    np.testing.assert_array_equal(model(jnp.asarray(codes)).tokens, np.arange(64))


@KINDS
def test_the_gradient_passes_straight_through_the_sign(kind):
    """Against the same maps without a sign: project, bound, project."""
    model = quantizer(kind, 5)
    weight = vectors(200, 6, seed=1)

    def smooth(x):
        z = x @ model.project_in[...]
        z = z if kind is LFQ else z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        return jnp.sum(weight * (z @ model.project_out[...]))

    quantized = jax.jit(jax.grad(lambda x: jnp.sum(weight * model(x).codes)))(vectors())
    np.testing.assert_allclose(quantized, jax.jit(jax.grad(smooth))(vectors()), atol=1e-4)


@KINDS
def test_the_entropy_loss_spreads_vectors_over_the_codes(kind):
    """Vectors that begin in one orthant end in all of them by steps on the loss alone, each as sure of its code."""
    # On the sphere all begin at the middle of an orthant, where ±1 codes of 3 bits leave no doubt at temperature 1.
    unsure = 1.0 if kind is LFQ else 1 / 3
    model = quantizer(kind, 3, width=3, commitment=0.0, entropy_weight=1.0, inverse_temperature=unsure)
    model.project_in[...] = jnp.eye(3)
    x = 0.3 + 0.1 * vectors(256, 3)
    start = call(model, x)
    assert len(np.unique(start.tokens)) <= 4
    move = lambda _, x: x - 256 * 0.05 * jax.grad(lambda x: model(x).loss)(x)
    end = call(model, jax.jit(lambda x: jax.lax.fori_loop(0, 400, move, x))(x))
    counts = np.bincount(np.asarray(end.tokens), minlength=8) / 256
    assert np.exp(entropy(counts)) > 6
    assert end.metrics["codebook_sample_entropy"] < start.metrics["codebook_sample_entropy"] + 0.05


def sizes(jaxpr):
    """Elements of every array that a jaxpr makes, those inside it too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)


@KINDS
def test_a_quarter_of_a_million_codes_cost_no_matrix_of_them(kind):
    """A step of training over 2^18 codes and 4096 vectors: nothing grows with their product or with codes x bits."""
    model = quantizer(kind, 18, width=32)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def step(params, rest, x):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            result = model(x, train=True)
            return result.loss + jnp.sum(result.codes ** 2), (result.metrics, nnx.state(model, nnx.Not(nnx.Param)))
        return jax.value_and_grad(loss, has_aux=True)(params)

    args = (params, rest, vectors(4096, 32))
    assert max(sizes(jax.make_jaxpr(step)(*args).jaxpr)) <= 2 ** 18
    compiled = jax.jit(step).lower(*args).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * 2 ** 20
    (_, (metrics, _)), _ = compiled(*args)
    assert np.isfinite(metrics["codebook_perplexity"])
    tokens = jnp.asarray([0, 1, 2 ** 17, 2 ** 18 - 1])
    model.project_out[...] = jnp.eye(18, 32)
    signs = np.sign(np.asarray(model.codes(tokens))[:, :18])
    np.testing.assert_array_equal((signs > 0) @ (1 << np.arange(18)), tokens)


@pytest.mark.parametrize("quantizer, size, levels, digits, factors", [
    ("vq", 8192, (), (), (8192,)), ("fsq", 240, (8, 6, 5), (8, 6, 5), (240,)),
    ("lfq", 4096, (), (2,) * 12, (4096,)), ("bsq", 2 ** 18, (), (2,) * 18, (512, 512)),
    ("lfq", 2 ** 13, (), (2,) * 13, (128, 64))])
def test_a_tokenizer_names_the_digits_and_the_factors_of_its_tokens(quantizer, size, levels, digits, factors):
    config = CViViTConfig(quantizer=quantizer, codebook_size=size, levels=levels)
    assert config.digits == digits and config.factors == factors and np.prod(factors) == size
