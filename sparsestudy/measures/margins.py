"""Margins: by how much the logit of the right class exceeds the largest of the others, in units of logits.

Over n examples: ``margin_mean``; ``margin_std``, that of the population; ``margin_negative``, in [0, 1], the share of
margins below 0 and so, but for ties, of errors; and ``margin_q10``, the ``ceil(n / 10)``-th smallest margin.

The quantile is read off a histogram of ``arcsinh(m / 0.01)``, so that parts merge exactly: it is off by at most 0.13 %
of ``|m| + 0.01``, for margins up to two million in magnitude; those beyond count as that.

Source: Jiang et al. 2019 (arXiv 1912.02178) for the margin and its 10 % quantile; VERBATIM as in the code of a
replication (Dziugaite et al. 2020, arXiv 2010.11924), but for the rank, which there is ``floor(n / 10)``. The other
three are textbook statistics of the same numbers, the histogram is ours.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsestudy.measures._statistic import OutputStatistic, Sums, mean_of
from sparsestudy.study import TaskName

UNIT = 0.01
"""Margins below this are resolved absolutely, those above relatively."""
LIMIT = 20.0
"""Of ``arcsinh(m / UNIT)``; stands for a margin of 2.4 million."""
BINS = 16384


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Margin of each example, shape ``[B]``, from logits ``[B, classes]`` of two or more classes and classes ``[B]``.

    Example:
        >>> margin(torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]]), torch.tensor([1, 2])).tolist()
        [2.0, -2.0]
    """
    right = labels[:, None]
    return logits.gather(1, right)[:, 0] - logits.scatter(1, right, -torch.inf).amax(1)


def lowest_tenth(margins: Tensor) -> Tensor:
    """The ``ceil(n / 10)``-th smallest of ``[n]``, a 0-d tensor.

    Example:
        >>> lowest_tenth(torch.arange(11.0)).item()
        1.0
    """
    return margins.kthvalue(-(-len(margins) // 10)).values


def _histogram(margins: Tensor) -> Tensor:
    """Number of margins in each bin, ``[BINS]``; one that is not a number counts as 0, and shows in the sums."""
    places = ((margins.nan_to_num() / UNIT).asinh() / LIMIT + 1) / 2 * BINS
    bins = places.long().clamp(0, BINS - 1)
    return torch.zeros(BINS, dtype=margins.dtype, device=margins.device).index_add(0, bins, torch.ones_like(margins))


def _quantile(histogram: Tensor) -> Tensor:
    """`lowest_tenth`, up to the width of a bin: the middle of the one it is in."""
    reached = 10 * histogram.cumsum(0) >= histogram.sum()
    first = reached.to(torch.uint8).argmax()
    return UNIT * (((first + 0.5) / BINS * 2 - 1).to(histogram.dtype) * LIMIT).sinh()


class Margins(OutputStatistic):
    """Outputs: ``margin_mean``, ``margin_std``, ``margin_negative``, ``margin_q10``."""

    outputs: ClassVar[tuple[str, ...]] = ("margin_mean", "margin_std", "margin_negative", "margin_q10")
    tasks: ClassVar[tuple[TaskName, ...]] = ("classification",)

    def update(self, logits: Tensor, labels: Tensor) -> Sums:
        """See `OutputStatistic.update`; in float64."""
        margins = margin(logits.double(), labels)
        return {
            "count": torch.full((), len(margins), dtype=margins.dtype, device=margins.device),
            "total": margins.sum(),
            "squares": margins.square().sum(),
            "negative": (margins < 0).sum(dtype=margins.dtype),
            "histogram": _histogram(margins),
        }

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `OutputStatistic.compute`."""
        mean = mean_of(sums["total"], sums["count"])
        variance = mean_of(sums["squares"], sums["count"]) - mean.square()
        defined = mean.isfinite()
        return {
            "margin_mean": mean,
            "margin_std": variance.clamp(min=0).sqrt(),
            "margin_negative": torch.where(defined, mean_of(sums["negative"], sums["count"]), torch.nan),
            "margin_q10": torch.where(defined, _quantile(sums["histogram"]), torch.nan),
        }
