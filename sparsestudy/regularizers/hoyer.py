"""Hoyer regularisation of weights: the ratio of the L1 to the L2 norm, or its square.

For each weight tensor ``|w|_1 / |w|_2`` (in [1, sqrt n]) or, squared, ``|w|_1**2 / |w|_2**2`` (in [1, n]). Lower is
sparser: it drives small weights to zero and leaves large ones alone, whatever their scale. An all-zero tensor is left
out. This is about weights; `sparsestudy.measures.hoyer` measures activations.

Structured, the norms of filters and those of input channels take the place of single weights, so that whole filters and
channels go to zero. With f_i the L2 norm of ``W[i]`` and c_j that of ``W[:, j]``::

    (sum of f)**2 / |W|_2**2 + (sum of c)**2 / |W|_2**2        squared, in [2, N + C]
     sum of f     / |W|_2    +  sum of c     / |W|_2           not squared

Source: Yang et al. 2020 (DeepHoyer), VERBATIM from the authors' code; structured as in its CIFAR and MNIST parts.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import Single, WeightRegularizer
from sparsestudy.regularizers._step import Step
from sparsestudy.regularizers._tensors import lengths
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


def structured_hoyer_ratio(weights: Tensor, *, squared: bool = True) -> Tensor:
    """`hoyer_ratio` of the norms of filters plus that of input channels, of ``[N, C, ...]``, a 0-d tensor.

    Example:
        >>> round(structured_hoyer_ratio(torch.tensor([[3.0, 0.0], [4.0, 0.0]])).item(), 6)  # 49 / 25 + 25 / 25
        2.96
    """
    filters, channels = lengths(weights), lengths(weights.transpose(0, 1))
    return hoyer_ratio(filters, squared=squared) + hoyer_ratio(channels, squared=squared)


class Hoyer(WeightRegularizer):
    """Hoyer regularisation of all chosen weights."""

    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-6, high=1e-2, log=True)}

    strength: Single = Field(1e-4, description="Weight of the penalty.")
    squared: bool = Field(True, description="Hoyer-square instead of Hoyer.")
    structured: bool = Field(False, description="Norms of filters and of input channels instead of single weights.")

    def penalty(self, step: Step) -> Tensor:
        """Strength times the sum over chosen weights of `hoyer_ratio` or `structured_hoyer_ratio`."""
        ratio = structured_hoyer_ratio if self.structured else hoyer_ratio
        weights = [filters.view_as(step.weights[name]) for name, filters in self.filters(step).items()]
        return self.summed([ratio(weight, squared=self.squared) for weight in weights], step)
