"""Weight decay, coupled: half the squared L2 norm of the weights, added to the loss.

``strength / 2 * sum of w**2`` over every parameter of two or more dimensions; biases and norm gains are left out. Its
gradient is ``strength * w``, so with plain SGD it is the classical weight decay; with Adam it is L2 regularisation,
which is not the same as AdamW's decoupled decay.

Source: textbook (standard).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import OverRanks, Reads, Regularizer, Single
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform


def half_squared_norm(weights: Iterable[Tensor]) -> Tensor:
    """``0.5 * sum of squares`` over all tensors.

    Example:
        >>> half_squared_norm([torch.tensor([3.0, 4.0])]).item()
        12.5
    """
    return 0.5 * torch.stack([weight.square().sum() for weight in weights]).sum()


class WeightDecay(Regularizer):
    """Coupled weight decay on all weights."""

    reads: ClassVar[Reads] = "weights"
    over_ranks: ClassVar[OverRanks] = "same"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-5, high=1e-1, log=True)}

    strength: Single = Field(5e-4, description="Decay per unit of learning rate.")

    def penalty(self, step: Step) -> Tensor:
        """``strength`` times `half_squared_norm` of the weights."""
        penalty: Tensor = self.strength * half_squared_norm(step.weights.values())
        return penalty
