"""Basis collapse: how far the units of a layer have become copies of each other, as functions of the input.

Each unit is a basis function, its responses over all samples (images, and positions of a convolution) one column of
``Phi[N, m]``. With unit columns ``u_j`` and ``G = U^T U``:

- ``basis_collapse``: mean over pairs of ``|G_ij|``, in [0, 1]; 1 means that all point the same way.
- ``basis_merged``: share of pairs with ``|G_ij| > 0.99``.
- ``basis_rank``: ``exp(entropy(eigenvalues of G / m))``, in [1, m]; higher is better.
- ``basis_condition``: base-10 logarithm of the condition number of G, eigenvalues below 1e-12 counted as 1e-12.

Uncentred: non-negative responses correlate positively whatever they encode, so compare layers of one kind only. A dead
unit has no direction and is left out; with fewer than two others nothing is defined. ``N >= 4 m`` samples are wise.

Source: Singh, Gupta and Dawson 2020 (arXiv 2008.09878) name basis collapse in dense networks, VERBATIM; their measure
is not public to us, and these are ASSUMED.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._activity import Activity
from sparsestudy.measures._statistic import LayerStatistic, Sums, eigenvalues, mean_of

MERGED = 0.99


def gram(second: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines between columns ``[m, m]`` from their inner products, and which columns are not zero ``[m]``.

    Dead columns are orthogonal to all others and of unit length.

    Example:
        >>> cosines, live = gram(torch.tensor([[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
        >>> cosines.tolist(), live.tolist()
        ([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [True, True, False])
    """
    squares = second.diagonal()
    live = squares > torch.finfo(second.dtype).tiny
    length = torch.where(live, squares, 1).sqrt()
    identity = torch.eye(len(second), dtype=second.dtype, device=second.device)
    both = live[:, None] & live[None, :]
    return torch.where(both, second / (length[:, None] * length[None, :]), identity), live


class BasisCollapse(LayerStatistic):
    """See the module for the four outputs."""

    outputs: ClassVar[tuple[str, ...]] = ("basis_collapse", "basis_merged", "basis_rank", "basis_condition")

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`; in float64, because nearly equal columns differ in the last digits."""
        return {"second": Activity.of(activations).moments[1]}

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        cosines, live = gram(sums["second"])
        count = live.sum(dtype=cosines.dtype)
        pairs = count * (count - 1) / 2
        off = cosines.abs().triu(1)
        spectrum = eigenvalues(cosines).clamp(min=0)
        dead = len(cosines) - count  # each adds an eigenvalue of exactly one, and nothing to the entropy below
        share = spectrum / count
        entropy = -torch.xlogy(share, share).sum() + dead * torch.xlogy(1 / count, 1 / count)
        lowest = torch.where(count > 1, spectrum[0].clamp(min=1e-12), torch.nan)
        return {
            "basis_collapse": mean_of(off.sum(), pairs),
            "basis_merged": mean_of((off > MERGED).sum(dtype=off.dtype), pairs),
            "basis_rank": torch.where(count > 1, entropy.exp(), torch.nan),
            "basis_condition": (spectrum[-1] / lowest).log10(),
        }
