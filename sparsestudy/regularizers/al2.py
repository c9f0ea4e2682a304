"""AL2: a growing L2 penalty on the features that the classifier reads.

``strength * w_e / w_0 * mean(h**2)`` over batch and features, where the weight grows every epoch: ``w_0 = 0.01``,
``w_(e+1) = w_e * (1.1 if w_e < 5 else 1.01)``; the factor ``w_e / w_0`` is capped. The published schedule has no cap
and drives the features to zero within some hundred epochs. h is what enters the last linear layer, pooled, dropped and
flattened as it is; of a network that does not end in one, the activations of the last layer. With ``layers``, or with
strengths by layer, h is the activations of the last layer chosen, right after its non-linearity.

Source: El Helou, Dumbgen and Susstrunk 2020 (arXiv 2003.03633); penalty, place and schedule VERBATIM from the authors'
code (strength 0.01). ASSUMED: the cap, other strengths, and other layers than the classifier's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import LayerRegularizer, OverRanks, PerLayer, Reads
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
    """Growing L2 penalty on the features, or on one layer."""

    reads: ClassVar[Reads] = "activations"
    over_ranks: ClassVar[OverRanks] = "sum"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=1e-3, high=1e-1, log=True)}

    strength: PerLayer = Field(0.01, description="Weight in the first epoch.")
    cap: float = Field(500.0, ge=1, description="Largest factor that the weight grows by.")

    def penalty(self, step: Step) -> Tensor:
        """Strength, grown, times the mean square of the features."""
        strength, features = self.strength, step.features
        if features is None or self.layers is not None or isinstance(strength, Mapping):
            layer, features = list(self.chosen(step.activations))[-1]
            strength = self.strength_of(layer)
        wide = features.float() if features.dtype.itemsize < 4 else features
        penalty: Tensor = min(growth(int(step.epoch)), self.cap) * strength * wide.square().mean()
        return penalty
