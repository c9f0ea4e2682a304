"""Treves-Rolls sparsity: one minus the squared mean over the mean square, in [0, 1 - 1/n]; higher is sparser.

Population: over the units of one image, averaged over images. Lifetime: over images for the mass of one filter (the sum
of its map), averaged over filters; it depends on how many images there are, so compare it on one probe set only.
``1 - (mean a)**2 / mean(a**2)``, magnitudes taken. Equal to one minus Hoyer-square over n. Vinje and Gallant divide by
1 - 1/n, which this does not: unnormalised it is clone-invariant.

Source: Treves and Rolls, Willmore and Tolhurst, Vinje and Gallant; VERBATIM as in public code that cites them.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._activity import Activity
from sparsestudy.measures._statistic import LayerStatistic, Sums, live_sum, mean_of


def treves_rolls(units: Tensor) -> Tensor:
    """Treves-Rolls sparsity of each row of ``[B, n]``, shape ``[B]``; NaN for a silent row.

    Example:
        >>> [round(v, 6) for v in treves_rolls(torch.tensor([[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0]])).tolist()]
        [0.166667, 0.0]
    """
    return _sparsity(units.abs().sum(1), units.square().sum(1), units.shape[1])


def _sparsity(total: Tensor, squares: Tensor, n: int | Tensor) -> Tensor:
    # Rounding can put a constant vector at -1e-8.
    return (1 - total.square() / (n * squares)).clamp(min=0)


class TrevesRolls(LayerStatistic):
    """Population and lifetime sparsity. Outputs: ``treves_rolls``, ``treves_rolls_lifetime``."""

    outputs: ClassVar[tuple[str, ...]] = ("treves_rolls", "treves_rolls_lifetime")

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`."""
        activity = Activity.of(activations)
        mass = activity.mass
        return {
            **live_sum(_sparsity(mass.sum(1), activity.squares, activity.maps[0].numel())),
            "images": torch.full((), len(mass), dtype=mass.dtype, device=mass.device),
            "mass": mass.sum(0),
            "mass_squares": mass.square().sum(0),
        }

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        lifetime = live_sum(_sparsity(sums["mass"], sums["mass_squares"], sums["images"]))
        return {
            "treves_rolls": mean_of(sums["total"], sums["live"]),
            "treves_rolls_lifetime": mean_of(lifetime["total"], lifetime["live"]),
        }
