"""Patience of early stopping; whole trials are in test_early_stopping."""

from __future__ import annotations

import pytest

from sparsestudy import regularizers
from sparsestudy.regularizers.early_stopping import epochs_without_improvement


@pytest.mark.parametrize(
    ("losses", "min_delta", "waited"),
    [
        ([], 0.0, 0),
        ([2.0], 0.0, 0),
        ([2.0, 2.0], 0.0, 1),
        ([2.0, 3.0, 1.0], 0.0, 0),
        ([2.0, 1.95, 1.92, 1.91], 0.1, 3),
        ([2.0, 1.95, 1.89, 1.88], 0.1, 1),  # measured from the best, not from the epoch before
    ],
)
def test_epochs_without_improvement(losses: list[float], min_delta: float, waited: int) -> None:
    assert epochs_without_improvement(losses, min_delta) == waited
    assert regularizers.get("early_stopping", patience=3, min_delta=min_delta).stops(losses) == (waited == 3)
