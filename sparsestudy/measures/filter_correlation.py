"""Filter correlation: mean magnitude of the Pearson correlation between the maps of two filters, in [0, 1].

Each filter is one long vector over images and positions. Filters that are constant on the probe set (dead ones) have no
correlation and are left out; with fewer than two others the measure is undefined. Pearson, not cosine: the cosine of
non-negative maps is near 1 whatever they show. With few samples chance alone gives about ``0.8 / sqrt(samples)``.

Source: Huesmann et al. 2020 (arXiv 2002.09237) name filter correlation, VERBATIM, as a second cause of overfitting. How
they compute it is not public to us: this definition is ASSUMED.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._activity import Activity
from sparsestudy.measures._statistic import LayerStatistic, Sums, mean_of


def correlation(sums: Sums) -> tuple[Tensor, Tensor]:
    """Pearson matrix ``[C, C]`` and which filters are not constant ``[C]``, from the sums of `FilterCorrelation`.

    Rows and columns of constant filters are 0.
    """
    mean = sums["first"] / sums["count"]
    covariance = sums["second"] / sums["count"] - mean[:, None] * mean[None, :]
    variance = covariance.diagonal()
    scale = (sums["second"].diagonal() / sums["count"]).clamp(min=torch.finfo(variance.dtype).tiny)
    varies = variance > 1e-9 * scale  # what rounding leaves of a constant
    deviation = torch.where(varies, variance, 1).sqrt()
    matrix = covariance / (deviation[:, None] * deviation[None, :])
    return torch.where(varies[:, None] & varies[None, :], matrix.clamp(-1, 1), 0), varies


class FilterCorrelation(LayerStatistic):
    """Mean magnitude over pairs of filters that vary. Output: ``filter_correlation``."""

    outputs: ClassVar[tuple[str, ...]] = ("filter_correlation",)

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`; second moments in float64, because a small variance is a small difference."""
        activity = Activity.of(activations)
        samples = activity.maps.shape[0] * activity.maps.shape[2]
        first, second = activity.moments
        return {"count": torch.full_like(first[0], samples), "first": first, "second": second}

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        matrix, varies = correlation(sums)
        total = matrix.abs().sum() - matrix.diagonal().abs().sum()
        filters = varies.sum(dtype=matrix.dtype)
        return {"filter_correlation": mean_of(total, filters * (filters - 1))}
