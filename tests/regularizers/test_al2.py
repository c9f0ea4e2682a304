"""AL2: which features it takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy import regularizers
from sparsestudy.regularizers import Regularizer, Step
from sparsestudy.training.probe import Probe
from sparsestudy.training.update import Updater

IMAGES = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(6) % 3
H = torch.tensor([[1.0, 2.0], [0.0, 3.0]], dtype=torch.float64)


def value(method: Regularizer, step: Step) -> float:
    penalty = method.penalty(step)
    assert penalty is not None
    return penalty.item()


def test_takes_what_the_classifier_reads() -> None:
    step = Step(activations={"first": 9 * H, "last": 5 * H}, features=H, epoch=10.7)
    assert value(regularizers.get("al2"), step) == pytest.approx(0.0907810, rel=1e-6)


@pytest.mark.parametrize("parameters", [{"layers": ["first"]}, {"strength": {"first": 0.01}}, {"layers": ["*st"]}])
def test_takes_the_last_layer_of_those_that_are_named(parameters: dict[str, object]) -> None:
    step = Step(activations={"first": H, "other": 5 * H}, features=9 * H, epoch=10.7)
    assert value(regularizers.get("al2", **parameters), step) == pytest.approx(0.0907810, rel=1e-6)


def first_penalty(model: nn.Module, method: Regularizer) -> float:
    with Probe(model, method.acts_on) as probe:
        update = Updater(model, [method], torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy, probe)
        penalty = update(IMAGES, LABELS, epoch=0.0, rate=0.1)
    assert penalty is not None
    return penalty.item()


def network(*head: nn.Module) -> tuple[nn.Module, Tensor]:
    """A convolution of eight maps, and its rectified activations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), *head).double()
    return model, model[:2](IMAGES)


def test_pooling_before_the_classifier_counts() -> None:
    model, maps = network(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    pooled, plain = maps.mean((2, 3)).square().mean().item(), maps.square().mean().item()
    assert first_penalty(model, regularizers.get("al2", strength=2.0)) == pytest.approx(2 * pooled)
    named = regularizers.get("al2", layers=["1"])
    again, _ = network(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    assert first_penalty(again, named) == pytest.approx(0.01 * plain)
    assert pooled < 0.9 * plain


def test_without_a_linear_classifier_the_last_layer_stands_in() -> None:
    model, maps = network(nn.Conv2d(8, 3, 2), nn.Flatten())
    assert first_penalty(model, regularizers.get("al2", strength=2.0)) == pytest.approx(2 * maps.square().mean().item())
