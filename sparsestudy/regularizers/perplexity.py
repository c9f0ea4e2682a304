r"""Targeted perplexity sparsity: a penalty on how sparse chosen layers are, layer by layer.

With ``S_l`` the mean perplexity sparsity of layer l over the batch (`sparsestudy.measures.perplexity`), in [0, 1)::

    no target, strength λ:         sum over l of  λ_l * S_l
    target τ_l, strength λ >= 0:   sum over l of  λ_l * max(0, S_l - τ_l)**2      denser than the target is free
    target τ_l, strength λ < 0:    sum over l of |λ_l| * max(0, τ_l - S_l)**2     sparser than the target is free

Positive strengths make layers denser, the direction of the papers; negative ones make them sparser. Without a target,
strengths around 1 from the first step can collapse a small network: warm up, or set a target, which is silent while
the layer is dense enough. Silent images and dead units have no gradient, so the penalty cannot revive a dead unit:
watch ``dead_fraction`` beside it.

Source: Huesmann et al. 2020 (arXiv 2002.09237) and 2021 (arXiv 2104.06153). VERBATIM: a differentiable, perplexity-
based sparsity of each layer's activations is added to the loss, for layers chosen individually, to push sparsity down.
ASSUMED: the formula of S, the set-point form, the negative direction, the warm-up and all defaults.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from sparsestudy.measures.perplexity import Axis, Normalise, perplexity_sparsity
from sparsestudy.regularizers._regularizer import LayerRegularizer, OverRanks, PerLayer, Reads, Target
from sparsestudy.regularizers._step import Step, match
from sparsestudy.space import Domain, Uniform


def _in_unit_interval(target: Any) -> Any:
    if not isinstance(target, Tensor) and not 0 <= target < 1:
        raise ValueError(f"a sparsity target lies in [0, 1), got {target:g}")
    return target


def mean_sparsity(activations: Tensor, axis: Axis = "layer", normalise: Normalise = "ratio") -> Tensor:
    """Mean perplexity sparsity over all vectors that are not silent; 0 with zero gradient if all are.

    Example:
        >>> mean_sparsity(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])).item()
        0.5
    """
    sparsity, live = perplexity_sparsity(activations, axis, normalise)
    return sparsity.sum() / live.sum().clamp(min=1)


def shortfall(sparsity: Tensor, target: float | Tensor | None, strength: float | Tensor) -> Tensor:
    """One layer's term of the penalty; see the module's formulas.

    Example:
        >>> round(shortfall(torch.tensor(0.7), 0.5, 2.0).item(), 6)  # 2 * (0.7 - 0.5)**2
        0.08
    """
    if target is None:
        return strength * sparsity
    strength = torch.as_tensor(strength, dtype=sparsity.dtype, device=sparsity.device)
    beyond = torch.where(strength >= 0, sparsity - target, target - sparsity)
    return strength.abs() * beyond.clamp(min=0).square()


class Perplexity(LayerRegularizer):
    """Penalty on the perplexity sparsity of chosen layers, with an optional target for each."""

    reads: ClassVar[Reads] = "activations"
    over_ranks: ClassVar[OverRanks] = "gather"
    search: ClassVar[dict[str, Domain]] = {
        "strength": Uniform(low=1e-3, high=10.0, log=True),
        "targets": Uniform(low=0.2, high=0.8),
    }

    strength: PerLayer = Field(0.1, description="Weight λ; negative makes layers sparser.")
    targets: dict[str, Annotated[Target, AfterValidator(_in_unit_interval)]] = Field(
        {}, description="Layer pattern -> target τ in [0, 1); layers without one are not touched, unless none has one."
    )
    axis: Axis = Field("layer", description="layer, inter, intra or image; see the measure.")
    normalise: Normalise = Field("ratio", description="ratio or affine; see the measure.")
    warmup_epochs: float = Field(0.0, ge=0, description="Epochs over which the strength grows linearly from zero.")

    def acts_on(self, layer: str) -> bool:
        """Whether the layer is chosen, by `targets` if there are any, else by `layers`."""
        return super().acts_on(layer) and (not self.targets or match(tuple(self.targets), layer) is not None)

    def obstacle(self, shape: tuple[int, ...]) -> str:
        """Perplexity needs vectors of at least two entries along its axis."""
        channels, spatial = shape[0], math.prod(shape[1:])
        entries = {"layer": channels * spatial, "inter": channels, "intra": spatial, "image": 2}[self.axis]
        return f"axis {self.axis} has vectors of {entries} entry there, and needs 2" if entries < 2 else ""

    def target_of(self, layer: str) -> float | Tensor | None:
        """Target of a layer that it acts on, None if there are no targets."""
        pattern = match(tuple(self.targets), layer)
        return None if pattern is None else self.targets[pattern]

    def penalty(self, step: Step) -> Tensor:
        """Sum over chosen layers of `shortfall`, times the warm-up."""
        warmup = min(1.0, step.epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        terms = [
            shortfall(mean_sparsity(a, self.axis, self.normalise), self.target_of(layer), self.strength_of(layer))
            for layer, a in self.chosen(step.activations)
        ]
        return warmup * torch.stack(terms).sum()
