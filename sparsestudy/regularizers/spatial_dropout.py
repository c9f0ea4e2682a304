"""Spatial dropout: zero whole feature maps with probability p during training, scale the rest by 1 / (1 - p).

Neighbouring positions of a map are correlated, so that dropping single ones withholds little. On a dense layer it is
plain dropout. Put after the chosen layers; measures of those layers see what came before it.

Source: Tompson et al. 2015, standard (``torch.nn.functional.dropout2d``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.hooks import RemovableHandle

from sparsestudy.regularizers._regularizer import LayerRegularizer, OverRanks, PerLayer
from sparsestudy.regularizers._step import Layer
from sparsestudy.space import Domain, Uniform


def drop_maps(activations: Tensor, p: float, training: bool = True) -> Tensor:
    """Drop maps of ``[B, C, *spatial]``, or units of ``[B, C]``.

    Example:
        >>> kept = drop_maps(torch.ones(2, 3, 4, 4), 0.5)
        >>> set(kept.mean((2, 3)).flatten().tolist()) <= {0.0, 2.0}
        True
    """
    mask = dropout(
        torch.ones_like(activations.flatten(2)[:, :, 0] if activations.dim() > 2 else activations), p, training
    )
    return activations * mask.reshape(*mask.shape, *[1] * (activations.dim() - 2))


class SpatialDropout(LayerRegularizer):
    """Spatial dropout after the chosen layers."""

    over_ranks: ClassVar[OverRanks] = "draws"
    strength_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.05, high=0.5)}

    strength: PerLayer = Field(0.2, description="Probability p of dropping a map, in [0, 1).")

    def install(self, model: nn.Module, layers: Sequence[Layer]) -> list[RemovableHandle]:
        """Drop maps of every chosen layer while the network trains."""

        def drop(layer: Layer, output: Tensor, training: bool) -> Tensor:
            return drop_maps(output, float(self.strength_of(layer.name)), training)

        return self.install_after(model, layers, drop)
