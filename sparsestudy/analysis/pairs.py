"""Pairs of trials in which one thing differs: what the searched parameters allow.

A grid has trials that share every hyperparameter but one. A random search has none: no two trials draw the same number.
So continuous parameters are cut into `BINS` quantile bins here, and values within a bin count as the same. What remains
of a parameter within its bin is not held fixed. A parameter that an arm does not have counts as shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsestudy.analysis.evidence import Array, Evidence

Whole = NDArray[np.int64]
BINS = 3
FEW_VALUES = 5
"""A parameter with no more values than this is not cut."""
MOST_TRIALS = 600
"""Of larger studies a random part of this size stands for all: there are enough pairs, and pairs grow as its square."""
PREFIX = "parameter/"


@dataclass(frozen=True, kw_only=True, eq=False)
class Axis:
    """One searched parameter as a few levels.

    Attributes:
        name: Of the parameter, or ``arm``.
        codes: Level of each trial, ``[n]``, -1 where the arm has no such parameter.
        levels: How each level is called.
        binned: Whether the levels are quantile bins.
    """

    name: str
    codes: Whole
    levels: tuple[str, ...]
    binned: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Pairs of trials in named groups.

    Attributes:
        first, second: Numbers of the trials, ``[P]``.
        group: Of each pair, ``[P]``.
        couple: Number of its two configurations, the same for all pairs of their replicates in a group, ``[P]``.
        weight: Of each pair, positive, ``[P]``.
        names: Of the groups.
    """

    first: Whole
    second: Whole
    group: Whole
    couple: Whole
    weight: Array
    names: tuple[str, ...]


def axes_of(evidence: Evidence) -> list[Axis]:
    """Everything the trials differ in on purpose: the arm, and each searched parameter with more than one level."""
    found = [arm_of(evidence)]
    columns = [name for name in evidence.trials.columns if name.startswith(PREFIX)]
    found += [_axis(name.removeprefix(PREFIX), evidence.trials[name]) for name in columns]
    return [axis for axis in found if len(axis.levels) > 1]


def arm_of(evidence: Evidence) -> Axis:
    """The arm, whether or not there are several."""
    return _named("arm", evidence.trials["arm"])


def _axis(name: str, column: pd.Series) -> Axis:
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    present = column.notna()
    if not np.isfinite(numbers[present]).all() or numbers[present].nunique() <= FEW_VALUES:
        return _named(name, column)
    values = numbers.to_numpy()
    # Every configuration counts once, whatever its replicates.
    cuts = np.unique(np.quantile(np.unique(values[present]), np.arange(1, BINS) / BINS))
    codes = np.where(present, np.searchsorted(cuts, values, side="right"), -1)
    edges = [f"{cut:.3g}" for cut in cuts]
    levels = (
        f"below {edges[0]}",
        *(f"{a} to {b}" for a, b in pairwise(edges)),
        f"from {edges[-1]}",
    )
    return Axis(name=name, codes=codes.astype(np.int64), levels=levels, binned=True)


def _named(name: str, column: pd.Series) -> Axis:
    codes, values = pd.factorize(column, sort=False)
    return Axis(name=name, codes=codes.astype(np.int64), levels=tuple(str(v) for v in values), binned=False)


def part_of(configurations: Whole, most: int = MOST_TRIALS) -> NDArray[np.bool_]:
    """Which trials to take of a large study: whole configurations, drawn at random with a fixed seed, ``[n]``."""
    if len(configurations) <= most:
        return np.ones(len(configurations), dtype=bool)
    names, of, sizes = np.unique(configurations, return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    chosen = order[np.cumsum(sizes[order]) <= most]
    return np.isin(of, chosen if len(chosen) else order[:1])


def single_axis(axes: Sequence[Axis], configurations: Whole) -> Pairs:
    """Pairs of trials whose levels differ on exactly one axis, grouped by that axis."""
    n = len(configurations)
    count = np.zeros((n, n), dtype=np.int16)
    differ = [_differ(axis.codes) for axis in axes]
    for table in differ:
        count += table
    single = np.triu(count == 1, 1)
    found = [np.nonzero(single & table) for table in differ]
    return _gathered(found, [axis.name for axis in axes], configurations)


def between_levels(pairs: Pairs, axes: Sequence[Axis]) -> Pairs:
    """The pairs of `single_axis`, grouped by the two levels between which they change."""
    codes = np.stack([axis.codes for axis in axes], axis=1) if axes else np.empty((0, 0), dtype=np.int64)
    ends = np.sort(np.stack([codes[pairs.first, pairs.group], codes[pairs.second, pairs.group]], axis=1), axis=1)
    changes, group = np.unique(np.column_stack([pairs.group, ends]), axis=0, return_inverse=True)
    names = tuple(f"{axes[a].name}: {axes[a].levels[low]} / {axes[a].levels[high]}" for a, low, high in changes)
    return replace(pairs, group=group.reshape(-1), names=names)


def within_levels(axis: Axis, configurations: Whole) -> Pairs:
    """Pairs of trials of different configurations on the same level of an axis, grouped by that level."""
    other = np.triu(configurations[:, None] != configurations[None, :], 1)
    found = [
        np.nonzero(other & np.logical_and.outer(on, on)) for on in (axis.codes == i for i in range(len(axis.levels)))
    ]
    return _gathered(found, [f"{axis.name}: {level}" for level in axis.levels], configurations)


def joined(one: Pairs, other: Pairs) -> Pairs:
    """The groups of both."""
    return Pairs(
        first=np.concatenate([one.first, other.first]),
        second=np.concatenate([one.second, other.second]),
        group=np.concatenate([one.group, other.group + len(one.names)]),
        couple=np.concatenate([one.couple, other.couple + one.couple.max(initial=-1) + 1]),
        weight=np.concatenate([one.weight, other.weight]),
        names=one.names + other.names,
    )


def kept(pairs: Pairs, which: NDArray[np.bool_]) -> Pairs:
    """Some of the pairs, ``which`` being ``[P]``, in the same groups."""
    return replace(
        pairs,
        first=pairs.first[which],
        second=pairs.second[which],
        group=pairs.group[which],
        couple=pairs.couple[which],
        weight=pairs.weight[which],
    )


def _differ(codes: Whole) -> NDArray[np.bool_]:
    known = codes >= 0
    return np.asarray((codes[:, None] != codes[None, :]) & known[:, None] & known[None, :])


def _gathered(found: Sequence[tuple[Whole, ...]], names: Sequence[str], configurations: Whole) -> Pairs:
    sizes = [len(pair[0]) for pair in found]
    first, second = (np.concatenate([pair[i] for pair in found] or [np.empty(0, dtype=np.int64)]) for i in (0, 1))
    group = np.repeat(np.arange(len(found)), sizes)
    low, high = np.sort(np.stack([configurations[first], configurations[second]]), axis=0)
    span = int(configurations.max(initial=0)) + 1
    return Pairs(
        first=first,
        second=second,
        group=group,
        couple=np.unique((group * span + low) * span + high, return_inverse=True)[1],
        weight=np.ones(len(first)),
        names=tuple(names),
    )
