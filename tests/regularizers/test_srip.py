"""Spectral restricted isometry against its vector (Bansal et al. 2018, float64) and against eigenvalues of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsestudy.regularizers import Step, get
from sparsestudy.regularizers.srip import isometry_defect, published_factor

W = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5]], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_vector() -> None:
    start = torch.tensor([1.0, 0.5], dtype=torch.float64)
    assert isometry_defect(W, start).item() == pytest.approx(0.556402, rel=2e-6)
    assert isometry_defect(W.T.contiguous(), start).item() == pytest.approx(0.556402, rel=2e-6)
    assert isometry_defect(W.float(), start.float()).item() == pytest.approx(0.556402, rel=1e-4)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 4)])
def test_one_power_step_from_below(shape: tuple[int, int]) -> None:
    filters, start = 0.4 * normal(*shape), torch.rand(min(shape), dtype=torch.float64)
    rows = filters.numpy() if shape[0] <= shape[1] else filters.numpy().T
    m = rows @ rows.T - np.eye(len(rows))
    v = m @ start.numpy() / np.linalg.norm(m @ start.numpy())
    found = isometry_defect(filters, start).item()
    assert found == pytest.approx(np.linalg.norm(m @ v) ** 2, rel=1e-10)
    largest = np.abs(np.linalg.eigvalsh(m)).max() ** 2
    assert found <= largest * (1 + 1e-12)
    top = torch.from_numpy(np.linalg.eigh(m)[1][:, np.abs(np.linalg.eigvalsh(m)).argmax()].copy())
    assert isometry_defect(filters, top).item() == pytest.approx(largest, rel=1e-10)


def test_orthonormal_filters_cost_nothing_and_have_no_gradient() -> None:
    filters = torch.eye(3, 5, dtype=torch.float64, requires_grad=True)
    defect = isometry_defect(filters, torch.rand(3, dtype=torch.float64))
    defect.backward()
    assert defect.item() == 0
    assert filters.grad is not None
    assert filters.grad.abs().max() == 0


def test_published_schedule() -> None:
    """The authors' code counts epochs from 1 and lowers the strength above 20, 50, 70 and 120."""
    expected = {1: 1.0, 20: 1.0, 21: 1e-3, 50: 1e-3, 51: 1e-4, 70: 1e-4, 71: 1e-6, 120: 1e-6, 121: 0.0, 200: 0.0}
    assert {number: published_factor(number - 1 + 0.5) for number in expected} == expected
    weights = {"a.weight": normal(4, 6)}
    for epoch in (3.0, 60.5, 130.0):
        step = Step(weights=weights, epoch=epoch)
        constant = get("srip", strength=0.1).penalty(step)
        scheduled = get("srip", strength=0.1, schedule="published").penalty(step)
        assert constant is not None
        assert scheduled is not None
        assert scheduled.item() == pytest.approx(constant.item() * published_factor(epoch), rel=1e-12)


def test_starts_are_uniform_draws_of_the_step() -> None:
    weights = {"a.weight": normal(4, 6), "b.weight": normal(7, 2, 1, 1, seed=1)}
    generator = torch.Generator().manual_seed(9)
    starts = [torch.rand(size, generator=generator, dtype=torch.float64) for size in (4, 2)]
    expected = sum(isometry_defect(w.flatten(1), b).item() for w, b in zip(weights.values(), starts, strict=True))
    state = torch.get_rng_state()
    found = get("srip", strength=2.0).penalty(Step(weights=weights, seed=9))
    assert found is not None
    assert found.item() == pytest.approx(2 * expected, rel=1e-12)
    assert torch.equal(torch.get_rng_state(), state)
