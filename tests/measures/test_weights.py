"""Measures of weights against numpy, closed forms and the published code of hyperspherical energies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsestudy import measures

NORMS, ENERGY = measures.get("weight_norms"), measures.get("hyperspherical_energy")


def norms(weight: Tensor, initial: Tensor | None = None) -> dict[str, float]:
    found = NORMS.compute(weight, torch.zeros_like(weight) if initial is None else initial)
    return {name: value.item() for name, value in found.items()}


def energies(weight: Tensor) -> list[float]:
    return [value.item() for value in ENERGY.compute(weight, weight).values()]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (6, 3, 3, 3), (3, 1), (1, 3)])
def test_norms_equal_numpy(shape: tuple[int, ...]) -> None:
    weight = noise(*shape)
    singular = np.linalg.svd(weight.flatten(1).numpy(), compute_uv=False)
    found = norms(weight)
    assert found["spectral_norm"] == pytest.approx(singular[0], rel=1e-12)
    assert found["weight_norm"] == pytest.approx(np.sqrt((singular**2).sum()), rel=1e-12)
    assert found["stable_rank"] == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-12)
    single = norms(weight.float())
    assert single == pytest.approx(found, rel=1e-6)


def test_stable_rank_of_a_small_matrix() -> None:
    """Singular values 3.566532, 1.509916, 0 (numpy) of a centred matrix: stable rank 1.179231."""
    matrix = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0], [2.0, 2.0, 2.0], [0.0, 4.0, 1.0]], dtype=torch.float64)
    assert norms(matrix - matrix.mean(0))["stable_rank"] == pytest.approx(1.179231, rel=1e-6)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_orthonormal_rows_in_closed_form(n: int) -> None:
    rows = torch.linalg.qr(noise(12, n)).Q.T
    found = norms(rows)
    assert found["weight_norm"] == pytest.approx(math.sqrt(n), rel=1e-12)
    assert found["spectral_norm"] == pytest.approx(1, rel=1e-12)
    assert found["stable_rank"] == pytest.approx(n, rel=1e-12)
    assert energies(rows) == pytest.approx([-math.log(2), 1 / math.sqrt(2), 0.5], rel=1e-12)


def test_rank_one_and_zero() -> None:
    assert norms(torch.outer(noise(5), noise(7)))["stable_rank"] == pytest.approx(1, rel=1e-12)
    found = norms(torch.zeros(3, 4))
    assert (found["weight_norm"], found["spectral_norm"]) == (0, 0)
    assert math.isnan(found["stable_rank"])


def test_distance_is_that_of_all_entries() -> None:
    initial = noise(2, 3, 2, 2)
    weight = initial.clone()
    weight[0, 1, 1, 0] += 3
    weight[1, 2, 0, 1] -= 4
    assert norms(weight, initial)["weight_distance"] == pytest.approx(5, rel=1e-12)
    assert norms(initial, initial)["weight_distance"] == 0


def test_energies_of_the_published_code() -> None:
    """Rows (3, 4), (-4, 3), (1, 0): values of a run of the authors' code (Liu et al. 2018), full space."""
    rows = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [1.0, 0.0]])
    assert energies(rows.double()) == pytest.approx([-0.583664, 0.784050, 0.675896], rel=2e-6)
    assert energies(rows) == pytest.approx([-0.583664, 0.784050, 0.675896], rel=1e-4)


def test_energies_of_two_filters_in_closed_form() -> None:
    # Two equal filters of length one: c = 1 / (1 + 1e-4), so D = 2 - 2c is nearly 2e-4; opposite ones: nearly 4.
    row = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    for sign, cosine in ((1, 1 / 1.0001), (-1, -1 / 1.0001)):
        chord = 2 - 2 * cosine
        expected = [-math.log(chord), 1 / math.sqrt(chord), 1 / chord]
        assert energies(torch.cat([row, sign * row])) == pytest.approx(expected, rel=1e-9)


def test_a_single_filter_has_no_energy() -> None:
    assert all(math.isnan(value) for value in energies(noise(1, 5)))
