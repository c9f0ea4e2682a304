"""Decoupled weight decay against PyTorch's AdamW, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.regularizers.updating import INPUTS, LABELS, RATE, same, small_network, train, updater


def decayed(optimizer: Callable[..., torch.optim.Optimizer], model: nn.Module, **options: Any) -> Any:
    """An optimizer with its own decay on weights, and none on biases."""
    wide = [p for p in model.parameters() if p.dim() >= 2]
    thin = [p for p in model.parameters() if p.dim() < 2]
    return optimizer([{"params": wide}, {"params": thin, "weight_decay": 0.0}], **options)


@pytest.mark.parametrize("strength", [0.01, 0.5])
def test_decoupled_decay_with_adam_is_adamw(strength: float) -> None:
    ours, theirs = small_network(norm=True), small_network(norm=True)
    adam = torch.optim.Adam(ours.parameters(), lr=RATE)
    update = updater(ours, {"method": "decoupled_weight_decay", "strength": strength}, optimizer=adam)
    reference = updater(theirs, optimizer=decayed(torch.optim.AdamW, theirs, lr=RATE, weight_decay=strength))
    for step, rate in enumerate((0.1, 0.1, 0.05, 0.02, 0.02)):  # the decay follows the schedule
        for each in (update, reference):
            each(INPUTS, LABELS, epoch=float(step), rate=rate)
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    undecayed = small_network(norm=True)
    updater(undecayed, optimizer=torch.optim.Adam(undecayed.parameters(), lr=RATE))(INPUTS, LABELS, epoch=0.0, rate=0.1)
    assert not same(ours, undecayed)


def test_decoupled_decay_with_momentum_by_hand() -> None:
    """v <- m v + g; w <- (1 - rate * strength) w - rate v: the decay does not enter the momentum."""
    ours, reference = small_network(), small_network()
    train(updater(ours, {"method": "decoupled_weight_decay", "strength": 0.3}), 4)
    velocity = [torch.zeros_like(p) for p in reference.parameters()]
    for _ in range(4):
        reference.zero_grad()
        cross_entropy(reference(INPUTS), LABELS).backward()
        with torch.no_grad():
            for p, v in zip(reference.parameters(), velocity, strict=True):
                assert p.grad is not None
                v.mul_(0.9).add_(p.grad)
                p.mul_(1 - RATE * 0.3 if p.dim() >= 2 else 1).sub_(RATE * v)
    for found, expected in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_without_momentum_both_decays_are_the_same() -> None:
    coupled, decoupled = small_network(), small_network()
    for model, name in ((coupled, "weight_decay"), (decoupled, "decoupled_weight_decay")):
        train(updater(model, {"method": name, "strength": 0.3}, optimizer=torch.optim.SGD(model.parameters(), lr=RATE)))
    for found, expected in zip(decoupled.parameters(), coupled.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
