"""The discriminator against a brute-force twin, its blur and scales, odd sizes, and a toy that it has to learn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import ndimage

from phenaki_jax.errors import UserError
from phenaki_jax.models.discriminator import (Block, Discriminator, DiscriminatorConfig, Equalised, activate,
                                              blur_and_halve, variety)
from phenaki_jax.models.tree import Pure
from phenaki_jax.parallel import make_mesh
from phenaki_jax.parallel.rules import tree_shardings
from phenaki_jax.training.adversarial import discriminator_loss, r1_penalty

SMALL = dict(base_channels=4, max_channels=8, levels=1)


def make(**fields):
    config = DiscriminatorConfig(**{**SMALL, **fields})
    pure = Pure(lambda rngs: Discriminator(config, rngs=rngs), config)
    params, variables = pure.init(jax.random.key(0))
    return pure, params, jax.jit(lambda params, x: pure.bind(params, variables)(x))


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def slow_blur(x, blur):
    """Value i of each axis: the weighted sum over 2i - before, 2i - before + 1, ...; indices stop at the border."""
    weights, before = np.asarray(blur) / np.sum(blur), (len(blur) - 1) // 2
    for axis in range(1, x.ndim - 1):
        x = np.moveaxis(x, axis, 0)
        if (n := len(x)) > 1:
            x = np.stack([sum(w * x[np.clip(2 * i - before + k, 0, n - 1)] for k, w in enumerate(weights))
                          for i in range(-(-n // 2))])
        x = np.moveaxis(x, 0, axis)
    return x


def twin(params, x, blur, group):
    """The forward pass in float64, from the docstrings, by scipy's correlation of one channel pair at a time."""
    lrelu = lambda y: np.where(y > 0, y, 0.2 * y) * 2**0.5

    def apply(layer, y):
        kernel = np.asarray(layer["kernel"], np.float64)
        kernel = kernel / np.sqrt(kernel[..., 0].size)
        if kernel.ndim == 2:
            out = y @ kernel
        else:
            out = np.zeros((*y.shape[:-1], kernel.shape[-1]))
            for n, i, o in itertools.product(range(len(y)), *map(range, kernel.shape[-2:])):
                out[n, ..., o] += ndimage.correlate(y[n, ..., i], kernel[..., i, o], mode="constant")
        return out + (np.asarray(layer["bias"]) if "bias" in layer else 0)

    x = lrelu(apply(params["from_pixels"], np.asarray(x, np.float64)))
    for level in range(2):
        block = params[f"block_{level}"]
        y = lrelu(apply(block["second"], slow_blur(lrelu(apply(block["first"], x)), blur)))
        x = (y + apply(block["skip"], slow_blur(x, blur))) / 2**0.5
    if group:
        spread = [x[[(n - k) % len(x) for k in range(min(group, len(x)))]].std(0).mean() for n in range(len(x))]
        x = np.concatenate([x, np.ones((*x.shape[:-1], 1)) * np.reshape(spread, (-1, *(1,) * (x.ndim - 1)))], -1)
    x = lrelu(apply(params["last"], x))
    return apply(params["logit"], lrelu(apply(params["hidden"], x.reshape(len(x), -1, x.shape[-1]).mean(1))))[:, 0]


@pytest.mark.parametrize("form, shape, group, blur", [
    ("image", (3, 12, 7, 3), 2, (1, 3, 3, 1)), ("image", (2, 5, 6, 3), 4, (1, 2, 1)),
    ("video", (3, 5, 6, 7, 3), 2, (1, 3, 3, 1)), ("video", (2, 1, 5, 4, 3), 0, (1, 3, 3, 1))])
def test_it_equals_a_brute_force_twin(form, shape, group, blur):
    _, params, logits = make(form=form, stddev_group=group, blur=blur, levels=2)
    leaves, tree = jax.tree.flatten(params)  # biases are born 0, which would hide where they are added
    params = tree.unflatten([leaf + 0.1 * uniform(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)])
    x = uniform(*shape)
    np.testing.assert_allclose(logits(params, x), twin(params, x, blur, group), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("blur", [(1,), (1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1)])
@pytest.mark.parametrize("shape", [(2, 8, 5, 3), (1, 2, 1, 2), (2, 3, 6, 7, 1)])
def test_blur_is_the_weighted_mean_around_every_second_value(shape, blur):
    x = uniform(*shape)
    np.testing.assert_allclose(blur_and_halve(x, blur), slow_blur(x, blur), atol=1e-6)


def test_blur_is_scipys_correlation_taken_at_every_second_value():
    x = uniform(1, 10, 12, 1)
    full = x[0, ..., 0].astype(np.float64)
    for axis in (0, 1):  # scipy centres 4 taps on the third; an origin of -1 on the second
        full = ndimage.correlate1d(full, np.array([1, 3, 3, 1]) / 8, axis=axis, mode="nearest", origin=-1)
    np.testing.assert_allclose(blur_and_halve(x, (1, 3, 3, 1))[0, ..., 0], full[::2, ::2], atol=1e-6)


def test_blur_keeps_a_constant_and_removes_what_halving_would_alias():
    constant = jnp.full((1, 3, 9, 6, 2), 0.7)
    np.testing.assert_allclose(blur_and_halve(constant, (1, 3, 3, 1)), np.full((1, 2, 5, 3, 2), 0.7), rtol=1e-6)
    stripes = jnp.tile(jnp.array([1.0, -1.0]), 8).reshape(1, 16, 1, 1)
    np.testing.assert_allclose(blur_and_halve(stripes, (1, 3, 3, 1))[0, 1:-1], 0, atol=1e-6)


@pytest.mark.parametrize("window", [(), (3, 3), (3, 3, 3)])
def test_equalised_layers_have_normal_weights_and_keep_the_variance(window):
    layer = Equalised(window, 48, 96, ("embed", "mlp"), rngs=nnx.Rngs(0))
    assert abs(float(jnp.std(layer.kernel[...])) - 1) < 0.05
    size = 6 if len(window) == 3 else 16
    x = jax.random.normal(jax.random.key(1), (4, *(size,) * max(len(window), 1), 48))
    inside = layer(x)[(slice(None), *(slice(1, -1),) * len(window))]
    assert abs(float(jnp.var(inside)) - 1) < 0.1
    assert abs(float(jnp.mean(jnp.square(activate(inside)))) - 1.04) < 0.12


def test_a_block_keeps_the_mean_square():
    block = Block((3, 3), 64, 96, (1, 3, 3, 1), rngs=nnx.Rngs(0))
    smooth = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (64, 1, 1, 64)), (64, 12, 12, 64))
    assert abs(float(jnp.mean(jnp.square(block(smooth)[:, 2:-2, 2:-2]))) - 1) < 0.15


@pytest.mark.parametrize("form, shape", [
    ("image", (1, 4, 4, 3)), ("image", (5, 9, 17, 3)), ("video", (3, 11, 8, 8, 3)), ("video", (1, 1, 4, 4, 3)),
    ("video", (2, 2, 5, 12, 3))])
def test_any_batch_and_any_size(form, shape):
    _, params, logits = make(form=form, levels=3)
    value = logits(params, uniform(*shape))
    assert value.shape == shape[:1] and value.dtype == jnp.float32 and np.all(np.isfinite(value))
    assert len(np.unique(value)) == len(value)  # each row is judged by what it shows


def test_without_a_group_rows_do_not_touch_and_with_one_they_do():
    x = uniform(5, 8, 8, 3)
    for group, same in ((0, True), (4, False)):
        _, params, logits = make(stddev_group=group)
        alone = np.concatenate([logits(params, x[i:i + 1]) for i in range(5)])
        assert np.allclose(logits(params, x), alone, atol=1e-5) == same


def test_variety_is_large_for_what_differs():
    x = uniform(7, 4, 4, 6)
    assert np.all(np.asarray(variety(jnp.asarray(x), 4)) > 0.2)
    copies = jnp.broadcast_to(x[:1], x.shape)
    np.testing.assert_allclose(variety(copies, 4), np.full(7, 1e-4), rtol=1e-2)


def test_widths_are_stylegan2s_table():
    assert DiscriminatorConfig().widths == (128, 256, 512, 512, 512, 512)
    assert DiscriminatorConfig(multiplier=2, levels=3).widths == (256, 512, 512, 512)
    assert DiscriminatorConfig(base_channels=12, multiplier=0.5, max_channels=20, levels=3).widths == (6, 12, 20, 20)
    _, params, _ = make(levels=2)
    assert params["block_1"]["second"]["kernel"].shape == (3, 3, 8, 8)
    assert make(form="video")[1]["block_0"]["first"]["kernel"].shape == (3, 3, 3, 4, 4)


@pytest.mark.parametrize("form, shape", [("image", (8, 8, 8, 3)), ("video", (8, 3, 8, 8, 3))])
def test_axes_name_every_parameter_and_a_sharded_model_judges_alike(form, shape):
    pure, params, logits = make(form=form)
    assert jax.tree.structure(params) == jax.tree.structure(pure.axes, is_leaf=lambda x: isinstance(x, tuple))
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    shardings = tree_shardings(mesh, params, pure.axes)
    split = [not s.is_fully_replicated for s in jax.tree.leaves(shardings)]
    assert sum(split) >= len(split) - 3  # all but what no axis divides
    x = uniform(*shape)
    with jax.set_mesh(mesh):
        sharded = logits(jax.device_put(params, shardings), x)
    np.testing.assert_allclose(sharded, logits(params, x), atol=1e-5)


def test_bfloat16_computes_and_float32_judges():
    x = uniform(4, 8, 8, 3)
    _, params, logits = make(dtype="bfloat16")
    value = logits(params, x)
    assert value.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    exact = make()[2](params, x)
    assert np.any(value != exact)
    np.testing.assert_allclose(value, exact, atol=0.1 * float(np.std(exact)) + 0.03)


@pytest.mark.parametrize("form, shape, kind", [
    ("image", (3, 8, 8, 3), "hinge"), ("image", (1, 4, 4, 3), "non_saturating"),
    ("video", (2, 1, 4, 4, 3), "hinge"), ("video", (2, 3, 4, 4, 3), "non_saturating")])
def test_gradients_are_finite_also_of_nothing_but_zeros(form, shape, kind):
    _, params, logits = make(form=form)

    @jax.jit
    def gradients(params, real, fake):
        def loss(params, real, fake):
            logits_of = lambda x: logits(params, x)
            return discriminator_loss(kind, logits_of(real), logits_of(fake)) + 5 * r1_penalty(logits_of, real)
        return jax.grad(loss, (0, 1, 2))(params, real, fake)

    for real, fake in ((np.zeros(shape, np.float32),) * 2, (uniform(*shape), uniform(*shape, seed=1))):
        leaves = jax.tree.leaves(gradients(params, real, fake))
        assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert sum(np.any(leaf != 0) for leaf in leaves) >= len(leaves) - 1  # hinge pulls the last bias both ways alike


@pytest.mark.parametrize("form, shape", [("image", (16, 8, 8, 3)), ("video", (8, 3, 8, 8, 3))])
def test_it_learns_to_tell_discs_from_noise_of_the_same_statistics(form, shape):
    """Real: blobs; false: the same pixels shuffled, so that only how they lie together tells."""
    _, params, logits = make(form=form, base_channels=8, max_channels=16)
    sigma = (0, *(1.5,) * (len(shape) - 2), 0)
    smooth = lambda seed: np.sign(ndimage.gaussian_filter(uniform(*shape, seed=seed), sigma))
    shuffle = lambda x: np.random.default_rng(3).permuted(x.reshape(len(x), -1), axis=1).reshape(x.shape)
    real, unseen = smooth(0), smooth(1)
    optimizer = optax.adam(1e-2, b1=0.0, b2=0.99)

    @jax.jit
    def step(params, state, real, fake):
        loss = lambda params: discriminator_loss("hinge", logits(params, real), logits(params, fake))
        hinge, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, hinge

    state, losses = optimizer.init(params), []
    for _ in range(60):
        params, state, hinge = step(params, state, real, shuffle(real))
        losses.append(float(hinge))
    assert np.all(np.isfinite(losses)) and losses[0] > 1.5 and losses[-1] < 0.5
    true, false = (np.asarray(logits(params, x)) for x in (unseen, shuffle(unseen)))
    assert np.mean(np.concatenate([true > 0, false < 0])) > 0.9


@pytest.mark.parametrize("change, words", [
    ({"form": "audio"}, "discriminator.form='audio'.*image, video"), ({"base_channels": 0}, "base_channels=0"),
    ({"levels": 0}, "levels=0"), ({"multiplier": 0.01}, "multiplier=0.01"), ({"max_channels": 2}, "max_channels=2.*4"),
    ({"stddev_group": 1}, "stddev_group=1"), ({"blur": ()}, "blur="), ({"blur": (1, -1)}, "blur="),
    ({"dtype": "float16"}, "dtype='float16'")])
def test_fields_that_do_not_fit_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        DiscriminatorConfig(**{**SMALL, **change})


@pytest.mark.parametrize("form, shape", [("image", (1, 2, 8, 8, 3)), ("video", (2, 8, 8, 3)), ("image", (2, 8, 8, 1))])
def test_pictures_of_another_form_are_refused(form, shape):
    _, params, logits = make(form=form)
    with pytest.raises(UserError, match=f"discriminator.form='{form}'"):
        logits(params, jnp.zeros(shape))
