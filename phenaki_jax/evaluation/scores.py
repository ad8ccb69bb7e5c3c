"""Scores of two sets of features, and how sure a figure is: kernel distance, precision and recall, intervals.

Features are real [N, D], one row a clip or an image; all is computed in float64.
"""

from collections.abc import Callable, Iterator

import numpy as np

from phenaki_jax.errors import UserError, at_least

BLOCK = 2 ** 22  # numbers of a matrix of pairs that are held at once: 32 MiB


# ------------------------------------------------------------------------------------------------- kernel distance

def kernel_distance(a: np.ndarray, b: np.ndarray, *, subsets: int = 100, subset_size: int = 1000,
                    seed: int = 0) -> dict:
    """KID, or KVD where the features are of clips: the mean of `kernel_mmd` over random subsets of both sets.

    Bińkowski et al. 2018, Demystifying MMD GANs, arXiv 1801.01401 (Kernel Inception Distance). Unlike the Fréchet
    distance it is unbiased at any number of rows, so it may be below 0, and it is 0 on average for equal distributions.

    Args:
      a, b: [N, D] and [M, D].
      subsets: how often both sets are drawn from, each time without replacement.
      subset_size: rows of each draw; no more than the smaller set has are taken.

    Returns:
      "value"; "deviation" of the subsets' values (n - 1 below): how far one subset of this size strays, not the value's
      own error, for subsets share rows; None where there is but one value, as when both sets are always taken whole;
      "subsets" and "subset_size", as they were used.
    """
    a, b = _two_sets(a, b, ("a", "b"), 2)
    at_least("subsets", subsets, 1)
    at_least("subset_size", subset_size, 2)
    size = min(subset_size, len(a), len(b))
    if size == len(a) == len(b):
        subsets = 1
    rng = np.random.default_rng(seed)
    values = [kernel_mmd(a[rng.permutation(len(a))[:size]], b[rng.permutation(len(b))[:size]]) for _ in range(subsets)]
    return {"value": float(np.mean(values)), "deviation": float(np.std(values, ddof=1)) if subsets > 1 else None,
            "subsets": subsets, "subset_size": size}


def kernel_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy with the kernel (x · y / D + 1)^3.

    The mean of k over all pairs of different rows of a, plus that of b, less twice the mean over all pairs between
    them (Gretton et al. 2012, A kernel two-sample test, lemma 6).

    Args:
      a, b: [N, D] and [M, D], at least 2 rows each.
    """
    a, b = _two_sets(a, b, ("a", "b"), 2)

    def cubes(products):
        k = products / a.shape[1] + 1
        return np.sum(k * k * k)  # a tenth of the time of k ** 3

    def total(x, y):
        return sum(cubes(x[rows] @ y.T) for rows in _blocks(len(x), len(y)))

    def among(x):
        return (total(x, x) - cubes(np.sum(x * x, axis=1))) / (len(x) * (len(x) - 1))

    return float(among(a) + among(b) - 2 * total(a, b) / (len(a) * len(b)))


# --------------------------------------------------------------------------------------------- precision and recall

def precision_recall(real: np.ndarray, generated: np.ndarray, *, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, section 2, equations 1 and 2).

    A set covers what lies within a ball around one of its rows, whose radius reaches that row's k-th nearest other row
    of the set; the surface counts. Both figures grow with the rows of the set that covers, so compare only figures of
    equally many rows.

    Args:
      real, generated: [N, D] and [M, D], more than k rows each.

    Returns:
      Precision, the share of the generated rows that the real set covers, and recall, the share of the real rows that
      the generated set covers.
    """
    at_least("k", k, 1)
    real, generated = _two_sets(real, generated, ("real", "generated"), k + 1)
    return _covered(generated, real, k), _covered(real, generated, k)


def _covered(rows: np.ndarray, centres: np.ndarray, k: int) -> float:
    # cdist takes differences; by scalar products, equal rows would not be at a distance of exactly 0.
    from scipy.spatial.distance import cdist
    radii = np.empty(len(centres))
    for part in _blocks(len(centres), len(centres)):
        square = cdist(centres[part], centres, "sqeuclidean")
        square[np.arange(len(square)), np.arange(part.start, part.start + len(square))] = np.inf
        radii[part] = np.partition(square, k - 1, axis=1)[:, k - 1]
    inside = [np.any(cdist(rows[part], centres, "sqeuclidean") <= radii, axis=1)
              for part in _blocks(len(rows), len(centres))]
    return float(np.mean(np.concatenate(inside)))


# ------------------------------------------------------------------------------------------------------- intervals

def bootstrap_interval(statistic: Callable[..., float], *arrays: np.ndarray, resamples: int = 200, level: float = 0.95,
                       seed: int = 0, paired: bool = False) -> dict:
    """The percentile bootstrap: the middle `level` of a statistic of rows drawn with replacement.

    For means and the like (Efron and Tibshirani 1993, An introduction to the bootstrap, chapter 13). Not for distances
    of sets, such as `frechet_distance`, `kernel_mmd` and `precision_recall`: a resample repeats rows and misses 37 % of
    them, so the distance of two resamples is biased upward once more, and the interval may lie wholly above the value.
    `half_sample_interval` is for those, `frechet_interval` for the first.

    Args:
      statistic: of as many arrays as are given, a number.
      arrays: rows along the first axis.
      resamples: how many; the ends are quantiles of so many values.
      paired: whether row i of all arrays belongs together and is drawn together (a clip and its reconstruction), or
        each array is drawn from by itself (two sets of clips).

    Returns:
      "value" of the arrays themselves; "interval" [low, high]; "resamples"; "level".
    """
    value, found = _resampled(statistic, arrays, resamples, level, seed, paired,
                              lambda rng, rows: rng.integers(rows, size=rows))
    return {"value": value, "interval": _middle(found, level), "resamples": resamples, "level": level}


def half_sample_interval(statistic: Callable[..., float], *arrays: np.ndarray, resamples: int = 200,
                         level: float = 0.95, seed: int = 0, paired: bool = False) -> dict:
    """An interval for statistics that repeated rows would spoil, such as the Fréchet distance of two sets of features.

    The statistic of halves drawn without replacement scatters about its own mean as that of whole sets does: a mean
    over half the rows has, given the set, the variance (1 - 1/2) s^2 / (N / 2) = s^2 / N (the jackknife that leaves out
    half the rows: Shao and Wu 1989, A general theory for jackknife variance estimation). So the interval is the value
    plus the halves' deviations from their mean. It is of the figure at this number of rows, with the bias that the
    number brings. Where that bias makes up most of the figure, halves scatter up to twice as far and the interval is
    wider than it says. Of 120 pairs of 100 Gaussian rows in 20 dimensions, means a standard deviation apart, the
    interval of 95 % held the Fréchet distance's expectation in all, the bootstrap's in none.

    Args:
      See `bootstrap_interval`; at least 4 rows an array.

    Returns:
      As `bootstrap_interval`, and "extrapolated": twice the value less the halves' mean, which removes a bias that
      falls as 1 / rows (after Chong and Forsyth 2020, arXiv 1911.07023). With fewer than some five rows a dimension
      the Fréchet distance's bias falls more slowly, and much of it stays.
    """
    value, found = _resampled(statistic, arrays, resamples, level, seed, paired,
                              lambda rng, rows: rng.permutation(rows)[:rows // 2], least=4)
    low, high = _middle(value + found - found.mean(), level)
    return {"value": value, "interval": [low, high], "resamples": resamples, "level": level,
            "extrapolated": float(2 * value - found.mean())}


def frechet_interval(real: np.ndarray, generated: np.ndarray, *, resamples: int = 200, level: float = 0.95,
                     seed: int = 0, paired: bool = False) -> dict:
    """`half_sample_interval` of `features.frechet_distance`, made for many draws.

    It takes eigenvalues of the smallest square matrix that will do instead of triangular factors, at a half to a
    quarter of the time: on one core under 0.1 s a draw for the I3D features of 2048 against 2048 clips, about 0.4 s for
    the Inception features of as many images. "value" is `frechet_distance` to some 1e-7 of the sets' summed variances.

    Args:
      real, generated: [N, D] and [M, D], at least 4 rows each; the rest as in `bootstrap_interval`.
    """
    real, generated = _two_sets(real, generated, ("real", "generated"), 4)
    return half_sample_interval(quick_frechet, real, generated, resamples=resamples, level=level, seed=seed,
                                paired=paired)


def quick_frechet(a: np.ndarray, b: np.ndarray) -> float:
    """`features.frechet_distance` of float64 [N, D] and [M, D], to some 1e-7 of their summed variances."""
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    x, y = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    spread = np.sum(x * x) + np.sum(y * y)
    if len(x) > x.shape[1]:
        values, vectors = np.linalg.eigh(x.T @ x)
        x = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    cross = x @ y.T
    square = cross @ cross.T if len(x) <= len(y) else cross.T @ cross
    shared = np.sum(np.sqrt(np.maximum(np.linalg.eigvalsh(square), 0)))
    return float(np.sum((mean_a - mean_b) ** 2) + spread - 2 * shared)


def _resampled(statistic: Callable, arrays: tuple, resamples: int, level: float, seed: int, paired: bool,
               draw: Callable, least: int = 1) -> tuple[float, np.ndarray]:
    """The statistic of all rows, and of the rows that each draw(rng, number of rows) chooses."""
    arrays = tuple(np.asarray(array) for array in arrays)
    rows = [array.shape[0] if array.ndim else 0 for array in arrays]
    if not rows or min(rows) < least:
        raise UserError(f"arrays have {rows} rows; give at least one array, of at least {least} rows")
    if paired and len(set(rows)) > 1:
        raise UserError(f"arrays have {rows} rows; with paired=True they should have equally many")
    at_least("resamples", resamples, 2)
    if not 0 < level < 1:
        raise UserError(f"level={level!r} should lie between 0 and 1, such as 0.95")
    rng = np.random.default_rng(seed)
    found = np.empty(resamples)
    for i in range(resamples):
        chosen = [draw(rng, rows[0])] * len(rows) if paired else [draw(rng, n) for n in rows]
        found[i] = statistic(*(array[index] for array, index in zip(arrays, chosen)))
    return float(statistic(*arrays)), found


def _middle(values: np.ndarray, level: float) -> list[float]:
    return [float(end) for end in np.quantile(values, [(1 - level) / 2, (1 + level) / 2])]


# --------------------------------------------------------------------------------------------------- distributions

def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance of two sets of numbers: how far the one must be carried on average to become the other.

    The integral of |quantile of a - quantile of b| over all levels, exact for any two sizes.

    Args:
      a, b: [N] and [M], finite.

    Returns:
      At least 0, in the numbers' unit.
    """
    a, b = (np.sort(np.asarray(x, np.float64)) for x in (a, b))
    for name, values in (("a", a), ("b", b)):
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise UserError(f"{name} has the shape {values.shape}; it should be [N], N at least 1, of finite numbers")
    n, m = len(a), len(b)
    # Levels in units of 1 / (n m), where both quantile functions step at whole numbers.
    ends = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    return float(np.sum(np.diff(ends) * np.abs(a[ends[:-1] // m] - b[ends[:-1] // n])) / (n * m))


# ----------------------------------------------------------------------------------------------------------- forms

def _two_sets(a: np.ndarray, b: np.ndarray, names: tuple[str, str], least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64. Raises: UserError unless they are [N, D] of the same D, finite, with at least `least` rows."""
    sets = [np.asarray(x, np.float64) for x in (a, b)]
    for name, x in zip(names, sets):
        if x.ndim != 2 or len(x) < least or not x.shape[1]:
            raise UserError(f"{name} has the shape {x.shape}; it should be [N, D] with N at least {least}")
        if not np.isfinite(x).all():
            raise UserError(f"{name} has {np.sum(~np.isfinite(x))} values that are not finite; all should be")
    if sets[0].shape[1] != sets[1].shape[1]:
        raise UserError(f"{names[0]} and {names[1]} have {sets[0].shape[1]} and {sets[1].shape[1]} dimensions; "
                        "both should have the same")
    return sets[0], sets[1]


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows, so that a block of [rows, columns] holds BLOCK numbers at most, or one row."""
    size = max(1, BLOCK // columns)
    return (slice(start, start + size) for start in range(0, rows, size))
