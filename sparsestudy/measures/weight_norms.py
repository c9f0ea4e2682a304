"""Norms of a weight, reshaped to the matrix ``W[N, d]`` of its filters, and how far training has carried it.

- ``weight_norm``: Frobenius norm ``|W|_F``.
- ``spectral_norm``: largest singular value; of a convolution, that of the reshaped kernel, which is not the norm of the
  convolution as a map between images.
- ``stable_rank``: ``|W|_F**2 / spectral_norm**2`` in [1, min(N, d)]; undefined for a zero weight. Not centred.
- ``weight_distance``: ``|W - W_0|_F`` from the weight before training.

The spectral norm costs ``N d min(N, d)`` operations: nothing for a small network, seconds for a ResNet-18, a minute or
more for the two widest layers of a VGG on a CPU; there, measure every few epochs.

None is invariant to rescaling a layer in front of a batch norm, which leaves the network's function as it is.

Source: the terms of the norm-based measures that Neyshabur et al. 2017 (arXiv 1706.08947) and Jiang et al. 2019 (arXiv
1912.02178) compare; norms, reshaping and distance VERBATIM from Neyshabur's code, stable rank textbook.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sparsestudy.measures._statistic import WeightStatistic, as_rows, eigenvalues


def spectral_norm(rows: Tensor) -> Tensor:
    """Largest singular value of ``[N, d]``, a 0-d tensor.

    From the Gram matrix of the smaller side, which costs a fraction of all singular values. Squaring costs digits of
    the small ones only.

    Example:
        >>> import torch
        >>> spectral_norm(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]])).item()
        4.0
    """
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    return eigenvalues(gram)[-1].clamp(min=0).sqrt()


class WeightNorms(WeightStatistic):
    """Outputs: ``weight_norm``, ``spectral_norm``, ``stable_rank``, ``weight_distance``."""

    outputs: ClassVar[tuple[str, ...]] = ("weight_norm", "spectral_norm", "stable_rank", "weight_distance")

    def compute(self, weight: Tensor, initial: Tensor) -> dict[str, Tensor]:
        """See `WeightStatistic.compute`."""
        rows = as_rows(weight)
        frobenius, spectral = rows.norm(), spectral_norm(rows)
        return {
            "weight_norm": frobenius,
            "spectral_norm": spectral,
            # Rounding can put a weight of rank one at 1 - 1e-16.
            "stable_rank": (frobenius / spectral).square().clamp(min=1),
            "weight_distance": (rows - as_rows(initial)).norm(),
        }
