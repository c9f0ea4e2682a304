"""L1 activity regularisation: the magnitude of activations, added to the loss.

``sum``: ``strength * sum |A| / B`` for each chosen layer, B the batch size. ``mean``: ``strength * mean |A|``, which
does not grow with the width of a layer.

Drives activations to zero, that is towards sparser codes; unlike perplexity it can be met by shrinking activations and
growing the next layer's weights.

Source: ``sum`` is the rule of Keras's activity regularisers (keras.io), VERBATIM; ``mean`` is ours, standard.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import LayerRegularizer, OverRanks, PerLayer, Reads
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform


def l1_activity(activations: Tensor, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    """Mean over examples of the summed magnitudes, or the mean magnitude.

    Args:
        activations: ``[B, ...]``.
        reduction: ``sum`` over units or ``mean`` over units.

    Example:
        >>> l1_activity(torch.tensor([[1.0, -2.0], [0.0, 3.0]])).item()
        3.0
    """
    magnitudes = activations.float().abs() if activations.dtype != torch.float64 else activations.abs()
    return magnitudes.sum() / activations.shape[0] if reduction == "sum" else magnitudes.mean()


class L1Activity(LayerRegularizer):
    """L1 penalty on the activations of chosen layers."""

    reads: ClassVar[Reads] = "activations"
    over_ranks: ClassVar[OverRanks] = "sum"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-6, high=1e-2, log=True)}

    strength: PerLayer = Field(1e-4, description="Weight of the penalty.")
    reduction: Literal["sum", "mean"] = Field("sum", description="sum over units (Keras) or mean over units.")

    def penalty(self, step: Step) -> Tensor:
        """Sum over chosen layers of strength times `l1_activity`."""
        terms = [
            self.strength_of(layer) * l1_activity(activations, self.reduction)
            for layer, activations in self.chosen(step.activations)
        ]
        return torch.stack(terms).sum()
