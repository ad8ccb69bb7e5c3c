"""Stateless randomness: which record stands at a position, and what is drawn for it, without a generator's state.

Everything is a function of integers and names, the same on every machine and in every process.
"""

import functools
import hashlib

_MASK = (1 << 64) - 1
_ROUNDS = 6


@functools.lru_cache(maxsize=1024)
def _name_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hash64(*parts: int | str) -> int:
    """A well mixed number in [0, 2**64) of a sequence of integers and names (SplitMix64's finaliser, chained)."""
    state = 0
    for part in parts:
        state = _mix(state, _name_hash(part) if isinstance(part, str) else int(part))
    return state


def _mix(state: int, part: int) -> int:
    state = (state + 0x9E3779B97F4A7C15 ^ part) & _MASK
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
    return state ^ state >> 31


def uniform(*parts: int | str) -> float:
    """A number in [0, 1) of a sequence of integers and names."""
    return (hash64(*parts) >> 11) * 2.0 ** -53


@functools.lru_cache(maxsize=1024)
def _rounds(*key: int | str) -> tuple[int, ...]:
    """What keys each round of the permutation that `key` chooses."""
    whole = hash64(*key)
    return tuple(hash64(whole, turn) for turn in range(_ROUNDS))


def permute(index: int, size: int, *key: int | str) -> int:
    """Where `index` goes in a permutation of range(size) that `key` chooses; needs no memory.

    A Feistel network over the next even power of two, walked until it is inside (Black and Rogaway 2002).
    """
    if not 0 <= index < size:
        raise ValueError(f"index={index} is outside of range({size})")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    rounds = _rounds(*key)
    while True:
        left, right = index >> half, index & mask
        for state in rounds:
            left, right = right, left ^ _mix(state, right) & mask
        index = left << half | right
        if index < size:
            return index


def source_key(seed: int, name: str) -> int:
    """What orders the records of one source under one seed, in [0, 2**63)."""
    return hash64(seed, name) >> 1


def record_index(key: int, position: int, size: int) -> int:
    """The record at a position of an endless stream over `size` records, every epoch in an order of its own."""
    epoch, place = divmod(position, size)
    return permute(place, size, key, "epoch", epoch)


def example_seed(key: int, position: int) -> int:
    """The seed of what is drawn for the record at a position (its window), in [0, 2**63)."""
    return hash64(key, "example", position) >> 1
