"""p-norm of paths: vectors for one output in float64, and what balancing must leave alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsestudy.regularizers import Network, Step, Weight, get, survey, trained_weights
from sparsestudy.regularizers.p_norm_path import last_pair, p_norm, paths, shrunk

V = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
W = torch.tensor([[1.0, 0.0], [0.5, -0.5], [0.0, 4.0]], dtype=torch.float64)
BIAS = torch.tensor([0.0, 0.25, -1.0], dtype=torch.float64)


def two_layers(outputs: int = 3, bias: bool = True) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 7, bias=bias), nn.ReLU(), nn.Linear(7, outputs)).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    return model


def updated(model: nn.Module, take: Callable[[], None], rate: float = 0.1, **parameters: Any) -> None:
    method = get("p_norm_path", form="proximal", **parameters)
    method.around_update(Step(weights=trained_weights(model), network=model, rate=rate), take)


@pytest.mark.parametrize(("p", "expected", "with_bias"), [(0.4, 4.154732, 5.486940), (1.0, 5.0, 5.75)])
def test_vectors_of_the_objective(p: float, expected: float, with_bias: float) -> None:
    assert p_norm(paths(W, V), p, epsilon=0).item() == pytest.approx(expected, rel=1e-6)
    both = torch.cat([W, BIAS[:, None]], dim=1)
    assert p_norm(paths(both, V), p, epsilon=0).item() == pytest.approx(with_bias, rel=1e-6)


@pytest.mark.parametrize(("bias", "expected"), [(False, 5.0), (True, 5.75)])
def test_penalty_of_a_network(bias: bool, expected: float) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (W, BIAS, V, torch.zeros(1)), strict=True):
            parameter.copy_(value)
    method = get("p_norm_path", strength=2.0, p=1.0, bias=bias)
    penalty = method.penalty(Step(weights=trained_weights(model), network=model))
    assert penalty is not None
    assert penalty.item() == pytest.approx(2 * expected, abs=2 * 9 * 1e-4)  # smooth at zero: at most 1e-4 a path
    assert get("p_norm_path", form="proximal").penalty(Step(weights=trained_weights(model))) is None


def test_several_outputs_count_by_their_length() -> None:
    outputs = torch.tensor([[3.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    inputs = torch.tensor([[1.0, -2.0], [5.0, 5.0]], dtype=torch.float64, requires_grad=True)
    assert paths(inputs, outputs).tolist() == [[5.0, -10.0], [0.0, 0.0]]
    p_norm(paths(inputs, outputs), 0.4).backward()
    assert inputs.grad is not None
    assert inputs.grad.isfinite().all()


def test_vector_of_the_proximal_step() -> None:
    before = torch.tensor([0.25, 0.04], dtype=torch.float64)
    found = shrunk(torch.tensor([0.3, 0.02], dtype=torch.float64), before, 0.5, 0.01)
    assert found.tolist() == pytest.approx([0.29, 0.0], abs=1e-12)
    assert shrunk(-before, before, 1.0, 0.01).tolist() == pytest.approx([-0.24, -0.03])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_balancing_leaves_the_function_alone(outputs: int, bias: bool) -> None:
    model = two_layers(outputs)
    inputs = torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = model(inputs).detach()
    assert not torch.allclose(model[0].weight.norm(dim=1), model[2].weight.norm(dim=0))
    updated(model, lambda: None, strength=1e-15, bias=bias)
    torch.testing.assert_close(model(inputs), before, rtol=1e-10, atol=1e-10)
    unit = torch.cat([model[0].weight, model[0].bias[:, None]], dim=1) if bias else model[0].weight
    torch.testing.assert_close(unit.norm(dim=1), model[2].weight.norm(dim=0), rtol=1e-10, atol=0)


def test_proximal_step_by_hand() -> None:
    """A step of plain gradient descent, then the formulas, one output."""
    model = two_layers(outputs=1, bias=False)
    reference = copy.deepcopy(model)
    inputs = torch.randn(9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for net in (model, reference):
        net(inputs).square().mean().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updated(model, lambda: optimizer.step() and None, rate=0.1, strength=0.5, p=0.6)
    w, v = reference[0].weight.detach(), reference[2].weight.detach()[0]
    before = v[:, None] * w
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    w, v = reference[0].weight.detach(), reference[2].weight.detach()[0]
    u = v[:, None] * w
    threshold = 0.5 * 0.1 * 0.6 * before.abs() ** (0.6 - 1)
    u = u.sign() * (u.abs() - threshold).clamp(min=0)
    assert (u == 0).sum() > 3
    new_v = v.sign() * u.norm(dim=1).sqrt()
    gone = new_v == 0
    new_w = torch.where(gone[:, None], 0, u / torch.where(gone, 1, new_v)[:, None])
    torch.testing.assert_close(model[2].weight.detach()[0], new_v, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model[0].weight.detach(), new_w, rtol=1e-10, atol=1e-12)


def test_a_path_at_zero_stays_there_and_a_unit_without_paths_is_gone() -> None:
    model = two_layers()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].weight[4, 1] = 0

    def take() -> None:
        with torch.no_grad():
            model[0].weight += 1e-4

    updated(model, take, strength=0.1, p=0.5)
    assert model[0].weight[4, 1] == 0
    assert model[0].weight[4, 0] != 0
    assert model[0].weight[2].abs().max() == model[2].weight[:, 2].abs().max() == model[0].bias[2].abs() == 0


@pytest.mark.parametrize("parameters", [{"strength": 0.0}, {"strength": 0.1, "form": "penalty"}])
def test_only_the_proximal_form_touches_the_update(parameters: dict[str, Any]) -> None:
    model = two_layers()
    before = copy.deepcopy(model.state_dict())
    taken: list[int] = []
    updated_with = get("p_norm_path", **{"form": "proximal", **parameters})
    updated_with.around_update(Step(weights=trained_weights(model), network=model, rate=0.1), lambda: taken.append(1))
    assert taken == [1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("shapes", "pair"),
    [
        ({"a": (8, 4), "b": (6, 8), "c": (2, 6)}, ("b", "c")),
        ({"a": (8, 4), "b": (6, 8), "c": (2, 7)}, ("a", "b")),
        ({"a": (8, 4), "conv": (8, 8, 3, 3), "c": (2, 8)}, None),
        ({"a": (8, 4)}, None),
        ({}, None),
    ],
)
def test_the_last_pair_that_fits(shapes: dict[str, tuple[int, ...]], pair: tuple[str, str] | None) -> None:
    assert last_pair(shapes) == pair
    network = Network(layers=(), weights=[Weight(name=name, shape=shape) for name, shape in shapes.items()])
    assert bool(get("p_norm_path").obstacles(network)) == (pair is None)


def test_named_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    weights = trained_weights(model)

    def touched(**parameters: Any) -> list[bool]:
        penalty = get("p_norm_path", **parameters).penalty(Step(weights=weights))
        assert penalty is not None
        gradients = torch.autograd.grad(penalty, list(weights.values()), allow_unused=True)
        return [gradient is not None for gradient in gradients]

    assert touched() == [False, True, True]
    assert touched(layers=["0", "2"]) == [True, True, False]
    network = survey(model, ())
    assert get("p_norm_path", layers=["0", "2"]).obstacles(network) == []
    assert get("p_norm_path", layers=["0", "4"]).obstacles(network) == [
        "it needs two dense weights in a row, [H, d] and [O, H], and finds none among 0 [8, 4], 4 [2, 6]"
    ]
    with pytest.raises(KeyError, match=r"finds no two dense weights in a row: 0\.weight, 2\.weight, 4\.weight"):
        get("p_norm_path", layers=["0", "4"]).penalty(Step(weights=weights))


def test_paths_of_half_precision_are_taken_in_single() -> None:
    weights: dict[str, Tensor] = {"a.weight": W.to(torch.bfloat16), "b.weight": V.to(torch.bfloat16)}
    penalty = get("p_norm_path", strength=1.0, p=1.0).penalty(Step(weights=weights))
    assert penalty is not None
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(5.0, abs=1e-3)
