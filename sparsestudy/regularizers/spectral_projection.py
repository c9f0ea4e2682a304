"""Spectral projection: after every step, no weight has a singular value above a bound that tightens over the epochs.

Each weight, as a matrix ``[filters, -1]``, is replaced by the closest one (in the Frobenius norm) with singular values
of at most::

    tau_t = tau * (1 + 4 * exp(-epoch / kappa))      whole epochs counted from 0

an upper bound on how steep the network is. σ of a convolution's reshaped kernel is not the norm of the convolution as
an operator on images: that is up to the square root of the number of positions a kernel overlaps larger.

The method has no strength: a large tau leaves training as it is, bit for bit. Convolutions and linear layers are
projected, biases and norm gains are not. Cost: an eigendecomposition of every weight's Gram matrix on its smaller side,
in float64, after every step in which the weight's Frobenius norm is above the bound.

Source: Bietti et al. 2019 (arXiv 1810.00363); projection, schedule and kappa 2 VERBATIM from the authors' code, which
also projects norm gains, each as a matrix of one column. Its tau is 0.5 (0.8, with kappa 50, in the robust recipe): too
tight for a small convolutional network to learn digits in 30 epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import OverRanks, Regularizer
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform


def bound_of(epoch: float, tau: float, kappa: float = 2.0) -> float:
    """Largest singular value allowed after ``epoch`` epochs.

    Example:
        >>> bound_of(0.9, 0.5), round(bound_of(2.0, 0.5), 6)  # 5 tau; tau * (1 + 4 / e)
        (2.5, 1.235759)
    """
    return tau * (1 + 4 * math.exp(-math.floor(epoch) / kappa))


def project(rows: Tensor, bound: float) -> Tensor:
    """The matrix closest to ``[N, d]`` among those whose singular values are at most ``bound``.

    Example:
        >>> [[round(v, 6) for v in row] for row in project(torch.tensor([[3.0, 0.0], [0.0, 0.5]]), 2.0).tolist()]
        [[2.0, 0.0], [0.0, 0.5]]
    """
    # Bounds all singular values. What is not finite is left for the loop to report: it cannot be decomposed.
    if not bound < float(rows.norm()) < math.inf:
        return rows
    # In float64: what is taken away may be much larger than what is left.
    wide = rows.double()
    small = wide if rows.shape[0] <= rows.shape[1] else wide.T
    squares, vectors = torch.linalg.eigh(small @ small.T)
    # Taken away, rather than built anew: a matrix within the bound stays as it is, bit for bit.
    excess = 1 - bound / squares.clamp(min=0).sqrt().clamp(min=bound)
    projected: Tensor = small - (vectors * excess) @ (vectors.T @ small)
    return (projected if small is wide else projected.T).to(rows.dtype)


class SpectralProjection(Regularizer):
    """Bound on the singular values of all weights."""

    over_ranks: ClassVar[OverRanks] = "same"
    search: ClassVar[dict[str, Domain]] = {"tau": Uniform(low=0.8, high=2.5, log=True)}

    tau: float = Field(1.0, gt=0, description="Bound that the singular values approach.")
    kappa: float = Field(2.0, gt=0, description="Epochs over which the bound tightens.")

    def around_update(self, step: Step, take: Callable[[], None]) -> None:
        """Take the step, then project every weight."""
        take()
        bound = bound_of(step.epoch, self.tau, self.kappa)
        with torch.no_grad():
            for weight in step.weights.values():
                weight.copy_(project(weight.flatten(1), bound).reshape(weight.shape))
