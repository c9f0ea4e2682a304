"""Dropout: zero each activation with probability p during training, scale the rest by 1 / (1 - p).

Put after the chosen layers, that is after their non-linearity; measures of those layers see what came before it.
Source: standard (inverted dropout, ``torch.nn.functional.dropout``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.hooks import RemovableHandle

from sparsestudy.regularizers._regularizer import LayerRegularizer, OverRanks, PerLayer
from sparsestudy.regularizers._step import Layer
from sparsestudy.space import Domain, Uniform


class Dropout(LayerRegularizer):
    """Dropout after the chosen layers."""

    over_ranks: ClassVar[OverRanks] = "draws"
    strength_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.05, high=0.7)}

    strength: PerLayer = Field(0.5, description="Probability p of dropping an activation, in [0, 1).")

    def install(self, model: nn.Module, layers: Sequence[Layer]) -> list[RemovableHandle]:
        """Drop activations of every chosen layer while the network trains."""

        def drop(layer: Layer, output: Tensor, training: bool) -> Tensor:
            return dropout(output, float(self.strength_of(layer.name)), training)

        return self.install_after(model, layers, drop)
