"""Path norm: the norm of the vector that has an entry for every path through the network, the product of its weights.

The network with all parameters squared, biases included, is applied to an input of ones; the root of the sum of its
outputs. In front of sums of non-negative numbers a rectifier, leaky or not, changes nothing. Invariant to rescaling a
unit's incoming weights by c and its outgoing ones by 1/c, which leaves the network's function as it is.

What a network has besides weights and rectifiers:

- A batch norm is the affine map that it is in evaluation mode; its factor and its summand are squared.
- Maxima and means of pooling stay as they are.
- Undefined, and NaN: networks with a module whose output is not proportional to its input (GELU, tanh, a bounded
  rectifier, …), that normalises by what it sees (layer, group and instance norm), attends or recurs, or whose weights
  are reparametrised. Such functions that are not modules are not noticed.

Source: Neyshabur et al. 2015 (arXiv 1506.02617), one pass on ones with squared parameters VERBATIM from Neyshabur's
code. Batch norm DERIVED: there, it is folded into the layer before it, bias and all, which is the same as long as that
layer's bias, idle in front of a batch norm, is zero.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import is_parametrized

from sparsestudy.measures._network import batch_norms, logits_of, undisturbed
from sparsestudy.measures._statistic import NetworkStatistic

_WITHOUT_PATHS: tuple[type[nn.Module], ...] = (
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,  # and ReLU6, which is one
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Softmax,
    nn.LogSoftmax,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    _InstanceNorm,
    nn.MultiheadAttention,
    nn.RNNBase,
)


def path_norm(model: nn.Module, example: Tensor) -> Tensor:
    """Path norm of a network whose inputs have the shape of ``example [1, ...]``, a 0-d tensor.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1, bias=False)).requires_grad_(False)
        >>> model[0].weight[:], model[0].bias[:], model[2].weight[:] = torch.tensor([[1.0, -2.0]]), 2.0, -3.0
        >>> path_norm(model, torch.zeros(1, 2)).square().item()  # ((1**2 + (-2)**2) + 2**2) * (-3)**2
        81.0
    """
    squared = {name: parameter.square() for name, parameter in model.named_parameters()}
    with undisturbed(model), ExitStack() as stack:
        for norm, (factor, summand) in batch_norms(model).items():
            stack.callback(norm.register_forward_hook(_affine(factor.square(), summand.square())).remove)
        return logits_of(model, torch.ones_like(example), squared).double().sum().sqrt()


def _affine(factor: Tensor, summand: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        shape = [-1] + [1] * (output.dim() - 2)
        return inputs[0] * factor.reshape(shape) + summand.reshape(shape)

    return hook


def has_paths(model: nn.Module) -> bool:
    """Whether the path norm is defined, as far as modules tell.

    Example:
        >>> has_paths(nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU())), has_paths(nn.Sequential(nn.GELU()))
        (True, False)
    """
    known = batch_norms(model)
    return not any(
        isinstance(module, _WITHOUT_PATHS)
        or (isinstance(module, _BatchNorm) and module not in known)
        or is_parametrized(module)
        for module in model.modules()
    )


class PathNorm(NetworkStatistic):
    """Output: ``path_norm``."""

    outputs: ClassVar[tuple[str, ...]] = ("path_norm",)

    def compute(self, model: nn.Module, inputs: Tensor, labels: Tensor, seed: int) -> dict[str, Tensor]:
        """See `NetworkStatistic.compute`; of the inputs only the shape counts."""
        del labels, seed
        if not has_paths(model):
            return {"path_norm": torch.full((), torch.nan, dtype=torch.float64, device=inputs.device)}
        with torch.no_grad():
            return {"path_norm": path_norm(model, inputs[:1])}
