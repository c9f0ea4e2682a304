"""AL2: a growing L2 penalty on the last feature layer.

``w_e * mean(h**2)`` over batch and features, h the activations of the last chosen layer, with a weight that grows every
epoch: ``w_0 = strength``, ``w_(e+1) = w_e * (1.1 if w_e < 5 else 1.01)``, up to a cap. The published schedule has no
cap and drives the features to zero within some hundred epochs.

Source: El Helou, Dumbgen and Susstrunk 2020 (arXiv 2003.03633); penalty and schedule VERBATIM from the authors' code
(strength 0.01), the cap is ASSUMED. Give ``layers`` to name the layer; without it the last layer is taken.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import LayerRegularizer, PerLayer, Reads
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform


def growth(epoch: int, start: float = 0.01) -> float:
    """Factor ``w_epoch / w_0`` of the schedule that starts from ``start``.

    Example:
        >>> [round(0.01 * growth(epoch), 7) for epoch in (1, 10, 50)]
        [0.011, 0.0259374, 1.1739085]
    """
    weight = start
    for _ in range(epoch):
        weight *= 1.1 if weight < 5 else 1.01
    return weight / start


class AL2(LayerRegularizer):
    """Growing L2 penalty on one layer."""

    reads: ClassVar[Reads] = "activations"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-3, high=1e-1, log=True)}

    strength: PerLayer = Field(0.01, description="Weight in the first epoch.")
    cap: float = Field(500.0, ge=1, description="Largest factor that the weight grows by.")

    def penalty(self, step: Step) -> Tensor:
        """Strength, grown, times the mean square of the last chosen layer."""
        layer, activations = list(self.chosen(step.activations))[-1]
        wide = activations.float() if activations.dtype.itemsize < 4 else activations
        penalty: Tensor = min(growth(int(step.epoch)), self.cap) * self.strength_of(layer) * wide.square().mean()
        return penalty
