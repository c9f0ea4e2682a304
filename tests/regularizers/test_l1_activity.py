"""L1 activity against the rule of Keras: strength * sum |A| / batch size."""

from __future__ import annotations

import pytest
import torch

from sparsestudy.regularizers import Step, get
from sparsestudy.regularizers.l1_activity import l1_activity

# Keras's example: ones(5, 5) * 2 through a dense layer of ones gives 10 everywhere, in a batch of 5.
KERAS = torch.full((5, 5), 2.0) @ torch.ones(5, 5)


def test_rule_of_keras() -> None:
    assert l1_activity(KERAS).item() == 25 * 10 / 5
    assert l1_activity(torch.ones(4, 3, 2, 2)).item() == 12  # sum |A| / B = 48 / 4
    found = get("l1_activity", strength=0.01).penalty(Step(activations={"dense": KERAS}))
    assert found is not None
    assert found.item() == pytest.approx(0.5)


def test_mean_does_not_grow_with_width() -> None:
    assert l1_activity(KERAS, "mean").item() == 10
    assert l1_activity(torch.ones(4, 3, 2, 2), "mean").item() == 1


def test_magnitudes_and_half_precision() -> None:
    many = torch.full((2, 100_000), -1.0, dtype=torch.bfloat16)  # their sum is beyond what bfloat16 can count
    assert l1_activity(many).item() == 100_000


@pytest.mark.parametrize(
    ("strength", "layers", "expected"),
    [
        (0.5, None, 0.5 * (12 + 2)),
        (0.5, ["conv*"], 0.5 * 12),
        ({"*": 0.5, "dense": 3.0}, None, 0.5 * 12 + 3 * 2),
        ({"dense": 3.0}, None, 3 * 2),
    ],
)
def test_strengths_and_layers(strength: object, layers: object, expected: float) -> None:
    activations = {"conv": torch.ones(4, 3, 2, 2), "dense": -torch.ones(4, 2)}
    found = get("l1_activity", strength=strength, layers=layers).penalty(Step(activations=activations))
    assert found is not None
    assert found.item() == pytest.approx(expected)


def test_layers_that_match_nothing_are_an_error() -> None:
    with pytest.raises(KeyError, match="L1Activity matches none of the layers: conv"):
        get("l1_activity", layers=["dense"]).penalty(Step(activations={"conv": torch.ones(2, 2)}))
