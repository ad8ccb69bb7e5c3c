"""LPIPS and I3D against another framework's layers over the same weights, and as losses: finite and of a known size."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax import weights
from phenaki_jax.errors import UserError
from phenaki_jax.models import perceptual

GOLDEN = pathlib.Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
from make_perceptual import image_pairs, waves  # noqa: E402


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "perceptual.npz")


@pytest.fixture(scope="module")
def lpips():
    return perceptual.make_lpips().bind(perceptual.lpips_params(weights.read_lpips()), {})


@pytest.fixture(scope="module")
def i3d():
    return perceptual.make_i3d().bind(perceptual.i3d_params(weights.read_i3d()), {})


# The weights are arguments, for as constants they would be folded while compiling; one program serves many tests.
LPIPS_DISTANCE = jax.jit(lambda lpips, a, b: lpips(a, b))
IMAGE_LOSS = jax.jit(jax.value_and_grad(perceptual.image_perceptual_distance, argnums=1))
VIDEO_LOSS = jax.jit(jax.value_and_grad(perceptual.video_perceptual_distance, argnums=1), static_argnums=3)
ACTIVATIONS = jax.jit(perceptual.I3D.activations, static_argnums=2)
EARLY = ("Conv3d_2c_3x3", "Mixed_3c")  # the whole network takes half a minute to compile a gradient of


def close(ours, theirs, relative=1e-4):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


# -------------------------------------------------------------------------------------------------- agreement

@pytest.mark.parametrize("name", ["even", "odd", "small", "flat"])
def test_lpips_against_the_golden_values(lpips, golden, name):
    distance = LPIPS_DISTANCE(lpips, *image_pairs()[name])
    np.testing.assert_allclose(distance, golden[f"lpips_{name}"], rtol=1e-4)


def test_i3d_logits_and_features_against_the_golden_values(i3d, golden):
    logits, pooled = jax.jit(perceptual.I3D.__call__)(i3d, waves(16, 224, 224))
    assert logits.shape == (1, 400) and pooled.shape == (1, 1024)
    close(logits, golden["i3d_logits"])
    close(pooled, golden["i3d_pooled"])


def test_every_endpoint_against_the_golden_values(i3d, golden):
    """At sides that no stride divides, where the padding is uneven."""
    found = ACTIVATIONS(i3d, waves(11, 53, 38), perceptual.ENDPOINTS)
    for name in perceptual.ENDPOINTS:
        assert found[name].shape == tuple(golden[f"shape_{name}"])
        close(found[name].mean(axis=(0, 1, 2, 3)), golden[f"mean_{name}"])
    close(found["Mixed_4b"][0, 0, 0, 0], golden["corner_Mixed_4b"])
    close(found["Mixed_5c"][0, -1, -1, -1], golden["corner_Mixed_5c"])


@pytest.mark.parametrize("make, read, convert", [
    (perceptual.make_i3d, weights.read_i3d, perceptual.i3d_params),
    (perceptual.make_lpips, weights.read_lpips, perceptual.lpips_params),
])
def test_the_converted_weights_fit_the_network_leaf_by_leaf(make, read, convert):
    wanted = jax.eval_shape(make().init, jax.random.key(0))[0]
    found = convert(read())
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32


# ------------------------------------------------------------------------------------------------------ forms

def test_lpips_is_a_distance_of_each_image(lpips):
    a, b = image_pairs()["even"]
    each = LPIPS_DISTANCE(lpips, a, b)
    assert each.shape == (3,) and each.dtype == jnp.float32 and (np.asarray(each) > 0).all()
    np.testing.assert_array_equal(LPIPS_DISTANCE(lpips, a, a), 0.0)
    np.testing.assert_allclose(LPIPS_DISTANCE(lpips, b, a), each, rtol=1e-5)
    np.testing.assert_allclose(LPIPS_DISTANCE(lpips, a[::-1], b[::-1]), each[::-1], rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 5, 8])
def test_short_clips_are_continued_with_their_last_frame(i3d, frames):
    short = waves(frames, 32, 32)
    long = np.concatenate([short, np.repeat(short[:, -1:], 9 - frames, axis=1)], axis=1)
    ours, theirs = (ACTIVATIONS(i3d, video, ("Conv3d_1a_7x7",))["Conv3d_1a_7x7"] for video in (short, long))
    assert ours.shape == (1, 5, 16, 16, 64)
    np.testing.assert_array_equal(ours, theirs)


def test_refuses_what_does_not_fit(lpips, i3d):
    with pytest.raises(UserError, match="15 x 40; LPIPS wants"):
        lpips(jnp.zeros((1, 15, 40, 3)), jnp.zeros((1, 15, 40, 3)))
    with pytest.raises(UserError, match="64 x 31; I3D wants at least"):
        i3d.activations(jnp.zeros((1, 9, 64, 31, 3)))
    for sides in ((192, 224), (224, 225), (64, 64)):
        with pytest.raises(UserError, match="I3D's logits want 224 x 224"):
            i3d(jnp.zeros((1, 9, *sides, 3)))
    with pytest.raises(UserError, match="Mixed_9z.*I3D has Conv3d_1a_7x7"):
        i3d.activations(jnp.zeros((1, 9, 32, 32, 3)), ("Mixed_9z",))


# ----------------------------------------------------------------------------------------------------- losses

def check_gradients(loss, network, dtype, *more):
    """Also between equal clips, and on black and grey ones, where whole activations may be zero."""
    a, b = (jnp.asarray(waves(2, 32, 32, phase), dtype) for phase in (0.0, 1.0))
    grey = jnp.zeros_like(a)
    for x, y in ((a, b), (a, a), (grey - 1, b), (grey, grey)):
        value, gradient = loss(network, x, y, *more)
        assert value.dtype == jnp.float32 and gradient.dtype == dtype
        assert np.isfinite(value) and np.isfinite(gradient.astype(jnp.float32)).all()
        if x is y:  # no more than rounding, which may differ between the halves of a batch
            assert value < 1e-9 and jnp.abs(gradient).max() < 1e-5
        else:
            assert 0.01 < value < 2 and jnp.abs(gradient).max() > 1e-5
    # Weights of zero make every activation zero: the worst that normalising can meet.
    value, gradient = loss(jax.tree.map(jnp.zeros_like, network), a, b, *more)
    assert value == 0 and not gradient.any()


def check_slope(loss, network, *more):
    """The gradient against a central difference along one direction."""
    a, b, direction = (waves(2, 32, 32, phase) for phase in (0.0, 1.0, 2.0))
    step, slope = 1e-2, np.vdot(loss(network, a, b, *more)[1], direction)
    ahead, behind = (loss(network, a + sign * step * direction, b, *more)[0] for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_the_image_loss_are_finite(lpips, dtype):
    check_gradients(IMAGE_LOSS, lpips, dtype)


def test_gradients_of_the_video_loss_are_finite(i3d):
    check_gradients(VIDEO_LOSS, i3d, "float32", EARLY)
    check_gradients(VIDEO_LOSS, i3d, "bfloat16", ("Conv3d_1a_7x7",))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_the_whole_video_loss_are_finite(i3d, dtype):
    check_gradients(VIDEO_LOSS, i3d, dtype, perceptual.LOSS_ENDPOINTS)
    if dtype == "float32":
        check_slope(VIDEO_LOSS, i3d, perceptual.LOSS_ENDPOINTS)


def test_gradients_are_those_of_the_distances(lpips, i3d):
    check_slope(IMAGE_LOSS, lpips)
    check_slope(VIDEO_LOSS, i3d, EARLY)


def test_video_distance_is_the_mean_over_endpoints(i3d):
    """And sees motion: the same frames in another order are another clip."""
    a, b = waves(2, 32, 32), waves(2, 32, 32)[:, ::-1]
    expected = []
    for name in EARLY:
        x, y = (np.asarray(ACTIVATIONS(i3d, video, EARLY)[name], np.float64) for video in (a, b))
        cosine = (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))
        expected.append(np.mean(2 - 2 * cosine))  # |u - v|^2 of unit vectors
    assert min(expected) > 0.02
    assert VIDEO_LOSS(i3d, a, b, EARLY)[0] == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("shape, window", [((2, 2, 2, 5), 3), ((1, 2, 1, 4, 5), 3), ((1, 3, 1, 5), 4)])
def test_a_window_larger_than_its_input_gives_the_same_convolution(shape, window):
    rng, space = np.random.default_rng(0), "FYX"[5 - len(shape):]
    conv = perceptual.ConvRelu((window,) * len(space), 5, 6, rngs=nnx.Rngs(0))
    x = rng.normal(size=shape).astype(np.float32)
    names = f"N{space}C", f"{space}IO", f"N{space}C"
    plain = jax.lax.conv_general_dilated(x, conv.kernel[...], (1,) * len(space), "SAME", dimension_numbers=names)
    np.testing.assert_allclose(conv(x), jax.nn.relu(plain + conv.bias[...]), atol=1e-5)
