"""No regularisation: the control arm every other arm is compared with.

Source: textbook.
"""

from __future__ import annotations

from sparsestudy.regularizers._regularizer import Regularizer


class Unregularized(Regularizer):
    """Adds nothing to the loss and leaves the network alone."""
