"""Statistics of a network, one file each; the folder is the registry.

There are four kinds:

- `LayerStatistic`: of a layer's activations, one set of values per layer;
- `WeightStatistic`: of a weight's filters, one per weight;
- `OutputStatistic`: of the logits;
- `NetworkStatistic`: of the network as a whole.

Those of activations and outputs are kept as *sums*: a mapping of tensors that add. Sums of batches, ranks and probe
chunks are merged by addition, so that measuring in parts equals measuring the whole, and nothing is copied off the
device until the values are wanted.

Example:
    >>> import torch
    >>> zero = get("zero_fraction")
    >>> sums = merge(zero.update(torch.tensor([[0.0, 1.0]])), zero.update(torch.tensor([[2.0, 3.0]])))
    >>> {name: value.item() for name, value in zero.compute(sums).items()}
    {'zero_fraction': 0.25}
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sparsestudy._registry import lookup, modules
from sparsestudy.measures._activity import Activity
from sparsestudy.measures._statistic import (
    LayerStatistic,
    NetworkStatistic,
    OutputStatistic,
    Statistic,
    Sums,
    WeightStatistic,
)

__all__ = [
    "Activity",
    "LayerStatistic",
    "NetworkStatistic",
    "OutputStatistic",
    "Statistic",
    "Sums",
    "WeightStatistic",
    "get",
    "merge",
    "names",
]


def names() -> list[str]:
    """Names of all statistics, of any kind."""
    return modules(__name__)


def get(name: str) -> Statistic:
    """The statistic of that name.

    Raises:
        NotFoundError: There is none; the message lists what there is.
    """
    return lookup(__name__, name, Statistic, "measure")()


def merge(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Sums:
    """Sums of the union of two disjoint sets of examples."""
    return {name: left[name] + right[name] for name in left}
