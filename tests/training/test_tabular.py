"""Tables with a number to predict, against scikit-learn's own loaders and the published formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.preprocessing import StandardScaler

from sparsestudy.errors import SpecError
from sparsestudy.study import DataSpec, SplitSpec
from sparsestudy.training import tabular
from sparsestudy.training.data import load
from sparsestudy.training.tabular import diabetes, friedman1

SPLITS = ("train", "search", "selection", "test")


@pytest.mark.parametrize("shipped", [True, False], ids=["from the file", "by scikit-learn"])
def test_diabetes_is_that_of_scikit_learn(shipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shipped:
        monkeypatch.setattr(tabular, "installed_table", lambda name: None)
    inputs, labels = load_diabetes(return_X_y=True, scaled=False)
    pool = diabetes()
    assert np.array_equal(pool.inputs.numpy(), inputs)
    assert np.array_equal(pool.labels.numpy(), labels)
    assert (pool.inputs.shape, pool.labels.dtype) == ((442, 10), torch.float64)


def test_diabetes_split_and_standardised() -> None:
    dataset = load(DataSpec(name="diabetes", train_size=100))
    assert [len(getattr(dataset, split)) for split in SPLITS] == [100, 88, 88, 88]
    assert (dataset.task, dataset.classes, dataset.outputs, dataset.input_shape) == ("regression", 0, 1, (10,))
    whole = load(DataSpec(name="diabetes"))
    labels = torch.cat([getattr(whole, split).labels for split in SPLITS]).double()
    found = labels * whole.label_std + whole.label_mean
    expected = np.sort(load_diabetes(return_X_y=True)[1])
    assert found.sort().values.numpy() == pytest.approx(expected, rel=1e-5)


def test_friedman1_without_noise_is_that_of_scikit_learn() -> None:
    generator = np.random.RandomState(np.random.PCG64(5))  # the stream of numpy's default generator
    inputs, labels = make_friedman1(50, 7, noise=0.0, random_state=generator)
    pool = friedman1(examples=50, features=7, noise=0, seed=5)
    assert np.array_equal(pool.inputs.numpy(), inputs)
    assert pool.labels.numpy() == pytest.approx(labels, rel=1e-12)


def test_friedman1_by_hand() -> None:
    pool = friedman1(examples=200, noise=0.0)
    for x, y in zip(pool.inputs.tolist(), pool.labels.tolist(), strict=True):
        by_hand = 10 * math.sin(math.pi * x[0] * x[1]) + 20 * (x[2] - 0.5) ** 2 + 10 * x[3] + 5 * x[4]
        assert y == pytest.approx(by_hand, rel=1e-12)
    assert pool.inputs.min() >= 0
    assert pool.inputs.max() < 1


def test_noise_of_friedman1_is_normal_and_leaves_the_inputs_alone() -> None:
    clean, noisy = friedman1(examples=20_000, noise=0), friedman1(examples=20_000, noise=2.5)
    assert torch.equal(clean.inputs, noisy.inputs)
    noise = (noisy.labels - clean.labels) / 2.5
    # Five standard deviations of the mean, the standard deviation and the fourth moment of 20,000 normal draws.
    assert abs(noise.mean()) < 5 / math.sqrt(20_000)
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * 20_000)
    assert abs(noise.pow(4).mean() - 3) < 5 * math.sqrt(96 / 20_000)
    assert not torch.equal(friedman1(seed=1).labels, friedman1(seed=2).labels)


def test_columns_and_numbers_are_standardised_by_the_training_split() -> None:
    arguments = {"examples": 300, "features": 6, "seed": 3}
    sizes = SplitSpec(search=60, selection=50, test=40)
    dataset = load(DataSpec(name="friedman1", arguments=arguments, train_size=80, splits=sizes))
    pool = friedman1(**arguments)
    places = {}
    for split in SPLITS:
        raw = getattr(dataset, split).labels.double() * dataset.label_std + dataset.label_mean
        near = (raw[:, None] - pool.labels[None, :]).abs()
        assert near.min(1).values.max() < 1e-5  # of numbers up to 30 in float32
        places[split] = near.argmin(1).numpy()
    drawn = np.concatenate(list(places.values()))
    assert len(set(drawn.tolist())) == len(drawn) == 230
    rows, numbers = pool.inputs.numpy(), pool.labels.numpy()[:, None]
    columns, labels = (StandardScaler().fit(values[places["train"]]) for values in (rows, numbers))
    for split, where in places.items():
        found = getattr(dataset, split)
        assert found.inputs.numpy() == pytest.approx(columns.transform(rows[where]), abs=1e-5)
        assert found.labels.numpy() == pytest.approx(labels.transform(numbers[where])[:, 0], abs=1e-5)
        assert found.inputs.dtype == found.labels.dtype == torch.float32
    assert dataset.label_std == pytest.approx(labels.scale_[0], rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"examples": 0}, "data.arguments.examples: needs an integer from 1 up; got 0"),
        ({"features": 4}, "data.arguments.features: needs an integer from 5 up, since five matter; got 4"),
        ({"noise": -0.5}, "data.arguments.noise: needs a number from 0 up; got -0.5"),
        ({"noise": True}, "data.arguments.noise: needs a number from 0 up; got True"),
        ({"noise": "much"}, "data.arguments.noise: needs a number from 0 up; got 'much'"),
        ({"seed": -1}, "data.arguments.seed: needs an integer from 0 up; got -1"),
        (
            {"exmaples": 3},
            "data.arguments.exmaples: friedman1 has no argument 'exmaples'; allowed: examples, features, noise, seed; "
            "did you mean 'examples'?",
        ),
    ],
)
def test_wrong_arguments_of_friedman1(arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(SpecError) as error:
        load(DataSpec.model_validate({"name": "friedman1", "arguments": arguments}))
    assert [str(problem) for problem in error.value.problems] == [expected]


def test_diabetes_takes_no_arguments() -> None:
    with pytest.raises(SpecError, match=r"data\.arguments\.scaled: diabetes has no argument 'scaled'"):
        load(DataSpec(name="diabetes", arguments={"scaled": True}))
