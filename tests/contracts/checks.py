"""What the contracts of the several kinds of statistics have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsestudy import measures

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def named(kind: type[measures.Statistic]) -> list[str]:
    """Names of all statistics of one kind."""
    return [name for name in measures.names() if isinstance(measures.get(name), kind)]


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float, atol: float) -> None:
    torch.testing.assert_close(_doubles(found), _doubles(expected), rtol=rtol, atol=atol, equal_nan=True)


def _doubles(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in values.items()}


class NoCopyOffTheDevice(TorchDispatchMode):
    """Fails where a GPU would have to be waited for: a value read in Python, or a shape that depends on values."""

    FORBIDDEN = ("_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.FORBIDDEN, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))
