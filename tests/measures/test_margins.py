"""Margins and their statistics against numpy."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from sparsestudy import measures
from sparsestudy.measures.margins import lowest_tenth, margin

MARGINS = measures.get("margins")


def of(margins: Tensor, chunk: int = 1000) -> dict[str, float]:
    """Statistics of given margins, measured in chunks: two classes, of which the second has logit 0."""
    logits = torch.stack([margins, torch.zeros_like(margins)], 1)
    labels = torch.zeros(len(margins), dtype=torch.int64)
    parts = [MARGINS.update(*part) for part in zip(logits.split(chunk), labels.split(chunk), strict=True)]
    return {name: value.item() for name, value in MARGINS.compute(reduce(measures.merge, parts)).items()}


def resolution(quantile: float) -> float:
    """What the documentation promises."""
    return 0.0013 * (abs(quantile) + 0.01)


def test_margin_equals_numpy() -> None:
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(6, (50,), generator=torch.Generator().manual_seed(1))
    rows = logits.numpy()
    expected = [rows[i, y] - np.delete(rows[i], y).max() for i, y in enumerate(labels)]
    assert margin(logits, labels).tolist() == pytest.approx(expected, rel=1e-12)


def test_margin_by_hand() -> None:
    logits, labels = torch.tensor([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0], [4.0, 4.0, 0.0]]), torch.tensor([1, 0, 0])
    assert margin(logits, labels).tolist() == [3.0, -3.0, 0.0]
    found = MARGINS.compute(MARGINS.update(logits, labels))
    assert found["margin_mean"].item() == 0
    assert found["margin_std"].item() == pytest.approx(math.sqrt(6))  # sqrt((9 + 9 + 0) / 3)
    assert found["margin_negative"].item() == pytest.approx(1 / 3)  # a tie is not negative
    assert found["margin_q10"].item() == pytest.approx(-3, abs=resolution(-3))


NUMBERS = st.floats(-1e6, 1e6).map(lambda value: value if abs(value) > 1e-60 else 0.0)
"""The squares of smaller ones are no longer normal numbers."""


@given(
    arrays(np.float64, st.integers(1, 200), elements=NUMBERS),
    st.sampled_from([1e-6, 1e-3, 1.0]),
    st.integers(1, 50),
)
@settings(deadline=None)
def test_statistics_equal_numpy(values: np.ndarray, scale: float, chunk: int) -> None:
    values = scale * values
    found = of(torch.from_numpy(values), chunk)
    size = np.abs(values).max()
    assert found["margin_mean"] == pytest.approx(values.mean(), abs=1e-12 * size)
    assert found["margin_std"] == pytest.approx(values.std(), rel=1e-6, abs=1e-7 * size)
    assert found["margin_negative"] == pytest.approx((values < 0).mean(), abs=1e-12)
    # The ceil(n / 10)-th smallest is the inverse of the empirical distribution.
    expected = np.quantile(values, 0.1, method="inverted_cdf")
    assert found["margin_q10"] == pytest.approx(expected, abs=resolution(expected))
    assert lowest_tenth(torch.from_numpy(values)).item() == expected


@pytest.mark.parametrize("quantile", [-1.9e6, -40.0, -1.0, -0.01, -1e-5, 0.0, 1e-4, 0.003, 0.5, 7.25, 1e3, 1.9e6])
def test_resolution_of_the_quantile(quantile: float) -> None:
    step = abs(quantile) + 1.0
    margins = torch.cat(
        [torch.full((9,), quantile - step), torch.tensor([quantile]), torch.full((90,), quantile + step)]
    )
    assert of(margins.double())["margin_q10"] == pytest.approx(quantile, abs=resolution(quantile))


def test_quantile_of_many_normal_margins() -> None:
    """The 10 % quantile of N(3, 2): 3 - 2 * 1.2815516; of 200,000 draws its standard error is 0.0076."""
    margins = 3 + 2 * torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = of(margins, 4096)
    assert found["margin_q10"] == pytest.approx(3 - 2 * 1.2815516, abs=0.03)
    assert found["margin_mean"] == pytest.approx(3, abs=0.02)
    assert found["margin_std"] == pytest.approx(2, abs=0.015)
    # The share below 0 is that of the standard normal below -1.5, 0.0668072.
    assert found["margin_negative"] == pytest.approx(0.0668072, abs=0.0025)


def test_margins_beyond_the_histogram_stay_at_its_ends() -> None:
    assert of(torch.tensor([-1e9, 1.0]))["margin_q10"] == pytest.approx(-0.01 * math.sinh(20), rel=2e-3)
    assert of(torch.tensor([1e9, 1e9]))["margin_q10"] == pytest.approx(0.01 * math.sinh(20), rel=2e-3)
