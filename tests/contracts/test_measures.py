"""What every statistic of a layer promises, and the registry; a new file in sparsestudy/measures is picked up."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsestudy import measures
from sparsestudy.errors import NotFoundError
from sparsestudy.measures import LayerStatistic, NetworkStatistic, OutputStatistic, WeightStatistic, _activity

from .checks import DTYPES, NoCopyOffTheDevice, assert_same, named
from .inputs import AWKWARD, noise

every_statistic = pytest.mark.parametrize("name", named(LayerStatistic))
every_input = pytest.mark.parametrize("activations", AWKWARD.values(), ids=AWKWARD)


def values(name: str, *batches: Tensor) -> dict[str, Tensor]:
    """Values over all batches, measured one by one and merged."""
    statistic = measures.get(name)
    return statistic.compute(reduce(measures.merge, (statistic.update(batch) for batch in batches)))


@st.composite
def cut_tensors(draw: st.DrawFn) -> tuple[Tensor, list[Tensor]]:
    """Activations of any shape, with silent images and dead channels, and the same in parts."""
    batch, channels = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    spatial = draw(st.sampled_from([(), (1, 1), (3,), (2, 3)]))
    activations = noise(batch, channels, *spatial, seed=draw(st.integers(0, 2**31)))
    for image in draw(st.sets(st.integers(0, batch - 1), max_size=batch)):
        activations[image] = 0
    for channel in draw(st.sets(st.integers(0, channels - 1), max_size=channels)):
        activations[:, channel] = 0
    cuts = sorted(draw(st.sets(st.integers(1, batch - 1), min_size=1)))
    bounds = itertools.pairwise([0, *cuts, batch])
    return activations, [activations[start:end] for start, end in bounds]


@every_statistic
@given(case=cut_tensors())
@settings(deadline=None, max_examples=50)
def test_merged_parts_equal_the_whole(name: str, case: tuple[Tensor, list[Tensor]]) -> None:
    whole, parts = case
    assert_same(values(name, *parts), values(name, whole), rtol=1e-9, atol=1e-12)
    # Each sum of float32 terms is off by less than the number of terms times 6e-8.
    singles = [part.float() for part in parts]
    assert_same(values(name, *singles), values(name, whole.float()), rtol=1e-4, atol=1e-5)


@every_input
@pytest.mark.parametrize("size", [1, 20, 10**6], ids="parts of {} entries".format)
def test_statistics_that_share_their_work_find_what_each_finds_alone(
    activations: Tensor, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    statistics = {name: measures.get(name) for name in named(LayerStatistic)}
    alone = {name: values(name, activations) for name in statistics}
    monkeypatch.setattr(_activity, "_PART", size)
    activity = measures.Activity.of(activations)
    for name, statistic in statistics.items():
        found = statistic.compute(statistic.update(activity))
        assert_same(found, alone[name], rtol=1e-9, atol=1e-12)


@every_statistic
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_number_of_threads_does_not_matter(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    # With one or two, numpy sorts and takes the logarithms.
    activations = noise(6, 5, 4, 4).to(dtype)
    found = []
    for threads in (1, 64):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(values(name, activations))
    assert_same(found[1], found[0], rtol={torch.float64: 1e-12, torch.float32: 1e-6}[dtype], atol=0)


@every_statistic
def test_order_of_merging_does_not_matter(name: str) -> None:
    parts = noise(9, 4, 2, 2).split(2)
    assert_same(values(name, *reversed(parts)), values(name, *parts), rtol=1e-12, atol=1e-12)


@every_statistic
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_float32_or_better(name: str, dtype: torch.dtype) -> None:
    # 64 images of 8 x 32 x 32: sums that bfloat16 would keep to two digits.
    activations = noise(64, 8, 32, 32).to(dtype)
    statistic = measures.get(name)
    sums = statistic.update(activations)
    assert {total.dtype for total in sums.values()} <= {torch.float32, torch.float64}
    # The same rounded activations in float64; a sum of half-precision terms would miss this by percents.
    assert_same(statistic.compute(sums), values(name, activations.double()), rtol=1e-4, atol=1e-5)


@every_statistic
@every_input
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_defined_or_nan(name: str, activations: Tensor, dtype: torch.dtype) -> None:
    statistic = measures.get(name)
    sums = statistic.update(activations.to(dtype))
    found = statistic.compute(sums)
    assert all(total.isfinite().all() for total in sums.values())
    assert all(value.shape == () and not value.isinf() for value in found.values())
    assert set(found) <= set(statistic.outputs)


@every_statistic
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_diverged_activations_are_no_error(name: str, value: float) -> None:
    # The loss tells that training has diverged; LAPACK raising before it does would hide it.
    assert values(name, torch.full((4, 3), value))


@every_statistic
def test_layer_of_one_unit(name: str) -> None:
    found = values(name, torch.tensor([[1.0], [0.0], [2.0]]))
    assert all(not value.isinf() for value in found.values())


@every_statistic
def test_outputs_are_those_it_names(name: str) -> None:
    statistic = measures.get(name)
    assert set(values(name, AWKWARD["conv"])) == set(statistic.outputs)
    dense = values(name, AWKWARD["dense"])
    assert set(dense) <= set(statistic.outputs)
    assert statistic.outputs[0] in dense
    assert statistic.outputs[0] == name  # an objective or a chart names the statistic by its file


def test_every_statistic_is_of_one_kind() -> None:
    kinds = (LayerStatistic, WeightStatistic, OutputStatistic, NetworkStatistic)
    found = {name: sum(isinstance(measures.get(name), kind) for kind in kinds) for name in measures.names()}
    assert set(found.values()) == {1}
    assert all(named(kind) for kind in kinds)


def test_no_two_statistics_share_an_output() -> None:
    outputs = [output for name in measures.names() for output in measures.get(name).outputs]
    assert len(outputs) == len(set(outputs))


@pytest.fixture
def no_copies() -> Iterator[None]:
    with NoCopyOffTheDevice():
        yield


def test_the_watch_on_copies_can_fail(no_copies: None) -> None:
    for read in (Tensor.item, bool, float, torch.nonzero):
        with pytest.raises(AssertionError, match="waits for the device"):
            read(torch.ones(()))


@every_statistic
@every_input
def test_update_does_not_wait_for_the_device(no_copies: None, name: str, activations: Tensor) -> None:
    assert measures.get(name).update(activations)


@every_statistic
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 6)])
def test_update_needs_no_values(name: str, shape: tuple[int, ...]) -> None:
    # The meta device has shapes only: whatever reads a value, tolist() and numpy() included, raises.
    sums = measures.get(name).update(torch.empty(shape, device="meta"))
    assert {total.device.type for total in sums.values()} == {"meta"}


@every_statistic
def test_activations_are_left_alone(name: str) -> None:
    activations = AWKWARD["signed"].clone()
    values(name, activations)
    assert torch.equal(activations, AWKWARD["signed"])


@pytest.mark.parametrize("name", measures.names())
def test_docstring_names_the_source(name: str) -> None:
    assert "Source: " in (importlib.import_module(f"sparsestudy.measures.{name}").__doc__ or "")


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(
        NotFoundError, match=r"no measure named 'perplexty'; there are: .*; did you mean 'perplexity'\?"
    ):
        measures.get("perplexty")
