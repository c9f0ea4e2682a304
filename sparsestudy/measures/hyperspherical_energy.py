"""Hyperspherical energy: how evenly the directions of a weight's filters are spread. Lower is more diverse.

Rows ``w_i`` of the filter matrix are repelling charges on a sphere. With ``n_i = sqrt(|w_i|**2 + 1e-4)``,
``c_ij = <w_i, w_j> / (n_i n_j)``, squared chord ``D = 2 - 2c`` and angle ``T = arccos(c) / pi + 1e-4`` in half-turns,
the energy is the mean over pairs i < j of

===== ============ ==== =========
power term         form term
===== ============ ==== =========
0     ``-log D``   0    ``-log T``
1     ``D**-0.5``  1    ``0.1 / T``
2     ``1 / D``    2    ``0.1 / T**2``
===== ============ ==== =========

(left: chord; right: angular). Half space puts ``-w_i`` beside every ``w_i``, so that a direction and its opposite count
as the same. Power 0 is negative for diverse filters. ``D`` is clamped at 1e-6 and the pairs are taken before the
non-linearity: the published code is NaN for duplicate or large filters in single precision. A zero filter counts as
orthogonal to all others.

Measured is the chord in full space for the three powers; undefined for fewer than two filters. Orthonormal filters give
``-log 2``, ``1 / sqrt 2`` and ``1 / 2``. A depthwise convolution is taken as one matrix.

Source: Liu et al. 2018 (arXiv 1805.09298); energies and the two spaces VERBATIM from the authors' code.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._statistic import WeightStatistic, as_rows

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


class HypersphericalEnergy(WeightStatistic):
    """Outputs: ``hyperspherical_energy_s0``, ``…_s1`` and ``…_s2``, by power."""

    outputs: ClassVar[tuple[str, ...]] = (
        "hyperspherical_energy_s0",
        "hyperspherical_energy_s1",
        "hyperspherical_energy_s2",
    )

    def compute(self, weight: Tensor, initial: Tensor) -> dict[str, Tensor]:
        """See `WeightStatistic.compute`; ``initial`` is not looked at."""
        del initial
        rows = as_rows(weight)
        if len(rows) < 2:
            return dict.fromkeys(self.outputs, rows.new_full((), torch.nan))
        energies = (hyperspherical_energy(rows, power, half_space=False) for power in (0, 1, 2))
        return dict(zip(self.outputs, energies, strict=True))
