"""Skipped compute: the share of a network's multiplications that zeros among activations make superfluous, in [0, 1].

``sum over layers of MACs_l * z_l / sum over layers of MACs_l``, where z_l is the share of entries of layer l's input
that are exactly zero, and MACs_l its multiply-accumulates for one example, padded places included as is the custom:

- linear: every output entry takes as many as there are input features, at every position of ``[B, ..., features]``;
- convolution: every output entry takes ``(channels in / groups) * size of the kernel``;
- transposed convolution: every input entry takes ``(channels out / groups) * size of the kernel``.

Layers are the modules of these kinds, at each of their calls. All examples cost the same, so that the mean over
examples of their shares is the share over all. Biases, norms, pooling and products of activations with each other, as
in attention, count nowhere; what is called as a function, or inside ``nn.MultiheadAttention`` and recurrent modules,
is not noticed.

The layer that runs first reads data, not activations: no method changes how many of its zeros there are. It counts as
not skipped, and with its MACs in the total.

How to read it:

- It is an upper bound of what hardware gains from zeros wherever they are (unstructured): dense kernels gain nothing,
  others part of it.
- Only exact zeros count. A network with tanh, GELU or leaky rectifiers skips nothing.
- Of a linear layer the number is exact. In a convolution, entries at the border and those that a stride jumps over meet
  fewer weights than others; here each entry weighs the same. Zeros that padding adds count as no zeros.
- Zero weights are not looked at.

Undefined, and NaN: no such layer ran, or the network's answers are not finite.

Source: the share of multiplications by a zero neuron as what can be skipped is the idea of Albericio et al. 2016
(Cnvlutin, ISCA). MACs are DERIVED from the definition of each layer. To let the first layer count as not skipped,
and to weigh all entries of a convolution's input the same, is ASSUMED.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsestudy.measures._network import logits_of, undisturbed
from sparsestudy.measures._statistic import NetworkStatistic


def macs(layer: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """Multiply-accumulates of one call of a linear layer or convolution, over the whole batch.

    Example:
        >>> layer = nn.Conv2d(4, 6, 3, groups=2, padding=1)
        >>> macs(layer, torch.zeros(1, 4, 5, 5), torch.zeros(1, 6, 5, 5))  # 150 outputs, each 2 channels of 9
        2700
    """
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    assert isinstance(layer, _ConvNd)
    if isinstance(layer, _ConvTransposeNd):
        return inputs.numel() * layer.out_channels // layer.groups * math.prod(layer.kernel_size)
    return output.numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)


def skipped_compute(model: nn.Module, inputs: Tensor) -> tuple[Tensor, float]:
    """The share of multiply-accumulates skipped, a 0-d tensor in float64, and how many one example takes in all.

    Args:
        model: Maps ``[B, ...]`` to answers.
        inputs: ``[B, ...]``.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 3)).requires_grad_(False)
        >>> model[0].weight[:] = torch.eye(2)
        >>> share, total = skipped_compute(model, torch.tensor([[1.0, -1.0]]))  # 4 in the first, half of 6 skipped
        >>> round(share.item(), 4), total
        (0.3, 10.0)
    """
    calls: list[tuple[int, Tensor]] = []

    def count(layer: nn.Module, given: tuple[Tensor, ...], named: Mapping[str, Tensor], output: Tensor) -> None:
        seen = given[0] if given else named["input"]
        zeros = (seen == 0).sum(dtype=torch.float64) if calls else torch.zeros((), dtype=torch.float64).to(seen.device)
        calls.append((macs(layer, seen, output), zeros / max(1, seen.numel())))

    with undisturbed(model), ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, nn.Linear | _ConvNd):
                stack.callback(layer.register_forward_hook(count, with_kwargs=True).remove)
        answers: Any = logits_of(model, inputs)
    total = sum(number for number, _ in calls)
    if not total:
        return torch.full((), torch.nan, dtype=torch.float64, device=inputs.device), 0.0
    share = torch.stack([number / total * zeros for number, zeros in calls]).sum()
    return torch.where(answers.isfinite().all(), share, torch.nan), total / len(inputs)


class SkippedCompute(NetworkStatistic):
    """Output: ``skipped_compute``, on validation examples. As a metric: ``compute/skipped``."""

    outputs: ClassVar[tuple[str, ...]] = ("skipped_compute",)
    splits: ClassVar[tuple[Literal["train", "validation"], ...]] = ("validation",)

    def compute(self, model: nn.Module, inputs: Tensor, labels: Tensor, seed: int) -> dict[str, Tensor]:
        """See `NetworkStatistic.compute`."""
        del labels, seed
        return {"skipped_compute": skipped_compute(model, inputs)[0]}
