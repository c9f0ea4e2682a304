r"""Compressive hyperspherical energy (CoMHE): keep filters apart in projections of few dimensions.

In hundreds of dimensions filters are nearly orthogonal whatever they do, and their hyperspherical energy (`mhe`) hardly
moves. Here the energy (chord, power 2, half space) is that of the projected filters ``w_i P^T``, with ``P[p, d]``:

- ``random``: the entries of P are normal, drawn anew at every step; mean over K projections (p = 40, K = 20).
- ``angle_preserving``: P is learned to keep angles, ``l(P) = |cos(W P^T) - cos(W)|_F`` (p = 30).
- ``adversarial``: P is learned to bring filters together, ``l(P) = -`` full-space energy of ``W P^T`` (p = 30).
- ``group``: P picks p of the d coordinates; mean over up to K groups that share none, drawn anew at every step.

A learned P begins normal and takes ``iterations`` (1, adversarial 10) steps of gradient descent on l with the learning
rate of the training, and a decay of 5e-7, before each update of the weights. The energy uses one step more,
``P' = P - rate * dl/dP``, through which gradients reach the weights as well.

A first convolution (up to 3 input channels) and filters of no more than p entries are not projected. The output layer
(the last weight) uses the full space and weighs ten times as much. Lower is more diverse. Do not choose p below 10: the
energy of very few dimensions explodes. The K projections of a weight take memory in proportion to ``K N**2``.

Source: Lin et al. 2020 (arXiv 1906.04892); random, angle-preserving and adversarial form VERBATIM from the authors'
code, but for the clamp of close pairs (`mhe`). The group form is named by the authors, never defined: ASSUMED and
experimental.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.measures.hyperspherical_energy import EPSILON, hyperspherical_energy
from sparsestudy.regularizers._regularizer import Single, WeightRegularizer
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform

Form = Literal["random", "angle_preserving", "adversarial", "group"]

DECAY = 1e-3 * 5e-4
"""Of a learned projection: its share of the loss times the weight decay, both as in the authors' code."""


def projected_energy(filters: Tensor, projections: Tensor) -> Tensor:
    """Half-space energy of the rows of ``[N, d]``, N >= 2, mean over projections ``[K, p, d]``, a 0-d tensor.

    Example:
        >>> shadow = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> round(projected_energy(torch.eye(3)[:2], shadow).item(), 3)  # orthogonal: (N - 0.75) / (2 N - 1)
        0.417
    """
    return hyperspherical_energy(filters @ projections.mT).mean()


def angle_loss(projection: Tensor, filters: Tensor) -> Tensor:
    """Frobenius norm of what ``[p, d]`` does to the cosines between the rows of ``[N, d]``, a 0-d tensor.

    Example:
        >>> angle_loss(torch.eye(3), torch.eye(3)).item()
        0.0
    """
    squares = (_cosines(filters @ projection.T) - _cosines(filters)).square().sum()
    changed = squares > torch.finfo(squares.dtype).tiny
    return torch.where(changed, torch.where(changed, squares, 1).sqrt(), 0)


def adversarial_loss(projection: Tensor, filters: Tensor) -> Tensor:
    """Negative full-space energy of the rows of ``[N, d]`` seen through ``[p, d]``, a 0-d tensor.

    Example:
        >>> round(adversarial_loss(torch.eye(3), torch.eye(3)).item(), 3)
        -0.5
    """
    return -hyperspherical_energy(filters @ projection.T, half_space=False)


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "angle_preserving": angle_loss,
    "adversarial": adversarial_loss,
}
_DIMENSIONS: Mapping[Form, int] = {"random": 40, "angle_preserving": 30, "adversarial": 30, "group": 30}
_ITERATIONS: Mapping[Form, int] = {"random": 0, "angle_preserving": 1, "adversarial": 10, "group": 0}


def stepped(projection: Tensor, filters: Tensor, rate: float, form: Form, decay: float = 0.0) -> Tensor:
    """A projection ``[p, d]`` after one step down its loss, with the graph of both tensors.

    Example:
        >>> stepped(torch.eye(3), torch.eye(3), 0.1, "angle_preserving", decay=1.0)[0]
        tensor([0.9000, 0.0000, 0.0000])
    """
    slope: Tensor = torch.func.grad(LOSSES[form])(projection, filters)
    return projection - rate * (slope + decay * projection)


class CoMHE(WeightRegularizer):
    """Hyperspherical energy of all chosen weights after projection."""

    compares: ClassVar[bool] = True
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-2, high=10.0, log=True)}

    strength: Single = Field(1.0, description="Weight of a hidden layer's energy; the output layer has ten times that.")
    form: Form = Field("random", description="random, angle_preserving, adversarial or group.")
    dimensions: int | None = Field(None, ge=1, description="Dimensions after projection; null: 40 if random, else 30.")
    projections: int = Field(20, ge=1, description="Random projections, or largest number of groups, at each step.")
    iterations: int | None = Field(
        None, ge=1, description="Steps of a learned projection before each update; null: 10 if adversarial, else 1."
    )

    def penalty(self, step: Step) -> Tensor:
        """Sum over chosen weights of `projected_energy`; the network's last weight counts as the output layer."""
        generator = step.generator(next(iter(step.weights.values())).device)
        terms = []
        for name, rows in self.filters(step).items():
            weight = step.weights[name]
            if name == step.output_weight:
                terms.append(10 * hyperspherical_energy(rows, half_space=False))
            elif rows.shape[1] <= self._dimensions or (weight.dim() > 2 and weight.shape[1] <= 3):
                terms.append(hyperspherical_energy(rows))
            else:
                terms.append(projected_energy(rows, self._projections(name, rows, step, generator)))
        return self.summed(terms, step)

    @property
    def _dimensions(self) -> int:
        return self.dimensions or _DIMENSIONS[self.form]

    def _projections(self, name: str, filters: Tensor, step: Step, generator: torch.Generator) -> Tensor:
        """Projections ``[K, p, d]`` of one weight; a learned one is kept in the step's memory."""
        p, d = self._dimensions, filters.shape[1]
        if self.form == "group":
            groups = min(self.projections, d // p)
            order = torch.randperm(d, generator=generator, device=filters.device)[: groups * p]
            return torch.nn.functional.one_hot(order.view(groups, p), d).to(filters)
        kept = step.memory.get(name) if self.form in LOSSES else None
        if kept is None:
            count = 1 if self.form in LOSSES else self.projections
            kept = torch.randn(count, p, d, generator=generator, dtype=filters.dtype, device=filters.device)
        if self.form not in LOSSES:
            return kept
        learned, fixed = kept[0], filters.detach()
        for _ in range(self.iterations or _ITERATIONS[self.form]):
            learned = stepped(learned, fixed, step.rate, self.form, DECAY)
        step.memory[name] = learned[None]
        return stepped(learned, filters, step.rate, self.form)[None]


def _cosines(rows: Tensor) -> Tensor:
    unit = rows / (rows.square().sum(1, keepdim=True) + EPSILON).sqrt()
    return unit @ unit.T
