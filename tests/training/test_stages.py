"""The two stages: what the losses count."""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from phenaki_jax.config import load_config
from phenaki_jax.training import generator_stage, rows, tokenizer_stage

TINY = {"tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 32, "tokenizer.spatial_layers": 1,
        "generator.embed_dim": 16, "generator.heads": 2, "generator.mlp_dim": 32, "generator.layers": 1,
        "text.embed_dim": 16, "text.heads": 2, "text.head_dim": 8, "text.mlp_dim": 32, "text.layers": 1,
        "text.length": 16, "mesh.data": 1, "train.steps": 10, "optimizer.warmup_steps": 1,
        "optimizer.name": "adamw", "optimizer.learning_rate": 1e-3}  # Muon takes twice as long to compile


class Spy:
    """Stands in for a Generator: keeps what the transformer was given and answers with fixed logits."""
    mask_id = 7
    config = types.SimpleNamespace(digits=(7,))

    def __init__(self, logits=None):
        self.transformer, self.logits = self, logits

    def read(self, text, mask, conditions):
        return text

    def __call__(self, tokens, text, key=None):
        self.inputs = np.asarray(tokens)
        return jnp.zeros((*tokens.shape, 7)) if self.logits is None else self.logits


@pytest.mark.parametrize("shape, known", [((4, 6, 2, 2), 0), ((4, 6, 2, 2), 3), ((4, 1, 2, 2), 0)])
def test_only_free_positions_are_masked_and_only_masked_ones_count(shape, known):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, shape))
    given_BT = jnp.arange(shape[1]) < jnp.full((shape[0], 1), known)
    spy = Spy()
    loss, _ = generator_stage.masked_loss(spy, tokens, jnp.zeros((4, 3)), None, given_BT, jax.random.key(0))
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-5)  # uniform logits, whatever was masked
    masked = spy.inputs == 7
    assert not masked[:, :known].any() and masked.reshape(4, -1).any(1).all()
    np.testing.assert_array_equal(spy.inputs[~masked], np.asarray(tokens)[~masked])
    # Logits that are certain of the truth at masked places and of something wrong at all others: no loss at all.
    right = jax.nn.one_hot(jnp.where(masked, tokens, (tokens + 1) % 7), 7) * 50.0
    loss, found = generator_stage.masked_loss(Spy(right), tokens, jnp.zeros((4, 3)), None, given_BT, jax.random.key(0))
    assert float(loss) == float(found["cross_entropy"]) < 1e-6 and float(found["masked_accuracy"]) == 1.0


def test_smoothed_labels_and_the_z_loss_by_their_definitions():
    """Against optax's cross-entropy with soft targets, and the sum of exponentials written out; not in the metric."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, (4, 3, 2, 2)))
    logits = jax.random.normal(jax.random.key(1), (*tokens.shape, 7))
    spy = Spy(logits)
    run = lambda **more: generator_stage.masked_loss(spy, tokens, jnp.zeros((4, 3)), None, jnp.zeros((4, 3), bool),
                                                     jax.random.key(0), **more)
    plain, _ = run()
    masked = spy.inputs == 7
    soft = optax.smooth_labels(jax.nn.one_hot(tokens, 7), 0.1)
    loss, found = run(label_smoothing=0.1)
    assert float(loss) == pytest.approx(float(optax.softmax_cross_entropy(logits, soft)[masked].mean()), rel=1e-5)
    assert float(found["cross_entropy"]) == float(plain)
    z = np.log(np.exp(np.asarray(logits)).sum(-1))[masked]
    assert float(run(z_loss=0.3)[0]) == pytest.approx(float(plain) + 0.3 * np.mean(z**2), rel=1e-5)


@pytest.mark.parametrize("first, ends, several", [
    (0.0, 0.0, 0.0), (0.4, 0.0, 0.0), (0.3, 0.2, 0.0), (0.0, 1.0, 0.0), (0.3, 0.1, 0.4), (0.0, 0.0, 1.0)])
def test_first_steps_and_the_last_are_given_to_shares_of_what_has_none(first, ends, several):
    known_B = jnp.asarray([0] * 4000 + [3] * 4000 + [1] * 4000)
    given = np.asarray(rows.given_steps(known_B, 4, first, ends, several, jax.random.key(0)))
    np.testing.assert_array_equal(given[4000:8000], [[True, True, True, False]] * 4000)
    np.testing.assert_array_equal(given[8000:], [[True, False, False, False]] * 4000)
    kinds = collections.Counter(map(tuple, given[:4000].tolist()))
    shares = {(True, False, False, False): first, (True, False, False, True): ends,
              (True, True, False, False): several / 2, (True, True, True, False): several / 2}
    assert set(kinds) <= {(False,) * 4, *shares}
    for kind, share in shares.items():
        assert abs(kinds[kind] / 4000 - share) < 0.03  # four standard errors of 4000 draws


def test_clips_too_short_for_it_have_no_last_step_given():
    nothing = jnp.zeros(1000, int)
    assert not np.asarray(rows.given_steps(nothing, 1, 0.4, 0.3, 0.3, jax.random.key(0))).any()
    two = np.asarray(rows.given_steps(nothing, 2, 0.5, 0.3, 0.2, jax.random.key(0)))
    assert not two[:, 1].any() and abs(two[:, 0].mean() - 0.5) < 0.07


def test_given_tokens_are_made_noisy_and_others_are_not():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, (400, 3, 2, 2)))
    given_BT = jnp.arange(3) < jnp.asarray([2, 0] * 200)[:, None]
    spy = Spy()
    generator_stage.masked_loss(spy, tokens, None, None, given_BT, jax.random.key(0),
                                noise_B=jnp.asarray([0.6, jnp.nan] * 200))
    given = spy.inputs[::2, :2]
    assert abs(np.mean(given != tokens[::2, :2]) - 0.6 * 6 / 7) < 0.03  # one random token in seven is the true one
    shown = spy.inputs[1::2] != 7
    np.testing.assert_array_equal(spy.inputs[1::2][shown], np.asarray(tokens)[1::2][shown])


def test_noise_levels_and_what_is_told():
    given_B = jnp.asarray([True, False] * 4000)
    level = np.asarray(rows.noise_levels(given_B, 0.4, jax.random.key(0)))
    assert np.isnan(level[1::2]).all() and abs(np.mean(level[::2] == 0) - 0.5) < 0.03 and level[::2].max() <= 0.4
    assert abs(level[::2][level[::2] > 0].mean() - 0.2) < 0.01
    stream = {"motion": jnp.full(8000, 5.0), "fps": jnp.full(8000, 8.0)}
    keep = jnp.asarray([[True]] * 4000 + [[False]] * 4000)
    said = np.asarray(rows.told(("motion", "noise"), stream, jnp.asarray(level), keep, 0.25, jax.random.key(1)))
    assert said.shape == (8000, 2) and np.isnan(said[4000:]).all()
    assert abs(np.isnan(said[:4000, 0]).mean() - 0.25) < 0.03 and np.nanmax(said[:, 0]) == 5.0
    assert rows.told((), stream, level, keep, 0.0, jax.random.key(1)) is None


def test_digits_of_a_big_codebook_share_the_loss():
    """The cross-entropy of a token is the sum of its digits'."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 12, (4, 3, 2, 2)))
    logits = jax.random.normal(jax.random.key(1), (*tokens.shape, 7))
    spy = Spy(logits)
    spy.config, spy.mask_id = types.SimpleNamespace(digits=(4, 3)), 12
    loss, _ = generator_stage.masked_loss(spy, tokens, None, None, jnp.zeros((4, 3), bool), jax.random.key(0))
    pair = lambda part, target: optax.softmax_cross_entropy_with_integer_labels(part, target)
    losses = pair(logits[..., :4], tokens % 4) + pair(logits[..., 4:], tokens // 4)
    np.testing.assert_allclose(loss, losses[spy.inputs == 12].mean(), rtol=1e-5)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)

    def stream(rows, frames):
        return {"video": rng.integers(0, 256, (rows, frames, 32, 32, 3), dtype=np.uint8),
                "text": rng.integers(1, 200, (rows, 16)).astype(np.int32),
                "known_frames": np.asarray([0, 5] * (rows // 2) if frames > 1 else [0] * rows, np.int32)}

    return {"video": stream(16, 11), "image": stream(8, 1)}


def test_what_a_generator_logs_of_padding(batch):
    """Images have a stream, and a grid, of their own; of the text, what is 0."""
    config = load_config("configs/quickstart.py:generator", TINY)
    half = {name: {**stream, "text": np.where(np.arange(16) < 4, stream["text"], 0)} for name, stream in batch.items()}
    found = rows.Reader(config).padding(half)
    assert float(found["padding"]) == 0.0 and float(found["text_padding"]) == 0.75
    cached = {"image": {**half["image"], "tokens": np.zeros((8, 2, 8, 8), np.int32)}}  # a latent step too much
    assert float(rows.Reader(config).padding(cached)["padding"]) == 0.5


def test_a_stream_less_batch_still_has_a_loss(batch):
    config = load_config("configs/quickstart.py:tokenizer", TINY)
    stage = tokenizer_stage.make_stage(config)
    params, variables = stage.init(jax.random.key(0))
    for name in batch:
        loss, (_, metrics) = jax.jit(stage.loss)(params, variables, {}, {name: batch[name]}, jax.random.key(0), 0)
        l2 = metrics[f"{name}/l2"]
        np.testing.assert_allclose(loss, l2, rtol=1e-6)  # FSQ adds no term of its own
        np.testing.assert_allclose(metrics[f"{name}/psnr"], 10 * np.log10(4 / l2), rtol=1e-5)
