"""Gradient penalty: no output may be steep in the inputs, anywhere in the batch.

With f_k(x) the outputs (logits) of the network::

    strength * sum over classes k of  |grad_x f_k(x_i)|**2  at the image i of the batch where that is largest

a lower bound on the norm of the network in the function space of a kernel, and so on its complexity. The image is
chosen without gradient. Outputs are taken in evaluation mode, where batch norm uses its running statistics: the
authors' code takes them in training mode, where the images of a batch depend on each other.

Cost: a further forward pass of the batch and K backward passes, one for each of K classes, then one forward and two
backward passes of K images. The paper's hybrid of a lower and an upper bound is an arm that combines this method,
`perturbation_penalty`, `loss_gradient` or `adversarial_training` with `spectral_projection` or `spectral_penalty`.

Source: Bietti et al. 2019 (arXiv 1810.00363); formula and strength 0.1 VERBATIM from the authors' code, evaluation mode
ASSUMED.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._inputs import network_and_inputs, squared_norms
from sparsestudy.regularizers._regularizer import OverRanks, Reads, Regularizer, Single
from sparsestudy.regularizers._step import Step, evaluating
from sparsestudy.space import Domain, Uniform


def steepest_gradients(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Sum over outputs of the largest squared norm of their gradients with respect to an example, 0-d.

    Args:
        network: Inputs ``[B, ...]`` to outputs ``[B, K]``, each example by itself.
        inputs: ``[B, ...]``.

    Example:
        >>> weights = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> steepest_gradients(lambda x: x @ weights.T, torch.rand(5, 2)).item()
        29.0
    """
    with torch.no_grad():
        outputs, gradients_of = torch.func.vjp(network, inputs)  # type: ignore[misc]
        classes = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        squares = [squared_norms(gradients_of(one.expand_as(outputs))[0]) for one in classes]
        steepest = torch.stack(squares).argmax(1)
    _, gradients_of = torch.func.vjp(network, inputs[steepest])  # type: ignore[misc]
    return squared_norms(gradients_of(classes)[0]).sum()


class GradientPenalty(Regularizer):
    """Penalty on the largest gradients of the outputs with respect to the inputs."""

    reads: ClassVar[Reads] = "inputs"
    over_ranks: ClassVar[OverRanks] = "gather"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-4, high=1e-1, log=True)}

    strength: Single = Field(0.1, description="Weight of the penalty.")

    def penalty(self, step: Step) -> Tensor | None:
        """Strength times `steepest_gradients`; None if the strength is the number zero."""
        if not isinstance(self.strength, Tensor) and self.strength == 0:
            return None
        network, inputs = network_and_inputs(step, "gradient penalty")
        with evaluating(network):
            penalty: Tensor = self.strength * steepest_gradients(network, inputs)
        return penalty
