"""One update of the weights."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy import regularizers
from sparsestudy.training.probe import Probe
from sparsestudy.training.update import Updater
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


# Parts of a batch

DIVISIBLE = [name for name in regularizers.names() if regularizers.kind(name).over_ranks in ("sum", "same")]


def in_parts(parts: int, *methods: str) -> tuple[list[float], nn.Module]:
    """Penalties of three steps with momentum, and the network after them."""
    model = small_network()
    built = [regularizers.get(method) for method in methods]
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    update = Updater(model, built, optimizer, cross_entropy, Probe(model), micro_batches=parts)
    with update.probe:
        found = [update(INPUTS, LABELS, epoch=step / 2, rate=RATE) for step in range(3)]
    return [0.0 if penalty is None else penalty.item() for penalty in found], model


@pytest.mark.parametrize("parts", [2, 3, 50])
@pytest.mark.parametrize("methods", [*[(name,) for name in DIVISIBLE], ("amp", "l1_activity", "mhe")], ids=str)
def test_a_batch_in_parts_gives_the_same_update(methods: tuple[str, ...], parts: int) -> None:
    """20 examples in 2 equal parts, in 3 uneven ones, and one by one."""
    expected, model = in_parts(1, *methods)
    found, other = in_parts(parts, *methods)
    assert found == pytest.approx(expected, rel=1e-10)
    for value, other_value in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(other_value, value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted({*regularizers.names()} - {*DIVISIBLE} - {"batch_norm"}))
def test_methods_that_compare_examples_refuse_parts(name: str) -> None:
    if regularizers.kind(name).over_ranks == "draws":
        assert in_parts(2, name)[0] == [0, 0, 0]
        return
    with pytest.raises(ValueError, match=r"cannot be computed in 2 parts: .* compares the examples of a batch"):
        in_parts(2, name)


def test_batch_norm_refuses_parts() -> None:
    model = small_network(norm=True)
    with pytest.raises(ValueError, match=r"in 4 parts: the batch norm '1' norms by the batch"):
        Updater(model, [], torch.optim.SGD(model.parameters()), cross_entropy, Probe(model), micro_batches=4)
