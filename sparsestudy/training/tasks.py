"""What training minimises and reports, by what the labels ask for: a class, or a number.

Sums over examples add up over batches; a task turns them into the mean loss and the score of the whole split. The
score is what metrics call accuracy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from sparsestudy.study import TaskName


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Loss and score of one kind of labels."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch, 0-d, with its graph."""

    @abstractmethod
    def sums(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sums over the examples of a batch, float64 [sums]; those of several batches may be added."""

    @abstractmethod
    def results(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and score, 0-d each, of all examples in `sums`."""


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Cross-entropy in nats of logits ``[B, classes]``, and the share of right answers in [0, 1]."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return cross_entropy(outputs, labels)

    def sums(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Examples, cross-entropy, right answers."""
        right = (outputs.argmax(1) == labels).sum()
        return _stack(torch.ones_like(labels).sum(), cross_entropy(outputs, labels, reduction="sum"), right)

    def results(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and share of right answers."""
        examples, loss, right = sums.unbind()
        return loss / examples, right / examples


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """Mean squared error of predictions ``[B, 1]``, and R², the coefficient of determination, at most 1.

    R² is 1 minus the squared errors over the squared distances of the labels from their own mean. Where labels do not
    differ it is 1 if all predictions are right, else 0.

    Example:
        >>> predictions, labels = torch.tensor([[2.5], [0.0], [2.0], [8.0]]), torch.tensor([3.0, -0.5, 2.0, 7.0])
        >>> loss, score = Regression().results(Regression().sums(predictions, labels))
        >>> print(f"{loss:.3f} {score:.3f}")
        0.375 0.949
    """

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error."""
        return mse_loss(outputs.squeeze(1), labels)

    def sums(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Examples, squared errors, labels, squared labels."""
        wide = labels.double()
        errors = mse_loss(outputs.squeeze(1).double(), wide, reduction="sum")
        return _stack(torch.ones_like(labels).sum(), errors, wide.sum(), wide.square().sum())

    def results(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error and R²."""
        examples, errors, first, second = sums.unbind()
        spread = second - first.square() / examples
        differ = spread > 1e-12 * second  # below, the difference is rounding
        same = (errors == 0).to(sums.dtype)
        return errors / examples, torch.where(differ, 1 - errors / torch.where(differ, spread, 1.0), same)


TASKS: dict[TaskName, Task] = {"classification": Classification(), "regression": Regression()}


def _stack(*sums: Tensor) -> Tensor:
    return torch.stack([value.double() for value in sums])
