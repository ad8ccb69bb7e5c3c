"""Adversarial losses against closed forms, penalties against quadratics and differences, the ramp, the weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.training.adversarial import (balance, discriminator_loss, generator_loss, lecam, lecam_state,
                                              r1_penalty, ramp)

REAL, FAKE = np.array([2.5, 0.3, -1.2, 0.0, 1.0]), np.array([-3.0, 0.4, 1.7])


def test_losses_equal_their_closed_forms():
    minus_log_sigmoid = lambda x: -np.log(1 / (1 + np.exp(-x)))
    hinge = np.mean(np.maximum(0, 1 - REAL)) + np.mean(np.maximum(0, 1 + FAKE))
    entropy = np.mean(minus_log_sigmoid(REAL)) + np.mean(-np.log(1 - 1 / (1 + np.exp(-FAKE))))
    real, fake = jnp.asarray(REAL), jnp.asarray(FAKE)
    np.testing.assert_allclose(discriminator_loss("hinge", real, fake), hinge, rtol=1e-6)
    np.testing.assert_allclose(discriminator_loss("non_saturating", real, fake), entropy, rtol=1e-6)
    np.testing.assert_allclose(generator_loss("hinge", fake), -np.mean(FAKE), rtol=1e-6)
    np.testing.assert_allclose(generator_loss("non_saturating", fake), np.mean(minus_log_sigmoid(FAKE)), rtol=1e-6)


@pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
def test_losses_push_logits_apart_and_the_generator_pushes_back(kind):
    zeros = jnp.zeros(4)
    real, fake = jax.grad(lambda r, f: discriminator_loss(kind, r, f), (0, 1))(zeros, zeros)
    assert np.all(np.asarray(real) < 0) and np.all(np.asarray(fake) > 0)
    assert np.all(np.asarray(jax.grad(lambda f: generator_loss(kind, f))(zeros - 5)) < -0.2)  # also when it loses


@pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_is_finite_for_any_finite_logits(kind, dtype):
    largest = float(jnp.finfo(dtype).max)
    for real, fake in ((largest, -largest), (-largest, largest), (1e20, 1e20), (0.0, 0.0)):
        logits = jnp.full((8,), real, dtype), jnp.full((8,), fake, dtype)

        def everything(real, fake):
            penalty, state = lecam(lecam_state(), real, fake)
            penalty += lecam(state, fake, real)[0]
            return discriminator_loss(kind, real, fake), generator_loss(kind, fake), penalty, state
        values = everything(*logits)
        slopes = [jax.grad(lambda r, f, i=i: everything(r, f)[i], (0, 1))(*logits) for i in range(3)]
        assert all(value.dtype == jnp.float32 for value in jax.tree.leaves(values))
        assert all(np.all(np.isfinite(np.asarray(x, np.float32))) for x in jax.tree.leaves((values, slopes)))


def test_an_unknown_kind_is_refused():
    for call in (lambda: generator_loss("wasserstein", jnp.zeros(2)),
                 lambda: discriminator_loss("wasserstein", jnp.zeros(2), jnp.zeros(2))):
        with pytest.raises(UserError, match="adversarial.kind='wasserstein'.*hinge, non_saturating"):
            call()


def test_r1_of_a_quadratic_is_known():
    """logit = x A x / 2 + b x with a symmetric A has the gradient A x + b."""
    rng = np.random.default_rng(0)
    A, b, x = rng.normal(size=(6, 6)), rng.normal(size=6), rng.normal(size=(5, 6))
    A = A + A.T
    logits_of = lambda x: jnp.einsum("ni,ij,nj->n", x, A, x) / 2 + x @ b
    wanted = np.mean(np.sum((x @ A + b) ** 2, axis=1))
    np.testing.assert_allclose(r1_penalty(logits_of, jnp.asarray(x)), wanted, rtol=1e-5)
    slope = jax.grad(lambda scale: r1_penalty(lambda x: scale * logits_of(x), jnp.asarray(x)))(1.0)
    np.testing.assert_allclose(slope, 2 * wanted, rtol=1e-5)  # the discriminator's weights feel it


def test_r1_equals_finite_differences():
    rng = np.random.default_rng(1)
    W, x, h = rng.normal(size=(12, 4)), rng.normal(size=(3, 2, 2, 3)), 1e-5
    slow = lambda x: np.tanh(x.reshape(len(x), -1) @ W).sum(1)
    squares = 0.0
    for place in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[place] = h
        squares += ((slow(x + step) - slow(x - step))[place[0]] / (2 * h)) ** 2
    penalty = r1_penalty(lambda x: jnp.tanh(x.reshape(len(x), -1) @ W).sum(1), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(penalty, squares / 3, rtol=1e-4)
    assert penalty.dtype == jnp.float32 and penalty.shape == ()


def test_lecam_by_hand():
    penalty, state = lecam(lecam_state(), jnp.array([1.0, 3.0]), jnp.array([-2.0, 0.0]), decay=0.9)
    # The running means are this batch's, 2 and -1: (1 + 1)^2, (3 + 1)^2 and (2 + 2)^2, (2 - 0)^2.
    np.testing.assert_allclose(penalty, (4 + 16) / 2 + (16 + 4) / 2, rtol=1e-5)
    penalty, state = lecam(state, jnp.array([-4.0, 0.0]), jnp.array([1.0, 4.0]), decay=0.9)
    real, fake = (0.9 * 2 - 2) / 1.9, (0.9 * -1 + 2.5) / 1.9  # weights 0.09 and 0.1 of 0.19
    np.testing.assert_allclose([state["real"] / state["weight"], state["fake"] / state["weight"]], [real, fake],
                               rtol=1e-5)
    # Both logits are on the wrong side of both means, so nothing is held back.
    np.testing.assert_allclose(penalty, 0.0, atol=1e-7)


def test_lecam_carries_no_gradient_through_its_means_and_settles_on_constants():
    state = lecam_state()
    for _ in range(5):
        _, state = lecam(state, jnp.full(3, 1.5), jnp.full(2, -0.5))
    np.testing.assert_allclose([state["real"] / state["weight"], state["fake"] / state["weight"]], [1.5, -0.5],
                               rtol=1e-5)
    real, fake = jnp.array([1.5, 1.5]), jnp.array([-0.5, -0.5])
    slopes = jax.grad(lambda r, f: lecam(state, r, f)[0], (0, 1))(real, fake)
    np.testing.assert_allclose(slopes, [[2.0, 2.0], [-2.0, -2.0]], rtol=1e-5)  # 2 * (1.5 + 0.5) / 2 rows


def test_the_ramp_is_exactly_0_before_its_start_and_1_at_its_end():
    values = jax.jit(jax.vmap(lambda step: ramp(step, 100, 4)))(jnp.array([0, 50, 99, 100, 101, 102, 103, 104, 10**6]))
    np.testing.assert_allclose(values, [0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1], rtol=1e-6)
    assert np.all(values[:3] == 0) and np.all(values[-2:] == 1) and values.dtype == jnp.float32
    assert [float(ramp(step, 7, 0)) for step in (0, 6, 7, 8)] == [0, 0, 1, 1]
    assert float(ramp(0, 0, 0)) == 1


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 1, 8, 8, 3), (2, 5, 8, 8, 3)])
def test_the_weight_makes_both_gradients_pull_alike_on_images_and_clips(shape):
    rng = np.random.default_rng(0)
    video, reconstruction = (jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32) for _ in range(2))
    wanted = jax.grad(lambda x: jnp.mean((x - video) ** 2))(reconstruction)
    for scale in (1e-3, 1.0, 50.0):
        given = jax.grad(lambda x, s=scale: -s * jnp.mean(jnp.sin(x)))(reconstruction)
        weight = balance(wanted, given)
        np.testing.assert_allclose(jnp.linalg.norm(weight * given), jnp.linalg.norm(wanted), rtol=1e-4)
        np.testing.assert_allclose(weight, np.linalg.norm(wanted) / np.linalg.norm(given), rtol=1e-4)


def test_the_weight_is_bounded_and_carries_no_gradient():
    ones = jnp.ones((2, 3))
    assert float(balance(ones, 0 * ones)) == 1e4 and float(balance(0 * ones, 0 * ones)) == 0
    assert float(balance(ones, 1e-9 * ones)) == 1e4 and float(balance(0 * ones, ones)) == 0
    np.testing.assert_allclose(balance({"a": 3 * ones}, {"a": 2 * ones.astype(jnp.bfloat16)}), 1.5, rtol=1e-6)
    slopes = jax.grad(lambda a, b: balance(a, b), (0, 1))(ones, 2 * ones)
    assert not np.any(slopes) and np.isfinite(balance(1e15 * ones, ones))
