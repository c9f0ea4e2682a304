"""Dropout: its moments, where it acts, and that it can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsestudy.regularizers import get
from sparsestudy.training.probe import Probe, find_layers

UNITS = 20_000
EXAMPLE = torch.ones(1, 3)


class Twice(nn.Module):
    """One non-linearity, used twice in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.relu(x), self.relu(x)


def two_blocks() -> nn.Module:
    """Two blocks of identities, so that dropout is all that changes an input of ones."""
    return nn.Sequential(
        nn.Sequential(nn.Identity(), nn.ReLU()), nn.Sequential(nn.Identity(), nn.ReLU()), nn.Identity()
    )


@contextmanager
def installed(model: nn.Module, **parameters: Any) -> Iterator[None]:
    handles = get("dropout", **parameters).install(model, find_layers(model, EXAMPLE))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    for handle in handles:
        handle.remove()


def zeros(activations: Tensor) -> float:
    return (activations == 0).double().mean().item()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_mean_is_preserved(p: float) -> None:
    """Each unit is 1 / (1 - p) with probability 1 - p, so of variance p / (1 - p); five standard errors are allowed."""
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    with installed(model, strength=p):
        found = model(torch.ones(1, UNITS))
    assert found.mean().item() == pytest.approx(1, abs=5 * (p / (1 - p) / UNITS) ** 0.5)
    assert zeros(found) == pytest.approx(p, abs=5 * (p * (1 - p) / UNITS) ** 0.5)
    assert found.max().item() == pytest.approx(1 / (1 - p))


def test_off_in_evaluation_mode() -> None:
    model = two_blocks().eval()
    with installed(model, strength=0.5):
        assert torch.equal(model(torch.ones(2, 50)), torch.ones(2, 50))


def test_probability_per_layer() -> None:
    model = two_blocks()
    passed: dict[str, Tensor] = {}
    with installed(model, strength={"*": 0.2, "1": 0.6}):
        # Registered after dropout, and so seeing what the next layer is given.
        for name in ("0", "1"):
            model.get_submodule(name).register_forward_hook(
                lambda module, args, output, name=name: passed.update({name: output})
            )
        model(torch.ones(1, UNITS))
    kept = passed["0"] != 0
    assert zeros(passed["0"]) == pytest.approx(0.2, abs=0.015)  # five standard errors: sqrt(.2 * .8 / 20000) * 5
    assert zeros(passed["1"][kept]) == pytest.approx(0.6, abs=0.02)  # sqrt(.6 * .4 / 16000) * 5


@pytest.mark.parametrize(("layers", "dropped"), [(["0"], 0.5), (["0", "1"], 0.75), (["nothing"], 0.0), (None, 0.75)])
def test_chosen_layers_only(layers: list[str] | None, dropped: float) -> None:
    model = two_blocks()
    with installed(model, strength=0.5, layers=layers):
        assert zeros(model(torch.ones(1, UNITS))) == pytest.approx(dropped, abs=0.02)


@pytest.mark.parametrize(
    ("strength", "expected"),
    [({"relu": 0.5}, (0.5, 0.0)), ({"relu#2": 0.5}, (0.0, 0.5)), ({"relu": 0.2, "relu#2": 0.7}, (0.2, 0.7))],
)
def test_uses_of_one_module_are_told_apart(strength: dict[str, float], expected: tuple[float, float]) -> None:
    model = Twice()
    with installed(model, strength=strength):
        for _ in range(2):  # counting starts anew with each forward pass
            found = model(torch.ones(1, UNITS))
            assert tuple(map(zeros, found)) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("probe_first", [True, False])
def test_measures_see_activations_before_it(probe_first: bool) -> None:
    model = two_blocks()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = get("dropout", strength=0.5)
        if not probe_first:
            method.install(model, find_layers(model, EXAMPLE))
        with Probe(model) as probe:
            if probe_first:
                method.install(model, find_layers(model, EXAMPLE))
            model(torch.ones(1, UNITS))
    assert zeros(probe.activations["0"]) == 0
    assert zeros(probe.activations["1"]) == pytest.approx(0.5, abs=0.02)  # what dropout after the first block left


def test_handles_undo_it() -> None:
    model = two_blocks()
    with installed(model, strength=0.9):
        assert not torch.equal(model(torch.ones(2, 50)), torch.ones(2, 50))
    assert torch.equal(model(torch.ones(2, 50)), torch.ones(2, 50))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
