"""Loss gradient: the loss may not change fast with the inputs.

With n images in the batch and ``loss_i`` the cross-entropy of image i::

    l2    strength / n * sum over i of  |grad_x loss_i|_2**2
    l1    strength / n * sum over i of  |grad_x loss_i|_1

Taken in evaluation mode. An image that the network is sure of has next to no gradient: the penalty acts on those it is
unsure of, and on those with wrong labels. The L1 norm is larger than the squared L2 norm of small gradients: strengths
of 0.1 are moderate for l2, strong for l1. Cost: one further forward and two backward passes.

Source: Bietti et al. 2019 (arXiv 1810.00363), who compare with it; both forms and the strength 0.1 VERBATIM from the
authors' code, evaluation mode ASSUMED.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparsestudy.regularizers._inputs import network_and_inputs
from sparsestudy.regularizers._regularizer import OverRanks, Reads, Regularizer, Single
from sparsestudy.regularizers._step import Step, evaluating
from sparsestudy.space import Domain, Uniform
from sparsestudy.study import TaskName

Form = Literal["l2", "l1"]


def loss_gradient(network: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor, form: Form = "l2") -> Tensor:
    """Mean over examples of the squared L2 norm, or the L1 norm, of the gradient of the cross-entropy, 0-d.

    Args:
        network: Inputs ``[B, ...]`` to logits ``[B, K]``, each example by itself.
        inputs: ``[B, ...]``.
        labels: ``[B]``.
        form: See the module.

    Example:
        >>> logits = lambda x: torch.cat([2 * x, -2 * x], 1)  # of x = 0: both classes are equally likely
        >>> loss_gradient(logits, torch.zeros(1, 1), torch.tensor([1])).item()
        4.0
    """

    def loss(x: Tensor) -> Tensor:
        logits = network(x)
        return cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels, reduction="sum")

    gradients = torch.func.grad(loss)(inputs)
    wide = gradients.float() if gradients.dtype.itemsize < 4 else gradients
    penalty: Tensor = (wide.square() if form == "l2" else wide.abs()).sum() / len(inputs)
    return penalty


class LossGradient(Regularizer):
    """Penalty on the gradient of the loss with respect to the inputs."""

    reads: ClassVar[Reads] = "inputs"
    tasks: ClassVar[tuple[TaskName, ...]] = ("classification",)
    over_ranks: ClassVar[OverRanks] = "sum"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-3, high=1.0, log=True)}

    strength: Single = Field(0.1, description="Weight of the penalty.")
    form: Form = Field("l2", description="l2 (squared L2 norm) or l1 (L1 norm).")

    def penalty(self, step: Step) -> Tensor | None:
        """Strength times `loss_gradient`; None if the strength is the number zero."""
        if not isinstance(self.strength, Tensor) and self.strength == 0:
            return None
        network, inputs = network_and_inputs(step, "loss gradient")
        if step.labels is None:
            raise ValueError("loss gradient needs labels: Step(..., labels=labels)")
        with evaluating(network):
            penalty: Tensor = self.strength * loss_gradient(network, inputs, step.labels, self.form)
        return penalty
