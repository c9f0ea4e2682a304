"""Label smoothing: train towards ``(1 - strength)`` on the label and the rest spread evenly over all classes.

Written as what it adds to the cross-entropy: ``strength * (mean over classes of -log p - cross-entropy)``, which makes
their sum exactly ``torch.nn.functional.cross_entropy(..., label_smoothing=strength)``.

It needs classes: where a number is predicted there is nothing to smooth over, and a study file that asks is refused.

Source: standard (Szegedy et al. 2016).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from sparsestudy.regularizers._regularizer import OverRanks, Reads, Regularizer, Single
from sparsestudy.regularizers._step import Step
from sparsestudy.space import Domain, Uniform
from sparsestudy.study import TaskName


def smoothing_term(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of ``[B, K]`` against the uniform distribution, minus that against the labels ``[B]``.

    Example:
        >>> import torch
        >>> smoothing_term(torch.zeros(2, 4), torch.tensor([0, 1])).item()
        0.0
    """
    wide = logits.float() if logits.dtype.itemsize < 4 else logits
    return -log_softmax(wide, 1).mean() - cross_entropy(wide, labels)


class LabelSmoothing(Regularizer):
    """Label smoothing of the cross-entropy."""

    reads: ClassVar[Reads] = "logits"
    tasks: ClassVar[tuple[TaskName, ...]] = ("classification",)
    over_ranks: ClassVar[OverRanks] = "sum"
    strength_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.01, high=0.4)}

    strength: Single = Field(0.1, description="Share of the target spread evenly over the classes, in [0, 1).")

    def penalty(self, step: Step) -> Tensor:
        """Strength times `smoothing_term`."""
        if step.logits is None or step.labels is None:
            raise ValueError("label smoothing needs logits and labels: Step(..., logits=logits, labels=labels)")
        penalty: Tensor = self.strength * smoothing_term(step.logits, step.labels)
        return penalty
