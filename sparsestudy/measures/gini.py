"""Gini index of the units of one image, averaged over images: in [0, 1 - 1/n]; higher is sparser.

With the magnitudes sorted in ascending order, ``1 - 2 sum over k of (a_(k) / |a|_1) (n - k + 0.5) / n``. The only
measure of Hurley and Rickard's list that has all six of their properties; it needs a sort, which perplexity does not.
A silent image has none and is left out.

Source: Hurley and Rickard (arXiv 0811.4706), VERBATIM as in public code.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._activity import Activity, by_parts, sort_
from sparsestudy.measures._statistic import LayerStatistic, Sums, live_sum, mean_of


def gini(units: Tensor) -> Tensor:
    """Gini index of each row of ``[B, n]``, shape ``[B]``; NaN for a silent row.

    Example:
        >>> gini(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 0.0]])).tolist()
        [0.25, 0.75]
    """
    n = units.shape[1]
    ascending = sort_(units.abs())
    weights = (n - torch.arange(1, n + 1, device=units.device, dtype=units.dtype) + 0.5) / n
    return 1 - 2 * (ascending * weights).sum(1) / ascending.sum(1)


class Gini(LayerStatistic):
    """Mean of `gini` over images that are not silent. Output: ``gini``."""

    outputs: ClassVar[tuple[str, ...]] = ("gini",)

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`."""
        return live_sum(*by_parts(lambda units: (gini(units),), Activity.of(activations).units))

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        return {"gini": mean_of(sums["total"], sums["live"])}
