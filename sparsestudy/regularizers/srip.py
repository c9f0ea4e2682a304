"""Spectral restricted isometry (SRIP): keep a layer's filters near an orthonormal set in the worst direction.

With ``G`` the Gram matrix of the filter matrix ``W[N, d]`` on its smaller side and ``M = G - I``, the largest squared
eigenvalue of M, by a single power step from a random start ``b ~ U[0, 1)``, drawn anew at every step::

    v = M b / |M b|        penalty  |M v|**2

In [0, sigma(M)**2]. Where `soft_orthogonality` sums over all directions, this sees only the worst. M is never formed:
``M b = W (W^T b) - b``. The schedule ``published`` multiplies the strength by 1e-3 after epoch 20, 1e-4 after 50, 1e-6
after 70 and 0 after 120, for trainings of 200 epochs; ``constant`` leaves it alone.

Source: Bansal et al. 2018 (arXiv 1810.09102), formula, schedule and strength 1e-2 VERBATIM from the authors' code for
wide residual networks. That code takes grouped convolutions too; here their filters, which see different inputs, are
left out.
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

Schedule = Literal["constant", "published"]


def isometry_defect(filters: Tensor, start: Tensor) -> Tensor:
    """``|M v|**2`` after one power step from ``[min(N, d)]``, for the rows of ``[N, d]``, a 0-d tensor.

    Example:
        >>> round(isometry_defect(2 * torch.eye(3), torch.ones(3)).item(), 4)  # G - I = 3 I
        9.0
    """
    small = filters if filters.shape[0] <= filters.shape[1] else filters.T
    ahead = small @ (small.T @ start) - start
    squares = ahead.square().sum()
    live = squares > torch.finfo(squares.dtype).tiny
    direction = ahead / torch.where(live, squares, 1).sqrt()
    return (small @ (small.T @ direction) - direction).square().sum()


def published_factor(epoch: float) -> float:
    """Factor on the strength after that many epochs.

    Example:
        >>> [published_factor(epoch) for epoch in (19.9, 20.0, 50.0, 70.0, 120.0)]
        [1.0, 0.001, 0.0001, 1e-06, 0.0]
    """
    factors = {120: 0.0, 70: 1e-6, 50: 1e-4, 20: 1e-3}
    return next((factor for start, factor in factors.items() if epoch >= start), 1.0)


class SRIP(WeightRegularizer):
    """Spectral restricted isometry of all chosen weights."""

    compares: ClassVar[bool] = True
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-4, high=1e-1, log=True)}

    strength: Single = Field(1e-2, description="Weight of the penalty, before the schedule.")
    schedule: Schedule = Field("constant", description="constant or published.")

    def penalty(self, step: Step) -> Tensor:
        """Strength, by the schedule, times the sum over chosen weights of `isometry_defect`."""
        generator = step.generator(next(iter(step.weights.values())).device)
        terms = []
        for rows in self.filters(step).values():
            start = torch.rand(min(rows.shape), generator=generator, dtype=rows.dtype, device=rows.device)
            terms.append(isometry_defect(rows, start))
        factor = 1.0 if self.schedule == "constant" else published_factor(step.epoch)
        return factor * self.summed(terms, step)
