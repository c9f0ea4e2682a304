"""What the order of two trials by a signal says on their order by the gap, hyperparameters known. After Jiang et al.

Jiang et al., Fantastic Generalization Measures and Where to Find Them (ICLR 2020, arXiv 1912.02178). With V the sign of
the difference of two trials and U their levels on the axes in S, the normalised conditional mutual information is
I(V_signal, V_gap | U) / H(V_gap | U); the score of a signal is its least value over all S of at most two axes. VERBATIM
as in the first author's scoring program of the Predicting Generalization in Deep Learning competition (2020), but that
takes S of two axes exactly and a plain mean over levels; the mean here is weighted by the pairs of each level, which on
a full grid is the same (DERIVED). ASSUMED: ties are left out, and at most `MOST_AXES` axes take part, those that
explain most of the gap.

Such information is never negative, and the fewer trials, the larger it is by chance. So it comes with the largest value
among `SHUFFLES` studies in which configurations have exchanged their signal, a permutation test at 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import special

from sparsestudy.analysis.evidence import Array
from sparsestudy.analysis.jackknife import FEWEST, numbered
from sparsestudy.analysis.pairs import Axis, Whole, part_of

MOST_AXES = 6
MOST_TRIALS = 150
"""Of larger studies a random part of this size stands for all."""
FEWEST_TRIALS = 20
SHUFFLES = 19


@dataclass(frozen=True, kw_only=True)
class Information:
    """How much of the order of gaps a signal tells.

    Attributes:
        value: Least normalised conditional mutual information, in [0, 1]; None if it cannot be said.
        chance: The largest among `SHUFFLES` values without relation; a ``value`` above it has p = 0.05.
        given: Axes at which it is least.
        trials: How many there were to take pairs from.
        reason: Why there is none; empty otherwise.
    """

    value: float | None = None
    chance: float | None = None
    given: tuple[str, ...] = ()
    trials: int = 0
    reason: str = ""


def information(signal: Array, gap: Array, axes: Sequence[Axis], configurations: Whole) -> Information:
    """Least conditional mutual information of the orders by a signal and by the gap.

    Args:
        signal: ``[n]``, NaN where it is undefined.
        gap: ``[n]``, likewise.
        axes: Searched parameters as levels, ``[n]`` each.
        configurations: ``[n]``.
    """
    known = np.isfinite(signal) & np.isfinite(gap)
    known[known] = part_of(configurations[known], MOST_TRIALS)
    signal, gap, clusters = signal[known], gap[known], numbered(configurations[known])
    if len(gap) < FEWEST_TRIALS or clusters.max(initial=-1) + 1 < FEWEST:
        return Information(trials=len(gap), reason=f"fewer than {FEWEST_TRIALS} trials or {FEWEST} configurations")
    if np.ptp(signal) == 0 or np.ptp(gap) == 0:
        return Information(trials=len(gap), reason="undefined: one of the two does not vary")
    sets = _sets([(axis.name, axis.codes[known]) for axis in axes], gap)
    value, given = _least(signal, gap, sets)
    random = np.random.default_rng(0)
    chance = max(_least(signal[_exchanged(clusters, random)], gap, sets)[0] for _ in range(SHUFFLES))
    return Information(value=value, chance=chance, given=given, trials=len(gap))


def _sets(axes: Sequence[tuple[str, Whole]], gap: Array) -> list[tuple[tuple[str, ...], Array]]:
    """All sets of at most two axes, with the levels of the trials as indicators ``[n, K]``."""
    telling = sorted(axes, key=lambda axis: -_explained(axis[1], gap))[:MOST_AXES]
    found = []
    for size in (0, 1, 2):
        for chosen in combinations(telling, size):
            codes = np.stack([codes for _, codes in chosen], axis=1) if chosen else np.zeros((len(gap), 1), dtype=int)
            of = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
            found.append((tuple(name for name, _ in chosen), np.eye(of.max() + 1, dtype=np.float32)[of]))
    return found


def _explained(codes: Whole, gap: Array) -> float:
    """Sum of squares between the levels of an axis."""
    of = numbered(codes)
    sizes = np.bincount(of)
    return float((np.bincount(of, gap - gap.mean()) ** 2 / sizes).sum())


def _least(signal: Array, gap: Array, sets: Sequence[tuple[tuple[str, ...], Array]]) -> tuple[float, tuple[str, ...]]:
    """The least normalised information over the sets, and where; 0 where no pair is left."""
    larger, more = gap[:, None] > gap[None, :], signal[:, None] > signal[None, :]
    indicators = np.concatenate([indicator for _, indicator in sets], axis=1)
    same = (larger & more).astype(np.float32) @ indicators
    opposite = (larger & more.T).astype(np.float32) @ indicators
    found: list[tuple[float, tuple[str, ...]]] = []
    start = 0
    for names, indicator in sets:
        stop = start + indicator.shape[1]
        score = _normalised(indicator.T @ same[:, start:stop], indicator.T @ opposite[:, start:stop])
        if score is not None:
            found.append((score, names))
        start = stop
    return min(found, key=lambda pair: pair[0], default=(0.0, ()))


def _normalised(same: Array, opposite: Array) -> float | None:
    """I / H from the numbers of pairs with both larger, and with the larger gap only, ``[K, K]`` by their levels."""
    # A pair the other way round: levels change places and so do larger and smaller.
    table = np.stack([same, opposite, opposite.T, same.T]).reshape(2, 2, -1).astype(np.float64)
    total = table.sum()
    if total == 0:
        return None
    by_gap, by_signal, by_level = table.sum(axis=1), table.sum(axis=0), table.sum(axis=(0, 1))

    def entropy(counts: Array) -> float:
        return -float(special.xlogy(counts, counts / total).sum()) / float(total)

    level = entropy(by_level)
    uncertain = entropy(by_gap) - level
    shared = uncertain + entropy(by_signal) - entropy(table)
    return float(np.clip(shared / uncertain, 0.0, 1.0)) if uncertain > 1e-12 else None


def _exchanged(clusters: Whole, random: np.random.Generator) -> Whole:
    """Trials whose signal each trial gets when configurations exchange theirs, replicate by replicate."""
    order = np.argsort(clusters, kind="stable")
    sizes = np.bincount(clusters)
    starts = np.cumsum(sizes) - sizes
    replicate = np.empty_like(clusters)
    replicate[order] = np.arange(len(clusters)) - np.repeat(starts, sizes)
    other = random.permutation(len(sizes))[clusters]
    return order[starts[other] + replicate % sizes[other]]
