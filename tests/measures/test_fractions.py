"""Zero fraction and dead fraction against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from sparsestudy.measures.dead_fraction import DeadFraction, dead_fraction
from sparsestudy.measures.zero_fraction import ZeroFraction, zero_fraction

activations = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=4, max_side=5),
    elements=st.just(0.0) | st.floats(-2, 2, width=32),
    fill=st.nothing(),
)


@given(activations)
@settings(deadline=None)
def test_zero_fraction_equals_numpy(a: NDArray[np.float32]) -> None:
    expected = 1 - np.count_nonzero(a) / a.size
    statistic = ZeroFraction()
    assert zero_fraction(torch.from_numpy(a)).item() == pytest.approx(expected, abs=1e-6)
    found = statistic.compute(statistic.update(torch.from_numpy(a)))
    assert found["zero_fraction"].item() == pytest.approx(expected, abs=1e-12)


@given(activations)
@settings(deadline=None)
def test_dead_fraction_equals_numpy(a: NDArray[np.float32]) -> None:
    other_axes = tuple(axis for axis in range(a.ndim) if axis != 1)
    expected = np.mean(~np.any(a, axis=other_axes))
    statistic = DeadFraction()
    assert dead_fraction(torch.from_numpy(a)).item() == pytest.approx(expected, abs=1e-6)
    found = statistic.compute(statistic.update(torch.from_numpy(a)))
    assert found["dead_fraction"].item() == pytest.approx(expected, abs=1e-12)


def test_counting_goes_on_beyond_the_integers_of_float32() -> None:
    # 2**24 + 1 is the first integer that float32 lacks.
    statistic = ZeroFraction()
    one = statistic.update(torch.zeros(1, 1))
    many = {"zeros": torch.tensor(2.0**24, dtype=one["zeros"].dtype), "count": torch.tensor(2.0**24).to(one["count"])}
    sums = {name: many[name] + one[name] for name in one}
    assert [sums[name].item() for name in ("zeros", "count")] == [2**24 + 1] * 2


def test_negative_zero_is_zero() -> None:
    assert zero_fraction(torch.tensor([[-0.0, 1.0]])).item() == 0.5
    assert dead_fraction(torch.tensor([[-0.0, 1.0]])).item() == 0.5
