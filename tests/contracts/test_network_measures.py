"""What every statistic of whole networks promises; a new file in sparsestudy/measures is picked up by itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sparsestudy import measures
from sparsestudy.measures import NetworkStatistic

from .checks import NoCopyOffTheDevice, assert_same, named
from .inputs import normal

every_network_statistic = pytest.mark.parametrize("name", named(NetworkStatistic))


@pytest.fixture
def no_copies() -> Iterator[None]:
    with NoCopyOffTheDevice():
        yield


class Moody(nn.Module):
    """Counts its passes in a buffer, draws random numbers while it is measured, and fails at a pass of choice."""

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__()
        self.linear, self.fails_at = nn.Linear(8, 3), fails_at
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.passes, Tensor)
        self.passes += 1
        torch.rand(1)
        if self.passes.item() == self.fails_at:
            raise RuntimeError("out of memory")
        return self.linear(x.flatten(1))


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    model[3].weight = model[1].weight
    return model


def _convolution() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    model = nn.Sequential(block, nn.MaxPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for _ in range(3):
        model(torch.rand(5, 2, 2, 2))  # running statistics that are not those of the start
    return model


MODELS = {
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)),
    "smooth": lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.GELU(), nn.Linear(5, 3)),
    "convolution, batch norm, dropout": _convolution,
    "tied": _tied,
    "moody": Moody,
    "double": lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double(),
}
LABELS = torch.tensor([0, 1, 2, 0])


def build(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MODELS[name]()


def inputs_for(model: nn.Module) -> Tensor:
    return normal(4, 2, 2, 2).to(next(model.parameters()).dtype)


every_model = pytest.mark.parametrize("model", [build(name) for name in MODELS], ids=MODELS)


@every_network_statistic
@every_model
def test_networks_are_left_as_they_were(name: str, model: nn.Module) -> None:
    model = copy.deepcopy(model).train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    list(model.modules())[-1].eval()  # a part of it is in evaluation mode
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    identities = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    inputs, state = inputs_for(model), torch.random.get_rng_state()
    kept = inputs.clone()
    found = measures.get(name).compute(model, inputs, LABELS, 0)
    assert all(value.shape == () and not value.isinf() and not value.requires_grad for value in found.values())
    assert tuple(found) == measures.get(name).outputs
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == identities
    assert all(p.requires_grad and p.grad is not None and bool((p.grad == 1).all()) for p in model.parameters())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(inputs, kept)


@every_network_statistic
def test_networks_that_fail_are_left_as_they_were_too(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), Moody(fails_at=1)).train()
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="out of memory"):
        measures.get(name).compute(model, inputs_for(model), LABELS, 0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


@every_network_statistic
@every_model
def test_values_depend_on_the_seed_given_and_on_nothing_else(name: str, model: nn.Module) -> None:
    statistic, inputs = measures.get(name), inputs_for(model)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = statistic.compute(model.train(), inputs, LABELS, 5)
        torch.manual_seed(2)
        second = statistic.compute(model.eval(), inputs, LABELS, 5)
    assert_same(first, second, rtol=0, atol=0)


@every_network_statistic
@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_networks_of_zeros_and_diverged_ones_are_no_error(name: str, value: float) -> None:
    model = build("convolution, batch norm, dropout")
    for parameter in model.parameters():
        parameter.data.fill_(value)
    found = measures.get(name).compute(model, inputs_for(model), LABELS, 0)
    assert all(not number.isinf() for number in found.values())
    assert value == 0 or all(number.isnan() for number in found.values())


@every_network_statistic
def test_nothing_leaves_the_device(name: str, no_copies: None) -> None:
    model = build("convolution, batch norm, dropout")
    assert measures.get(name).compute(model, inputs_for(model), LABELS, 0)
