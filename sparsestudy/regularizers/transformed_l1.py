"""Transformed L1 of weights: ``sum of 2 |w| / (1 + |w|)``, between the number of weights and their L1 norm.

Lower is sparser; large weights cost no more than two each, so they are not shrunk as L1 would shrink them.

Source: as in Yang et al. 2020 (DeepHoyer), VERBATIM from the authors' code.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import Single, WeightRegularizer
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform


def transformed_l1(weights: Tensor) -> Tensor:
    """``sum of 2 |w| / (1 + |w|)``, a 0-d tensor.

    Example:
        >>> import torch
        >>> transformed_l1(torch.tensor([1.0, -3.0, 0.0])).item()
        2.5
    """
    magnitudes = weights.abs()
    return (2 * magnitudes / (1 + magnitudes)).sum()


class TransformedL1(WeightRegularizer):
    """Transformed L1 of all chosen weights."""

    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-6, high=1e-2, log=True)}

    strength: Single = Field(1e-4, description="Weight of the penalty.")

    def penalty(self, step: Step) -> Tensor:
        """Strength times the sum over chosen weights of `transformed_l1`."""
        return self.summed([transformed_l1(filters) for filters in self.filters(step).values()], step)
