"""Masking and decoding: counts, which positions, what is frozen, guidance in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.sampling.decoding import decode
from phenaki_jax.sampling.guidance import guide
from phenaki_jax.sampling.schedules import latent_steps, masked_counts, masked_share, random_mask

V, MASK = 11, 11


def test_the_cosine_schedule_by_hand():
    expected = [math.ceil(96 * math.cos(math.pi / 2 * s / 8) - 1e-6) for s in range(1, 8)] + [0]
    np.testing.assert_array_equal(masked_counts(8, 96), expected)
    assert list(masked_counts(1, 5)) == [0]


@pytest.mark.parametrize("frames, steps", [(0, 0), (1, 1), (2, 1), (3, 2), (5, 3), (11, 6)])
def test_latent_steps_of_given_frames(frames, steps):
    assert latent_steps(frames, 2) == steps
    assert int(latent_steps(jnp.asarray(frames), 2)) == steps


def test_gamma_is_uniform_and_only_free_positions_are_masked():
    free = np.ones((4000, 10), bool)
    free[::2, :4] = False
    mask = np.asarray(random_mask(jax.random.key(0), jnp.asarray(free)))
    assert not mask[~free].any()
    for rows, count in ((mask[1::2], 10), (mask[::2], 6)):
        sizes = np.bincount(rows.sum(1), minlength=count + 1)
        assert sizes[0] == 0  # ceil(gamma N) is at least 1
        np.testing.assert_allclose(sizes[1:] / len(rows), 1 / count, atol=0.03)
    np.testing.assert_allclose(mask[1::2].mean(0), 0.55, atol=0.04)  # every position alike: E ceil(10 gamma) / 10


def test_the_cosine_share_has_its_distribution():
    """P(cos(pi/2 u) > x) = 2/pi arccos(x)."""
    mask = np.asarray(random_mask(jax.random.key(1), jnp.ones((4000, 100), bool), "cosine"))
    share = mask.mean(1)
    for x in (0.25, 0.5, 0.9):
        np.testing.assert_allclose(np.mean(share > x), 2 / np.pi * np.arccos(x), atol=0.03)


def test_log_schedule_spreads_the_visible_share_evenly_over_orders_of_magnitude():
    visible = 1 - np.asarray(masked_share(jnp.linspace(0, 1, 100_001), "log"), np.float64)
    assert visible[0] == 0 and visible[-1] == pytest.approx(1, abs=1e-5) and np.all(np.diff(visible) >= 0)
    for share in (0.003, 0.05, 0.25, 0.7):
        assert np.mean(visible <= share) == pytest.approx(np.log1p(399 * share) / np.log(400), abs=1e-3)


def test_mixed_schedule_is_half_log_and_half_uniform():
    """P(visible <= x) is the mean of the two, x and log(1 + 399 x) / log 400."""
    visible = 1 - np.asarray(masked_share(jnp.linspace(0, 1, 100_001), "mixed"), np.float64)
    for share in (0.003, 0.05, 0.25, 0.7):
        assert np.mean(visible <= share) == pytest.approx((np.log1p(399 * share) / np.log(400) + share) / 2, abs=1e-3)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UserError, match="train.mask_schedule='linear'"):
        masked_share(jnp.zeros(()), "linear")


def test_guidance_closed_form():
    assert guide(3.0, 1.0, 0.0) == 3.0
    assert guide(3.0, 1.0, 2.0) == 7.0


def certain(target_BS):
    return lambda tokens, keep: 50.0 * jax.nn.one_hot(jnp.tile(target_BS, (tokens.shape[0] // len(target_BS), 1)), V)


@pytest.mark.parametrize("steps", [1, 3, 12])
def test_a_certain_model_is_decoded_exactly_and_what_is_given_stays(steps):
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.integers(0, V, (3, 24)))
    given = jnp.asarray(rng.integers(0, V, (3, 24)))
    free = jnp.broadcast_to(jnp.arange(24) >= 8, (3, 24))
    out = decode(certain(target), given, free, jax.random.key(0), mask_id=MASK, steps=steps, guidance=2.0,
                 temperature=4.0, free=16)
    np.testing.assert_array_equal(out, jnp.where(free, target, given))


def test_each_round_leaves_as_many_masks_as_the_schedule_says():
    seen = []

    def logits_of(tokens, keep):
        jax.debug.callback(lambda count: seen.append(np.asarray(count)), jnp.sum(tokens == MASK, axis=1))
        return jnp.zeros((*tokens.shape, V))

    free = jnp.ones((2, 30), bool)
    out = decode(logits_of, jnp.zeros((2, 30), jnp.int32), free, jax.random.key(0), mask_id=MASK, steps=6,
                 guidance=None, temperature=1.0, free=30)
    jax.effects_barrier()
    assert int(out.max()) < V
    np.testing.assert_array_equal(np.stack(sorted(seen, key=lambda c: -c[0]))[:, 0], [30, *masked_counts(6, 30)[:-1]])


def test_the_most_confident_are_kept_first_when_the_choice_is_cold():
    """Without Gumbel noise the uncertain half must still be masked in the middle of decoding."""
    rounds = []

    def logits_of(tokens, keep):
        jax.debug.callback(lambda masked: rounds.append(np.asarray(masked)), tokens == MASK, ordered=False)
        sure = jnp.arange(20) < 10
        return jnp.where(sure[None, :, None], 60.0, 0.1) * jax.nn.one_hot(jnp.zeros((1, 20), jnp.int32), V)

    decode(logits_of, jnp.zeros((1, 20), jnp.int32), jnp.ones((1, 20), bool), jax.random.key(0), mask_id=MASK,
           steps=3, guidance=None, temperature=0.0, free=20)
    jax.effects_barrier()
    last = min(rounds, key=lambda masked: masked.sum())[0]
    assert last.sum() == masked_counts(3, 20)[1] == 10 and last[10:].all()


def test_unguided_rows_see_their_text_and_guided_ones_both():
    """With keep_text as the only signal, guidance must push away from the unconditional answer."""
    def logits_of(tokens, keep):
        wanted = jnp.where(keep, 3, 5)[:, None]
        both = jax.nn.one_hot(jnp.full(tokens.shape, 5), V) * 4.0  # everybody likes 5 ...
        return both + 3.0 * jax.nn.one_hot(jnp.broadcast_to(wanted, tokens.shape), V)

    run = lambda guidance: np.asarray(decode(
        logits_of, jnp.zeros((4, 16), jnp.int32), jnp.ones((4, 16), bool), jax.random.key(1), mask_id=MASK, steps=2,
        guidance=guidance, temperature=0.0, free=16))
    assert np.mean(run(None) == 3) < 0.5
    assert np.mean(run(4.0) == 3) > 0.95
