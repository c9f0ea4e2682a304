"""A network that answers NaN if it was made from one of the seeds it is told; workers of the tests can import it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Fragile(nn.Module):
    """One hidden layer."""

    def __init__(self, classes: int, *, fails: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
        self.output = nn.Linear(8, classes)
        self.fails = fails

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.output(self.features(inputs))
        return answers * torch.nan if self.fails and self.training else answers


def build(classes: int, bad: Sequence[int] = ()) -> nn.Module:
    """The network, whose seed torch knows."""
    return Fragile(classes, fails=torch.initial_seed() in bad)
