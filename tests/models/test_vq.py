"""VQ: how its codebook is learned, started and revived, and the gradient that is turned on its way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax.models.codes import rotation, spherical_kmeans
from phenaki_jax.models.quantizers import VQ
from phenaki_jax.models.tree import Pure


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def vq(**options):
    """A VQ of 16 codes in 4 dimensions that takes vectors as they are, as pure functions, and its arrays."""
    pure = Pure(lambda rngs: VQ(4, 16, 4, 0.25, rngs=rngs, **options))
    params, variables = pure.init(jax.random.key(0))
    return pure, {**params, "project_in": jnp.eye(4), "project_out": jnp.eye(4)}, variables


def clusters(count=512, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.eye(4)[rng.integers(0, 4, count)] + 0.02 * rng.normal(size=(count, 4)), jnp.float32)


def table(params, variables):
    """The code vectors, from the arrays alone."""
    return unit(np.asarray(params["codebook"] + variables["shift"] if "shift" in variables else variables["codebook"]))


def rotation_matrix(x, q):
    """The rotation in the plane of x and q that takes one direction to the other, from its angle."""
    u, v = unit(x), unit(q)
    cosine = u @ v
    w = unit(v - cosine * u)
    sine = np.sqrt(1 - cosine ** 2)
    plane = np.outer(u, u) + np.outer(w, w)
    return np.eye(len(x)) - plane + cosine * plane + sine * (np.outer(w, u) - np.outer(u, w))


def test_the_turned_gradient_is_that_of_the_rotation_matrix():
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, q = rng.normal(size=(2, 5)) * rng.uniform(0.1, 3, (2, 1))
        matrix = rotation_matrix(x, q)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(5), atol=1e-9)
        np.testing.assert_allclose(matrix @ unit(x), unit(q), atol=1e-9)
        x, q = jnp.asarray(x, jnp.float32), jnp.asarray(q, jnp.float32)
        np.testing.assert_allclose(rotation(x, q), q, atol=1e-6)
        expected = np.linalg.norm(q) / np.linalg.norm(x) * matrix
        np.testing.assert_allclose(jax.jacobian(rotation)(x, q), expected, atol=1e-4)
        np.testing.assert_array_equal(jax.jacobian(rotation, argnums=1)(x, q), np.zeros((5, 5)))


@pytest.mark.parametrize("x, q, largest", [
    ((0.6, 0.8, 0.0), (0.6, 0.8, 0.0), 1.0), ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), 1.0),
    ((1e-20, 0.0, 0.0), (0.0, 1.0, 0.0), 1.0), ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0),
    ((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), 1.0), ((1.0, 1e-7, 0.0), (-1.0, 0.0, 1e-7), 3.0)])
def test_the_turned_gradient_is_finite_where_there_is_no_angle(x, q, largest):
    x, q = jnp.asarray(x), jnp.asarray(q)
    jacobian = np.asarray(jax.jacobian(rotation)(x, q))
    assert np.linalg.norm(jacobian, 2) <= largest + 1e-5
    np.testing.assert_allclose(rotation(x, q), q, atol=1e-6)
    if np.array_equal(x, q) or min(np.linalg.norm(x), np.linalg.norm(q)) < 1e-6:
        np.testing.assert_allclose(jacobian, np.eye(3), atol=1e-6)


def test_kmeans_is_lloyd_s():
    """A twin in numpy, from the same start; a centre without vectors stays."""
    z = unit(np.random.default_rng(0).normal(size=(300, 4))).astype(np.float32)
    key = jax.random.key(3)
    centres = z[np.asarray(jax.random.permutation(key, 300))[:20]].astype(np.float64)
    for _ in range(4):
        nearest = ((z[:, None] - centres) ** 2).sum(-1).argmin(1)
        centres = np.stack([unit(z[nearest == c].sum(0)) if np.any(nearest == c) else centres[c] for c in range(20)])
    np.testing.assert_allclose(spherical_kmeans(jnp.asarray(z), 20, key, steps=4), centres, atol=1e-4)
    few = np.asarray(spherical_kmeans(jnp.asarray(z[:6]), 20, key))
    assert len(np.unique(few.round(4), axis=0)) == 6 and np.isfinite(few).all()


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_kmeans_starts_the_codebook_once(update):
    """The first batch of training finds all four clusters at once; later batches only move what it found."""
    pure, params, variables = vq(codebook_update=update, kmeans_start=True)

    def call(variables, x, train=True, key=0):
        model = pure.bind(params, variables)
        result = model(x, train=train, key=jax.random.key(key))
        return result.loss, result.tokens, pure.variables(model)

    call = jax.jit(call, static_argnames="train")
    _, _, untouched = call(variables, clusters(), train=False)
    jax.tree.map(np.testing.assert_array_equal, untouched, variables)
    loss, _, first = call(variables, clusters())
    plain, plain_params, _ = vq(codebook_update=update)
    assert float(loss) < 0.02 * float(plain.bind(plain_params, variables)(clusters()).loss)
    jax.tree.map(np.testing.assert_array_equal, call(variables, clusters())[2], first)
    other = call(variables, clusters(), key=1)[2]
    assert np.any(table(params, other) != table(params, first))
    _, _, second = call(first, -clusters(seed=1), key=1)  # a second k-means would have gone to the other side whole
    assert np.all(table(params, second).max(axis=1) > 0.9)


def test_a_gradient_codebook_has_the_loss_of_its_paper():
    """d/de mean |sg(z) - e|^2 = 2 (e - z) / N a vector, less its part along e, for e is kept at length 1."""
    pure, params, variables = vq(codebook_update="gradient")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(50, 4)), jnp.float32)
    z, codes = unit(np.asarray(x, np.float64)), table(params, variables)
    nearest = ((z[:, None] - codes) ** 2).sum(-1).argmin(1)

    def loss(params):
        result = pure.bind(params, variables)(x)
        return result.loss, result.tokens

    (value, tokens), grads = jax.value_and_grad(loss, has_aux=True)(params)
    np.testing.assert_array_equal(tokens, nearest)
    np.testing.assert_allclose(value, 1.25 * ((z - codes[nearest]) ** 2).sum(-1).mean(), rtol=1e-4)
    expected = np.zeros_like(codes)
    np.add.at(expected, nearest, 2 * (codes[nearest] - z) / 50)
    expected -= (expected * codes).sum(-1, keepdims=True) * codes
    np.testing.assert_allclose(grads["codebook"], expected, atol=1e-5)


def test_a_reconstruction_s_gradient_does_not_move_a_gradient_codebook():
    pure, params, variables = vq(codebook_update="gradient")
    grads = jax.grad(lambda p: jnp.sum(pure.bind(p, variables)(clusters()).codes ** 3))(params)
    np.testing.assert_array_equal(grads["codebook"], np.zeros((16, 4)))
    assert np.any(grads["project_out"] != 0)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_dead_codes_are_revived_in_both_updates(update):
    """Half of the codes begin where no vector is. All end on the clusters, and the metric tells how many were moved."""
    pure, params, variables = vq(codebook_update=update)
    start = unit(np.asarray([1.0, 0, 0, 0]) + 0.01 * np.random.default_rng(0).normal(size=(16, 4)))
    start = jnp.asarray(np.where(np.arange(16)[:, None] < 8, start, -start), jnp.float32)
    if update == "ema":
        variables = {**variables, "codebook": start}
    else:
        params = {**params, "codebook": start}

    @jax.jit
    def step(params, variables, key):
        def loss(params):
            model = pure.bind(params, variables)
            result = model(clusters(), train=True, key=key)
            return result.loss, (pure.variables(model), result.loss, result.metrics)
        grads, (variables, value, metrics) = jax.grad(loss, has_aux=True)(params)
        if update == "gradient":
            params = {**params, "codebook": params["codebook"] - 0.1 * grads["codebook"]}
        return params, variables, value, metrics

    tokens = pure.bind(params, variables)(clusters()).tokens
    new_params, new_variables, first_loss, metrics = step(params, variables, jax.random.key(0))
    assert float(metrics["codebook_dead"]) == 16 - len(np.unique(tokens)) > 0
    revived = np.setdiff1d(np.arange(16), np.unique(tokens))
    nearest = (table(new_params, new_variables)[revived][:, None] * unit(np.asarray(clusters()))).sum(-1).max(1)
    np.testing.assert_allclose(nearest, 1, atol=1e-5)  # a gradient step moves them by nothing: none was chosen
    params, variables = new_params, new_variables
    for i in range(1, 250):
        params, variables, loss, metrics = step(params, variables, jax.random.key(i))
    assert float(loss) < 0.02 * float(first_loss)
    result = pure.bind(params, variables)(clusters())
    assert len(np.unique(result.tokens)) >= 12 and float(result.metrics["codebook_usage"]) >= 0.75
    assert float(metrics["codebook_dead"]) <= 2


def test_the_default_codebook_follows_by_averages():
    """By hand: averages of 2 % for what was chosen, then a vector of the batch for what the counts call dead."""
    pure, params, variables = vq()
    x, key = clusters(), jax.random.key(5)
    model = pure.bind(params, variables)
    tokens = np.asarray(model(x, train=True, key=key).tokens)
    z = unit(np.asarray(x, np.float64))
    counts = np.bincount(tokens, minlength=16) * 0.01
    expected = np.asarray(variables["codebook"], np.float64)
    for code in range(16):
        if counts[code]:
            expected[code] = unit(0.98 * expected[code] + 0.02 * z[tokens == code].mean(0))
    dead = counts < 0.02 * counts.mean()
    expected[dead] = z[np.asarray(jax.random.randint(key, (16,), 0, len(z)))][dead]
    np.testing.assert_allclose(model.codebook[...], expected, atol=1e-5)
    np.testing.assert_allclose(model.counts[...], np.where(dead, 0.08 * counts.mean(), counts), rtol=1e-5)
    assert isinstance(model.codebook, nnx.Variable) and not isinstance(model.codebook, nnx.Param)
