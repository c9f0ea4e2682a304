"""Taking snapshots: numbers worked out by hand or by numpy, and a network that does not notice."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsestudy.measures.filter_correlation import FilterCorrelation
from sparsestudy.snapshot import LayerSnapshot, Snapshot
from sparsestudy.study import MeasuresSpec, ModelSpec
from sparsestudy.training import snapshot
from sparsestudy.training.data import Split
from sparsestudy.training.loop import Trainer, fit
from sparsestudy.training.snapshot import take
from tests.test_snapshot import flat
from tests.training.test_loop import comparable, config, same, weights

# Two images, three filters, maps of 2 by 2; the third filter is dead. By hand, of the first two filters:
#   image 0: [1 0 / 0 1] has perplexity 2, so has [2 2 / 0 0]; both together 6^(1/3) 3^(2/3) = 3.779763
#   image 1: [0 0 / 0 4] has perplexity 1, [1 1 / 1 1] has 4; both together 2^(1/2) 8^(1/2) = 4
FIXTURE = torch.tensor(
    [
        [[[1.0, 0.0], [0.0, 1.0]], [[2.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]],
        [[[0.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]],
    ]
)


def passing(shape: tuple[int, ...], classes: int = 2) -> nn.Module:
    """A network whose only layer, ``0``, shows non-negative inputs as they are, and whose answer is always 1."""
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    with torch.no_grad():
        network[2].weight.zero_()
        network[2].bias.copy_(torch.arange(classes))
    return network


def split(inputs: Tensor, labels: Tensor | None = None) -> Split:
    return Split(inputs, torch.arange(len(inputs)) % 2 if labels is None else labels)


def look(inputs: Tensor, labels: Tensor | None = None, **probes: Split) -> tuple[Snapshot, LayerSnapshot]:
    found = take(passing(tuple(inputs.shape[1:])), {**probes, "validation": split(inputs, labels)})
    (layer,) = found.layers
    return found, layer


def test_fixture_by_hand() -> None:
    found, layer = look(FIXTURE, train=split(FIXTURE[1:]))
    assert (layer.name, layer.shape) == ("0", (3, 2, 2))
    np.testing.assert_allclose(layer.sparsity["validation"], [1 - 3.779763 / 12, 1 - 4 / 12], atol=1e-6)
    np.testing.assert_allclose(layer.sparsity["train"], [1 - 4 / 12], atol=1e-6)
    assert layer.dead == {"train": 1, "validation": 1}
    # Within a map: filter 0 has (1 - 2/4 + 1 - 1/4) / 2, filter 1 has (1 - 2/4 + 0) / 2.
    assert (layer.sparsest.filters.tolist(), layer.sparsest.sparsity.tolist()) == ([0], [0.625])
    assert (layer.densest.filters.tolist(), layer.densest.sparsity.tolist()) == ([1], [0.25])
    np.testing.assert_array_equal(layer.sparsest.maps[:, 0], FIXTURE[:, 0].numpy())
    np.testing.assert_array_equal(layer.densest.maps[:, 0], FIXTURE[:, 1].numpy())
    assert (found.examples.tolist(), found.labels.tolist(), found.predictions.tolist()) == ([0, 1], [0, 1], [1, 1])


def test_correlations_are_those_of_numpy() -> None:
    samples = FIXTURE.transpose(0, 1).flatten(1).numpy()  # a row a filter
    _, layer = look(FIXTURE)
    expected = np.full((3, 3), np.nan)
    expected[:2, :2] = np.corrcoef(samples[:2])
    np.testing.assert_allclose(layer.correlation, expected, atol=5e-4)  # kept to three digits


def test_matrix_is_that_of_the_first_filters() -> None:
    inputs = torch.rand(6, 70, 3, 3, generator=torch.Generator().manual_seed(0))
    _, layer = look(inputs)
    samples = inputs.transpose(0, 1).flatten(1).numpy()
    assert layer.correlation.shape == (64, 64)
    np.testing.assert_allclose(layer.correlation, np.corrcoef(samples[:64]), atol=5e-4)
    assert layer.dead["validation"] == 0
    assert len(layer.sparsest.filters) == len(layer.densest.filters) == 4


@pytest.mark.parametrize(("live", "most", "least"), [(1, 1, 0), (2, 1, 1), (5, 3, 2), (8, 4, 4), (11, 4, 4)])
def test_no_filter_is_both_most_and_least_sparse(live: int, most: int, least: int) -> None:
    # Filter f has f + 1 equal units of 16, so it is the sparser the smaller its number; behind them a dead one.
    inputs = torch.zeros(2, live + 1, 4, 4)
    for filter_ in range(live):
        inputs[:, filter_].view(2, 16)[:, : filter_ + 1] = 1
    _, layer = look(inputs)
    assert layer.sparsest.filters.tolist() == list(range(most))
    assert layer.densest.filters.tolist() == list(range(live - least, live))
    np.testing.assert_allclose(layer.sparsest.sparsity, [1 - (f + 1) / 16 for f in range(most)], atol=1e-6)


def test_maps_are_of_filters_that_respond_to_an_example() -> None:
    inputs = torch.zeros(4, 2, 2, 2)
    inputs[:, 0] = 1
    inputs[3, 1, 0, 0] = 1  # the sparser filter, but only on the fourth image
    labels = torch.tensor([0, 1, 2, 0])
    _, layer = look(inputs, labels)
    assert layer.sparsest.filters.tolist() == [0]
    assert layer.dead["validation"] == 0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([4, 4, 2, 4, 2, 0, 1], [0, 2, 5]), ([1, 1, 1], [0]), ([0.5, 0.1, 0.2, 0.3], [0, 1, 2])],
)
def test_examples_are_the_first_of_their_class(labels: list[Any], expected: list[int]) -> None:
    inputs = torch.rand(len(labels), 1, 2, 2)
    found, layer = look(inputs, torch.tensor(labels))
    assert found.examples.tolist() == expected
    assert len(layer.sparsest.maps) == len(found.images) == len(expected)
    classes = not isinstance(labels[0], float)
    assert found.labels.tolist() == ([labels[i] for i in expected] if classes else [])
    assert len(found.predictions) == len(found.labels)


def test_silent_images_and_layers() -> None:
    inputs = FIXTURE.clone()
    inputs[1] = 0
    _, layer = look(inputs)
    assert np.isnan(layer.sparsity["validation"]).tolist() == [False, True]
    _, layer = look(torch.zeros(2, 3, 2, 2))
    assert np.isnan(layer.sparsity["validation"]).all()
    assert np.isnan(layer.correlation).all()
    assert layer.dead == {"validation": 3}
    assert len(layer.sparsest.filters) == len(layer.densest.filters) == 0


def test_activations_that_are_not_finite_are_undefined() -> None:
    inputs = FIXTURE.clone()
    inputs[0, 0, 0, 0] = float("inf")
    inputs[1, 1, 0, 0] = float("nan")
    _, layer = look(inputs)
    assert np.isnan(layer.sparsity["validation"]).all()
    assert np.isnan(layer.correlation).all()


@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 1, 1), (5, 2, 2, 2)], ids=str)
def test_layers_of_any_shape(shape: tuple[int, ...]) -> None:
    inputs = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    found, layer = look(inputs)
    assert layer.shape == shape
    assert layer.correlation.shape == (5, 5)
    assert np.isfinite(layer.sparsity["validation"]).all()
    assert layer.sparsest.maps.shape == ((2, 3, 1, 7) if shape == (5, 7) else (2, 0, 1, 1))
    assert len(found.images) == (2 if len(shape) == 3 else 0)
    assert Snapshot.from_bytes(found.to_bytes()).layers[0].shape == shape


def test_a_single_unit_has_no_sparsity() -> None:
    _, layer = look(torch.ones(4, 1))
    assert np.isnan(layer.sparsity["validation"]).all()
    assert layer.correlation.shape == (1, 1)


def test_large_maps_and_images_are_averaged_down() -> None:
    inputs = torch.zeros(2, 3, 128, 40)
    inputs[:, :, :4] = 1
    found, layer = look(inputs)
    assert layer.sparsest.maps.shape == (2, 2, 32, 32)
    assert found.images.shape == (2, 3, 64, 40)
    np.testing.assert_array_equal(layer.sparsest.maps[0, 0, :2, 0], [1, 0])  # 4 of 128 rows are the first of 32
    assert (found.images[0, 0, :3, 0].tolist(), found.images.dtype) == ([255, 255, 0], np.uint8)


def test_images_of_other_channels_become_grey() -> None:
    inputs = torch.zeros(2, 2, 1, 2)
    inputs[:, :, 0, 1] = torch.tensor([[3.0, 1.0], [-1.0, -3.0]])
    found, _ = look(inputs)
    assert found.images.tolist() == [[[[0, 255]]], [[[255, 0]]]]


def test_taking_in_parts_is_taking_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.rand(7, 5, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.3
    whole, _ = look(inputs)
    monkeypatch.setattr(snapshot, "_AT_A_TIME", 1)
    parts, _ = look(inputs)
    for name, value in flat(whole).items():
        np.testing.assert_allclose(flat(parts)[name], value, atol=1e-3 if name.endswith("correlation") else 1e-6)


def test_only_chosen_layers() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    found = take(network, {"validation": split(FIXTURE)}, ("4",))
    assert [layer.name for layer in found.layers] == ["4"]


def test_the_network_does_not_notice() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(16, 2)
    )
    network[1].eval()
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    state = torch.random.get_rng_state()
    take(network, {"train": split(FIXTURE), "validation": split(FIXTURE)})
    assert same(network.state_dict(), before)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(p.grad is None for p in network.parameters())


TRIAL = config(
    {"method": "dropout", "strength": 0.3},
    model=ModelSpec(name="convnet", arguments={"channels": [4, 6], "dense": 8, "batch_norm": True}),
    measures=MeasuresSpec(names=("perplexity", "dead_fraction", "filter_correlation"), probe_size=40).model_dump(),
)


def agree(values: np.ndarray[Any, Any], said: float | None, within: float) -> bool:
    """Whether the mean of what is defined is what was said, or nothing is defined where nothing was said."""
    known = values[np.isfinite(values)]
    return said is None if not len(known) else said is not None and abs(float(known.mean()) - said) < within


def test_a_trainer_sees_what_its_last_measurement_says() -> None:
    trainer = Trainer(TRIAL)
    last = [*trainer][-1]
    found = trainer.snapshot()
    assert [layer.name for layer in found.layers] == [*last.statistics["validation"]]
    assert (found.images_of("train"), found.images_of("validation")) == (40, 40)
    for layer in found.layers:
        for name in ("train", "validation"):
            said = last.statistics[name][layer.name]
            assert agree(layer.sparsity[name], said["perplexity"], 1e-5)
            assert layer.dead[name] == pytest.approx(said["dead_fraction"] * layer.shape[0])
        off = np.abs(layer.correlation.astype(float))[~np.eye(len(layer.correlation), dtype=bool)]
        correlation = last.statistics["validation"][layer.name][FilterCorrelation.outputs[0]]
        assert agree(off, correlation, 5e-4)
    assert last.statistics["validation"]["classifier.dense1"]["perplexity"] is None  # it is dead in this trial


def test_looking_between_epochs_changes_nothing() -> None:
    model, trajectory = fit(TRIAL)
    trainer, seen = Trainer(TRIAL), []
    for measurement in trainer:
        seen.append(measurement)
        trainer.snapshot()
    assert comparable(seen) == comparable(trajectory)
    assert same(weights(trainer.model), weights(model))
