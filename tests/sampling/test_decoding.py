"""Masking and decoding: counts, which positions, what is frozen, guidance in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import truncnorm

from phenaki_jax.errors import UserError
from phenaki_jax.sampling.decoding import advance, begin, draw
from phenaki_jax.sampling.guidance import guide, guide_apart
from phenaki_jax.sampling.options import MASK_SCHEDULES, ORDERS, PRESETS, Sampling, chosen
from phenaki_jax.sampling.schedules import (
    halton_ranks, latent_steps, masked_counts, masked_share, random_mask, remasked_counts)

V, MASK = 11, 11


def decode(logits_of, tokens_BS, free_BS, keys_B, options, *, mask_id, digits=(V,), **more):
    """All rounds at once."""
    start = begin(tokens_BS, free_BS, mask_id)
    return advance(start, 0, options.num_inference_steps, logits_of, free_BS, keys_B, options, mask_id=mask_id,
                   digits=digits, **more).tokens


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


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


def test_the_arccos_and_the_truncated_share_have_their_distributions():
    """P(2/pi arccos(u) <= x) = 1 - cos(pi/2 x); the normal's by scipy."""
    u = jnp.linspace(0, 1, 100_001)
    share = np.asarray(masked_share(u, "arccos"), np.float64)
    for x in (0.2, 0.5, 0.9):
        assert np.mean(share <= x) == pytest.approx(1 - np.cos(np.pi / 2 * x), abs=1e-4)
    share = np.asarray(masked_share(u, "truncated"), np.float64)
    for x in (0.71, 0.8, 0.95, 1.0):
        assert np.mean(share <= x) == pytest.approx(truncnorm.cdf(x, -1.2, 0, loc=1, scale=0.25), abs=1e-3)


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
    assert guide_apart(5.0, 3.0, 2.0, scale=2.0, image_scale=4.0) == 2 + 4 * (3 - 2) + 3 * (5 - 3)
    assert guide_apart(5.0, 3.0, 2.0, scale=2.0, image_scale=1.0) == guide(5.0, 3.0, 2.0)


def certain(target_BS):
    return lambda tokens: 50.0 * jax.nn.one_hot(jnp.tile(target_BS, (tokens.shape[0] // len(target_BS), 1)), V)


@pytest.mark.parametrize("steps", [1, 3, 12])
def test_a_certain_model_is_decoded_exactly_and_what_is_given_stays(steps):
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.integers(0, V, (3, 24)))
    given = jnp.asarray(rng.integers(0, V, (3, 24)))
    free = jnp.broadcast_to(jnp.arange(24) >= 8, (3, 24))
    out = decode(certain(target), given, free, keys(3), Sampling(steps, 2.0, 4.0), mask_id=MASK, free=16)
    np.testing.assert_array_equal(out, jnp.where(free, target, given))


def watched(options, tokens_BS, free_BS, logits=lambda tokens: jnp.zeros((*tokens.shape, V)), **more):
    """What decode gives, and the tokens that the model saw in each round, [rounds, B, S]."""
    seen = []

    def logits_of(tokens):
        jax.debug.callback(lambda tokens: seen.append(np.asarray(tokens)), tokens, ordered=True)
        return logits(tokens)

    out = decode(logits_of, tokens_BS, free_BS, keys(len(tokens_BS)), options, mask_id=MASK,
                 free=int(free_BS[0].sum()), **more)
    jax.effects_barrier()
    return np.asarray(out), np.stack(seen)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("schedule", MASK_SCHEDULES)
def test_each_round_leaves_as_many_masks_as_the_schedule_says(schedule, order):
    """And what is decided, or given, stays."""
    given = jnp.full((2, 36), 7).at[1].set(3)
    free = jnp.broadcast_to(jnp.arange(36) >= 6, (2, 36))
    options = Sampling(6, 0.0, 1.0, mask_schedule=schedule, order=order)
    out, seen = watched(options, given, free, ranks_S=jnp.asarray(halton_ranks((6, 2, 3))), fake_of=jnp.float32)
    masked = seen == MASK
    np.testing.assert_array_equal(masked.sum(2), np.repeat([[30], *masked_counts(6, 30, schedule)[:-1, None]], 2, 1))
    assert out.max() < V and np.all(np.diff(masked.astype(int), axis=0) <= 0)
    for tokens, later in zip(seen, [*seen[1:], out]):
        np.testing.assert_array_equal(later[tokens != MASK], tokens[tokens != MASK])
    np.testing.assert_array_equal(out[:, :6], given[:, :6])


def test_the_halton_order_is_followed_and_spreads():
    """A permutation; a prefix of it is spread evenly over a large square, as that many random cells hardly are."""
    ranks = halton_ranks((6, 2, 3))
    assert sorted(ranks) == list(range(36))
    _, seen = watched(Sampling(5, 0.0, 9.0, order="halton"), jnp.zeros((1, 36), jnp.int32), jnp.ones((1, 36), bool),
                      ranks_S=jnp.asarray(ranks))
    for tokens, count in zip(seen[1:, 0], masked_counts(5, 36)):
        np.testing.assert_array_equal(tokens == MASK, ranks >= 36 - count)
    first = halton_ranks((1, 32, 32)).reshape(32, 32) < 128
    blocks = first.reshape(4, 8, 4, 8).sum((1, 3))
    assert blocks.min() >= 6 and blocks.max() <= 10
    np.testing.assert_array_equal(halton_ranks((1, 4, 1)), [3, 1, 0, 2])  # rows at 1/2, 1/4, 3/4, 1/8


def test_remasking_keeps_the_counts_and_makes_the_least_sure_anew():
    """Against the rule played by hand: of the tokens decided so far, those drawn with the smallest probability."""
    counts = masked_counts(8, 40)
    again = remasked_counts(counts, 40, 0.3)
    assert list(again) == [min(int(0.3 * (40 - before)), after) for before, after in zip([40, *counts], counts)]
    liking = jax.random.normal(jax.random.key(5), (40, V)) * 2
    out, seen = watched(Sampling(8, 0.0, 0.0, remask=0.3), jnp.zeros((1, 50), jnp.int32),
                        jnp.arange(50)[None] >= 10, logits=lambda tokens: jnp.pad(liking, ((10, 0), (0, 0)))[None])
    assert out.max() < V and not out[:, :10].any()
    masked = seen[:, 0, 10:] == MASK
    np.testing.assert_array_equal(masked.sum(1), [40, *counts[:-1]])
    logp = np.asarray(jax.nn.log_softmax(liking))
    for round_ in range(1, 7):
        decided = np.flatnonzero(~masked[round_])
        sure = logp[decided, seen[round_, 0, 10 + decided]]
        remade = decided[np.argsort(sure)[:again[round_]]]
        assert set(remade) == set(decided) & set(np.flatnonzero(masked[round_ + 1]))


@pytest.mark.parametrize("remask", [0.0, 0.4])
def test_a_critic_keeps_what_it_doubts_least_and_remasks_what_it_doubts_most(remask):
    """Against its rule played by hand, with doubts that depend on all tokens; what is given is not its to take back."""
    doubts, counts = np.random.default_rng(0).normal(size=(40, V)), masked_counts(6, 32)
    free, filled_grids = jnp.arange(40)[None] >= 8, []

    def fake_of(tokens):
        jax.debug.callback(lambda tokens: filled_grids.append(np.asarray(tokens)), tokens, ordered=True)
        return jnp.asarray(doubts)[jnp.arange(40), (tokens + tokens.sum()) % V]

    options = Sampling(6, 0.0, 0.0, order="critic", remask=remask)
    out, seen = watched(options, jnp.full((1, 40), 5), free, fake_of=fake_of)
    assert out.max() < V and (out[0, :8] == 5).all()
    for count, again, before, filled, later in zip(counts, remasked_counts(counts, 32, remask), seen, filled_grids,
                                                   [*seen[1:], out]):
        doubt, masked = doubts[np.arange(40), (filled[0] + filled.sum()) % V], before[0] == MASK
        doubted = lambda among, number: set(np.argsort(np.where(among, -doubt, np.inf))[:number])
        expected = doubted(masked, count - again) | doubted(~masked & np.asarray(free[0]), again)
        assert set(np.flatnonzero(later[0] == MASK)) == expected
    np.testing.assert_array_equal(out, filled_grids[-1])


def test_digits_are_drawn_each_from_their_own_softmax():
    logits = jax.random.normal(jax.random.key(0), (1, 1, 7)) * 2
    rows = 20_000
    tokens, logp = draw(jnp.broadcast_to(logits, (rows, 1, 7)), keys(rows), (4, 3))
    low, high = (np.asarray(jax.nn.softmax(part))[0, 0] for part in (logits[..., :4], logits[..., 4:]))
    expected = (low[None] * high[:, None]).reshape(-1)
    np.testing.assert_allclose(np.bincount(tokens[:, 0], minlength=12) / rows, expected, atol=0.015)
    np.testing.assert_allclose(np.exp(logp[:, 0]), expected[tokens[:, 0]], rtol=1e-4)


def test_rounds_in_parts_are_the_rounds_at_once():
    logits = lambda tokens: jax.random.normal(jax.random.key(3), (2, 16, V)) + 0.1 * tokens[..., None]
    free, options = jnp.ones((2, 16), bool), Sampling(5, 0.0, 2.0)
    run = lambda state, first, last: advance(state, first, last, logits, free, keys(2), options, mask_id=MASK, free=16,
                                             digits=(V,))
    state = start = begin(jnp.zeros((2, 16), jnp.int32), free, MASK)
    for first, last in ((0, 2), (2, 3), (3, 5)):
        state = run(state, first, last)
        assert (state.filled < V).all()
    np.testing.assert_array_equal(state.tokens, run(start, 0, 5).tokens)
    np.testing.assert_array_equal(state.tokens, state.filled)


def test_the_most_confident_are_kept_first_when_the_choice_is_cold():
    """Without Gumbel noise the uncertain half must still be masked in the middle of decoding."""
    sure = jnp.where(jnp.arange(20) < 10, 60.0, 0.1)[None, :, None]
    _, seen = watched(Sampling(3, 0.0, 0.0), jnp.zeros((1, 20), jnp.int32), jnp.ones((1, 20), bool),
                      logits=lambda tokens: sure * jax.nn.one_hot(jnp.zeros((1, 20), jnp.int32), V))
    last = seen[-1, 0] == MASK
    assert last.sum() == masked_counts(3, 20)[1] == 10 and last[10:].all()


def test_a_row_depends_on_its_own_key_alone():
    logits = lambda tokens: jax.random.normal(jax.random.key(3), (1, 16, V)) + jnp.zeros((len(tokens), 1, 1))
    run = lambda keys_B: np.asarray(decode(logits, jnp.zeros((len(keys_B), 16), jnp.int32),
                                           jnp.ones((len(keys_B), 16), bool), keys_B, Sampling(4, 0.0, 2.0),
                                           mask_id=MASK, free=16))
    together = run(keys(4))
    assert len(np.unique(together, axis=0)) == 4
    for i in range(4):
        np.testing.assert_array_equal(run(keys(4)[i:i + 1])[0], together[i])


@pytest.mark.parametrize("schedule, scales", [("constant", [3.0, 3.0, 3.0]), ("linear", [1.0, 2.0, 3.0])])
def test_guidance_leads_away_from_the_second_half_and_may_rise(schedule, scales):
    """Logits such that a token is the scale at which it was drawn: (1 + s) c - s u = -50 v^2 + 100 s v is largest at s.
    """
    place = jnp.arange(V, dtype=jnp.float32)

    def logits_of(tokens):
        assert len(tokens) == 4
        with_text = (jnp.arange(4) < 2)[:, None, None]
        logits = jnp.where(with_text, -50 * place**2, -50 * place**2 - 100 * place)
        return jnp.broadcast_to(logits, (4, 12, V))

    out, seen = watched(Sampling(3, 3.0, 0.0, guidance_schedule=schedule), jnp.zeros((2, 12), jnp.int32),
                        jnp.ones((2, 12), bool), logits=logits_of)
    for before, after, scale in zip(seen[:, :2], [*seen[1:, :2], out], scales):
        assert set(after[(before == MASK) & (after != MASK)]) == {scale}


def test_given_frames_are_weighed_apart_from_the_prompt():
    """Three parts: with both, without text, with neither, where what is given is masked too.

    Given frames add 100 v to logits of -50 v^2 and the prompt 200 v; at a scale of 1 that is 100 v (image_scale + 4),
    and the sum is largest at v = image_scale + 4.
    """
    place = jnp.arange(V, dtype=jnp.float32)

    def logits_of(tokens):
        assert len(tokens) == 6
        text, image = jnp.where(jnp.arange(6) < 2, 1.0, 0.0), jnp.where(tokens[:, 0] == MASK, 0.0, 1.0)
        logits = -50 * place**2 + 100 * place * (image + 2 * text)[:, None]
        return jnp.broadcast_to(logits[:, None], (*tokens.shape, V))

    for image_scale in (0.0, 2.0, 4.0):
        out, seen = watched(Sampling(3, 1.0, 0.0, image_guidance_scale=image_scale), jnp.full((2, 12), 9),
                            jnp.broadcast_to(jnp.arange(12) >= 3, (2, 12)), logits=logits_of)
        assert set(out[:, 3:].ravel()) == {image_scale + 4} and set(out[:, :3].ravel()) == {9}
        assert (seen[:, :4, :3] == 9).all() and (seen[:, 4:, :3] == MASK).all()
        np.testing.assert_array_equal(seen[:, 4:, 3:], seen[:, :2, 3:])


def test_the_paper_s_presets_and_who_has_the_last_word():
    """B.3: NUWA's comparison, the ablation of mixes, the videos shown; what is given goes before a preset."""
    assert {name: (p.num_inference_steps, p.guidance_scale, p.temperature) for name, p in PRESETS.items()} == {
        "nuwa": (12, 0.1, 4.0), "ablation": (24, 6.0, 4.0), "showcase": (48, 12.0, 8.0)}
    own = {"num_inference_steps": 5, "guidance_scale": 0.5, "temperature": 1.0}
    assert chosen(own) == chosen(own, "recommended") == Sampling(5, 0.5, 1.0)
    assert chosen(own, "nuwa", temperature=None, guidance_scale=3) == Sampling(12, 3, 4.0)


@pytest.mark.parametrize("given, words", [
    ({"preset": "best"}, "preset='best'"), ({"steps": 4}, "sampling.steps"),
    ({"num_inference_steps": 0}, "num_inference_steps=0"), ({"num_inference_steps": 2.0}, "num_inference_steps=2.0"),
    ({"temperature": -1}, "temperature=-1"), ({"temperature": float("nan")}, "temperature=nan"),
    ({"remask": 1.5}, "remask=1.5 .* at most 1"), ({"guidance_scale": -2}, "guidance_scale=-2"),
    ({"order": "raster"}, "order='raster'"), ({"mask_schedule": "log"}, "mask_schedule='log'"),
    ({"guidance_schedule": "up"}, "guidance_schedule='up'")])
def test_what_cannot_be_sampled_is_one_sentence(given, words):
    with pytest.raises(UserError, match=words):
        chosen({}, **given)
