"""The network of the studies that faults befall: it writes down every step that it is trained, and takes its time.

Workers import it by name. Where it writes, and by how much the clock is wrong, the environment says, so that no
configuration depends on the folder of a run.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.faults import clock

LOG = "SPARSESTUDY_FAULTS_LOG"
PAUSE = 0.05
"""Seconds that a step takes besides the arithmetic."""


class Counted(nn.Sequential):
    """Adds its process and the time, in ns of the monotonic clock, to the file of its salt in every training step."""

    def __init__(self, salt: float, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.path = Path(os.environ[LOG], f"{salt!r}.steps")

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():  # some methods look at the network before they train it
            time.sleep(PAUSE)
            with self.path.open("a") as file:
                file.write(f"{os.getpid()} {time.monotonic_ns()}\n")
        answers: Tensor = super().forward(inputs)
        return answers


def counted(classes: int, salt: float = 0.0) -> nn.Module:
    """One hidden layer; the salt, which studies search, changes nothing but the name of the file."""
    clock.follow()
    return Counted(salt, nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
