"""A binary BCH code of 32 message bits in 250, decoded from soft bits by ordered statistics.

The code is the narrow-sense BCH code (255, 37) over GF(2^8) / (x^8 + x^4 + x^3 + x^2 + 1), its first five message bits
set to zero and left out. Its generator has the roots a^1 to a^90, so two words differ in at least 91 bits (Lin &
Costello, Error Control Coding, 2nd edition, section 6.1).
"""

import functools

import numpy as np

BITS = 32
LENGTH = 250
DISTANCE = 91
_FIELD, _ORDER = 0x11D, 255


def _roots_of_unity() -> list[int]:
    """The powers a^0 to a^254 of the field's primitive element."""
    powers = [1]
    while len(powers) < _ORDER:
        double = powers[-1] << 1
        powers.append(double ^ _FIELD if double > _ORDER else double)
    return powers


def generator_polynomial() -> np.ndarray:
    """uint8 [219], 0 or 1: the coefficients of the product of (x - r) over a^1 ... a^90 and their conjugates."""
    powers = _roots_of_unity()
    logarithm = {value: power for power, value in enumerate(powers)}
    product = [1]  # highest power first
    for root in sorted({(power << square) % _ORDER for power in range(1, DISTANCE) for square in range(8)}):
        shifted = [0] + [powers[(logarithm[c] + root) % _ORDER] if c else 0 for c in product]
        product = [a ^ b for a, b in zip(product + [0], shifted)]
    return np.array(product, np.uint8)


def _reduced(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows' span in the form that is the identity at the first independent columns, and which these are."""
    rows, pivots = rows.copy(), []
    for column in range(rows.shape[1]):
        below = np.flatnonzero(rows[len(pivots):, column])
        if len(below):
            at, found = len(pivots), len(pivots) + below[0]
            rows[[at, found]] = rows[[found, at]]
            others = rows[:, column].copy()
            others[at] = 0
            rows ^= others[:, None] & rows[at]
            pivots.append(column)
            if len(pivots) == len(rows):
                break
    return rows, np.array(pivots)


@functools.cache
def generator_matrix() -> np.ndarray:
    """uint8 [32, 250]: the code's words are its rows' sums; the first 32 bits of a word are its message."""
    polynomial = generator_polynomial()
    rows = np.zeros((BITS, LENGTH), np.uint8)
    for i in range(BITS):
        rows[i, i:i + len(polynomial)] = polynomial
    return _reduced(rows)[0]


def encode(message: int) -> np.ndarray:
    """The word of a message of 0 to 2^32 - 1, float32 [250] of +1 (a bit 0) and -1 (a bit 1)."""
    bits = message >> np.arange(BITS - 1, -1, -1) & 1
    return signs(bits @ generator_matrix() % 2)


def signs(bits: np.ndarray) -> np.ndarray:
    """Bits 0 and 1 as float32 +1 and -1."""
    return (1 - 2 * bits.astype(np.int8)).astype(np.float32)


def decode(soft: np.ndarray, matrix: np.ndarray | None = None) -> tuple[int, np.ndarray]:
    """The message whose word has, as far as is searched, the largest inner product with soft bits.

    Ordered statistics of order 3 (Fossorier & Lin, Soft-decision decoding of linear block codes based on ordered
    statistics, 1995): the most reliable independent bits are taken as they are, and with up to three of them flipped.
    So the best of all words is found wherever at most three of these bits are wrong.

    Args:
      soft: float [length], positive for a bit 0; the larger, the surer.
      matrix: uint8 [bits, length], another code's systematic generator; None is the code of this module.

    Returns:
      the message, its highest bit first in the word; the word, float32 [length] of +1 and -1.
    """
    matrix = generator_matrix() if matrix is None else matrix
    order = np.argsort(-np.abs(soft), kind="stable")
    sorted_soft = soft[order].astype(np.float32)
    rows, pivots = _reduced(matrix[:, order])
    start = signs((sorted_soft[pivots] < 0) @ rows % 2)
    # A word's signs are the product of the signs of its parts; the first of these "rows" flips nothing.
    parts = np.concatenate([np.ones((1, rows.shape[1]), np.float32), signs(rows)])
    pairs = (parts[:, None] * parts).reshape(-1, parts.shape[1])
    best = int(np.argmax(pairs @ (parts * (start * sorted_soft)).T))
    word = np.empty_like(start)
    word[order] = start * pairs[best // len(parts)] * parts[best % len(parts)]
    message = int("".join("1" if sign < 0 else "0" for sign in word[:len(matrix)]), 2)
    return message, word
