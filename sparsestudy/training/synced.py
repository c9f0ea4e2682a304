"""Batch norms whose statistics are those of the whole batch, though several processes hold a part of it each.

PyTorch's own ``SyncBatchNorm`` computes the same, on GPUs only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsestudy.training.distributed import Group

_Forward: TypeAlias = Callable[[Tensor], Tensor]


def obstacle_to_sharing(model: nn.Module) -> str:
    """Why several workers cannot share the batches of a network, empty if they can.

    Example:
        >>> obstacle_to_sharing(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        ''
    """
    for name, module in model.named_modules():
        # Evaluation too would depend on who holds which examples.
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            return f"the batch norm {name!r} has no running statistics, which several workers need; allowed: 1"
    return ""


def synchronise(model: nn.Module, group: Group) -> None:
    """Let every batch norm of a network norm by the whole batch while it trains; its name, type and state stay.

    Raises:
        ValueError: See `obstacle_to_sharing`.
    """
    if group.size == 1:
        return
    if obstacle := obstacle_to_sharing(model):
        raise ValueError(obstacle)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_normed, module, group, module.forward)  # type: ignore[method-assign]


def _normed(module: _BatchNorm, group: Group, alone: _Forward, inputs: Tensor) -> Tensor:
    """Batch norm of ``[b, C, *spatial]``, the share of a batch."""
    if not module.training or group.share is None or not group.share.counts:
        return alone(inputs)
    wide = inputs if inputs.dtype == torch.float64 else inputs.float()
    over = [0, *range(2, inputs.dim())]
    each = [1, -1, *[1] * (inputs.dim() - 2)]
    count = sum(group.share.counts) * inputs[0, 0].numel()
    mean = group.summed(wide.sum(over)) / count
    centred = wide - mean.view(each)
    variance = group.summed(centred.square().sum(over)) / count
    _keep(module, mean.detach(), variance.detach() * (count / (count - 1)))
    normed = centred * (variance + module.eps).rsqrt().view(each)
    if module.weight is not None:
        normed = normed * module.weight.view(each) + module.bias.view(each)
    return normed.to(inputs.dtype)


@torch.no_grad()
def _keep(module: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as ``torch.nn.BatchNorm2d`` does."""
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    module.num_batches_tracked.add_(1)
    newest = 1 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
    module.running_mean.lerp_(mean.to(module.running_mean), newest)
    module.running_var.lerp_(variance.to(module.running_var), newest)
