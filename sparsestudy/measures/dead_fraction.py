"""Dead fraction: share of channels that are zero on every example of the probe set, in [0, 1].

Source: textbook. A dead rectified unit receives no gradient, so no penalty on activations can revive it; report it
beside any sparsity, which is undefined for a layer that is dead altogether.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sparsestudy.measures._activity import Activity, as_maps
from sparsestudy.measures._statistic import LayerStatistic, Sums


def dead_fraction(activations: Tensor) -> Tensor:
    """Share of channels without a single non-zero activation in ``[B, C, *spatial]``, a 0-d tensor.

    Example:
        >>> import torch
        >>> dead_fraction(torch.tensor([[0.0, 2.0], [0.0, 0.0]])).item()
        0.5
    """
    return (as_maps(activations) != 0).any(2).any(0).logical_not().float().mean()


class DeadFraction(LayerStatistic):
    """`dead_fraction` over any number of batches. Output: ``dead_fraction``."""

    outputs: ClassVar[tuple[str, ...]] = ("dead_fraction",)

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`."""
        return {"active": Activity.of(activations).active}

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        return {"dead_fraction": (sums["active"] == 0).double().mean()}
