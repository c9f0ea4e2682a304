"""Adversarial perturbation penalty: no output may rise far within a small ball around an image of the batch.

With f_k(x) the outputs (logits) of the network and δ_ik the perturbation of image i, of L2 norm ``strength``, that
raises output k the most::

    sum over classes k of  (f_k(x_i + δ_ik) - f_k(x_i))**2  at the image i of the batch where the rise is largest

like `gradient_penalty` a lower bound on the norm of the network in the function space of a kernel, over a distance
instead of at a point. The radius alone sets the strength. δ by five steps of projected gradient ascent; images and
perturbations are chosen without gradient, in evaluation mode.

Cost: six forward and five backward passes for each of K classes, one class after the other. It is by far the dearest
method here; `gradient_penalty` and `adversarial_training` are its cheaper relatives.

Source: Bietti et al. 2019 (arXiv 1810.00363); penalty and ascent VERBATIM from the authors' code, evaluation mode
ASSUMED. The authors use a radius of 1 on CIFAR-10; on small images that kills the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._inputs import ascend, network_and_inputs
from sparsestudy.regularizers._regularizer import Number, OverRanks, Reads, Regularizer, Single
from sparsestudy.regularizers._step import Step, evaluating
from sparsestudy.space import Domain, Uniform


def largest_rises(network: Callable[[Tensor], Tensor], inputs: Tensor, radius: Number) -> Tensor:
    """Sum over outputs of the squared rise at the example, and under the perturbation, where it is largest, 0-d.

    Args:
        network: Inputs ``[B, ...]`` to outputs ``[B, K]``, each example by itself.
        inputs: ``[B, ...]``.
        radius: L2 norm of the perturbation of each example.

    Example:
        >>> weights = torch.tensor([[3.0, 4.0], [0.0, 2.0]])  # of norms 5 and 2
        >>> round(largest_rises(lambda x: x @ weights.T, torch.rand(5, 2), 0.5).item(), 4)
        7.25
    """
    with torch.no_grad():
        outputs = network(inputs)
        images, perturbations = [], []
        for k in range(outputs.shape[1]):
            moved = ascend(partial(_total_of_class, network, k), inputs, radius)
            largest = (network(inputs + moved) - outputs)[:, k].argmax()
            images.append(largest)
            perturbations.append(moved[largest])
    chosen, moved = inputs[torch.stack(images)], torch.stack(perturbations).detach()
    rises = (network(chosen + moved) - network(chosen)).diagonal()
    return (rises.float() if rises.dtype.itemsize < 4 else rises).square().sum()


def _total_of_class(network: Callable[[Tensor], Tensor], k: int, inputs: Tensor) -> Tensor:
    return network(inputs)[:, k].sum()


class PerturbationPenalty(Regularizer):
    """Penalty on the largest rises of the outputs under perturbations of bounded L2 norm."""

    reads: ClassVar[Reads] = "inputs"
    over_ranks: ClassVar[OverRanks] = "gather"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.01, high=0.3, log=True)}

    strength: Single = Field(0.1, description="L2 norm of the perturbation of each image.")

    def penalty(self, step: Step) -> Tensor | None:
        """`largest_rises` with the strength as radius; None if that is the number zero."""
        if not isinstance(self.strength, Tensor) and self.strength == 0:
            return None
        network, inputs = network_and_inputs(step, "perturbation penalty")
        with evaluating(network):
            return largest_rises(network, inputs, self.strength)
