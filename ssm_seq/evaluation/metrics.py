"""Accuracy, confusion and bits per byte, with bootstrap intervals.

What is drawn anew: the windows of one record (a genome, a recording) are not independent of one another, so
whole records are drawn, with all their windows. The classes keep their shares of the windows, since the test
set was made with them. Where a class has one record only, its windows are drawn instead: the interval then
says what other windows of that record would change, and nothing about other records.

Percentile intervals (Efron & Tibshirani 1993, chapter 13) are too narrow for very few records, and have no
width where every window is right.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

_AT_ONCE = 1 << 22  # drawn counts in memory at a time


class Interval(NamedTuple):
    """A figure with the bounds of its interval."""

    value: float
    low: float
    high: float


def bootstrap_ratio(
    sums: NDArray[Any],
    counts: NDArray[Any],
    groups: NDArray[np.integer],
    strata: NDArray[np.integer] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """sum(sums) / sum(counts) with a percentile interval from a stratified bootstrap of groups of items.

    Args:
        sums, counts: (n,), of each item; n >= 1.
        groups: (n,), the group of each item, drawn with replacement as a whole (see above for single groups).
        strata: (n,), draws stay inside a stratum, which keeps its share of all counts; one stratum if None.
        resamples, seed: how often to draw, and the draws' seed.

    Raises:
        ValueError: nothing is counted.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    total = counts.sum()
    if not total:
        raise ValueError("there is nothing to average")
    random = np.random.default_rng(seed)
    strata = np.zeros(len(counts), np.int64) if strata is None else strata
    drawn = np.zeros(resamples)
    for stratum in np.unique(strata):
        here = (strata == stratum) & (counts > 0)
        if share := counts[here].sum() / total:
            drawn += share * _draw(sums[here], counts[here], groups[here], resamples, random)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(sums.sum() / total), float(low), float(high))


def _draw(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    groups: NDArray[np.integer],
    resamples: int,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """The ratio in each draw of whole groups, or of items where there is one group, (resamples,)."""
    members = np.unique(groups, return_inverse=True)[1]
    if members.any():
        sums, counts = np.bincount(members, sums), np.bincount(members, counts)
    n = len(counts)
    ratios = []
    for start in range(0, resamples, step := max(1, _AT_ONCE // n)):
        times = random.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - start))
        ratios.append(times @ sums / (times @ counts))
    return np.concatenate(ratios)


def accuracy(
    truth: NDArray[np.integer],
    predicted: NDArray[np.integer],
    groups: NDArray[np.integer],
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The share of right predictions, (n,) against (n,) classes; groups: (n,), each window's record."""
    return bootstrap_ratio(truth == predicted, np.ones(len(truth)), groups, truth, resamples, seed)


def confusion(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """How often each true class (row) was taken for each class (column), (classes, classes)."""
    return confusion_matrix(truth, predicted, labels=np.arange(classes))


def bits_per_byte(
    bits: NDArray[np.floating],
    known: NDArray[np.bool_],
    groups: NDArray[np.integer],
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Mean of `bits` (windows, positions) where `known`; groups: (windows,), each window's record."""
    return bootstrap_ratio((bits * known).sum(1), known.sum(1), groups, None, resamples, seed)


def by_context(bits: NDArray[np.floating], known: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Bits per byte by how much of the window came before.

    bits, known: (windows, positions); column i has i + 1 bytes of context. One entry for each doubling of the
    context: `position` p stands for p to 2p - 1 bytes of it.
    """
    curve = []
    for power in range(int(math.log2(bits.shape[1])) + 1):
        columns = slice(2**power - 1, 2 ** (power + 1) - 1)
        if count := int(known[:, columns].sum()):
            total = float((bits[:, columns] * known[:, columns]).sum(dtype=np.float64))
            curve.append({"position": 2**power, "bits_per_byte": total / count})
    return curve
