"""Test vectors of the sparsity measures, computed from their formulas in float64 by hand or by numpy, not by us.

Sources: the definitions of Hurley and Rickard (arXiv 0811.4706), Treves and Rolls, Roy and Vetterli.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsestudy import measures
from sparsestudy.measures.gini import gini
from sparsestudy.measures.hoyer import hoyer
from sparsestudy.measures.kurtosis import excess_kurtosis, kurtosis
from sparsestudy.measures.treves_rolls import treves_rolls

NAN = math.nan
# vector: hoyer, gini, treves_rolls, kurtosis, excess kurtosis
VECTORS = {
    (0.0, 0.0, 5.0, 0.0): (1.0, 0.75, 0.75, 1.0, -0.666667),
    (1.0, 1.0, 0.0, 0.0): (0.585786, 0.5, 0.5, 0.5, -2.0),
    (1.0, 2.0, 3.0, 4.0): (0.174258, 0.25, 0.166667, 0.393333, -1.36),
    (2.0, 2.0, 2.0, 2.0): (0.0, 0.0, 0.0, 0.25, NAN),
}
FUNCTIONS = (hoyer, gini, treves_rolls, kurtosis, excess_kurtosis)
DTYPES = {torch.float64: 1e-6, torch.float32: 1e-4}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("vector", "expected"), VECTORS.items(), ids=str)
def test_vectors(vector: tuple[float, ...], expected: tuple[float, ...], dtype: torch.dtype) -> None:
    row = torch.tensor([vector], dtype=dtype)
    found = [function(row).item() for function in FUNCTIONS]
    assert found == pytest.approx(expected, rel=DTYPES[dtype], abs=DTYPES[dtype], nan_ok=True)


@pytest.mark.parametrize("function", FUNCTIONS[:4])
def test_a_silent_image_has_none(function: object) -> None:
    assert callable(function)
    assert math.isnan(function(torch.zeros(1, 5)).item())


def test_closed_form_limits_of_rectified_noise() -> None:
    """ReLU(N(0,1)), n to infinity: Treves-Rolls 1 - 1/pi, Gini 1/sqrt 2, Hoyer 1 - 1/sqrt pi.

    A million draws: the standard error of each is below 1e-3.
    """
    units = torch.randn(1, 1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).relu()
    assert treves_rolls(units).item() == pytest.approx(1 - 1 / math.pi, abs=3e-3)
    assert gini(units).item() == pytest.approx(1 / math.sqrt(2), abs=3e-3)
    assert hoyer(units).item() == pytest.approx(1 - 1 / math.sqrt(math.pi), abs=3e-3)


def value(name: str, output: str, activations: Tensor) -> float:
    statistic = measures.get(name)
    return statistic.compute(statistic.update(activations))[output].item()


def test_treves_rolls_is_one_minus_hoyer_square_over_n() -> None:
    units = torch.rand(20, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    square = units.sum(1).square() / units.square().sum(1)
    torch.testing.assert_close(treves_rolls(units), 1 - square / 7, rtol=1e-12, atol=1e-12)


def test_lifetime_is_the_population_measure_of_the_transpose() -> None:
    units = torch.rand(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = value("treves_rolls", "treves_rolls_lifetime", units)
    assert found == pytest.approx(treves_rolls(units.T).mean().item(), rel=1e-12)


def test_filter_correlation_equals_numpy() -> None:
    maps = torch.rand(5, 4, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    matrix = np.abs(np.corrcoef(maps.transpose(0, 1).flatten(1).numpy()))
    expected = matrix[np.triu_indices(4, 1)].mean()
    assert value("filter_correlation", "filter_correlation", maps) == pytest.approx(expected, rel=1e-9)


def test_filter_correlation_leaves_out_constant_filters() -> None:
    maps = torch.rand(5, 3, 3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    dead = torch.cat([maps, torch.zeros(5, 1, 3, 3), torch.full((5, 1, 3, 3), 0.7)], dim=1)
    expected = value("filter_correlation", "filter_correlation", maps)
    assert value("filter_correlation", "filter_correlation", dead) == pytest.approx(expected, rel=1e-9)
    assert math.isnan(value("filter_correlation", "filter_correlation", dead[:, 2:]))


def test_copies_are_fully_correlated() -> None:
    maps = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    copies = torch.cat([maps, 2 * maps, 1 - maps], dim=1)
    assert value("filter_correlation", "filter_correlation", copies) == pytest.approx(1)


def test_ranks_of_a_small_matrix() -> None:
    """Centred singular values 3.566532, 1.509916, 0 (numpy): effective rank 1.837996, participation ratio 1.347305."""
    responses = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0], [2.0, 2.0, 2.0], [0.0, 4.0, 1.0]], dtype=torch.float64)
    singular = np.linalg.svd(responses.numpy() - responses.mean(0).numpy(), compute_uv=False)
    assert singular == pytest.approx([3.566532, 1.509916, 0], abs=1e-6)
    assert value("effective_rank", "effective_rank", responses) == pytest.approx(1.837996, rel=1e-6)
    assert value("effective_rank", "participation_ratio", responses) == pytest.approx(1.347305, rel=1e-6)
