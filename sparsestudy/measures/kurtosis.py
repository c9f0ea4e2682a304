"""Kurtosis of the units of one image, averaged over images; higher is sparser.

``kurtosis`` is Hurley and Rickard's ``sum a**4 / (sum a**2)**2``, in (0, 1], 1 for a one-hot vector.
``kurtosis_excess`` is the textbook ``mean((a - mean)**4) / var**2 - 3``, unbounded, 0 for a normal distribution;
undefined where all units are equal. Neither falls whenever the rich give to the poor (Hurley and Rickard), so neither
is a measure of sparsity to optimise. A silent image has none and is left out.

Source: Hurley and Rickard (arXiv 0811.4706) and textbook; VERBATIM as in public code.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._activity import Activity, by_parts
from sparsestudy.measures._statistic import LayerStatistic, Sums, live_sum, mean_of


def kurtosis(units: Tensor) -> Tensor:
    """``sum a**4 / (sum a**2)**2`` of each row of ``[B, n]``, shape ``[B]``; NaN for a silent row.

    Example:
        >>> kurtosis(torch.tensor([[1.0, 1.0, 0.0, 0.0]])).tolist()
        [0.5]
    """
    # Scaled first: the fourth power of 1e10 is beyond single precision.
    second, fourth = _powers(units / _peak(units))
    return fourth / second.square()


def excess_kurtosis(units: Tensor) -> Tensor:
    """``mean((a - mean)**4) / var**2 - 3`` of each row of ``[B, n]``, shape ``[B]``; NaN where all are equal.

    Example:
        >>> round(excess_kurtosis(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).item(), 6)
        -1.36
    """
    centred = units - units.mean(1, keepdim=True)
    spread = _peak(centred)
    # What is left of equal numbers after rounding is no spread.
    equal = spread <= 8 * torch.finfo(units.dtype).eps * _peak(units)
    second, fourth = _powers(centred / torch.where(equal, torch.nan, spread))
    return units.shape[1] * fourth / second.square() - 3


def _peak(units: Tensor) -> Tensor:
    """Largest magnitude of each row, ``[B, 1]``, without a copy of the magnitudes."""
    return torch.maximum(units.amax(1, keepdim=True), -units.amin(1, keepdim=True))


def _powers(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the second and of the fourth powers of each row."""
    squares = scaled.square()
    return squares.sum(1), squares.square().sum(1)


class Kurtosis(LayerStatistic):
    """Means of both over images where they are defined. Outputs: ``kurtosis``, ``kurtosis_excess``."""

    outputs: ClassVar[tuple[str, ...]] = ("kurtosis", "kurtosis_excess")

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`."""
        units = Activity.of(activations).units
        plain, excess = by_parts(lambda part: (kurtosis(part), excess_kurtosis(part)), units)
        found = live_sum(excess)
        return {**live_sum(plain), "excess": found["total"], "excess_live": found["live"]}

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        return {
            "kurtosis": mean_of(sums["total"], sums["live"]),
            "kurtosis_excess": mean_of(sums["excess"], sums["excess_live"]),
        }
