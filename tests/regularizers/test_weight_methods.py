"""What the contracts promise of every method, for the options of those on weights and filters; and which weights."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsestudy import regularizers
from sparsestudy.regularizers import Step, get, survey, trained_weights
from tests.contracts.inputs import AWKWARD, noise
from tests.contracts.test_regularizers import total

OPTIONS: list[dict[str, Any]] = [
    {"method": "mhe", "power": 0},
    {"method": "mhe", "power": 1, "angular": True},
    {"method": "mhe", "half_space": False},
    {"method": "soft_orthogonality", "form": "dso"},
    {"method": "soft_orthogonality", "form": "off_diagonal"},
    {"method": "srip", "schedule": "published"},
    {"method": "hoyer", "squared": False},
    {"method": "hoyer", "structured": True},
    {"method": "hoyer", "structured": True, "squared": False},
    {"method": "filter_correlation", "form": "cosine"},
    {"method": "p_norm_path", "p": 0.1},
]
options = pytest.mark.parametrize("option", OPTIONS, ids=[" ".join(map(str, o.values())) for o in OPTIONS])
COMPARING = [name for name in regularizers.names() if getattr(regularizers.kind(name), "compares", False)]


@options
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activations", AWKWARD.values(), ids=AWKWARD)
def test_penalty_and_gradient_are_finite(option: dict[str, Any], activations: Tensor, dtype: torch.dtype) -> None:
    inputs = activations.detach().to(dtype).clone().requires_grad_()
    weights = inputs.detach().flatten(1).clone().requires_grad_()
    penalty = total(get(**option), inputs, weights)
    assert penalty.isfinite()
    gradients = torch.autograd.grad(penalty, (inputs, weights), allow_unused=True) if penalty.requires_grad else ()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@options
def test_gradcheck(option: dict[str, Any]) -> None:
    activations, weights = (noise(3, 2, 2, 2) + 0.1).requires_grad_(), (noise(4, 3) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(functools.partial(total, get(**option)), (activations, weights))


@pytest.mark.parametrize("name", COMPARING)
def test_filters_that_see_different_inputs_or_stand_alone_are_left_out(name: str) -> None:
    parts = [nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 1, 1), nn.Flatten(), nn.Linear(36, 5), nn.Linear(5, 3)]
    model = nn.Sequential(*parts)
    grouped = frozenset(weight.name for weight in survey(model, ()).weights if weight.groups > 1)
    assert grouped == {"0.weight"}
    weights = trained_weights(model)
    penalty = get(name, strength=1.0).penalty(Step(weights=weights, grouped=grouped, rate=0.1))
    assert penalty is not None
    gradients = torch.autograd.grad(penalty, list(weights.values()), allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [False, False, True, True]


@pytest.mark.parametrize("name", [*COMPARING, "hoyer", "transformed_l1"])
def test_a_strength_of_zero_computes_nothing(name: str) -> None:
    weights = {"a.weight": noise(3, 4).requires_grad_(), "b.weight": noise(2, 3).requires_grad_()}
    penalties = [get(name, strength=strength).penalty(Step(weights=weights)) for strength in (0, 1)]
    assert [penalty is not None and penalty.requires_grad for penalty in penalties] == [False, True]
    assert penalties[0] is not None
    assert penalties[0].item() == 0
