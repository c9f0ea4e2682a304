"""Hoyer regularisation of weights: the ratio of the L1 to the L2 norm, or its square.

For each weight tensor ``|w|_1 / |w|_2`` (in [1, sqrt n]) or, squared, ``|w|_1**2 / |w|_2**2`` (in [1, n]). Lower is
sparser: it drives small weights to zero and leaves large ones alone, whatever their scale. An all-zero tensor is left
out. This is about weights; `sparsestudy.measures.hoyer` measures activations.

Source: Yang et al. 2020 (DeepHoyer), VERBATIM from the authors' code.
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


def hoyer_ratio(weights: Tensor, *, squared: bool = True) -> Tensor:
    """``|w|_1 / |w|_2``, or its square, a 0-d tensor; 0 with zero gradient for an all-zero tensor.

    Example:
        >>> round(hoyer_ratio(torch.tensor([1.0, 2.0, 3.0, 4.0])).item(), 6)
        3.333333
    """
    flat = weights.flatten()
    squares = flat.square().sum()
    live = squares > torch.finfo(flat.dtype).tiny
    ratio = flat.abs().sum().square() / torch.where(live, squares, 1)
    return torch.where(live, ratio if squared else torch.where(live, ratio, 1).sqrt(), 0)


class Hoyer(WeightRegularizer):
    """Hoyer regularisation of all chosen weights."""

    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-6, high=1e-2, log=True)}

    strength: Single = Field(1e-4, description="Weight of the penalty.")
    squared: bool = Field(True, description="Hoyer-square instead of Hoyer.")

    def penalty(self, step: Step) -> Tensor:
        """Strength times the sum over chosen weights of `hoyer_ratio`."""
        return self.summed(
            [hoyer_ratio(filters, squared=self.squared) for filters in self.filters(step).values()], step
        )
