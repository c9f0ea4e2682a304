"""AMP: adversarial model perturbation, which steps by the gradient of a perturbed network and so seeks flat minima.

With θ the parameters, L the loss of the batch with its penalties, and ε the strength, one step is::

    g = ∇L(θ), δ = 0
    ``iterations`` times:  δ <- clip(δ + inner_rate * g),  g = ∇L(θ + δ)
    θ <- the optimizer's step from θ with the last g

``clip`` scales δ down to a norm of ε where it is longer, and leaves it alone where it is not: in the ball ``tensor``
every parameter tensor on its own, in the ball ``global`` all of them as one vector. Each iteration costs one more
pass. θ comes back bit for bit. Running statistics of batch norms are those of the first pass, at θ; dropout draws a
new mask in each. Decay by a penalty is part of L; `decoupled_weight_decay` acts at θ. A method that stands after this
one in an arm and changes the gradient changes it in every pass, one that stands before it only the last.

Source: Zheng et al. 2021 (CVPR, arXiv 2010.04925). VERBATIM from the authors' code: the step, the ball per tensor and
the defaults. DERIVED: the global ball, from the abstract's wording. ASSUMED: the running statistics, which the
authors' code moves in every pass; the recommended range, which suits small networks: the authors' 0.5 moves their
weights too far. The authors train large ones with SGD, rate 0.1, Nesterov momentum 0.9, batch 50.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import OverRanks, Regularizer, Single
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform

Ball = Literal["tensor", "global"]


def clip(deltas: Sequence[Tensor], radius: float, ball: Ball = "tensor") -> list[Tensor]:
    """Scale perturbations down to a norm of ``radius`` where they are longer; each of its own or all as one vector.

    Example:
        >>> deltas = [torch.tensor([3.0, 4.0]), torch.tensor([12.0])]
        >>> [delta.tolist() for delta in clip(deltas, 10.0)]  # norms 5 and 12
        [[3.0, 4.0], [10.0]]
        >>> [delta.tolist() for delta in clip(deltas, 6.5, "global")]  # norm 13
        [[1.5, 2.0], [6.0]]
    """
    norms = torch.stack([torch.linalg.vector_norm(delta) for delta in deltas])
    if ball == "global":
        norms = torch.linalg.vector_norm(norms).expand(len(deltas))
    factors = (radius / norms).clamp(max=1)  # a norm of zero: infinity, so 1
    return [delta * factor for delta, factor in zip(deltas, factors, strict=True)]


class AMP(Regularizer):
    """Adversarial model perturbation of all parameters."""

    over_ranks: ClassVar[OverRanks] = "same"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.005, high=0.05, log=True)}

    strength: Single = Field(0.5, description="Radius of the ball of perturbations.")
    inner_rate: float = Field(1.0, gt=0, description="Rate of the ascent within the ball.")
    iterations: int = Field(1, gt=0, description="Steps of the ascent, each one more pass.")
    ball: Ball = Field("tensor", description="tensor (a ball for each parameter) or global (one for all).")

    def around_gradient(self, step: Step, compute: Callable[[], None]) -> None:
        """The gradient at the perturbed parameters, which are put back."""
        compute()
        radius = float(self.strength)
        if radius == 0:
            return
        if step.network is None:
            raise ValueError("amp needs the network: Step(..., network=model)")
        parameters = [p for p in step.network.parameters() if p.requires_grad]
        start = [p.detach().clone() for p in parameters]
        statistics = [(buffer, buffer.clone()) for buffer in step.network.buffers()]
        deltas = [torch.zeros_like(p) for p in start]
        for _ in range(self.iterations):
            ascended = [
                d if p.grad is None else d + self.inner_rate * p.grad for d, p in zip(deltas, parameters, strict=True)
            ]
            deltas = clip(ascended, radius, self.ball)
            _assign(parameters, [p + d for p, d in zip(start, deltas, strict=True)])
            compute()
        _assign(parameters, start)
        _assign([buffer for buffer, _ in statistics], [kept for _, kept in statistics])


@torch.no_grad()
def _assign(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
