"""Decoupled weight decay: before each step every weight shrinks by a share of itself, whatever its gradient.

``w <- (1 - rate * strength) * w`` for every parameter of two or more dimensions, then the optimizer's step; biases and
norm gains are left out. ``rate`` is the learning rate of the step, its schedule included. With Adam this is AdamW.
With plain SGD it equals `weight_decay` of the same strength; with momentum m the coupled decay goes into the momentum
as well, so that it takes about ``1 / (1 - m)`` times the strength here to shrink weights as much.

Source: Loshchilov and Hutter 2019 (arXiv 1711.05101); as in ``torch.optim.AdamW``, to which it is equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import OverRanks, Regularizer, Single
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform


@torch.no_grad()
def shrink(weight: Tensor, share: float) -> None:
    """Take a share of itself from a weight, in place.

    Example:
        >>> weight = torch.tensor([2.0, -4.0])
        >>> shrink(weight, 0.25)
        >>> weight.tolist()
        [1.5, -3.0]
    """
    weight.mul_(1 - share)


class DecoupledWeightDecay(Regularizer):
    """Decoupled decay of all weights."""

    over_ranks: ClassVar[OverRanks] = "same"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-4, high=0.3, log=True)}

    strength: Single = Field(0.01, description="Decay per unit of learning rate.")

    def around_update(self, step: Step, take: Callable[[], None]) -> None:
        """Shrink the weights, then let the optimizer step."""
        share = step.rate * float(self.strength)
        if share:
            for weight in step.weights.values():
                shrink(weight, share)
        take()
