"""Confidence intervals of differences. Pure; random numbers have a fixed seed, so that the same runs always
give the same answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 4000
SEED: Final = 8
# The 0.975 quantile of the normal distribution.
Z: Final = 1.959964


def percentile_difference(
    first: Sequence[int], second: Sequence[int], percent: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bootstrap interval of how much larger the nearest-rank percentile of ascending ``second`` is.

    A resample is not drawn: the k-th smallest of n numbers drawn with replacement is the one at place
    ⌊n·U⌋ of the originals, U being Beta(k, n + 1 - k), so that is drawn instead (Efron 1979, and David and
    Nagaraja, Order Statistics, 2.1). It takes sessions for independent, which those of one burst are not:
    see :mod:`lk_users.compare.rules` for what is made of it. Neither may be empty.
    """
    rng = np.random.default_rng(SEED)
    drawn = _resampled(second, percent, rng) - _resampled(first, percent, rng)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail], method="nearest")
    return float(low), float(high)


def _resampled(
    ordered: Sequence[int], percent: int, rng: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    n = len(ordered)
    rank = max(1, math.ceil(percent * n / 100))
    places = np.minimum(n - 1, (n * rng.beta(rank, n + 1 - rank, RESAMPLES)).astype(np.int64))
    return np.asarray(ordered, np.int64)[places]


def mean_difference(
    first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Student's interval of how much larger the mean of ``second`` is, with one variance for both.

    One of them may have a single value, then the other's scatter stands for it. Needs three values in all.
    """
    degrees = len(first) + len(second) - 2
    means = sum(first) / len(first), sum(second) / len(second)
    squares = sum((value - means[0]) ** 2 for value in first) + sum(
        (value - means[1]) ** 2 for value in second
    )
    error = math.sqrt(squares / degrees * (1 / len(first) + 1 / len(second)))
    reach = student_quantile(0.5 + confidence / 2, degrees) * error
    return means[1] - means[0] - reach, means[1] - means[0] + reach


def student_quantile(probability: float, degrees: int) -> float:
    """Of Student's distribution, for 0.5 <= probability < 1 and a whole number of degrees of freedom."""
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, degrees) < probability else (low, middle)
    return high


def student_cdf(t: float, degrees: int) -> float:
    """For t >= 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    if degrees % 2:
        total, term = 0.0, cosine
        for step in range(1, degrees - 1, 2):
            total += term
            term *= cosine**2 * (step + 1) / (step + 2)
        inside = 2 / math.pi * (angle + sine * total)
    else:
        total, term = 0.0, 1.0
        for step in range(0, degrees - 1, 2):
            total += term
            term *= cosine**2 * (step + 1) / (step + 2)
        inside = sine * total
    return 0.5 + inside / 2


def rate_difference(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """95 % interval of how much larger the second rate is; each is (count, of).

    Newcombe's method 10 (Statistics in Medicine 17, 1998), from Wilson's intervals of either.
    """
    rates = [count / of for count, of in (first, second)]
    (low_1, high_1), (low_2, high_2) = (_wilson(count, of) for count, of in (first, second))
    difference = rates[1] - rates[0]
    return (
        difference - math.hypot(rates[1] - low_2, high_1 - rates[0]),
        difference + math.hypot(high_2 - rates[1], rates[0] - low_1),
    )


def _wilson(count: int, of: int) -> tuple[float, float]:
    rate, square = count / of, Z * Z / of
    middle = (rate + square / 2) / (1 + square)
    reach = Z / (1 + square) * math.sqrt(rate * (1 - rate) / of + square / (4 * of))
    return max(0.0, middle - reach), min(1.0, middle + reach)
