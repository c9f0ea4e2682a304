"""Minimum hyperspherical energy: keep the directions of a layer's filters apart.

The energy of a layer is that of `sparsestudy.measures.hyperspherical_energy`, by chord or angle, power 0, 1 or 2, in
full or half space; lower is more diverse. The output layer (the last weight) always uses the full space and weighs ten
times as much.

Source: Liu et al. 2018 (arXiv 1805.09298); energies, weights and the two spaces VERBATIM from the authors' code.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from sparsestudy.measures.hyperspherical_energy import hyperspherical_energy
from sparsestudy.regularizers._regularizer import Single, WeightRegularizer
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform


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
