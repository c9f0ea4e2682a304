"""How often a signal and the gap put the trials of a pair in the same order, group of pairs by group of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import Array
from sparsestudy.analysis.jackknife import jackknife
from sparsestudy.analysis.pairs import Pairs, Whole, kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """How a signal ranks the pairs of ``G`` groups in which it and the gap are known.

    Attributes:
        value: Weighted mean of sign(difference of signal) * sign(difference of gap), ``[G]``; NaN without pairs.
        left_out: The same without each of the ``C`` configurations that are in any pair, ``[C, G]``.
        present: Whether each of them is in a pair of the group, ``[C, G]``.
        twice: Variance that `jackknife.jackknife` would count twice, ``[G]``.
        pairs: Their number, ``[G]``.
        effective: (Σ w)² / Σ w², ``[G]``; 0 without pairs.
    """

    value: Array
    left_out: Array
    present: NDArray[np.bool_]
    twice: Array
    pairs: Whole
    effective: Array

    @property
    def configurations(self) -> Whole:
        """How many configurations are in the pairs of each group, ``[G]``."""
        return np.asarray(self.present.sum(axis=0))

    def mean(self, groups: NDArray[np.bool_]) -> Estimate:
        """Mean over some groups that all have pairs, with its interval by the configurations in them."""
        among = self.present[:, groups].any(axis=1)
        twice = float(self.twice[groups].sum()) / int(groups.sum()) ** 2
        return jackknife(float(self.value[groups].mean()), self.left_out[among][:, groups].mean(axis=1), twice)


def agreement(pairs: Pairs, signal: Array, gap: Array, configurations: Whole) -> Agreement:
    """Agreement of a signal with the gap, group by group.

    Args:
        pairs: Of trials of different configurations.
        signal: ``[n]``; pairs in which it is NaN are left out.
        gap: ``[n]``, likewise.
        configurations: ``[n]``.
    """
    known = np.isfinite(signal) & np.isfinite(gap)
    if not known.any() or np.ptp(signal[known]) == 0 or np.ptp(gap[known]) == 0:
        known[:] = False
    pairs = kept(pairs, known[pairs.first] & known[pairs.second])
    i, j, group, weight = pairs.first, pairs.second, pairs.group, pairs.weight
    signs = np.sign(signal[i] - signal[j]) * np.sign(gap[i] - gap[j])
    groups, squares = len(pairs.names), _sums(group, weight**2, len(pairs.names))
    sums, weights = _sums(group, signs * weight, groups), _sums(group, weight, groups)
    own_sums, own_weights = _by_configuration(pairs, signs, configurations)
    value = _ratio(sums, weights)
    couples = int(pairs.couple.max(initial=-1)) + 1
    shares = _sums(pairs.couple, weight * (signs - value[group]) / weights[group], couples)
    of = np.zeros(couples, dtype=np.int64)
    of[pairs.couple] = group
    return Agreement(
        value=value,
        left_out=_ratio(sums - own_sums, weights - own_weights),
        present=own_weights > 0,
        twice=_sums(of, shares**2, groups),
        pairs=np.bincount(group, minlength=groups),
        effective=np.where(squares > 0, weights**2 / np.where(squares > 0, squares, 1.0), 0.0),
    )


def _by_configuration(pairs: Pairs, signs: Array, configurations: Whole) -> tuple[Array, Array]:
    """Sum of weighted signs, and of weights, over the pairs of each configuration that is in any, ``[C, G]`` each."""
    ends = np.concatenate([pairs.first, pairs.second])
    names, of = np.unique(configurations[ends], return_inverse=True)
    shape = (len(names), len(pairs.names))
    at = of * shape[1] + np.tile(pairs.group, 2)
    size = shape[0] * shape[1]
    weight = np.tile(pairs.weight, 2)
    sums, weights = _sums(at, np.tile(signs, 2) * weight, size), _sums(at, weight, size)
    return sums.reshape(shape), weights.reshape(shape)


def _sums(group: Whole, values: Array, groups: int) -> Array:
    return np.bincount(group, values, groups).astype(np.float64)


def _ratio(sums: Array, weights: Array) -> Array:
    some = weights > 1e-9
    return np.where(some, sums / np.where(some, weights, 1.0), np.nan)
