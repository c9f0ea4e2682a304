"""Numbers to predict: split at random, in units of the training split, wrong on purpose."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsestudy.errors import SpecError
from sparsestudy.study import DataSpec, SplitSpec
from sparsestudy.training import data
from sparsestudy.training.data import Dataset, load

SPLITS = ("train", "search", "selection", "test")
MODULE = "user_numbers_for_tests"
HALF = SplitSpec(search=0.2, selection=0.2, test=0.1)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty directory, with nothing cached and the import path restored afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    data._load.cache_clear()


def squares(count: int = 200, kind: str = "float64") -> str:
    """A user's function whose input is the number of the example, and whose label is its square."""
    body = f"x = np.arange({count}, dtype=np.float32)[:, None]; return x, np.square(x[:, 0]).astype(np.{kind})"
    Path(f"{MODULE}.py").write_text(f"import numpy as np\n\n\ndef make():\n    {body}\n")
    return f"{MODULE}:make"


def spec(name: str, **fields: object) -> DataSpec:
    return DataSpec.model_validate({"name": name, "splits": HALF, **fields})


def numbers(dataset: Dataset, split: str) -> list[int]:
    return [int(number) for number in getattr(dataset, split).inputs[:, 0]]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floating_point_labels_make_a_regression(kind: str) -> None:
    count = 200 if kind != "float16" else 20  # half precision has no larger squares that are exact
    dataset = load(spec(squares(count, kind)))
    assert (dataset.task, dataset.classes, dataset.outputs) == ("regression", 0, 1)
    train = np.square(np.array(numbers(dataset, "train"), dtype=np.float64))
    assert (dataset.label_mean, dataset.label_std) == pytest.approx((train.mean(), train.std()), rel=1e-12)
    for split in SPLITS:
        expected = (np.square(np.array(numbers(dataset, split))) - train.mean()) / train.std()
        assert getattr(dataset, split).labels.numpy() == pytest.approx(expected, abs=1e-6)
        assert getattr(dataset, split).labels.dtype == torch.float32


def test_integer_labels_make_a_classification() -> None:
    digits = load(DataSpec(train_size=100))
    assert (digits.task, digits.classes, digits.outputs) == ("classification", 10, 10)
    assert (digits.label_mean, digits.label_std) == (0.0, 1.0)


def test_splits_are_disjoint_random_and_of_their_size() -> None:
    name = squares()
    first, other = load(spec(name)), load(spec(name, seed=1))
    drawn = [number for split in SPLITS for number in numbers(first, split)]
    assert sorted(drawn) == list(range(200))
    assert [len(getattr(first, split)) for split in SPLITS] == [100, 40, 40, 20]
    for split in SPLITS:
        assert numbers(first, split) != numbers(other, split)
        # The mean of k of n = 200 numbers has a standard deviation of sqrt((n + 1)(n - k) / (12 k)); five of them.
        size = len(getattr(first, split))
        assert abs(np.mean(numbers(first, split)) - 99.5) < 5 * np.sqrt(201 * (200 - size) / (12 * size))


def test_train_size_and_label_noise_do_not_move_the_evaluation_splits() -> None:
    name = squares()
    full, small = load(spec(name)), load(spec(name, train_size=10, label_noise=0.5))
    for split in SPLITS[1:]:
        assert numbers(full, split) == numbers(small, split)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.333, 0.9])
def test_label_noise_gives_its_share_the_number_of_another_example(share: float) -> None:
    name = squares()
    clean, noisy = load(spec(name)), load(spec(name, label_noise=share))
    changed = clean.train.labels != noisy.train.labels  # squares all differ, so another example's always shows
    assert torch.equal(noisy.corrupted, changed)
    assert int(changed.sum()) == round(share * 100)
    assert set(noisy.train.labels.tolist()) <= set(clean.train.labels.tolist())
    assert (noisy.label_mean, noisy.label_std) == (clean.label_mean, clean.label_std)
    for split in SPLITS[1:]:
        assert torch.equal(getattr(clean, split).labels, getattr(noisy, split).labels)


def test_every_other_example_is_equally_likely_to_give_its_number() -> None:
    name = squares(8000)
    clean, noisy = load(spec(name)), load(spec(name, label_noise=0.9))
    givers = torch.searchsorted(clean.train.labels.sort().values, noisy.train.labels[noisy.corrupted])
    quarters = np.bincount(givers.numpy() // 1000, minlength=4) / len(givers)
    # 3600 draws: the standard deviation of each share is sqrt(3/16/3600) < 0.0073; five of them.
    assert np.abs(quarters - 0.25).max() < 0.037


def test_more_noise_adds_to_less_and_the_seed_decides() -> None:
    name = squares()
    less, more = load(spec(name, label_noise=0.1)), load(spec(name, label_noise=0.3))
    assert torch.equal(less.train.labels[less.corrupted], more.train.labels[less.corrupted])
    assert not torch.equal(less.corrupted, load(spec(name, label_noise=0.1, seed=1)).corrupted)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"train_size": 1}, ["data.train_size: 1 examples cannot tell how far apart numbers lie; use 2 or more"]),
        (
            {"splits": SplitSpec(search=1, selection=0.001, test=20)},
            [
                "data.splits.search: 1 examples cannot tell how far apart numbers lie; use 2 or more",
                "data.splits.selection: 0 examples cannot tell how far apart numbers lie; use 2 or more",
            ],
        ),
        (
            {"splits": SplitSpec(search=100, selection=79, test=20)},
            [
                "data.splits: search 100 + selection 79 + test 20 = 199 examples, but the pool of "
                f"'{MODULE}:make' has 200 and training needs at least 2; lower data.splits"
            ],
        ),
    ],
)
def test_sizes_that_do_not_fit(fields: dict[str, object], expected: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        load(spec(squares(), **fields))
    assert [str(problem) for problem in error.value.problems] == expected


def test_two_examples_a_split_are_enough() -> None:
    dataset = load(spec(squares(8), train_size=2, splits=SplitSpec(search=2, selection=2, test=2), label_noise=0.5))
    assert dataset.train.labels.tolist() in ([1.0, 1.0], [-1.0, -1.0])  # one of the two has the other's number
