"""The one interface of every per-layer statistic, and the helpers they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

Sums: TypeAlias = dict[str, Tensor]


class LayerStatistic(ABC):
    """A statistic of one layer's activations over a set of examples.

    Activations are ``[B, C, *spatial]`` (convolution) or ``[B, C]`` (dense), taken after the non-linearity.
    """

    outputs: ClassVar[tuple[str, ...]]
    """Names of the values it computes; the first is the statistic itself."""

    @abstractmethod
    def update(self, activations: Tensor) -> Sums:
        """Sums over one batch, in float32 or better whatever the input's precision; no device synchronisation."""

    @abstractmethod
    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """Values as 0-d tensors by output name; NaN where the statistic is undefined for these examples."""


def as_maps(activations: Tensor) -> Tensor:
    """View activations as ``[B, C, S]`` with S spatial positions (1 for a dense layer), in float32 or better.

    Half precision is widened before anything is summed: sums of thousands of bfloat16 values lose their last digits.
    """
    wide = activations if activations.dtype == torch.float64 else activations.float()
    return wide.reshape(wide.shape[0], wide.shape[1], -1)


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """``total / count``, NaN where nothing was counted."""
    return total / count


def live_sum(values: Tensor) -> Sums:
    """Sum and number of the values that are defined: ``total`` and ``live``, 0-d each."""
    live = values.isfinite()
    return {"total": torch.where(live, values, 0).sum(), "live": live.sum(dtype=values.dtype)}
