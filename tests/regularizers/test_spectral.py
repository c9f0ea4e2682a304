"""The penalty on singular values, and their projection, against numpy's decomposition."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsestudy import regularizers
from sparsestudy.regularizers import Step, trained_weights
from sparsestudy.regularizers.spectral_penalty import right_vector, squared_norm_along
from sparsestudy.regularizers.spectral_projection import bound_of, project
from sparsestudy.study import ModelSpec
from sparsestudy.training import models


def network_step() -> Step:
    torch.manual_seed(0)
    network = models.build(ModelSpec(name="convnet", arguments={"channels": [4, 4], "dense": 8}), (3, 8, 8), 10)
    return Step(network=network, weights=trained_weights(network))


def numpy_norm(rows: Tensor) -> float:
    return float(np.linalg.svd(rows.detach().numpy(), compute_uv=False)[0])


def test_spectral_penalty_settles_on_the_largest_singular_values() -> None:
    step = network_step()
    expected = sum(numpy_norm(weight.flatten(1)) ** 2 for weight in step.weights.values())
    method = regularizers.get("spectral_penalty", strength=0.5)
    found = []
    for _ in range(40):
        penalty = method.penalty(step)
        assert penalty is not None
        found.append(penalty.item())
    assert found[0] < 0.5 * expected * 0.999
    assert max(found) < 0.5 * expected * (1 + 1e-6)  # from below
    assert found[19] == pytest.approx(0.5 * expected, rel=0.01)
    assert found[-1] == pytest.approx(0.5 * expected, rel=1e-3)
    assert set(step.memory) == set(step.weights)


def test_gradient_of_the_spectral_penalty_is_that_of_the_singular_value() -> None:
    rows = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    vector = right_vector(rows, torch.ones(7, dtype=torch.float64), 200)
    (found,) = torch.autograd.grad(squared_norm_along(rows, vector), rows)
    (expected,) = torch.autograd.grad(torch.linalg.svdvals(rows)[0].square(), rows)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_weight_of_zeros_keeps_its_start() -> None:
    start = torch.tensor([0.6, 0.8])
    assert torch.equal(right_vector(torch.zeros(3, 2), start), start)


def test_memory_of_the_spectral_penalty_is_replaced() -> None:
    step = network_step()
    method = regularizers.get("spectral_penalty")
    method.penalty(step)
    kept = dict(step.memory)
    copies = {name: vector.clone() for name, vector in kept.items()}
    method.penalty(step)
    assert all(torch.equal(kept[name], copies[name]) for name in copies)
    assert not any(torch.equal(step.memory[name], copies[name]) for name in copies)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 6), (6, 1)])
@pytest.mark.parametrize("bound", [0.3, 1.0])
def test_projection_clips_singular_values(shape: tuple[int, int], bound: float) -> None:
    rows = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left, values, right = np.linalg.svd(rows.numpy(), full_matrices=False)
    assert values.max() > bound
    expected = left @ np.diag(values.clip(max=bound)) @ right
    np.testing.assert_allclose(project(rows, bound), expected, rtol=1e-9, atol=1e-9)


def test_projection_in_single_precision_keeps_to_the_bound() -> None:
    """A large layer, far beyond the bound."""
    rows = 3 * torch.randn(256, 1152, generator=torch.Generator().manual_seed(1))
    assert numpy_norm(rows) > 100
    assert numpy_norm(project(rows, 0.5)) <= 0.5 * (1 + 1e-4)


@pytest.mark.parametrize("factor", [1.0, 1e-30, 0.0])
def test_projection_leaves_small_weights_as_they_are(factor: float) -> None:
    rows = factor * torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(project(rows, numpy_norm(rows) * 1.001 + 1e-3), rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_left_to_the_loop(value: float) -> None:
    rows = torch.full((2, 3), value)
    assert project(rows, 1.0) is rows


def test_bound_tightens_from_five_tau_to_tau() -> None:
    assert [bound_of(epoch, 2.0) for epoch in (0, 0.99)] == [10, 10]
    assert bound_of(2, 0.8, 50) == pytest.approx(0.8 * (1 + 4 * np.exp(-2 / 50)), rel=1e-12)
    assert bound_of(1000, 2.0) == pytest.approx(2, rel=1e-12)


def update_of(tau: float, take: Callable[[nn.Module], None]) -> tuple[nn.Module, nn.Module]:
    """A network before and after one update under spectral projection, in the first epoch."""
    network = models.build(ModelSpec(name="convnet", arguments={"channels": [4], "batch_norm": True}), (1, 8, 8), 10)
    before = copy.deepcopy(network)
    step = Step(weights=trained_weights(network), network=network, epoch=0.5)
    regularizers.get("spectral_projection", tau=tau).around_update(step, lambda: take(network))
    return before, network


def triple(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)


def test_projection_follows_the_step_and_spares_biases_and_norm_gains() -> None:
    before, after = update_of(0.1, triple)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if old.dim() < 2:
            assert torch.equal(new, 3 * old), name
        else:
            assert numpy_norm(new.flatten(1)) == pytest.approx(0.5, rel=1e-4)


def test_a_large_bound_leaves_the_step_as_it_is() -> None:
    before, after = update_of(1e6, triple)
    assert all(torch.equal(new, 3 * old) for old, new in zip(before.parameters(), after.parameters(), strict=True))
