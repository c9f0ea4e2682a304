"""What every statistic of weights promises; a new file in sparsestudy/measures is picked up by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparsestudy import measures
from sparsestudy.measures import WeightStatistic

from .checks import DTYPES, NoCopyOffTheDevice, assert_same, named
from .inputs import normal

every_weight_statistic = pytest.mark.parametrize("name", named(WeightStatistic))


@pytest.fixture
def no_copies() -> Iterator[None]:
    with NoCopyOffTheDevice():
        yield


def _one_hot(*shape: int) -> Tensor:
    weight = torch.zeros(shape, dtype=torch.float64)
    weight.view(-1)[1] = 3.0
    return weight


WEIGHTS = {
    "dense": normal(4, 6),
    "conv": normal(4, 3, 2, 2),
    "tall": normal(9, 2),
    "all zero": torch.zeros(4, 6, dtype=torch.float64),
    "one-hot": _one_hot(4, 6),
    "duplicate rows": normal(1, 6).expand(4, 6),
    "large duplicate rows": 80 * normal(1, 6).expand(4, 6),
    "opposite rows": torch.cat([normal(2, 6), -normal(2, 6)]),
    "one row": normal(1, 6),
    "one row of zeros": torch.zeros(1, 6, dtype=torch.float64),
    "one column": normal(5, 1),
    "one entry": normal(1, 1),
    "depthwise": normal(4, 1, 3, 3),
    "small": 1e-4 * normal(4, 6),
}


@every_weight_statistic
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_defined_or_nan(name: str, weight: Tensor, dtype: torch.dtype) -> None:
    statistic = measures.get(name)
    rounded, initial = weight.to(dtype), torch.zeros_like(weight).to(dtype)
    found = statistic.compute(rounded, initial)
    assert tuple(found) == statistic.outputs
    assert all(value.shape == () and not value.isinf() for value in found.values())
    assert {value.dtype for value in found.values()} <= {torch.float32, torch.float64}
    # Sums of half-precision terms would miss this by percents.
    assert_same(found, statistic.compute(rounded.double(), initial.double()), rtol=1e-4, atol=1e-6)


@every_weight_statistic
@pytest.mark.parametrize("shape", [(4, 6), (5, 3, 2, 2)])
def test_weight_is_a_matrix_of_filters_in_any_order(name: str, shape: tuple[int, ...]) -> None:
    statistic, weight, initial = measures.get(name), normal(*shape), normal(*shape, seed=1)
    found = statistic.compute(weight, initial)
    assert_same(statistic.compute(weight.flatten(1), initial.flatten(1)), found, rtol=1e-12, atol=1e-12)
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(2))
    assert_same(statistic.compute(weight[order], initial[order]), found, rtol=1e-9, atol=1e-9)


@every_weight_statistic
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_diverged_weights_are_no_error(name: str, value: float) -> None:
    found = measures.get(name).compute(torch.full((3, 4), value), torch.zeros(3, 4))
    assert any(not number.isfinite() for number in found.values())


@every_weight_statistic
def test_weights_are_left_alone(name: str, no_copies: None) -> None:
    weight, initial = normal(4, 6), normal(4, 6, seed=1)
    before = weight.clone(), initial.clone()
    assert measures.get(name).compute(weight, initial)
    assert weight.eq(before[0]).all().logical_and(initial.eq(before[1]).all()).tolist() is True
