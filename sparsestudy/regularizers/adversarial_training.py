"""Adversarial training: train on images that are moved, within a small ball, to where the loss is largest.

Written as what it adds to the loss, the rise of the cross-entropy under the perturbations δ of L2 norm ``strength``::

    CE(f(x + δ), y) - CE(f(x), y)

δ by five steps of projected gradient ascent, and then held constant. Both terms are taken in evaluation mode: with the
task's loss they sum to exactly the cross-entropy of the perturbed images if the network has neither batch norm nor
dropout; else the task's loss stays in training mode, and this term is consistent in itself. The ball is one of the
inputs as they reach the network, that is after standardisation.

Cost: seven further forward and seven backward passes.

Source: Madry et al. 2018 in the L2 form of Bietti et al. 2019 (arXiv 1810.00363): ascent VERBATIM from the authors'
code, as a difference in evaluation mode ASSUMED.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparsestudy.regularizers._inputs import ascend, network_and_inputs
from sparsestudy.regularizers._regularizer import Number, OverRanks, Reads, Regularizer, Single
from sparsestudy.regularizers._step import Step, evaluating
from sparsestudy.space import Domain, Uniform
from sparsestudy.study import TaskName


def adversarial_rise(network: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor, radius: Number) -> Tensor:
    """Mean cross-entropy of perturbed examples minus that of the examples, 0-d.

    Args:
        network: Inputs ``[B, ...]`` to logits ``[B, K]``, each example by itself.
        inputs: ``[B, ...]``.
        labels: ``[B]``.
        radius: L2 norm of the perturbation of each example.

    Example:
        >>> import torch
        >>> logits = lambda x: torch.cat([x, -x], 1)
        >>> round(adversarial_rise(logits, torch.zeros(1, 1), torch.tensor([0]), 0.5).item(), 4)  # log((1 + e) / 2)
        0.6201
    """

    def loss(x: Tensor, reduction: str = "sum") -> Tensor:
        logits = network(x)
        return cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels, reduction=reduction)

    perturbations = ascend(loss, inputs, radius)
    return loss(inputs + perturbations, "mean") - loss(inputs, "mean")


class AdversarialTraining(Regularizer):
    """Adversarial training against perturbations of bounded L2 norm."""

    reads: ClassVar[Reads] = "inputs"
    tasks: ClassVar[tuple[TaskName, ...]] = ("classification",)
    over_ranks: ClassVar[OverRanks] = "sum"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.05, high=1.0, log=True)}

    strength: Single = Field(0.5, description="L2 norm of the perturbation of each image.")

    def penalty(self, step: Step) -> Tensor | None:
        """`adversarial_rise` with the strength as radius; None if that is the number zero."""
        if not isinstance(self.strength, Tensor) and self.strength == 0:
            return None
        network, inputs = network_and_inputs(step, "adversarial training")
        if step.labels is None:
            raise ValueError("adversarial training needs labels: Step(..., labels=labels)")
        with evaluating(network):
            return adversarial_rise(network, inputs, step.labels, self.strength)
