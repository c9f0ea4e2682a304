"""Filter correlation: keep the maps of a layer's filters from saying the same.

For each chosen layer ``strength * mean over pairs i < j of R_ij**2``, in [0, 1], where each filter is one long vector
over the images of the batch and its positions, and R is their

- ``pearson`` correlation, as in the measure of the same name (`sparsestudy.measures.filter_correlation`), or their
- ``cosine``, which is the correlation form of `basis_collapse`: near 1 for non-negative maps whatever they show, so
  that strengths above 1 can silence a small network.

Filters that are constant (dead) in a batch are left out. It does not change if a filter's maps are scaled, so it cannot
be met by shrinking activations. A batch must have several times as many samples (images times positions) as filters,
or most of R is noise: its square is about ``1 / samples`` by chance alone.

Source: Huesmann et al. 2020 (arXiv 2002.09237) name filter correlation, VERBATIM, as a cause of overfitting that is
counteracted layer by layer. How they compute and penalise it is not public to us: both forms are ASSUMED.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.measures.filter_correlation import FilterCorrelation as Statistic
from sparsestudy.measures.filter_correlation import correlation
from sparsestudy.regularizers._regularizer import LayerRegularizer, OverRanks, PerLayer, Reads, is_zero
from sparsestudy.regularizers._step import Step
from sparsestudy.regularizers.basis_collapse import collapse
from sparsestudy.space import Domain, Uniform

Form = Literal["pearson", "cosine"]


def mean_squared_correlation(activations: Tensor, form: Form = "pearson") -> Tensor:
    """Mean over pairs of filters of ``[B, C, *spatial]`` or ``[B, C]``, a 0-d tensor; 0 if fewer than two vary.

    Example:
        >>> maps = torch.tensor([[1.0, 2.0, 5.0], [2.0, 4.0, 5.0]])  # the third is constant
        >>> round(mean_squared_correlation(maps).item(), 6)
        1.0
    """
    if form == "cosine":
        return collapse(activations)
    matrix, varies = correlation(Statistic().update(activations))
    total = matrix.square().sum() - matrix.diagonal().square().sum()
    filters = varies.sum(dtype=matrix.dtype)
    mean = total / (filters * (filters - 1)).clamp(min=1)
    return mean if activations.dtype == torch.float64 else mean.float()


class FilterCorrelation(LayerRegularizer):
    """Penalty on the correlation between the filters of chosen layers."""

    reads: ClassVar[Reads] = "activations"
    over_ranks: ClassVar[OverRanks] = "gather"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-2, high=3.0, log=True)}

    strength: PerLayer = Field(1.0, description="Weight of the penalty.")
    form: Form = Field("pearson", description="pearson or cosine.")

    def obstacle(self, shape: tuple[int, ...]) -> str:
        """Correlation needs two filters."""
        return "it has a single filter, and filters are compared with each other" if shape[0] < 2 else ""

    def penalty(self, step: Step) -> Tensor | None:
        """Sum over chosen layers of strength times `mean_squared_correlation`, None if all strengths are 0."""
        terms = [
            strength * mean_squared_correlation(activations, self.form)
            for layer, activations in self.chosen(step.activations)
            if not is_zero(strength := self.strength_of(layer))
        ]
        return torch.stack(terms).sum() if terms else None
