"""DeCov: decorrelate the units of a layer by penalising the covariances between them.

With H the responses ``[B, C]`` and ``C`` their covariance over the batch (biased, divided by B)::

    0.5 * (|C|_F**2 - |diag C|**2)

A convolutional layer's response of a filter is its mean over positions; the paper speaks of dense layers only, so that
much is ASSUMED. Unbounded: it can be met by shrinking activations.

Source: Cogswell et al. 2015 (arXiv 1511.06068), VERBATIM. Note that ``torch.cov`` takes rows as variables and divides
by B - 1: use ``torch.cov(H.T, correction=0)`` to check.
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


def decov(activations: Tensor) -> Tensor:
    """Half the sum of squared covariances between different units of ``[B, C, *spatial]`` or ``[B, C]``, a 0-d tensor.

    Example:
        >>> decov(torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0], [2.0, 2.0, 2.0], [0.0, 4.0, 1.0]])).item()
        2.3125
    """
    wide = activations if activations.dtype == torch.float64 else activations.float()
    responses = wide.flatten(2).mean(2) if wide.dim() > 2 else wide
    centred = responses - responses.mean(0)
    covariance = centred.T @ centred / len(responses)
    return 0.5 * (covariance.square().sum() - covariance.diagonal().square().sum())


class DeCov(LayerRegularizer):
    """DeCov on the responses of chosen layers."""

    reads: ClassVar[Reads] = "activations"
    over_ranks: ClassVar[OverRanks] = "gather"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-4, high=1.0, log=True)}

    strength: PerLayer = Field(0.1, description="Weight of the penalty.")

    def penalty(self, step: Step) -> Tensor:
        """Sum over chosen layers of strength times `decov`."""
        return torch.stack([self.strength_of(layer) * decov(a) for layer, a in self.chosen(step.activations)]).sum()
