"""What stands between a network and its caller: wrappers, which add to names, and compiled code, which skips hooks."""

from __future__ import annotations

import warnings
from contextlib import ExitStack

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sparsestudy.errors import listing

_WRAPPERS = (nn.DataParallel, DistributedDataParallel, AveragedModel)
_WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module")  # children of torch.compile and of activation checkpointing


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside any number of wrappers.

    Example:
        >>> type(unwrap(nn.DataParallel(nn.ReLU()))).__name__
        'ReLU'
    """
    while True:
        children = module._modules
        inner = children["module"] if isinstance(module, _WRAPPERS) else None
        inner = next((children[name] for name in _WRAPPED if name in children), inner)
        if inner is None:
            return module
        module = inner


def modules(model: nn.Module) -> dict[nn.Module, str]:
    """Every module and its name, as ``named_modules`` has it, but as if nothing were wrapped.

    Example:
        >>> list(modules(nn.Sequential(nn.DataParallel(nn.Sequential(nn.ReLU())))).values())
        ['', '0', '0.0']
    """
    found: dict[nn.Module, str] = {}

    def walk(module: nn.Module, name: str) -> None:
        module = unwrap(module)
        if module in found:
            return
        found[module] = name
        for child_name, child in module._modules.items():
            if child is not None:
                walk(child, f"{name}.{child_name}" if name else child_name)

    walk(model, "")
    return found


def check(model: nn.Module) -> None:
    """Warn of parts whose inside cannot be observed, and refuse parts that no hook can observe as a whole.

    Raises:
        ValueError: A part runs as copies on several devices at once.
    """
    for module in model.modules():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise ValueError(
                f"DataParallel runs copies of the network on {len(module.device_ids)} devices at once, so no layer "
                f"has all its activations; use DistributedDataParallel, or one device"
            )
    scripted = [name for module, name in modules(model).items() if isinstance(module, torch.jit.ScriptModule)]
    outermost = [name or "all of it" for name in scripted if not name or name.rpartition(".")[0] not in scripted]
    if outermost:
        warnings.warn(f"activations inside TorchScript cannot be observed: {listing(outermost)}", stacklevel=3)


class _Eager:
    """While held, what `torch.compile` made runs as the Python it was made from.

    Compiled code does not look at hooks that were registered after it was made, and keeps those that were there. Held
    by count, because the holders may let go in any order.
    """

    def __init__(self) -> None:
        self._holders = 0
        self._stance = ExitStack()

    def hold(self) -> None:
        if self._holders == 0:
            self._stance.enter_context(torch.compiler.set_stance("force_eager"))
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            self._stance.close()


eager = _Eager()
