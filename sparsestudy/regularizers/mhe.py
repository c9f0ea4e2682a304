r"""Minimum hyperspherical energy: keep the directions of a layer's filters apart.

Rows ``w_i`` of the filter matrix are repelling charges on a sphere. With ``n_i = sqrt(|w_i|**2 + 1e-4)``,
``c_ij = <w_i, w_j> / (n_i n_j)``, squared chord ``D = 2 - 2c`` and angle ``T = arccos(c) / pi + 1e-4`` in half-turns,
the energy of a layer is the mean over pairs i < j of

===== ============ ==== =========
power term         form term
===== ============ ==== =========
0     ``-log D``   0    ``-log T``
1     ``D**-0.5``  1    ``0.1 / T``
2     ``1 / D``    2    ``0.1 / T**2``
===== ============ ==== =========

(left: chord; right: angular). Half space puts ``-w_i`` beside every ``w_i``, so that a direction and its opposite count
as the same. Lower is more diverse; power 0 is negative for diverse filters. The output layer (the last weight) always
uses the full space and weighs ten times as much. ``D`` is clamped at 1e-6 and the pairs are taken before the
non-linearity: the published code is NaN for duplicate or large filters in single precision.

Source: Liu et al. 2018 (arXiv 1805.09298); energies, weights and the two spaces VERBATIM from the authors' code.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import Single, WeightRegularizer
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform

EPSILON = 1e-4


def hyperspherical_energy(
    filters: Tensor, power: int = 2, *, angular: bool = False, half_space: bool = True, epsilon: float = EPSILON
) -> Tensor:
    """Energy of the rows of ``[..., N, d]``, N >= 2, of shape ``[...]``.

    Example:
        >>> round(hyperspherical_energy(torch.eye(3, dtype=torch.float64), 1, half_space=False, epsilon=0).item(), 6)
        0.707107
    """

    def repulsion(cosines: Tensor) -> Tensor:
        if angular:
            turn = cosines.clamp(-1 + 1e-6, 1 - 1e-6).arccos() / math.pi + 1e-4
            return -turn.log() if power == 0 else 0.1 * turn.pow(-power)
        chord = (2 - 2 * cosines).clamp(min=1e-6)
        return -chord.log() if power == 0 else chord.pow(-power / 2)

    tiny = torch.finfo(filters.dtype).tiny
    unit = filters / (filters.square().sum(-1, keepdim=True) + epsilon).clamp(min=tiny).sqrt()
    cosine = unit @ unit.mT
    count = cosine.shape[-1]
    itself = torch.eye(count, dtype=torch.bool, device=cosine.device)
    apart = cosine.masked_fill(itself, 0)  # before the non-linearity, whose pole is where a filter meets itself
    energy = repulsion(apart).masked_fill(itself, 0).sum((-2, -1))
    if not half_space:
        return energy / (count * (count - 1))
    # Among 2N rows a pair stands twice as it is and twice with one filter reversed; every filter meets its own reverse.
    reversed_ = repulsion(-apart).masked_fill(itself, 0).sum((-2, -1))
    own = repulsion(-cosine.diagonal(dim1=-2, dim2=-1)).sum(-1)
    return (energy + reversed_ + own) / (count * (2 * count - 1))


class MHE(WeightRegularizer):
    """Hyperspherical energy of all chosen weights."""

    compares: ClassVar[bool] = True
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-2, high=10.0, log=True)}

    strength: Single = Field(1.0, description="Weight of a hidden layer's energy; the output layer has ten times that.")
    power: Literal[0, 1, 2] = Field(2, description="Power s of the energy: 0 (logarithmic), 1 or 2.")
    angular: bool = Field(False, description="Angles instead of chords.")
    half_space: bool = Field(True, description="Treat a direction and its opposite as the same, in hidden layers.")

    def penalty(self, step: Step) -> Tensor:
        """Sum over chosen weights of `hyperspherical_energy`; the network's last weight counts as the output layer."""
        output = step.output_weight
        terms = [
            10 * self._energy(rows, False) if name == output else self._energy(rows, self.half_space)
            for name, rows in self.filters(step).items()
        ]
        return self.summed(terms, step)

    def _energy(self, filters: Tensor, half_space: bool) -> Tensor:
        return hyperspherical_energy(filters, self.power, angular=self.angular, half_space=half_space)
