"""L2 activity regularisation: the squared magnitude of activations, added to the loss.

``strength * sum A**2 / B`` for each chosen layer, B the batch size.

Source: the rule of Keras's activity regularisers, VERBATIM. Keeps activations small without making them exactly zero.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import LayerRegularizer, OverRanks, PerLayer, Reads
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform


def l2_activity(activations: Tensor) -> Tensor:
    """Mean over examples of the summed squares of ``[B, ...]``, in float32 or better.

    Example:
        >>> l2_activity(torch.tensor([[1.0, -2.0], [0.0, 3.0]])).item()
        7.0
    """
    wide = activations if activations.dtype == torch.float64 else activations.float()
    return wide.square().sum() / activations.shape[0]


class L2Activity(LayerRegularizer):
    """L2 penalty on the activations of chosen layers."""

    reads: ClassVar[Reads] = "activations"
    over_ranks: ClassVar[OverRanks] = "sum"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-6, high=1e-2, log=True)}

    strength: PerLayer = Field(1e-4, description="Weight of the penalty.")

    def penalty(self, step: Step) -> Tensor:
        """Sum over chosen layers of strength times `l2_activity`."""
        chosen = self.chosen(step.activations)
        return torch.stack([self.strength_of(layer) * l2_activity(a) for layer, a in chosen]).sum()
