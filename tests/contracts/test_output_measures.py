"""What every statistic of outputs promises; a new file in sparsestudy/measures is picked up by itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsestudy import measures
from sparsestudy.measures import OutputStatistic, Sums

from .checks import DTYPES, NoCopyOffTheDevice, assert_same, named
from .inputs import normal

every_output_statistic = pytest.mark.parametrize("name", named(OutputStatistic))


@pytest.fixture
def no_copies() -> Iterator[None]:
    with NoCopyOffTheDevice():
        yield


def values(name: str, *batches: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Values over all batches, measured one by one and merged."""
    statistic = measures.get(name)
    return statistic.compute(reduce(measures.merge, (statistic.update(*batch) for batch in batches)))


def answers(batch: int, classes: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    labels = torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))
    return scale * normal(batch, classes, seed=seed), labels


@st.composite
def cut_answers(draw: st.DrawFn) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor]]]:
    """Answers of any size, some of them all zero, and the same in parts."""
    batch, classes = draw(st.integers(2, 40)), draw(st.integers(2, 5))
    logits, labels = answers(batch, classes, draw(st.integers(0, 2**31)), 10.0 ** draw(st.integers(-4, 4)))
    for example in draw(st.sets(st.integers(0, batch - 1), max_size=batch)):
        logits[example] = 0
    cuts = sorted(draw(st.sets(st.integers(1, batch - 1), min_size=1)))
    bounds = list(itertools.pairwise([0, *cuts, batch]))
    return (logits, labels), [(logits[start:end], labels[start:end]) for start, end in bounds]


@every_output_statistic
@given(case=cut_answers())
@settings(deadline=None, max_examples=50)
def test_merged_answers_equal_the_whole(
    name: str, case: tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor]]]
) -> None:
    whole, parts = case
    expected = values(name, whole)
    # The mean of margins may be as small as rounding leaves of their sum.
    size = whole[0].abs().max().item()
    for order in (parts, parts[::-1]):
        assert_same(values(name, *order), expected, rtol=1e-9, atol=1e-7 * size + 1e-12)


@every_output_statistic
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_of_answers_are_float32_or_better(name: str, dtype: torch.dtype) -> None:
    logits, labels = answers(5000, 10)
    statistic, rounded = measures.get(name), logits.to(dtype)
    sums: Sums = statistic.update(rounded, labels)
    assert {total.dtype for total in sums.values()} <= {torch.float32, torch.float64}
    assert all(total.isfinite().all() for total in sums.values())
    found = statistic.compute(sums)
    assert_same(found, values(name, (rounded.double(), labels)), rtol=1e-4, atol=1e-5)
    assert tuple(found) == statistic.outputs
    assert all(value.shape == () and value.isfinite() for value in found.values())


@every_output_statistic
@pytest.mark.parametrize("logits", [torch.zeros(4, 3), torch.ones(1, 2), torch.full((3, 4), torch.nan)])
def test_awkward_answers(name: str, logits: Tensor) -> None:
    found = values(name, (logits, torch.zeros(len(logits), dtype=torch.int64)))
    assert all(value.shape == () and not value.isinf() for value in found.values())
    assert all(value.isnan() == logits.isnan().any() for value in found.values())


@every_output_statistic
def test_update_of_answers_needs_no_values(name: str, no_copies: None) -> None:
    logits, labels = answers(6, 3)
    before = logits.clone()
    sums = measures.get(name).update(logits, labels)
    assert logits.eq(before).all().tolist() is True
    # The meta device has shapes only: whatever reads a value, tolist() and numpy() included, raises.
    found = measures.get(name).update(logits.to("meta"), labels.to("meta"))
    assert {key: total.shape for key, total in found.items()} == {key: total.shape for key, total in sums.items()}
