"""The four kinds of statistics, of layers, weights, outputs and whole networks, and the helpers they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from sparsestudy.measures._activity import Activity
from sparsestudy.study import TaskName

Sums: TypeAlias = dict[str, Tensor]


class Statistic(ABC):
    """What the four kinds have in common."""

    outputs: ClassVar[tuple[str, ...]]
    """Names of the values it computes, no two statistics sharing one; of a layer's, the first is its own name."""

    tasks: ClassVar[tuple[TaskName, ...]] = ("classification", "regression")
    """Tasks it can be used for."""


class LayerStatistic(Statistic):
    """A statistic of one layer's activations over a set of examples.

    Activations are ``[B, C, *spatial]`` (convolution) or ``[B, C]`` (dense), taken after the non-linearity.
    """

    @abstractmethod
    def update(self, activations: Tensor | Activity) -> Sums:
        """Sums over one batch, in float32 or better whatever the input's precision; no device synchronisation.

        Several statistics of the same activations share their work if they are given one `Activity`.
        """

    @abstractmethod
    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """Values as 0-d tensors by output name; NaN where the statistic is undefined for these examples."""


class WeightStatistic(Statistic):
    """A statistic of one weight of two or more dimensions, as the matrix ``[N, d]`` of its N filters or units."""

    @abstractmethod
    def compute(self, weight: Tensor, initial: Tensor) -> dict[str, Tensor]:
        """Values as 0-d tensors by output name, in float32 or better; NaN where undefined.

        Args:
            weight: ``[N, ...]``.
            initial: The same weight before training, same shape.
        """


class OutputStatistic(Statistic):
    """A statistic of what the network answers to a set of examples."""

    @abstractmethod
    def update(self, logits: Tensor, labels: Tensor) -> Sums:
        """Sums over one batch of logits ``[B, classes]`` and classes ``[B]``, as `LayerStatistic.update` takes them."""

    @abstractmethod
    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """Values as 0-d tensors by output name; NaN where the statistic is undefined for these examples."""


class NetworkStatistic(Statistic):
    """A statistic of the network as a whole, on a fixed set of examples.

    It leaves the network as it was, to the last bit and also after an error: parameters, buffers, modes, hooks; and
    torch's random generators too.
    """

    splits: ClassVar[tuple[Literal["train", "validation"], ...]] = ("train",)
    """Probe sets it is measured on."""

    @abstractmethod
    def compute(self, model: nn.Module, inputs: Tensor, labels: Tensor, seed: int) -> dict[str, Tensor]:
        """Values as 0-d tensors by output name; NaN where undefined.

        Args:
            model: Maps ``[B, ...]`` to logits ``[B, classes]`` or predictions ``[B, 1]``; measured in evaluation mode.
            inputs: ``[B, ...]``.
            labels: Classes ``[B]``, or numbers to predict.
            seed: What randomness it needs is drawn from this alone, so that epochs of a trial see the same draws.
        """


def as_rows(weight: Tensor) -> Tensor:
    """View a weight ``[N, ...]`` as the matrix ``[N, d]`` of its filters, in float64."""
    return weight.flatten(1).double()


def eigenvalues(symmetric: Tensor) -> Tensor:
    """Eigenvalues ``[n]`` of a symmetric matrix, ascending; NaN unless all its entries are finite.

    LAPACK raises on such matrices; a diverged network is to be reported as such, by whoever looks at its loss.

    Example:
        >>> eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).tolist()
        [1.0, 3.0]
        >>> eigenvalues(torch.full((2, 2), torch.nan)).tolist()
        [nan, nan]
    """
    finite = symmetric.isfinite().all()
    return torch.where(finite, torch.linalg.eigvalsh(torch.where(finite, symmetric, 0)), torch.nan)


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """``total / count``, NaN where nothing was counted."""
    return total / count


def live_sum(values: Tensor) -> Sums:
    """Sum and number of the values that are defined: ``total`` and ``live``, 0-d each."""
    live = values.isfinite()
    return {"total": torch.where(live, values, 0).sum(), "live": live.sum(dtype=values.dtype)}
