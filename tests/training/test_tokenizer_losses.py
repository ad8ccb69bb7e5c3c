"""The tokenizer's loss: each term on its own, what joins late, what pays for what, and peers' defects 4 and 5."""

import dataclasses
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from phenaki_jax.config import load_config
from phenaki_jax.errors import UserError
from phenaki_jax.models import quantizers
from phenaki_jax.parallel import make_mesh
from phenaki_jax.training import tokenizer_losses as losses
from phenaki_jax.training import tokenizer_stage
from phenaki_jax.training.adversarial import lecam
from phenaki_jax.training.checkpoints import flatten, load_run
from phenaki_jax.training.loop import train
from phenaki_jax.training.metrics import means, read_lines
from phenaki_jax.training.optimizer import make_optimizer
from phenaki_jax.training.state import create_state, make_step

TINY = {"tokenizer.frames": 5, "tokenizer.height": 16, "tokenizer.width": 16, "tokenizer.embed_dim": 16,
        "tokenizer.mlp_dim": 32, "discriminator.base_channels": 4, "discriminator.levels": 1, "loss.frames": 2,
        "tokenizer.unroll": False, "optimizer.name": "adamw", "mesh.data": 1, "optimizer.warmup_steps": 1,
        "train.steps": 6, "train.log_every": 1,
        "train.checkpoint_every": 3, "train.sample_every": 6}
ADVERSARIAL = {"loss.adversarial": 0.1, "loss.lecam": 0.01, "loss.r1": 1.0, "loss.r1_every": 2, "loss.warmup": 1}


def tiny(**fields):
    return load_config("configs/quickstart.py:tokenizer", {**TINY, **{k.replace("__", "."): v for k, v in
                                                                      fields.items()}})


def batch(step=0, frames=(5, 1)):
    rng = np.random.default_rng(step)
    draw = lambda count: {"video": rng.integers(0, 256, (4, count, 16, 16, 3), dtype=np.uint8)}
    return {name: draw(count) for name, count in zip(("video", "image"), frames) if count}


def run(config, steps=3, frames=(5, 1)):
    """(metrics of each step, the last state) of a few steps on noise."""
    stage = tokenizer_stage.make_stage(config)
    optimizer, schedule = make_optimizer(config, stage.axes, stage.aids)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = create_state(stage, optimizer, mesh, 0)
        step, found = jax.jit(make_step(stage, optimizer, schedule, config)), []
        for i in range(steps):
            state, metrics = step(state, batch(i, frames))
            found.append(means([metrics]))  # without what this step did not take
    return found, state


@pytest.fixture(scope="module")
def plain():
    return run(tiny())


@pytest.mark.parametrize("form, kind", [
    ("image", "hinge"), pytest.param("video", "non_saturating", marks=pytest.mark.slow)])
def test_defect_4_the_adversary_leaves_every_other_term_as_it_is(plain, form, kind):
    """An adversary that has not started yet changes no other term and no weight of the model, bit for bit."""
    waiting = {"loss.adversarial": 0.1, "loss.start": 2, "loss.kind": kind, "discriminator.form": form}
    found, state = run(tiny(**waiting))
    for step in range(2):
        for name, value in plain[0][step].items():
            if name != "grad_norm":
                assert found[step][name] == value, name
        for stream in ("video", "image"):
            for name in ("adversarial", "discriminator", "adversarial_weight", "real_logit"):
                assert f"{stream}/{name}" not in found[step] and f"{stream}/{name}" in found[2]
    assert found[2]["video/adversarial"] != 0 and found[2]["image/discriminator"] > 0
    assert found[2]["video/l2"] == plain[0][2]["video/l2"] and found[2]["video/quantizer"] == 0
    assert found[2]["loss"] != plain[0][2]["loss"]
    assert "discriminator" not in state.ema and "discriminator" in state.params


def test_defect_5_the_adaptive_weight_works_on_images():
    """What pulls on the pixels of an image weighs as much as l2 does: the weight is the quotient of both gradients."""
    config = tiny(**{**ADVERSARIAL, "loss.adaptive": True, "loss.warmup": 0})
    stage = tokenizer_stage.make_stage(config)
    params, variables = stage.init(jax.random.key(0))
    key = jax.random.key(config.seed)
    _, (_, found) = jax.jit(stage.loss)(params, variables, {}, batch(0, (0, 1)), key, 0)
    found = means([found | {"loss": 0.0}])
    assert found["image/adversarial_weight"] > 0
    options = losses.loss_config(config)
    video = jnp.asarray(batch(0, (0, 1))["image"]["video"], jnp.float32) / 127.5 - 1
    model = tokenizer_stage.make_tokenizer(config).bind(stage.model_part(params), stage.model_part(variables))
    reconstruction, _ = model(video, train=True, key=jax.random.fold_in(key, 0))
    discriminator = tokenizer_stage.make_discriminator(config).bind(params["discriminator"], {})
    pull = jax.grad(lambda x: -discriminator(x[:, 0]).mean())(reconstruction)
    l2 = 2 * (reconstruction - video) / video.size
    expected = options.adversarial * float(optax.global_norm(l2) / optax.global_norm(pull))
    assert found["image/adversarial_weight"] == pytest.approx(expected, rel=1e-3)


def test_each_side_s_loss_moves_that_side_alone():
    config = tiny(**ADVERSARIAL)
    options, pure = losses.loss_config(config), tokenizer_stage.make_discriminator(config)
    params, _ = pure.init(jax.random.key(0))
    video, other = (jax.random.uniform(jax.random.key(i), (3, 3, 8, 8, 3), minval=-1) for i in (1, 2))

    def total(params, reconstruction):
        adversary = losses.Adversary(options, pure, params, tokenizer_stage.lecam_state(), jnp.int32(2))
        return losses.adversarial_terms(adversary, video, reconstruction, jnp.ones_like(other), jax.random.key(3))[0]

    def logits(params, video):
        """The frames that are judged follow from the key."""
        frames = losses.some(video, options.frames, 1, jax.random.key(3))
        return pure.bind(params, {})(frames.reshape(-1, *frames.shape[2:]))

    def fooling(reconstruction):
        return -options.adversarial * logits(params, reconstruction).mean()

    def telling(params):
        real, fake = logits(params, video), logits(params, other)
        squares = jax.grad(lambda x: logits(params, x).sum())(video) ** 2
        penalty, _ = lecam(tokenizer_stage.lecam_state(), real, fake)
        return (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean() + options.lecam * penalty
                + options.r1_every * options.r1 / 2 * squares.sum() / len(video))

    of_params, of_pixels = jax.jit(jax.grad(total, argnums=(0, 1)))(params, other)
    np.testing.assert_allclose(of_pixels, jax.jit(jax.grad(fooling))(other), rtol=1e-4, atol=1e-9)
    for found, wanted in zip(jax.tree.leaves(of_params), jax.tree.leaves(jax.jit(jax.grad(telling))(params))):
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-6)


def test_what_compares_has_the_value_and_the_gradient_of_its_terms(monkeypatch):
    """Against the sum written out and differentiated as it stands; at a step that does not take them, l2 alone."""
    far = lambda power: lambda network, a, b: jnp.mean(jnp.abs(a - b) ** power)
    monkeypatch.setattr(losses, "image_perceptual_distance", far(3))
    monkeypatch.setattr(losses, "video_perceptual_distance", far(4))
    options = losses.LossConfig(l2=2.0, image_perceptual=0.5, video_perceptual=0.25, perceptual_every=3)
    network = SimpleNamespace(bind=lambda params, variables: None)
    perception = losses.Perception(dict.fromkeys(("lpips", "i3d"), {}), dict.fromkeys(("lpips", "i3d"), network))
    video, other = (jax.random.uniform(jax.random.key(i), (2, 5, 4, 4, 3), minval=-1) for i in (1, 2))

    @jax.jit
    def handed_on(step):
        def loss(x):
            total, pull, metrics = losses.comparison(options, perception, perception.arrays, video, jnp.tanh(x),
                                                     key=jax.random.key(0), step=step)
            return 7.0 * losses.pulled(total, pull, jnp.tanh(x)), metrics
        return jax.value_and_grad(loss, has_aux=True)(other)

    def plain(x, perceptual):
        away = jnp.abs(jnp.tanh(x) - video)
        return 7.0 * jnp.mean(2 * away ** 2 + perceptual * 3 * (0.5 * away ** 3 + 0.25 * away ** 4))

    for step in (3, 4):
        (value, metrics), gradient = handed_on(step)
        wanted, of_pixels = jax.value_and_grad(plain)(other, step == 3)
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
        np.testing.assert_allclose(gradient, of_pixels, rtol=1e-4, atol=1e-7)
        assert float(metrics["image_perceptual"][1]) == float(metrics["video_perceptual"][1]) == (step == 3)
    away = jnp.abs(jnp.tanh(other) - video)
    for name, power in (("image_perceptual", 3), ("video_perceptual", 4)):
        np.testing.assert_allclose(handed_on(3)[0][1][name][0], jnp.mean(away ** power), rtol=1e-5)


def test_a_term_is_computed_at_every_so_many_steps():
    value = jax.jit(lambda step: losses.every(3, step, lambda: jnp.float32(2), jnp.float32(0)))
    assert [tuple(map(float, value(step))) for step in range(5)] == [(2, 1), (0, 0), (0, 0), (2, 1), (0, 0)]
    assert losses.every(1, 5, lambda: 2, 0) == (2, 1)


def test_the_perceptual_terms_can_see_some_clips_of_a_batch(monkeypatch):
    """One of three clips: the term is that clip's alone, and over many draws each is seen as often as the others."""
    monkeypatch.setattr(losses, "video_perceptual_distance", lambda network, a, b: jnp.mean(jnp.abs(a - b)))
    options = losses.LossConfig(l2=0.0, video_perceptual=1.0, perceptual_clips=1)
    perception = losses.Perception({"i3d": {}}, {"i3d": SimpleNamespace(bind=lambda params, variables: None)})
    video = jnp.zeros((3, 2, 4, 4, 3))
    other = video + jnp.array([1.0, 2, 4]).reshape(3, 1, 1, 1, 1)
    compare = jax.jit(jax.vmap(lambda key: losses.comparison(
        options, perception, perception.arrays, video, other, key=key, step=jnp.int32(0))[:2]))
    values, pulls = compare(jax.random.split(jax.random.key(0), 300))
    seen = np.asarray(values)[:, None] == [1, 2, 4]
    assert np.all(seen.sum(1) == 1) and np.all(seen.sum(0) > 70)
    np.testing.assert_array_equal(np.any(np.asarray(pulls) != 0, axis=(2, 3, 4, 5)), seen)


def test_some_frames_are_the_same_ones_of_both_clips():
    video = jnp.arange(5.0).reshape(1, 5, 1, 1, 1)
    chosen = [np.asarray(losses.some(video + 10 * i, 3, 1, jax.random.key(0))).ravel() % 10 for i in range(2)]
    np.testing.assert_array_equal(*chosen)
    assert len(set(chosen[0])) == 3
    for count in (0, 5, 9):
        np.testing.assert_array_equal(losses.some(video, count, 1, jax.random.key(0)), video)
    drawn = {tuple(np.asarray(losses.some(video, 1, 1, jax.random.key(k))).ravel()) for k in range(40)}
    assert len(drawn) == 5


def test_the_perceptual_term_is_the_network_s_and_stays_out_of_the_checkpoint():
    """LPIPS of an image and its reconstruction, weighted; an I3D term of clips only."""
    config = tiny(loss__image_perceptual=0.5, tokenizer__code_noise=0.0)
    stage = tokenizer_stage.make_stage(config)
    assert set(stage.given) == {"lpips"} and not stage.frozen
    params, variables = stage.init(jax.random.key(0))
    images = batch(0, (0, 1))
    total, (_, metrics) = jax.jit(stage.loss)(params, variables, stage.given, images, jax.random.key(0), 0)
    assert float(total) == pytest.approx(float(metrics["image/l2"] + 0.5 * metrics["image/image_perceptual"][0]),
                                         rel=1e-5)
    model = tokenizer_stage.make_tokenizer(config).bind(params, variables)
    video = jnp.asarray(images["image"]["video"], jnp.float32) / 127.5 - 1
    lpips = losses.make_lpips().bind(stage.given["lpips"], {})
    expected = lpips(video[:, 0], model(video)[0][:, 0]).mean()
    assert float(metrics["image/image_perceptual"][0]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_the_whole_loss_is_finite_and_every_term_is_there():
    config = tiny(**{**ADVERSARIAL, "loss.image_perceptual": 0.1, "loss.video_perceptual": 1.0,
                     "loss.perceptual_size": 32, "loss.perceptual_every": 2, "train.steps": 4})
    found, _ = run(config, steps=4)
    for step, metrics in enumerate(found):
        assert np.isfinite(list(metrics.values())).all()
        terms = {"video/video_perceptual", "image/image_perceptual", "video/r1"}
        assert terms & set(metrics) == (terms if step % 2 == 0 else set())
        assert "image/video_perceptual" not in metrics


class Noise:
    def __init__(self, config, train=True):
        pass

    def batch(self, step):
        return batch(step, (0, 1))

    def iterate(self, start):
        while True:
            yield self.batch(start)
            start += 1


def test_a_run_with_an_adversary_resumes_where_it_was_and_is_loaded_without_it(tmp_path):
    config = tiny(**ADVERSARIAL, train__keep=2)
    go = lambda folder, config: train(config, folder, make_loader=Noise, devices=jax.devices()[:1], tensorboard=False)
    whole = go(tmp_path / "whole", config)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "6")
    again = go(tmp_path / "killed", config)
    assert again.metrics == whole.metrics
    # R1 is taken at steps 0, 2 and 4, so it is in lines 1, 3 and 5, and never there as nothing.
    lines = read_lines(tmp_path / "whole" / "metrics.jsonl")
    assert [line.get("image/r1", 0) > 0 for line in lines] == [True, False] * 3
    assert all(line["image/discriminator"] > 0 for line in lines)
    run = load_run(tmp_path / "whole")
    assert "discriminator" not in run.params and "discriminator" not in run.variables
    pure = tokenizer_stage.make_tokenizer(config)
    assert set(flatten(run.params)) == set(flatten(jax.eval_shape(pure.init, jax.random.key(0))[0]))


def test_a_codebook_starts_from_the_stream_with_most_pixels(monkeypatch):
    """The first that asks for k-means starts the codebook: of 4 clips with 48 vectors each and 4 images with 16."""
    config = tiny(tokenizer__quantizer="vq", tokenizer__kmeans_start=True)
    stage, asked = tokenizer_stage.make_stage(config), []

    def kmeans(z_NE, size, key):
        asked.append(len(z_NE))
        return jnp.zeros((size, z_NE.shape[1]))

    monkeypatch.setattr(quantizers, "spherical_kmeans", kmeans)
    arrays = jax.eval_shape(stage.init, jax.random.key(0))
    jax.eval_shape(stage.loss, *arrays, {}, batch(0), jax.random.key(0), 0)
    assert asked[0] == 4 * 48 and asked[-1] == 4 * 16


@pytest.mark.parametrize("change, words", [
    ({"loss.kind": "wgan"}, "loss.kind='wgan'"), ({"loss.l2": -1.0}, "loss.l2=-1.0"),
    ({"loss.r1_every": 0}, "loss.r1_every=0 must be at least 1"), ({"loss.perceptual_size": 16}, "32 or more"),
    ({"loss.adversarial": 0.1, "discriminator.form": "audio"}, "discriminator.form='audio'")])
def test_a_loss_that_cannot_be_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        tokenizer_stage.make_stage(load_config("configs/quickstart.py:tokenizer", change))


@pytest.mark.parametrize("source", ["configs/quickstart.py:tokenizer", "configs/paper.py:tokenizer"])
def test_configs_name_every_field_so_that_each_can_be_set(source):
    config = load_config(source)
    assert set(config.loss) == {field.name for field in dataclasses.fields(losses.LossConfig)}
    fields = {field.name for field in dataclasses.fields(tokenizer_stage.make_discriminator(config).module_config)}
    assert set(config.discriminator) == fields
