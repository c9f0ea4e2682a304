"""Weight correlation: keep the filters of a layer from pointing the same way or opposite ways.

For each chosen weight ``strength * mean over pairs i < j of c_ij**2``, in [0, 1], with c the cosine between two rows of
the filter matrix ``W[N, d]``. Zero filters are left out. The norms of filters are free, unlike in `soft_orthogonality`,
and near pairs do not dominate as they do in `mhe`. More filters than dimensions (N > d) cannot all be orthogonal: the
least there is ``(N / d - 1) / (N - 1)``.

Source: the same thought as `filter_correlation`, taken from maps to weights. ASSUMED: Huesmann et al. 2020 (arXiv
2002.09237) name filter correlation, and not whether it is one of maps or of weights.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import Single, WeightRegularizer
from sparsestudy.regularizers._step import Step
from sparsestudy.regularizers.basis_collapse import collapse
from sparsestudy.space import Domain, Uniform


def mean_squared_cosine(filters: Tensor) -> Tensor:
    """Mean over pairs of rows of ``[N, d]``, a 0-d tensor; 0 if fewer than two are not zero.

    Example:
        >>> import torch
        >>> round(mean_squared_cosine(torch.tensor([[1.0, 0.0], [2.0, 2.0]])).item(), 6)
        0.5
    """
    return collapse(filters.T)  # collapse takes vectors as columns


class WeightCorrelation(WeightRegularizer):
    """Squared cosine between the filters of all chosen weights."""

    compares: ClassVar[bool] = True
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-2, high=10.0, log=True)}

    strength: Single = Field(1.0, description="Weight of the penalty.")

    def penalty(self, step: Step) -> Tensor:
        """Strength times the sum over chosen weights of `mean_squared_cosine`."""
        return self.summed([mean_squared_cosine(filters) for filters in self.filters(step).values()], step)
