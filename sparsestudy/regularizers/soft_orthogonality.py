"""Soft orthogonality: pull the filters of a layer towards an orthonormal set.

With ``G`` the Gram matrix of the filter matrix ``W[N, d]`` on its smaller side (``W W^T`` if N <= d, else ``W^T W``)::

    so            |G - I|_F**2
    dso           the same on both sides, added
    off_diagonal  |G o (1 - I)|_F**2, which leaves the norms free

Source: soft orthogonality SO and DSO as in Bansal et al. 2018, DERIVED; off-diagonal form standard.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import Single, WeightRegularizer
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform

Form = Literal["so", "dso", "off_diagonal"]


def soft_orthogonality(filters: Tensor, form: Form = "so") -> Tensor:
    """Distance of the rows of ``[N, d]`` from orthogonality, a 0-d tensor.

    Example:
        >>> soft_orthogonality(torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5]])).item()
        0.625
    """
    small = filters if filters.shape[0] <= filters.shape[1] else filters.T
    sides = [small, small.T] if form == "dso" else [small]
    terms = []
    for side in sides:
        gram = side @ side.T
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        terms.append((gram * (1 - identity) if form == "off_diagonal" else gram - identity).square().sum())
    return torch.stack(terms).sum()


class SoftOrthogonality(WeightRegularizer):
    """Soft orthogonality of all chosen weights."""

    compares: ClassVar[bool] = True
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-5, high=1e-2, log=True)}

    strength: Single = Field(1e-3, description="Weight of the penalty.")
    form: Form = Field("so", description="so, dso or off_diagonal.")

    def penalty(self, step: Step) -> Tensor:
        """Strength times the sum over chosen weights of `soft_orthogonality`."""
        return self.summed([soft_orthogonality(filters, self.form) for filters in self.filters(step).values()], step)
