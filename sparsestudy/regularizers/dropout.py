"""Dropout: zero each activation with probability p during training, scale the rest by 1 / (1 - p).

Put after the chosen layers, that is after their non-linearity; measures of those layers see what came before it.
Source: standard (inverted dropout, ``torch.nn.functional.dropout``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.hooks import RemovableHandle

from sparsestudy.regularizers._regularizer import LayerRegularizer, PerLayer, nth_use
from sparsestudy.space import Domain, Uniform


class Dropout(LayerRegularizer):
    """Dropout after the chosen layers."""

    strength_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.05, high=0.7)}

    strength: PerLayer = Field(0.5, description="Probability p of dropping an activation, in [0, 1).")

    def install(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> list[RemovableHandle]:
        """Drop activations of every chosen layer while the network trains."""
        uses: Counter[str] = Counter()

        def start(module: nn.Module, inputs: Any) -> None:
            uses.clear()

        def after(site: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
                uses[site] += 1
                layer = nth_use(site, uses[site])
                if not self.acts_on(layer):
                    return output
                return dropout(output, float(self.strength_of(layer)), module.training)

            return hook

        sites = [module.register_forward_hook(after(site)) for site, module in layers.items()]
        return [model.register_forward_pre_hook(start), *sites]
