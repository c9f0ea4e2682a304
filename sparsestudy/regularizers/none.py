"""No regularisation: the control arm every other arm is compared with.

Source: textbook.
"""

from __future__ import annotations

from typing import ClassVar

from sparsestudy.regularizers._regularizer import OverRanks, Regularizer


class Unregularized(Regularizer):
    """Adds nothing to the loss and leaves the network alone."""

    over_ranks: ClassVar[OverRanks] = "same"
