"""Correlation of maps and of weights against numpy, scikit-learn and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from sparsestudy.regularizers import Step, get
from sparsestudy.regularizers.filter_correlation import mean_squared_correlation
from sparsestudy.regularizers.weight_correlation import mean_squared_cosine


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def off_diagonal(matrix: np.ndarray) -> float:
    return float(np.square(matrix[np.triu_indices(len(matrix), 1)]).mean())


@pytest.mark.parametrize("shape", [(6, 4, 3, 2), (20, 5), (4, 3, 7)])
def test_maps_against_numpy_and_scikit_learn(shape: tuple[int, ...]) -> None:
    activations = normal(*shape).relu()
    rows = activations.transpose(0, 1).flatten(1).numpy()
    assert mean_squared_correlation(activations).item() == pytest.approx(off_diagonal(np.corrcoef(rows)), rel=1e-9)
    cosine = mean_squared_correlation(activations, "cosine").item()
    assert cosine == pytest.approx(off_diagonal(cosine_similarity(rows)), rel=1e-9)
    assert cosine > mean_squared_correlation(activations).item()  # non-negative maps


def test_constant_and_dead_filters_are_left_out() -> None:
    maps = normal(8, 3, 2, 2).relu()
    more = torch.cat([maps, torch.zeros(8, 1, 2, 2), torch.full((8, 1, 2, 2), 0.1)], dim=1).requires_grad_()
    correlation = mean_squared_correlation(more)
    correlation.backward()
    assert correlation.item() == pytest.approx(mean_squared_correlation(maps).item(), rel=1e-12)
    assert more.grad is not None
    assert more.grad.isfinite().all()
    assert more.grad[:, 3:].abs().max() == 0
    assert more.grad[:, :3].abs().max() > 0
    assert mean_squared_correlation(more[:, 2:]).item() == 0  # a single filter varies


def test_scaling_and_shifting_a_filter_changes_nothing() -> None:
    maps = normal(50, 4)
    moved = maps * torch.tensor([1.0, 5.0, 0.1, -2.0]) + torch.tensor([0.0, 3.0, -1.0, 0.5])
    assert mean_squared_correlation(moved).item() == pytest.approx(mean_squared_correlation(maps).item(), rel=1e-9)


def test_half_precision_is_widened() -> None:
    maps = normal(64, 4, 3, 3).relu().to(torch.bfloat16)
    assert mean_squared_correlation(maps).dtype == torch.float32
    expected = mean_squared_correlation(maps.double()).item()
    assert mean_squared_correlation(maps).item() == pytest.approx(expected, rel=1e-5)


def test_strength_by_layer_and_zero_strength() -> None:
    maps = {"one": normal(9, 4), "two": normal(9, 3, 2, 2, seed=1)}
    found = get("filter_correlation", strength={"one": 0.0, "two": 3.0}).penalty(Step(activations=maps))
    assert found is not None
    assert found.item() == pytest.approx(3 * mean_squared_correlation(maps["two"]).item(), rel=1e-12)
    assert get("filter_correlation", strength=0).penalty(Step(activations=maps)) is None


@pytest.mark.parametrize("shape", [(3, 8), (9, 4)])
def test_weights_against_scikit_learn(shape: tuple[int, int]) -> None:
    filters = normal(*shape)
    assert mean_squared_cosine(filters).item() == pytest.approx(off_diagonal(cosine_similarity(filters)), rel=1e-9)
    with_zero = torch.cat([filters, torch.zeros(1, shape[1])])
    assert mean_squared_cosine(with_zero).item() == pytest.approx(mean_squared_cosine(filters).item(), rel=1e-12)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_evenly_spread_filters_in_the_plane_reach_the_least_there_is(count: int) -> None:
    angles = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    filters = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert mean_squared_cosine(filters).item() == pytest.approx((count / 2 - 1) / (count - 1), rel=1e-12)
