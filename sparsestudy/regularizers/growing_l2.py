r"""Growing L2: a decay that grows step by step on the smallest groups of each weight, until they are next to nothing.

The penalty is half of ``r * w**2`` summed over all entries, r a factor of the entry's group, so that the gradient
grows by ``r * w``. Groups are the filters of a weight ``[out, in, *kernel]``, its input channels, or its entries; the
smallest are the ``ceil(pruned * n)`` of n groups, at most n - 1, with the least mean ``|w|``. Every ``every`` steps, Δ
the strength::

    one:  when it starts, the smallest groups are picked;    picked: r <- r + Δ, up to the ceiling
    two:  all: r <- r + Δ / 10 until r >= pick_at; then the smallest are picked:
                                                             picked: r <- r + Δ, up to the ceiling;  kept: r = -kept

In form two the weights choose by how they give way to the same decay, ``10 * pick_at / Δ`` growths long; the kept ones
then grow a little, and the penalty may be negative. Groups are picked once. Without ``start_epoch`` form one picks
among the weights as they were initialised, where sizes say little; the authors start from a trained network. Decay far
above ``2 / learning rate`` diverges. The output layer is left out unless ``layers`` names it: its filters are the
classes.

Source: Wang et al. 2021 (ICLR, arXiv 2012.09243), GReg-1 and GReg-2. VERBATIM from the authors' code: groups, ranking,
both growths with Δ = kept = 1e-4, every 5 steps, ceiling 1 and pick_at 0.01. Left out, because this is a regulariser
and no pruning: the end of growth when kept weights are 1,000 times the picked, the removal of the picked, and
fine-tuning. ASSUMED: the start within the training of a fresh network, the output layer's exception, the recommended
ranges.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sparsestudy.errors import listing
from sparsestudy.regularizers._regularizer import Number, Reads, Single, WeightRegularizer
from sparsestudy.regularizers._step import Memory, Network, Step, Weight
from sparsestudy.space import Domain, Uniform

Groups = Literal["filter", "channel", "weight"]
Form = Literal["one", "two"]


def sizes(weight: Tensor, groups: Groups = "filter") -> Tensor:
    """Mean ``|w|`` of each group of ``[out, in, *kernel]``, of a shape that spreads over the weight.

    Example:
        >>> weight = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
        >>> sizes(weight).tolist(), sizes(weight, "channel").tolist()
        ([[2.0], [0.5]], [[0.75, 1.75]])
    """
    magnitudes = weight.detach().abs()
    if groups == "weight":
        return magnitudes
    within = tuple(axis for axis in range(weight.dim()) if axis != (groups == "channel"))
    return magnitudes.mean(within, keepdim=True)


def smallest(values: Tensor, share: float) -> Tensor:
    """Mask of the smallest ``ceil(share * n)`` of n values, at most n - 1.

    Example:
        >>> smallest(torch.tensor([0.1, 0.2, 0.8, 1.0]), 0.5).tolist()
        [True, True, False, False]
    """
    count = min(math.ceil(share * values.numel() - 1e-9), values.numel() - 1)  # 0.55 * 100 is a little over 55
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.flatten().argsort(stable=True)[:count]] = True
    return mask.reshape(values.shape)


def grown(factors: Tensor, candidates: Tensor, delta: Number, ceiling: float = 1.0) -> Tensor:
    """The factors of the groups of one weight after one growth of form one.

    Args:
        factors: Before it; zeros at first.
        candidates: Mask of the groups to pick if none have been picked.
        delta: Growth of a picked group.
        ceiling: No factor grows beyond it.

    Example:
        >>> grown(torch.zeros(2), torch.tensor([True, False]), 0.5).tolist()
        [0.5, 0.0]
    """
    picked = torch.where((factors > 0).any(), factors > 0, candidates)
    return torch.where(picked, (factors + delta).clamp(max=ceiling), 0)


def grown_together(
    factors: Tensor, candidates: Tensor, delta: Number, ceiling: float = 1.0, pick_at: float = 0.01, kept: float = 1e-4
) -> Tensor:
    """The factors of the groups of one weight after one growth of form two.

    Args:
        factors: Before it; zeros at first.
        candidates: Mask of the groups to pick if it is time.
        delta: Growth of a picked group.
        ceiling: No factor grows beyond it.
        pick_at: Factor at which groups are picked.
        kept: Minus the factor of the others from then on.

    Example:
        >>> mask = torch.tensor([True, False])
        >>> grown_together(torch.zeros(2), mask, 0.625, pick_at=0.05).tolist()
        [0.0625, 0.0625]
        >>> grown_together(torch.full((2,), 0.25), mask, 0.5, pick_at=0.05, kept=0.125).tolist()
        [0.75, -0.125]
    """
    were_picked = (factors < 0).any()  # only then are factors negative
    picked = torch.where(were_picked, factors > 0, candidates)
    apart = torch.where(picked, (factors + delta).clamp(max=ceiling), -kept)
    together = (factors + delta / 10).clamp(max=ceiling)
    return torch.where(were_picked | (factors >= pick_at).all(), apart, together)


class GrowingL2(WeightRegularizer):
    """Growing L2 penalty on the smallest groups of chosen weights."""

    reads: ClassVar[Reads] = "weights"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {
        "strength": Uniform(low=1e-3, high=0.1, log=True),
        "pruned": Uniform(low=0.2, high=0.8),
    }

    strength: Single = Field(1e-4, description="Δ, what the decay of a picked group grows by.")
    groups: Groups = Field("filter", description="filter, channel (of the input) or weight.")
    form: Form = Field("one", description="one (GReg-1) or two (GReg-2).")
    pruned: float = Field(0.5, gt=0, lt=1, description="Share of the groups of each weight that are picked.")
    every: int = Field(5, gt=0, description="Steps from one growth to the next.")
    ceiling: float = Field(1.0, gt=0, description="Largest decay.")
    pick_at: float = Field(0.01, ge=0, description="Decay at which form two picks.")
    kept: float = Field(1e-4, gt=0, description="Minus the decay of the kept groups in form two.")
    start_epoch: float = Field(0.0, ge=0, description="Epoch at which growth starts.")

    @model_validator(mode="after")
    def _picks_below_the_ceiling(self) -> Self:
        if self.pick_at > self.ceiling:
            raise ValueError(f"pick_at lies in [0, ceiling], got {self.pick_at:g} with a ceiling of {self.ceiling:g}")
        return self

    def weight_obstacle(self, weight: Weight) -> str:
        """Groups are compared with each other, so there have to be two."""
        single = f"it has a single {self.groups}, and {self.groups}s are compared with each other"
        return single if self._count(weight.shape) < 2 else ""

    def obstacles(self, network: Network) -> list[str]:
        """See `Regularizer.obstacles`; the output layer does not count unless it is named."""
        output = network.weights[-1] if len(network.weights) > 1 and self.layers is None else None
        return super().obstacles(replace(network, weights=[w for w in network.weights if w is not output]))

    def penalty(self, step: Step) -> Tensor | None:
        """Half of factor times square, summed; the factors grow first."""
        if step.epoch < self.start_epoch or (not isinstance(self.strength, Tensor) and self.strength == 0):
            return None
        output = step.output_weight if self.layers is None else ""
        chosen = {
            name: weight
            for name, weight in step.weights.items()
            if self.acts_on_weight(name) and name != output and self._count(weight.shape) >= 2
        }
        if not chosen:
            raise KeyError(f"growing_l2 matches none of the weights: {listing(step.weights)}")
        steps = step.memory.get("steps", torch.zeros((), dtype=torch.int64))
        if steps.item() % self.every == 0:
            self._grow(chosen, step.memory)
        step.memory["steps"] = steps + 1
        return torch.stack([_decay(weight, step.memory[f"factors/{name}"]) for name, weight in chosen.items()]).sum()

    def _grow(self, weights: dict[str, Tensor], memory: Memory) -> None:
        for name, weight in weights.items():
            found = sizes(weight, self.groups)
            factors = memory.get(f"factors/{name}", torch.zeros_like(found))
            candidates = smallest(found, self.pruned)
            grow = partial(grown_together, pick_at=self.pick_at, kept=self.kept) if self.form == "two" else grown
            memory[f"factors/{name}"] = grow(factors, candidates, self.strength, self.ceiling)

    def _count(self, shape: tuple[int, ...]) -> int:
        """How many groups a weight of this shape has."""
        return math.prod(shape) if self.groups == "weight" else shape[self.groups == "channel"]


def _decay(weight: Tensor, factors: Tensor) -> Tensor:
    wide = weight if weight.dtype == torch.float64 else weight.float()
    return 0.5 * (factors * wide.square()).sum()
