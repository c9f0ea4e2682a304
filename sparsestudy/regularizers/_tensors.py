"""What several methods do to tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsestudy.measures._activity import widened

__all__ = ["lengths", "widened"]


def lengths(rows: Tensor) -> Tensor:
    """L2 norms ``[N]`` of the rows of ``[N, ...]``; zero, with zero gradient, for a row of zeros.

    Example:
        >>> lengths(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [5.0, 0.0]
    """
    squares = rows.flatten(1).square().sum(1)
    live = squares > torch.finfo(rows.dtype).tiny
    return torch.where(live, torch.where(live, squares, 1).sqrt(), 0)
