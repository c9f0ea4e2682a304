"""DropGrad: multiplicative noise of mean 1 on the gradient, between its computation and the optimizer's step.

With p the strength, for each entry g of the gradient::

    binary:    g * m / (1 - p),  m = 1 with probability 1 - p, else 0
    gaussian:  g * n,            n normal of mean 1 and variance p / (1 - p)

Either has mean g and variance ``g**2 * p / (1 - p)``. ``ramp: linear`` lets the noise grow from nothing in the first
epoch to its full size in epoch ``ramp_epochs``, that is by ``epoch / (ramp_epochs - 1)``, epochs counted from 0: the
factor is on p if binary, on the standard deviation if gaussian.

The noise is drawn from numbers of its own, the same in all passes of one step. With Adam it enters the second moment
too. In an arm with `amp`, the order decides whether the perturbation is taken along the noisy gradient: it is if `amp`
comes first.

Source: Tseng et al. 2020 (arXiv 2004.05859). VERBATIM from the authors' code: both forms, the ramp, p from 0.1 to 0.2.
ASSUMED: its use outside the inner loop of meta-learning, which is all that the authors use it for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sparsestudy.regularizers._regularizer import OverRanks, Regularizer, Single
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform

Form = Literal["binary", "gaussian"]


def noise(like: Tensor, p: float, form: Form, ramp: float, generator: torch.Generator | None = None) -> Tensor:
    """Factors of mean 1 of the shape of ``like``, of the strength ``p``, at ``ramp`` of their full size.

    Example:
        >>> factors = noise(torch.zeros(1000), 0.2, "binary", 1.0)
        >>> set(factors.tolist()) == {0.0, 1.25}
        True
    """
    if form == "binary":
        drawn = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        return scaled_mask((drawn >= ramp * p).to(like.dtype), ramp * p)
    drawn = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return 1 + ramp * math.sqrt(p / (1 - p)) * drawn


def scaled_mask(keep: Tensor, p: float) -> Tensor:
    """1 / (1 - p) where ``keep`` is 1, 0 where it is 0.

    Example:
        >>> (torch.tensor([1.0, -2.0, 4.0]) * scaled_mask(torch.tensor([1.0, 0.0, 1.0]), 0.2)).tolist()
        [1.25, -0.0, 5.0]
    """
    return keep / (1 - p)


class DropGrad(Regularizer):
    """Noise on the gradient of all parameters."""

    over_ranks: ClassVar[OverRanks] = "same"
    strength_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.05, high=0.5)}

    strength: Single = Field(0.1, description="p in [0, 1): the noise has variance p / (1 - p).")
    form: Form = Field("binary", description="binary or gaussian.")
    ramp: Literal["constant", "linear"] = Field("constant", description="constant, or linear from 0 over ramp_epochs.")
    ramp_epochs: int | None = Field(None, gt=1, description="Epochs of the linear ramp, such as those of the trial.")

    @model_validator(mode="after")
    def _ramp_has_an_end(self) -> Self:
        if (self.ramp == "linear") != (self.ramp_epochs is not None):
            raise ValueError("ramp: linear needs ramp_epochs, such as the epochs of a trial; constant takes none")
        return self

    def ramped(self, epoch: float) -> float:
        """Share of the full noise, in [0, 1], after ``epoch`` epochs."""
        return 1.0 if self.ramp_epochs is None else min(1.0, int(epoch) / (self.ramp_epochs - 1))

    def around_gradient(self, step: Step, compute: Callable[[], None]) -> None:
        """Multiply the gradient by the noise."""
        compute()
        p = float(self.strength)
        if p == 0:
            return
        if step.network is None:
            raise ValueError("drop_grad needs the network: Step(..., network=model)")
        found = [p.grad for p in step.network.parameters() if p.grad is not None]
        generators = {gradient.device: step.generator(gradient.device) for gradient in found}
        for gradient in found:
            generator = generators[gradient.device]
            gradient.mul_(noise(gradient, p, self.form, self.ramped(step.epoch), generator))
