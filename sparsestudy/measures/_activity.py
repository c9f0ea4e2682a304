"""A layer's activations as statistics read them, and what keeps reading them cheap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Activity:
    """One layer's activations of one batch, with what several statistics need of them computed at most once.

    Statistics take it in place of the tensor: reading the activations is what most of them cost.

    Attributes:
        maps: ``[B, C, S]`` with S spatial positions, in float32 or better.

    Example:
        >>> Activity.of(torch.tensor([[1.0, -2.0], [0.0, 3.0]])).squares.tolist()
        [5.0, 9.0]
    """

    maps: Tensor

    @classmethod
    def of(cls, activations: Tensor | Self) -> Self:
        """View activations ``[B, C, *spatial]`` or ``[B, C]``; an activity is returned as it is."""
        return cls(as_maps(activations)) if isinstance(activations, Tensor) else activations

    @cached_property
    def _counted(self) -> tuple[Tensor, ...]:
        def count(maps: Tensor) -> tuple[Tensor, Tensor]:
            magnitudes = maps.abs()
            return magnitudes.sum(2), magnitudes.sign().sum(2)  # signs add in a quarter of the time of booleans

        return by_parts(count, self.maps)

    @property
    def mass(self) -> Tensor:
        """Sum of the magnitudes of each map, ``[B, C]``."""
        return self._counted[0]

    @property
    def active(self) -> Tensor:
        """Number of activations of each filter that are not zero, ``[C]``; in float64, which counts beyond 2**24."""
        return self._counted[1].sum(0, dtype=torch.float64)

    @cached_property
    def squares(self) -> Tensor:
        """Sum of the squares of all units of each image, ``[B]``."""
        return by_parts(lambda units: (units.square().sum(1),), self.units)[0]

    @property
    def units(self) -> Tensor:
        """Activations of each image in one row, ``[B, C S]``."""
        return self.maps.flatten(1)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Sums over images and positions of each filter ``[C]`` and of products of two ``[C, C]``, in float64.

        A small variance, or a small angle, is a small difference of these.
        """
        channels = self.maps.shape[1]
        first, second = (self.maps.new_zeros(shape, dtype=torch.float64) for shape in (channels, (channels, channels)))
        for part in parts(self.maps):
            samples = part.transpose(0, 1).flatten(1).double()
            first, second = first + samples.sum(1), second + samples @ samples.T
        return first, second


def as_maps(activations: Tensor) -> Tensor:
    """View activations as ``[B, C, S]`` with S spatial positions (1 for a dense layer), in float32 or better.

    Half precision is widened before anything is summed: sums of thousands of bfloat16 values lose their last digits.
    """
    wide = widened(activations)
    return wide.reshape(wide.shape[0], wide.shape[1], -1)


def widened(values: Tensor) -> Tensor:
    """The tensor in float32 or better: half precision loses too much in sums and differences.

    Example:
        >>> widened(torch.zeros(1, dtype=torch.bfloat16)).dtype, widened(torch.zeros(1, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return values if values.dtype == torch.float64 else values.float()


def parts(values: Tensor) -> tuple[Tensor, ...]:
    """Cut ``[B, ...]`` along B into parts that a CPU's cache holds with what is computed from them.

    Temporaries of the size of a large layer's activations would come from fresh pages of memory every time, which on a
    CPU takes several times as long as the arithmetic. One part on other devices, where many small kernels are slower.
    """
    if values.device.type != "cpu":
        return (values,)
    cut: tuple[Tensor, ...] = values.split(max(1, _PART // max(1, values[:1].numel())))
    return cut


_PART = 1 << 18
"""Entries of one of the `parts`."""


def by_parts(function: Callable[[Tensor], tuple[Tensor, ...]], values: Tensor) -> tuple[Tensor, ...]:
    """What a function of each row, the first dimension, finds: several tensors ``[B, ...]``."""
    return tuple(torch.cat(found) for found in zip(*(function(part) for part in parts(values)), strict=True))


def in_numpy(values: Tensor) -> NDArray[Any] | None:
    """The same memory for numpy, where its sort and logarithm beat torch's: on a CPU, with one thread or two.

    torch sorts positions along with the values, four times slower, and takes logarithms from MKL, which is two to three
    times slower on processors that are not Intel's. None elsewhere, and for a tensor that carries a graph or that
    ``torch.func`` is transforming.
    """
    if values.device.type != "cpu" or values.requires_grad or torch.get_num_threads() > 2:
        return None
    try:
        return values.numpy()
    except RuntimeError:
        return None


def sort_(values: Tensor) -> Tensor:
    """Rows of ``[B, n]`` in ascending order; the tensor may be overwritten."""
    array = in_numpy(values)
    if array is None:
        return values.sort(1).values
    array.sort(1)
    return values


def log_(values: Tensor) -> Tensor:
    """Natural logarithm, in place, of positive normal numbers: zeros and denormals are ten times slower."""
    array = in_numpy(values)
    if array is None:
        return values.log_()
    np.log(array, out=array)
    return values
