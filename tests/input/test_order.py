"""Stateless randomness: permutations are permutations, and what looks random is."""

import collections
import itertools

import numpy as np
import pytest

from phenaki_jax.input import order


@pytest.mark.parametrize("size", [*range(1, 40), 64, 65, 1000, 4097])
def test_a_permutation_is_a_bijection(size):
    assert sorted(order.permute(i, size, 7, "epoch", 3) for i in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [5, 7, 16])
def test_two_indices_go_to_any_two_places_equally_often(size):
    pairs = list(itertools.permutations(range(size), 2))
    count = collections.Counter((order.permute(0, size, key), order.permute(1, size, key))
                                for key in range(60 * len(pairs)))
    chi2 = sum((count[pair] - 60) ** 2 / 60 for pair in pairs)
    free = len(pairs) - 1
    assert chi2 < free + 5 * (2 * free) ** 0.5


def test_an_order_mixes_and_differs_between_epochs_and_seeds():
    def of(seed, epoch):
        key = order.source_key(seed, "name")
        return np.array([order.record_index(key, epoch * 500 + i, 500) for i in range(500)])

    orders = [of(0, 0), of(0, 1), of(1, 0), np.arange(500)]
    for a, b in itertools.combinations(orders, 2):
        assert (a == b).sum() < 10 and abs(np.corrcoef(a, b)[0, 1]) < 0.2


def test_hash_is_the_same_everywhere_and_depends_on_every_part():
    assert order.hash64(1, "a", 2) == 503013515804107282
    parts = [(), (0,), (0, 0), (1, 0), (0, 1), ("a",), ("a", 0), ("b", 0), (-1,), (2**64 - 2,)]
    assert len({order.hash64(*p) for p in parts}) == len(parts)


def test_uniform_is_uniform():
    draws = np.array([order.uniform(5, "x", i) for i in range(20000)])
    counts, _ = np.histogram(draws, 20, (0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # 19 degrees of freedom
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


def test_an_index_outside_is_refused():
    with pytest.raises(ValueError, match="index=4"):
        order.permute(4, 4, 0)
