"""Adversarial model perturbation: vectors, and what it leaves alone.

The vectors of two tensors were worked out by hand in float64 and agree with the code of Zheng et al. 2021.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy import regularizers
from sparsestudy.regularizers import Step
from tests.regularizers.updating import INPUTS, LABELS, RATE, small_network, updater


class Bowl(nn.Module):
    """``(3 a0**2 + a1**2) / 2 + 2 b**4 + a0 b`` of two parameters a and b."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def forward(self) -> Tensor:
        a, b = self.a, self.b[0]
        return 0.5 * (3 * a[0] ** 2 + a[1] ** 2) + 2 * b**4 + a[0] * b


def descend(model: Bowl, steps: int, **parameters: Any) -> list[float]:
    """Steps of plain gradient descent under adversarial model perturbation; a0, a1, b."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def compute() -> None:
        optimizer.zero_grad()
        model().backward()

    for _ in range(steps):
        regularizers.get("amp", **parameters).around_gradient(Step(network=model), compute)
        optimizer.step()
    return [*model.a.tolist(), *model.b.tolist()]


@pytest.mark.parametrize(
    ("steps", "parameters", "expected"),
    [
        (1, {"strength": 0.5}, (0.469764, -1.775193, -0.443412)),
        (1, {"strength": 0}, (0.65, -1.8, 0.3)),
        (2, {"strength": 0}, (0.425, -1.62, 0.2134)),
        (1, {"strength": 0.5, "ball": "global"}, (0.511111, -1.777778, 0.059739)),
    ],
)
def test_perturbed_steps(steps: int, parameters: dict[str, Any], expected: tuple[float, ...]) -> None:
    assert descend(Bowl(), steps, **parameters) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ball", ["tensor", "global"])
def test_ten_perturbed_steps_by_numpy(ball: str) -> None:
    def gradient(a0: float, a1: float, b: float) -> np.ndarray:
        return np.array([3 * a0 + b, a1, 8 * b**3 + a0])

    at = np.array([1.0, -2.0, 0.5])
    for _ in range(10):
        delta = gradient(*at)
        for part in (slice(0, 2), slice(2, 3)) if ball == "tensor" else (slice(0, 3),):
            delta[part] *= min(1.0, 0.2 / np.linalg.norm(delta[part]))
        at = at - RATE * gradient(*(at + delta))
    assert descend(Bowl(), 10, strength=0.2, ball=ball) == pytest.approx(at.tolist(), rel=1e-12)


def test_two_iterations_by_hand() -> None:
    """f = w**2 / 2, so g = w + delta: 2 -> delta .2 -> g 2.2 -> delta .42 -> g 2.42; a ball of 0.3 stops it at 2.3."""
    for radius, expected in ((1.0, 2.42), (0.3, 2.3)):
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(model.weight, 2.0)

        def compute(model: nn.Linear = model) -> None:
            model.zero_grad()
            (model.weight.square().sum() / 2).backward()

        method = regularizers.get("amp", strength=radius, inner_rate=0.1, iterations=2)
        method.around_gradient(Step(network=model), compute)
        assert model.weight.grad is not None
        assert model.weight.grad.item() == pytest.approx(expected, rel=1e-12)
        assert model.weight.item() == 2.0


@pytest.mark.parametrize("ball", ["tensor", "global"])
def test_perturbed_weights_come_back_bit_for_bit(ball: str) -> None:
    model = small_network(norm=True).float()
    before = copy.deepcopy(model)
    seen: list[list[Tensor]] = []

    def compute() -> None:
        seen.append([p.detach().clone() for p in model.parameters()])
        model.zero_grad()
        cross_entropy(model(INPUTS.float()), LABELS).backward()

    method = regularizers.get("amp", strength=0.3, ball=ball, inner_rate=100.0, iterations=3)
    method.around_gradient(Step(network=model), compute)
    assert len(seen) == 4
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))
    lengths = [[(p - q).norm().item() for p, q in zip(at, seen[0], strict=True)] for at in seen[1:]]
    reach = [max(each) if ball == "tensor" else math.hypot(*each) for each in lengths]
    assert reach == pytest.approx([0.3] * 3, rel=1e-5)


def test_a_perturbed_pass_moves_no_running_statistics() -> None:
    perturbed, plain = small_network(norm=True), small_network(norm=True)
    for model, methods in ((perturbed, [{"method": "amp", "strength": 0.5}]), (plain, [])):
        updater(model, *methods)(INPUTS, LABELS, epoch=0.0, rate=RATE)
    assert not torch.equal(perturbed[0].weight, plain[0].weight)
    for found, expected in zip(perturbed.buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, expected)
    assert plain[1].num_batches_tracked.item() == 1


def test_zero_radius_takes_one_pass() -> None:
    passes = []
    regularizers.get("amp", strength=0.0).around_gradient(Step(), lambda: passes.append(1))
    assert passes == [1]


@pytest.mark.parametrize("name", ["amp", "drop_grad"])
def test_needs_the_network(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} needs the network: Step\(\.\.\., network=model\)$"):
        regularizers.get(name).around_gradient(Step(), lambda: None)
