"""Zero fraction: share of activations that are exactly zero, in [0, 1]; higher is sparser.

Source: textbook (L0 with epsilon 0, as NeuroBench's activation sparsity). For smooth non-linearities such as GELU it is
0 by construction and says nothing.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._activity import Activity
from sparsestudy.measures._statistic import LayerStatistic, Sums, mean_of


def zero_fraction(activations: Tensor) -> Tensor:
    """Share of entries equal to zero, a 0-d tensor.

    Example:
        >>> zero_fraction(torch.tensor([[0.0, 2.0, 0.0, 1.0]])).item()
        0.5
    """
    return (activations == 0).float().mean()


class ZeroFraction(LayerStatistic):
    """`zero_fraction` over any number of batches. Output: ``zero_fraction``."""

    outputs: ClassVar[tuple[str, ...]] = ("zero_fraction",)

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`."""
        activity = Activity.of(activations)
        count = torch.full((), activity.maps.numel(), dtype=torch.float64, device=activity.maps.device)
        return {"zeros": count - activity.active.sum(), "count": count}

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        return {"zero_fraction": mean_of(sums["zeros"], sums["count"])}
