"""Activations on which every statistic must be defined or NaN, and every penalty finite."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal noise in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Rectified normal noise in float64, about half of it zero."""
    return normal(*shape, seed=seed).relu()


def _one_hot(*shape: int) -> Tensor:
    """The same single unit is active in every image."""
    activations = torch.zeros(shape, dtype=torch.float64)
    activations.view(shape[0], -1)[:, 1] = 3.0
    return activations


AWKWARD: dict[str, Tensor] = {
    "conv": noise(4, 3, 2, 2),
    "dense": noise(4, 6),
    "all zero, conv": torch.zeros(4, 3, 2, 2, dtype=torch.float64),
    "all zero, dense": torch.zeros(4, 6, dtype=torch.float64),
    "one-hot, conv": _one_hot(4, 3, 2, 2),
    "one-hot, dense": _one_hot(4, 6),
    "one silent image": noise(4, 3, 2, 2) * torch.tensor([1.0, 0.0, 1.0, 1.0])[:, None, None, None],
    "duplicate channels": noise(4, 1, 2, 2).expand(4, 3, 2, 2),
    "duplicate images": noise(1, 3, 2, 2).expand(4, 3, 2, 2),
    "all equal": torch.ones(4, 3, 2, 2, dtype=torch.float64),
    "signed": noise(4, 3, 2, 2) - noise(4, 3, 2, 2, seed=1),
    "one channel": noise(4, 1, 3, 3),
    "batch of one, conv": noise(1, 3, 2, 2),
    "batch of one, dense": noise(1, 6),
    "one pixel": noise(4, 3, 1, 1),
    "sequence": noise(4, 3, 5),
}
