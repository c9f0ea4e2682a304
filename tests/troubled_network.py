"""A network that may get into trouble in a training step, in one of the processes that train it together."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Troubled(nn.Module):
    """One hidden layer."""

    def __init__(self, classes: int, trouble: str, rank: int, step: int, marker: str) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
        self.output = nn.Linear(8, classes)
        self.trouble, self.rank, self.step, self.marker = trouble, rank, step, marker
        self.steps = 0

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.output(self.features(inputs))
        self.steps += self.training
        here = self.trouble and dist.is_initialized() and dist.get_rank() == self.rank
        return self.fail(answers) if here and self.training and self.steps == self.step else answers

    def fail(self, answers: Tensor) -> Tensor:
        if self.trouble == "error":
            raise ZeroDivisionError(f"step {self.step} divides by zero")
        if self.trouble == "kill once" and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "hang":
            time.sleep(1000)
        return answers * torch.nan if self.trouble == "nan" else answers


def build(classes: int, trouble: str, rank: int = 1, step: int = 3, marker: str = "") -> nn.Module:
    """The network."""
    return Troubled(classes, trouble, rank, step, marker)
