"""Gradient disparity: how far apart the gradients of the loss on different mini-batches are.

``mean over pairs i < j of ||g_i - g_j||``, g_i the gradient of the mean cross-entropy on batch i with respect to all
parameters, the norm that of all of them together. The examples are divided at random into five batches, the same in
every epoch of a trial. It is 0 where every batch asks for the same step, and rises when what serves one batch no longer
serves another, which its authors take for the moment to stop. No labels of a validation split are needed.

Its size goes with the size of the batches, here a fifth of the examples, and with that of the loss: it tells epochs of
one trial apart, hardly trials with different networks. Undefined for fewer than two examples; with fewer than five,
every example is a batch. In evaluation mode, so that neither dropout nor batch norm adds noise of its own.

It costs five forward and backward passes and the memory of five gradients.

Source: Forouzesh and Thiran 2021 (arXiv 2107.06665): the mean of the pairwise l2 distance between gradients of
mini-batches is DERIVED from the paper's definition. To take it in evaluation mode and on a fixed set of examples, the
number of batches, and to leave losses as they are, without scaling them, is ASSUMED.
"""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy.measures._network import logits_of, undisturbed
from sparsestudy.measures._statistic import NetworkStatistic
from sparsestudy.study import TaskName

BATCHES = 5


def disparity(gradients: list[list[Tensor]]) -> Tensor:
    """Mean distance over all pairs of gradients, each as the tensors of its parameters; a 0-d tensor.

    Example:
        >>> disparity([[torch.tensor([0.0, 0.0]), torch.tensor(0.0)], [torch.tensor([2.0, 3.0]), torch.tensor(6.0)]])
        tensor(7., dtype=torch.float64)
    """
    distances = [
        torch.stack([(a.double() - b.double()).square().sum() for a, b in zip(one, other, strict=True)]).sum().sqrt()
        for one, other in combinations(gradients, 2)
    ]
    return torch.stack(distances).mean()


class GradientDisparity(NetworkStatistic):
    """Output: ``gradient_disparity``."""

    outputs: ClassVar[tuple[str, ...]] = ("gradient_disparity",)
    tasks: ClassVar[tuple[TaskName, ...]] = ("classification",)

    def compute(self, model: nn.Module, inputs: Tensor, labels: Tensor, seed: int) -> dict[str, Tensor]:
        """See `NetworkStatistic.compute`."""
        if len(inputs) < 2:
            return {"gradient_disparity": torch.tensor(torch.nan, dtype=torch.float64)}
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed)).to(inputs.device)
        batches = torch.tensor_split(order, min(BATCHES, len(inputs)))
        with undisturbed(model):
            return {"gradient_disparity": disparity([_gradient(model, inputs[own], labels[own]) for own in batches])}


def _gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """Of the mean loss, with respect to copies of the parameters; those that the loss does not know have none."""
    lent = {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}
    with torch.enable_grad():
        loss = cross_entropy(logits_of(model, inputs, lent).double(), labels)
    found = torch.autograd.grad(loss, list(lent.values()), allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, lent.values(), strict=True)]
