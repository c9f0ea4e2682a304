"""A small network in float64, and updates of it by several methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparsestudy import regularizers
from sparsestudy.training.probe import Probe
from sparsestudy.training.update import Updater

RATE = 0.1
INPUTS = torch.randn(20, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(20) % 3


def small_network(seed: int = 0, norm: bool = False) -> nn.Sequential:
    """Two linear layers, with a batch norm between them if asked for."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        norms = [nn.BatchNorm1d(5)] if norm else []
        return nn.Sequential(nn.Linear(6, 5), *norms, nn.Tanh(), nn.Linear(5, 3)).double()


def updater(model: nn.Module, *methods: Mapping[str, Any], optimizer: Any = None, seed: int = 0) -> Updater:
    built = [regularizers.get(**method) for method in methods]
    chosen = optimizer or torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    return Updater(model, built, chosen, cross_entropy, Probe(model), seed=seed)


def train(update: Updater, steps: int = 5) -> None:
    for step in range(steps):
        update(INPUTS, LABELS, epoch=step / 2, rate=RATE)


def same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
