"""Basis-collapse prevention: keep the units of a layer from becoming copies of each other.

With the Gram matrix ``G`` of the units' normalised responses over the batch (`sparsestudy.measures.basis_collapse`), m
of them alive::

    correlation   strength * sum over i != j of G_ij**2 / (m (m - 1))      0 orthogonal, 1 collapsed
    log_det      -strength * log det(G + 1e-6 I) / m                       grows without bound at collapse

The positions of a convolution count as samples. A dead unit is left out. Non-negative responses can never be orthogonal
unless they exclude each other, so the correlation form also makes codes sparser. With rectifiers the log_det form kills
units instead of spreading them, as a dead unit is left out: use it with units that cannot die, such as tanh.

Source: Singh, Gupta and Dawson 2020 (arXiv 2008.09878) prevent basis collapse in dense networks by a modified loss,
VERBATIM; the modified loss is not public to us, and both forms are ASSUMED.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.measures.basis_collapse import gram
from sparsestudy.regularizers._regularizer import LayerRegularizer, OverRanks, PerLayer, Reads
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform

Form = Literal["correlation", "log_det"]


def collapse(activations: Tensor, form: Form = "correlation") -> Tensor:
    """How far the units of ``[B, C, *spatial]`` or ``[B, C]`` have collapsed, a 0-d tensor.

    Example:
        >>> collapse(torch.tensor([[1.0, 2.0], [2.0, 4.0]])).item()  # the second unit is twice the first
        1.0
    """
    wide = activations if activations.dtype == torch.float64 else activations.float()
    units = wide.transpose(0, 1).flatten(1)
    cosines, live = gram(units @ units.T)
    count = live.sum(dtype=cosines.dtype)
    identity = torch.eye(len(cosines), dtype=torch.float64, device=cosines.device)
    if form == "log_det":
        return (-torch.logdet(cosines.double() + 1e-6 * identity) / count.clamp(min=1)).to(cosines.dtype)
    off = cosines * (1 - identity.to(cosines.dtype))
    return off.square().sum() / (count * (count - 1)).clamp(min=1)


class BasisCollapse(LayerRegularizer):
    """Penalty on the collapse of chosen layers."""

    reads: ClassVar[Reads] = "activations"
    over_ranks: ClassVar[OverRanks] = "gather"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-4, high=1e-1, log=True)}

    strength: PerLayer = Field(1e-2, description="Weight of the penalty.")
    form: Form = Field("correlation", description="correlation or log_det.")

    def penalty(self, step: Step) -> Tensor:
        """Sum over chosen layers of strength times `collapse`."""
        chosen = self.chosen(step.activations)
        return torch.stack([self.strength_of(layer) * collapse(a, self.form) for layer, a in chosen]).sum()
