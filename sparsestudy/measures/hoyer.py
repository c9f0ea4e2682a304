"""Hoyer sparsity of the units of one image, averaged over images: in [0, 1]; higher is sparser.

For a non-negative vector of length n (magnitudes are taken): ``(sqrt n - |a|_1 / |a|_2) / (sqrt n - 1)``. Normalised to
reach 1 for a one-hot vector whatever its length, and therefore not comparable between layers of different width the way
`sparsestudy.measures.perplexity` is (not clone-invariant). A silent image has none and is left out.

Source: Hoyer 2004; the formula VERBATIM as in public code, with the properties of Hurley and Rickard (arXiv 0811.4706).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sparsestudy.measures._activity import Activity
from sparsestudy.measures._statistic import LayerStatistic, Sums, live_sum, mean_of


def hoyer(units: Tensor) -> Tensor:
    """Hoyer sparsity of each row of ``[B, n]``, n >= 2, shape ``[B]``; NaN for a silent row.

    Example:
        >>> import torch
        >>> [round(v, 6) for v in hoyer(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0]])).tolist()]
        [0.585786, 1.0]
    """
    return _sparsity(units.abs().sum(1), units.square().sum(1), units.shape[1])


def _sparsity(total: Tensor, squares: Tensor, n: int) -> Tensor:
    root = n**0.5
    sparsity: Tensor = (root - total / squares.sqrt()) / (root - 1)
    return sparsity


class Hoyer(LayerStatistic):
    """Mean of `hoyer` over images that are not silent. Output: ``hoyer``."""

    outputs: ClassVar[tuple[str, ...]] = ("hoyer",)

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`."""
        activity = Activity.of(activations)
        return live_sum(_sparsity(activity.mass.sum(1), activity.squares, activity.maps[0].numel()))

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        return {"hoyer": mean_of(sums["total"], sums["live"])}
