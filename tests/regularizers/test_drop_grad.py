"""Noise on the gradient: its moments, its ramp, its random numbers.

The formulas are those of Tseng et al. 2020.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparsestudy import regularizers
from sparsestudy.errors import SpecError
from sparsestudy.regularizers import Step
from sparsestudy.regularizers.drop_grad import noise, scaled_mask
from tests.regularizers.updating import INPUTS, LABELS, small_network


def test_dropped_gradient() -> None:
    mask = scaled_mask(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), 0.2)
    assert (torch.tensor([1.0, -2.0, 4.0]) * mask).tolist() == [1.25, 0, 5]


@pytest.mark.parametrize("form", ["binary", "gaussian"])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_noise_has_mean_one_and_the_variance_of_the_formula(form: Any, p: float) -> None:
    """Standard error of the mean sqrt(var / n), of the variance sqrt((fourth central moment - var**2) / n)."""
    n, variance = 400_000, p / (1 - p)
    fourth = p + (1 - p) * variance**4 if form == "binary" else 3 * variance**2
    factors = noise(torch.zeros(n, dtype=torch.float64), p, form, 1.0, torch.Generator().manual_seed(3))
    assert factors.mean().item() == pytest.approx(1, abs=4 * math.sqrt(variance / n))
    spread = math.sqrt((fourth - variance**2) / n) or 1e-5  # zero at p = 0.5, where every deviation is 1
    assert factors.var().item() == pytest.approx(variance, abs=4 * spread)


@pytest.mark.parametrize("form", ["binary", "gaussian"])
def test_the_ramp_is_on_p_or_on_the_standard_deviation(form: Any) -> None:
    """Halfway p = 0.2: a share 0.2 dropped; or a standard deviation of half of sqrt(.4 / .6), standard error 0.0006."""
    factors = noise(torch.zeros(200_000), 0.4, form, 0.5, torch.Generator().manual_seed(3))
    if form == "binary":
        assert (factors == 0).double().mean().item() == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 200_000))
        assert factors.max().item() == pytest.approx(1.25)
    else:
        assert factors.std().item() == pytest.approx(0.5 * math.sqrt(0.4 / 0.6), abs=0.0026)


def test_linear_ramp_reaches_its_end() -> None:
    method = regularizers.get("drop_grad", ramp="linear", ramp_epochs=5)
    assert [method.ramped(epoch) for epoch in (0, 0.9, 1, 2.5, 4, 9)] == [0, 0, 0.25, 0.5, 1, 1]
    assert regularizers.get("drop_grad").ramped(0) == 1


@pytest.mark.parametrize("parameters", [{"ramp": "linear"}, {"ramp_epochs": 5}])
def test_a_ramp_and_its_epochs_belong_together(parameters: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="ramp: linear needs ramp_epochs, such as the epochs of a trial"):
        regularizers.get("drop_grad", **parameters)


def test_noise_is_that_of_the_step_and_leaves_other_random_numbers_alone() -> None:
    def gradients(seed: int) -> list[Tensor]:
        model = small_network()
        step = Step(network=model, seed=seed)
        loss = lambda: cross_entropy(model(INPUTS), LABELS).backward()  # noqa: E731
        regularizers.get("drop_grad", strength=0.5).around_gradient(step, loss)
        return [p.grad for p in model.parameters() if p.grad is not None]

    state = torch.random.get_rng_state()
    first, again, other = gradients(5), gradients(5), gradients(6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    # Every parameter has a mask of its own.
    assert not torch.equal(first[0].flatten()[:5] == 0, first[1] == 0)
