"""What a network is to predict: classes counted or numbers standardised, and made wrong where the study asks for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsestudy.training.imports import refuse
from sparsestudy.training.pool import Pool

_NOISE_STREAM = 1
"""Keeps the draws of label noise apart from those of the splits, so that neither moves the other."""


def class_count(pool: Pool) -> int:
    """Number of classes, at least 2; 0 where labels are floating point, and so numbers to predict.

    Raises:
        SpecError: Integer labels that are not 0, 1, … without a gap.
    """
    if pool.labels.is_floating_point():
        return 0
    present = np.unique(pool.labels.numpy())
    classes = len(present)
    if classes < 2 or not np.array_equal(present, np.arange(classes)):
        few = f"{present[:10].tolist()}{' …' if classes > 10 else ''}"
        needs = "labels must be 0, 1, … without a gap, at least two classes, or floating point, as numbers to predict"
        refuse("data.name", f"{needs}; got {few}")
    if pool.test is not None and not np.isin(pool.test.labels.numpy(), present).all():
        refuse("data.name", f"the official test set has labels outside 0 … {classes - 1} of its training set")
    return classes


def strata(labels: Tensor) -> NDArray[np.int64]:
    """Groups ``[examples]`` of which every split gets its share: the classes, or a single one for numbers."""
    return np.zeros(len(labels), dtype=np.int64) if labels.is_floating_point() else labels.numpy()


def standardise(labels: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float, float]:
    """Numbers of all splits, float64, in standard deviations from the mean of the training split.

    Returns:
        The numbers in float32, and that mean and standard deviation.

    Raises:
        SpecError: The training labels are all the same.
    """
    std, mean = torch.std_mean(labels["train"], correction=0)
    if not std > 0:
        refuse("data.name", f"all {len(labels['train'])} training labels are {mean:g}, so there is nothing to learn")
    return {name: ((split - mean) / std).float() for name, split in labels.items()}, mean.item(), std.item()


def corrupt(labels: Tensor, share: float, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Replace ``round(share * examples)`` labels by another class or, of numbers, by the number of another example.

    Each other class, or example, is equally likely; so wrong numbers are as spread as right ones. More noise adds to
    less: the labels that are wrong at 10 % are wrong in the same way at 20 %.

    Args:
        labels: Classes, or numbers, of the training split.
        share: In [0, 1).
        classes: Number of classes; 0 for numbers.
        seed: Of the draws.

    Returns:
        The labels, and bool [examples], true where one was replaced.
    """
    rng = np.random.default_rng([seed, _NOISE_STREAM])
    order = torch.from_numpy(rng.permutation(len(labels)))
    steps = torch.from_numpy(rng.integers(1, classes or len(labels), len(labels)))
    corrupted = torch.zeros(len(labels), dtype=torch.bool)
    corrupted[order[: round(share * len(labels))]] = True
    wrong = (labels + steps) % classes if classes else labels[(torch.arange(len(labels)) + steps) % len(labels)]
    return torch.where(corrupted, wrong, labels), corrupted
