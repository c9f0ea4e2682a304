"""Zero fraction: share of activations that are exactly zero, in [0, 1]; higher is sparser.

Source: textbook (L0 with epsilon 0, as NeuroBench's activation sparsity). For smooth non-linearities such as GELU it is
0 by construction and says nothing.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._statistic import LayerStatistic, Sums, as_maps, mean_of


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

    def update(self, activations: Tensor) -> Sums:
        """See `LayerStatistic.update`."""
        maps = as_maps(activations)
        # Counts are kept in float64: float32 stops counting at 2**24.
        zeros = (maps == 0).sum(dtype=torch.float64)
        return {"zeros": zeros, "count": torch.full_like(zeros, maps.numel())}

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        return {"zero_fraction": mean_of(sums["zeros"], sums["count"])}
