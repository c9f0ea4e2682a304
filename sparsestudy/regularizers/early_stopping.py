"""Early stopping: end training when the validation loss has not fallen for a number of epochs.

An epoch is an improvement if its validation loss is below the lowest one so far by more than ``min_delta``; training
ends after ``patience`` epochs in a row that are none. The network stays as the last epoch left it; ``best/...`` values
of a trial are those of its best epoch in any case, ``final/...`` values those of the epoch it ended with. Such a trial
is COMPLETE: it ran as long as it was asked to.

The validation loss is that of the search split, the same that guides the search. Choosing when to stop by it is one
more choice made on that split, so what a trial says of itself there is too good by a little more than without; the
other splits are not touched, and an estimate from them stays honest.

Source: standard; ``patience`` and ``min_delta`` mean what they mean in Keras's callback of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from sparsestudy.regularizers._regularizer import OverRanks, Regularizer
from sparsestudy.space import Domain, Integer


def epochs_without_improvement(losses: Sequence[float], min_delta: float = 0.0) -> int:
    """How many of the latest epochs brought no improvement.

    Example:
        >>> epochs_without_improvement([3.0, 2.0, 2.5, 1.9, 1.9]), epochs_without_improvement([3.0, 2.0, 2.5, 1.9], 0.5)
        (1, 2)
    """
    best, waited = float("inf"), 0
    for loss in losses:
        improved = loss < best - min_delta
        best, waited = (loss, 0) if improved else (best, waited + 1)
    return waited


class EarlyStopping(Regularizer):
    """End of training by the validation loss."""

    over_ranks: ClassVar[OverRanks] = "same"
    search: ClassVar[dict[str, Domain]] = {"patience": Integer(low=3, high=20)}

    patience: int = Field(10, gt=0, description="Epochs in a row without improvement after which training ends.")
    min_delta: float = Field(0.0, ge=0, description="By how much the validation loss has to fall to be an improvement.")

    def stops(self, validation_losses: Sequence[float]) -> bool:
        """Whether patience has run out."""
        return epochs_without_improvement(validation_losses, self.min_delta) >= self.patience
