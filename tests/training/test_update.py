"""One update of the weights."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from tests.regularizers.updating import INPUTS, LABELS, RATE, small_network, updater


def test_activations_are_let_go_before_the_backward_pass() -> None:
    # Whoever holds them then keeps those of all layers in memory until it is through.
    model = small_network()
    update = updater(model, {"method": "perplexity"})
    held: list[bool] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        activations = weakref.ref(output)
        model[0].weight.register_hook(lambda gradient: held.append(activations() is not None))

    model[1].register_forward_hook(watch)
    with update.probe:
        penalty = update(INPUTS, LABELS, epoch=0.0, rate=RATE)
    assert penalty is not None
    assert torch.is_nonzero(penalty)
    assert held == [False]
