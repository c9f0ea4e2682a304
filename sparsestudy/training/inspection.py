"""Measures of the network itself, beside those of what it does: of its weights, and of it as a whole."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self, TypeAlias

import torch
from torch import Tensor, nn

from sparsestudy import measures
from sparsestudy.measures import NetworkStatistic, WeightStatistic
from sparsestudy.regularizers import trained_weights
from sparsestudy.study import derive_seed
from sparsestudy.training.data import Split
from sparsestudy.training.wrappers import eager
from sparsestudy.trial import TrialConfig

Place: TypeAlias = tuple[str, str, str]
"""Split, layer and measure, as `sparsestudy.trial.Statistics` nests them; scalars of a split have no layer."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What to measure of a network itself.

    Attributes:
        weights: Statistics of a weight by name.
        networks: Statistics of the whole by name.
        initial: Weights before training by name; none if nothing asks for them.
        seed: Of the draws of statistics of the whole, the same in every epoch.
        probe_size: How many examples of a split those of the whole see.
    """

    weights: Mapping[str, WeightStatistic]
    networks: Mapping[str, NetworkStatistic]
    initial: Mapping[str, Tensor]
    seed: int
    probe_size: int

    @classmethod
    def of(cls, model: nn.Module, config: TrialConfig) -> Self:
        """What the configuration asks for, of a network that has not been trained yet."""
        chosen = {name: measures.get(name) for name in config.measures.names}
        weights = {name: s for name, s in chosen.items() if isinstance(s, WeightStatistic)}
        return cls(
            weights=weights,
            networks={name: s for name, s in chosen.items() if isinstance(s, NetworkStatistic)},
            initial={name: weight.clone() for name, weight in filters(model).items()} if weights else {},
            seed=derive_seed(config.seed, "measures"),
            probe_size=config.measures.probe_size,
        )

    @torch.no_grad()
    def values(self, model: nn.Module, splits: Mapping[str, Split]) -> dict[Place, Tensor]:
        """Values as 0-d tensors, under ``weights`` and under ``network``; nothing leaves the device.

        Args:
            model: The network.
            splits: ``train`` and ``validation``, whose first examples are the probe sets.
        """
        found: dict[Place, Tensor] = {}
        for name, weight in filters(model).items():
            for of_weight in self.weights.values():
                values = of_weight.compute(weight, self.initial[name])
                found |= {("weights", name, output): value for output, value in values.items()}
        with ExitStack() as stack:
            if self.networks and "torch._dynamo" in sys.modules:  # compiled code does not look at their hooks
                eager.hold()
                stack.callback(eager.release)
            for of_network in self.networks.values():
                for split in of_network.splits:
                    inputs, labels = (part[: self.probe_size] for part in (splits[split].inputs, splits[split].labels))
                    values = of_network.compute(model, inputs, labels, self.seed)
                    found |= {("network", split, output): value for output, value in values.items()}
        return found


def filters(model: nn.Module) -> dict[str, Tensor]:
    """Trainable weights of two or more dimensions, as regularisers see them, by name without its ``.weight``.

    Example:
        >>> [*filters(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))]
        ['0']
    """
    return {name.removesuffix(".weight"): weight.detach() for name, weight in trained_weights(model).items()}


def nested(numbers: Mapping[Place, float]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Values in the form of `sparsestudy.trial.Statistics`, scalars left out, None for what is not finite.

    Example:
        >>> nested({("train", "", "loss"): 0.5, ("train", "a", "gini"): 0.25, ("train", "b", "gini"): math.nan})
        {'train': {'a': {'gini': 0.25}, 'b': {'gini': None}}}
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for (split, layer, measure), value in numbers.items():
        if layer:
            values = found.setdefault(split, {}).setdefault(layer, {})
            values[measure] = value if math.isfinite(value) else None
    return found
