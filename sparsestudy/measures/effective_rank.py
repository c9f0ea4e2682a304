"""Effective rank and participation ratio: how many directions a layer's responses spread over. Higher is denser.

On the mean response of each filter to each image, ``X[B, C]``, centred over images, with singular values σ::

    effective_rank      = exp(entropy(σ / sum σ))          in [1, min(B, C)]   from σ, not its square
    participation_ratio = (sum λ)**2 / sum λ**2, λ = σ**2   in [1, C]

Undefined where all images give the same response.

Source: Roy and Vetterli 2007 for the effective rank, VERBATIM as in public code; participation ratio textbook.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._activity import Activity, by_parts
from sparsestudy.measures._statistic import LayerStatistic, Sums, eigenvalues


def ranks(eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    """Effective rank and participation ratio from the eigenvalues ``[C]`` of the centred second moments, 0-d each.

    Example:
        >>> rank, ratio = ranks(torch.tensor([3.566532**2, 1.509916**2, 0.0], dtype=torch.float64))
        >>> round(rank.item(), 5), round(ratio.item(), 5)
        (1.838, 1.34731)
    """
    sigma = eigenvalues.clamp(min=0).sqrt()
    share = sigma / sigma.sum()
    entropy = -torch.xlogy(share, share).sum()
    return entropy.exp(), eigenvalues.sum().square() / eigenvalues.square().sum()


class EffectiveRank(LayerStatistic):
    """Outputs: ``effective_rank`` and ``participation_ratio``."""

    outputs: ClassVar[tuple[str, ...]] = ("effective_rank", "participation_ratio")

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`; in float64, because centring happens at the end."""
        maps = Activity.of(activations).maps
        # The sum is taken in single precision, eight times faster, of what differs from a value nearby.
        nearby = maps[:1].mean(2, keepdim=True)
        (above,) = by_parts(lambda part: ((part - nearby).sum(2),), maps)
        responses = above.double() / maps.shape[2] + nearby.squeeze(2).double()
        return {
            "images": torch.full((), len(responses), dtype=responses.dtype, device=responses.device),
            "first": responses.sum(0),
            "second": responses.T @ responses,
        }

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        mean = sums["first"] / sums["images"]
        centred = sums["second"] / sums["images"] - mean[:, None] * mean[None, :]
        spectrum = eigenvalues(centred)
        # What rounding leaves of nothing is nothing, relative to the responses themselves.
        floor = 1e-12 * sums["second"].diagonal().amax() / sums["images"]
        rank, ratio = ranks(torch.where(spectrum <= floor, 0, spectrum))
        return {"effective_rank": rank, "participation_ratio": ratio}
