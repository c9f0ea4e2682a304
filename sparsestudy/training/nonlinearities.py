"""Non-linearities, as modules and as functions called inside forward methods, such as ``F.relu(x)``.

A function has no module to hook, so every torch function that runs in a forward pass is watched, which costs two
microseconds each: worth it only where there is something to find. The module whose forward method made the call is read
off the call stack, which needs no bookkeeping that an exception could upset.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_NAMES: Mapping[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.RReLU: "rrelu",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.CELU: "celu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Hardswish: "hardswish",
    nn.Hardtanh: "hardtanh",
    nn.Softplus: "softplus",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Hardsigmoid: "hardsigmoid",
}
_PLACES = (torch, nn.functional, Tensor, torch._C._nn)

NONLINEARITIES: tuple[type[nn.Module], ...] = tuple(_NAMES)
"""Modules whose output is a layer of activations."""

FUNCTIONS: Mapping[Callable[..., Any], str] = {
    getattr(place, spelling): name
    for name in _NAMES.values()
    for spelling in (name, f"{name}_")  # in place
    for place in _PLACES
    if hasattr(place, spelling)
}
"""The same as functions: every spelling, and the name that goes into the layer's."""


class FunctionalCalls(TorchFunctionMode):
    """While active, reports each non-linearity that a forward method calls as a function.

    Args:
        names: Modules of the network with their names.
        hooked: Those that are observed as modules; what they call inside is no activation of its own.
        on_call: Called with ``(site, output)``. The site is the function's name below that of the calling module,
            ``block1.relu``, or ``block1.functional.relu`` where the former is a module.
    """

    def __init__(
        self,
        names: Mapping[nn.Module, str],
        hooked: Collection[nn.Module],
        on_call: Callable[[str, Any], None],
    ) -> None:
        super().__init__()
        self._names = names
        self._hooked = hooked
        self._on_call = on_call
        self._taken = set(names.values())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and report it if it is a non-linearity."""
        output = func(*args, **(kwargs or {}))
        function = FUNCTIONS.get(func)
        if function is not None:
            caller = self._caller(sys._getframe(1))
            if caller not in self._hooked:
                self._on_call(self._site(self._names.get(caller, "") if caller else "", function), output)
        return output

    def _caller(self, frame: FrameType | None) -> nn.Module | None:
        """The innermost module of the network that is being called; parts hidden in lists do not count."""
        while frame is not None:
            if frame.f_code is _CALL and (module := frame.f_locals["self"]) in self._names:
                return module  # type: ignore[no-any-return]
            frame = frame.f_back
        return None

    def _site(self, owner: str, function: str) -> str:
        prefix = f"{owner}." if owner else ""
        site = prefix + function
        return f"{prefix}functional.{function}" if site in self._taken else site


_CALL = nn.Module._call_impl.__code__
