"""The T5 encoder: buckets against the definition, padding, and attention without scale."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.models.t5 import T5Config, T5Encoder, relative_buckets
from phenaki_jax.models.tree import Pure

CONFIG = T5Config(vocab_size=40, embed_dim=16, layers=2, heads=2, head_dim=8, mlp_dim=24)


def bucket_by_definition(distance: int, buckets: int = 32, max_distance: int = 128) -> int:
    """One pair at a time, in words: sign, near ones exact, far ones by their logarithm, the last for all beyond."""
    half = buckets // 2
    base, away = (half if distance > 0 else 0), abs(distance)
    if away < half // 2:
        return base + away
    steps = math.floor(math.log(away / (half // 2)) / math.log(max_distance / (half // 2)) * (half - half // 2))
    return base + min(half - 1, half // 2 + steps)


def test_buckets_follow_their_definition():
    table = relative_buckets(200, 32, 128)
    for query, key in [(0, 0), (5, 4), (4, 5), (0, 7), (0, 8), (0, 9), (30, 0), (0, 63), (0, 127), (0, 199), (199, 0)]:
        assert table[query, key] == bucket_by_definition(key - query), (query, key)


def test_padding_changes_nothing_and_order_does():
    pure = Pure(lambda rngs: T5Encoder(CONFIG, rngs=rngs))
    arrays = pure.init(jax.random.key(0))
    encode = jax.jit(lambda ids: pure.bind(*arrays)(ids))
    ids = jnp.asarray([[7, 9, 11, 1]])
    padded = jnp.asarray([[7, 9, 11, 1, 0, 0, 0]])
    np.testing.assert_allclose(encode(ids), encode(padded)[:, :4], atol=1e-5)
    swapped = jnp.asarray([[9, 7, 11, 1]])
    assert np.abs(np.asarray(encode(swapped))[0, 2] - np.asarray(encode(ids))[0, 2]).max() > 1e-3


def test_there_are_no_biases_and_one_table_of_relative_positions():
    pure = Pure(lambda rngs: T5Encoder(CONFIG, rngs=rngs))
    params, variables = jax.eval_shape(pure.init, jax.random.key(0))
    D, inner, M, L = 16, 16, 24, 2
    expected = 40 * D + 32 * 2 + L * (4 * D * inner + 3 * D * M + 2 * D) + D
    assert sum(x.size for x in jax.tree.leaves(params)) == expected and variables == {}


def test_local_heads_begin_with_the_letters_before():
    config = T5Config(vocab_size=300, embed_dim=16, layers=1, heads=3, head_dim=8, mlp_dim=16, local=200.0, unroll=True)
    pure = Pure(lambda rngs: T5Encoder(config, rngs=rngs))
    arrays = pure.init(jax.random.key(0))
    ids = np.random.default_rng(0).integers(3, 300, (1, 12))

    def read(position):
        changed = ids.copy()
        changed[0, position] = 3 + (changed[0, position] - 2) % 297
        return np.asarray(pure.bind(*arrays)(jnp.asarray(changed)))[0]

    whole = np.asarray(pure.bind(*arrays)(jnp.asarray(ids)))[0]
    # Head h looks h back, so a letter reaches itself and the two after it, and no other. (The first two letters have
    # not enough before them, and their last heads look everywhere.)
    for position in range(12):
        reached = np.abs(read(position) - whole).max(axis=1) > 1e-6
        assert np.flatnonzero(reached[2:]).tolist() == [i - 2 for i in range(2, 12) if 0 <= i - position <= 2]


def test_a_bias_for_more_heads_than_near_distances_is_refused():
    with pytest.raises(UserError, match="text.local"):
        T5Config(heads=16, buckets=32, local=6.0)
