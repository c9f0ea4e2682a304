"""Weight decay against PyTorch's own, and the parameters it leaves out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparsestudy.errors import SpecError
from sparsestudy.regularizers import Step, get

STRENGTH = 0.1


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.dim() >= 2}


@pytest.mark.parametrize("bias", [False, True])
def test_equals_decay_of_torch_step_by_step(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 7, bias=bias), nn.Tanh(), nn.Linear(7, 3, bias=bias)).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, generator=generator)
    theirs = copy.deepcopy(ours)
    inputs = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (11,), generator=generator)
    method = get("weight_decay", strength=STRENGTH)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.3, momentum=0.5)
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() >= 2], "weight_decay": STRENGTH},
        {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.SGD(groups, lr=0.3, momentum=0.5)
    start = ours[0].weight.detach().clone()
    for _ in range(5):
        for model, stepper in ((ours, optimizer), (theirs, reference)):
            loss = cross_entropy(model(inputs), labels)
            if model is ours:
                penalty = method.penalty(Step(weights=weights(ours)))
                assert penalty is not None
                loss = loss + penalty
            stepper.zero_grad()
            loss.backward()
            stepper.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    assert (ours[0].weight - start).abs().max() > 0.01


def test_value_and_gradient() -> None:
    weight = torch.tensor([[3.0, 4.0]], requires_grad=True)
    penalty = get("weight_decay", strength=STRENGTH).penalty(Step(weights={"w": weight}))
    assert penalty is not None
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert penalty.item() == pytest.approx(STRENGTH / 2 * 25)
    torch.testing.assert_close(gradient, STRENGTH * weight.detach())


def test_one_strength_for_the_whole_network() -> None:
    with pytest.raises(SpecError, match=r"strength: needs a number, got \{'features\.\*': 0\.1\}"):
        get("weight_decay", strength={"features.*": 0.1})
