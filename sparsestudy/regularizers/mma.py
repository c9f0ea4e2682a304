"""Maximise the minimal angle: push each filter away from the one nearest to it.

``-mean over i of arccos(max over j != i of c_ij)``, in radians, with the cosine clamped to +-0.99999, where the
gradient of the arc cosine would grow without bound. In [-pi, 0]; lower is more diverse.

Source: Wang et al. 2020, VERBATIM from the authors' code, which uses 0.07 without skip connections and 0.03 with them.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import Single, WeightRegularizer
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform


def minimal_angle(filters: Tensor) -> Tensor:
    """Mean over the rows of ``[N, d]``, N >= 2, of the angle to the nearest other row, in radians, a 0-d tensor.

    Example:
        >>> round(minimal_angle(torch.eye(3)).item(), 6)
        1.570796
    """
    unit = torch.nn.functional.normalize(filters, dim=1)
    self_pairs = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    nearest = (unit @ unit.T).masked_fill(self_pairs, -2).amax(1)
    return nearest.clamp(-0.99999, 0.99999).arccos().mean()


class MMA(WeightRegularizer):
    """Minimal angle of all chosen weights."""

    compares: ClassVar[bool] = True
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-3, high=1.0, log=True)}

    strength: Single = Field(0.07, description="Weight of the penalty.")

    def penalty(self, step: Step) -> Tensor:
        """Strength times the sum over chosen weights of the negative `minimal_angle`."""
        return self.summed([-minimal_angle(filters) for filters in self.filters(step).values()], step)
