"""Sharpness: by how much the loss rises when all weights are shaken, each in proportion to its size. In nats.

``mean over draws of L(w + 0.1 |w| e) - L(w)``, e standard normal, entry by entry, L the mean cross-entropy on the
examples. Four draws, each with its opposite, so that the slope cancels and to leading order the curvature is left:
``0.005 sum_i H_ii w_i**2``. Negative where the loss curves downwards. The draws are the same in every epoch of a trial.

Proportional noise makes it invariant to rescaling a unit's incoming weights by c and its outgoing ones by 1/c, which
leaves the network's function as it is and defeats sharpness under noise of one size (Dinh et al. 2017).

It costs nine forward passes.

Source: noise in proportion to the magnitude of each weight is from the magnitude-aware measures of Jiang et al. 2019
(arXiv 1912.02178), DERIVED from the code of a replication (Dziugaite et al. 2020, arXiv 2010.11924). There, the size of
the noise that costs a given accuracy is searched for, which takes many more passes. To fix the size at a tenth and
report the rise of the loss, that size, the number of draws and their opposites are ASSUMED.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy.measures._network import logits_of, undisturbed
from sparsestudy.measures._statistic import NetworkStatistic
from sparsestudy.study import TaskName

SCALE = 0.1
"""Standard deviation of the noise on a weight of one."""
DRAWS = 4

Weights = Mapping[str, Tensor]


def rise(loss: Callable[[Weights], Tensor], weights: Weights, seed: int, draws: int = DRAWS) -> Tensor:
    """Mean rise of a loss under proportional noise on the weights, a 0-d tensor.

    Args:
        loss: Of weights by name, a 0-d tensor.
        weights: Where to start from; not changed.
        seed: Of a generator of its own.
        draws: How many, each with its opposite.

    Example:
        >>> abs(rise(lambda w: 3 * w["a"].sum(), {"a": torch.ones(5)}, seed=0).item()) < 1e-5  # a slope alone
        True
    """
    device = next(iter(weights.values())).device
    generator = torch.Generator(device).manual_seed(seed)
    losses = []
    for _ in range(draws):
        noise = {
            name: SCALE * w.abs() * torch.randn(w.shape, generator=generator, dtype=w.dtype, device=device)
            for name, w in weights.items()
        }
        losses += [loss({name: weight + sign * noise[name] for name, weight in weights.items()}) for sign in (1, -1)]
    return torch.stack(losses).mean() - loss(weights)


class Sharpness(NetworkStatistic):
    """Output: ``sharpness``."""

    outputs: ClassVar[tuple[str, ...]] = ("sharpness",)
    tasks: ClassVar[tuple[TaskName, ...]] = ("classification",)

    def compute(self, model: nn.Module, inputs: Tensor, labels: Tensor, seed: int) -> dict[str, Tensor]:
        """See `NetworkStatistic.compute`."""

        def loss(weights: Weights) -> Tensor:
            return cross_entropy(logits_of(model, inputs, weights).double(), labels)

        with undisturbed(model):
            return {"sharpness": rise(loss, dict(model.named_parameters()), seed)}
