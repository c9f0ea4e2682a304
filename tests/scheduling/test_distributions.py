"""Domains go to Optuna and come back, also by way of the JSON that Optuna's storages keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from sparsestudy.scheduling.distributions import from_distribution, to_distribution
from sparsestudy.space import Choice, Domain, Integer, Uniform

REALS = st.floats(-1e6, 1e6, allow_subnormal=False)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PAIRS = st.lists(REALS, min_size=2, max_size=2, unique=True).map(sorted)
POSITIVE = st.lists(st.floats(1e-9, 1e6), min_size=2, max_size=2, unique=True).map(sorted)
DOMAINS = (
    PAIRS.map(lambda pair: Uniform(low=pair[0], high=pair[1]))
    | POSITIVE.map(lambda pair: Uniform(low=pair[0], high=pair[1], log=True))
    | st.builds(
        lambda low, n: Uniform(low=low / 10, high=(low + n) / 10, step=0.1), st.integers(-9, 9), st.integers(1, 9)
    )
    | st.builds(
        lambda low, n, step: Integer(low=low, high=low + n * step, step=step),
        st.integers(-99, 99),
        st.integers(1, 9),
        st.integers(1, 9),
    )
    | st.lists(SCALARS, min_size=1, max_size=5, unique=True).map(lambda values: Choice(values=tuple(values)))
)


@given(DOMAINS)
def test_there_and_back(domain: Domain) -> None:
    distribution = to_distribution(domain)
    assert from_distribution(distribution) == domain
    assert from_distribution(json_to_distribution(distribution_to_json(distribution))) == domain


@given(DOMAINS)
def test_every_value_of_a_grid_keeps_its_identity_inside_optuna(domain: Domain) -> None:
    distribution = to_distribution(domain)
    for value in domain.grid() or domain.corners():
        inside = distribution.to_internal_repr(value)
        assert distribution._contains(inside)
        again = distribution.to_external_repr(inside)
        assert again == value
        assert type(again) is type(value)


@pytest.mark.parametrize(
    ("domain", "distribution"),
    [
        (Uniform(low=0.1, high=1.0, log=True), FloatDistribution(0.1, 1.0, log=True)),
        (Uniform(low=0.0, high=1.0, step=0.25), FloatDistribution(0.0, 1.0, step=0.25)),
        (Integer(low=1, high=9, step=2), IntDistribution(1, 9, step=2)),
        (Choice(values=("a", None)), CategoricalDistribution(("a", None))),
    ],
)
def test_the_same_set(domain: Domain, distribution: object) -> None:
    assert to_distribution(domain) == distribution


def test_what_has_no_counterpart() -> None:
    with pytest.raises(
        ValueError, match=r"^no domain corresponds to IntDistribution\(.*\); allowed: float, int without"
    ):
        from_distribution(IntDistribution(1, 100, log=True))
