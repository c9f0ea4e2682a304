"""What the statistics of whole networks share: a way to run a network that leaves no trace, and its batch norms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards modes and torch's random generators are as before, also on error.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
        >>> with undisturbed(model):
        ...     model.training
        False
        >>> model.training, model[1].training
        (True, True)
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            yield
    finally:
        for module, training in modes:
            module.training = training


def logits_of(model: nn.Module, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """Logits ``[B, classes]``, with other parameters in the places of the named ones.

    Nothing is written into the network: the parameters are lent, and what the pass does to buffers happens to copies.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits: Tensor = functional_call(model, {**buffers, **(parameters or {})}, (inputs,))
    return logits


def batch_norms(model: nn.Module) -> dict[_BatchNorm, tuple[Tensor, Tensor]]:
    """Factor and summand, ``[C]`` each, that each batch norm with running statistics is in evaluation mode.

    Example:
        >>> norm = nn.BatchNorm1d(1, eps=0).requires_grad_(False)
        >>> norm.running_mean, norm.running_var, norm.weight[:] = torch.tensor([1.0]), torch.tensor([4.0]), 3.0
        >>> [(factor.tolist(), summand.tolist()) for factor, summand in batch_norms(norm).values()]
        [([1.5], [-1.5])]
    """
    found = {}
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            factor = (module.running_var + module.eps).rsqrt()
            factor = factor if module.weight is None else factor * module.weight
            summand = -module.running_mean * factor
            found[module] = (factor, summand if module.bias is None else summand + module.bias)
    return found
