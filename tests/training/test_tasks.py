"""Loss and score of each task against scikit-learn and numpy, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score
from torch import Tensor

from sparsestudy.training.tasks import TASKS, Task

CLASSES, NUMBERS = TASKS["classification"], TASKS["regression"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def results(task: Task, outputs: Tensor, labels: Tensor, size: int) -> list[float]:
    """Loss and score, summed over batches of ``size``."""
    parts = zip(outputs.split(size), labels.split(size), strict=True)
    sums = torch.stack([task.sums(*part) for part in parts]).sum(0)
    return [value.item() for value in task.results(sums)]


@pytest.mark.parametrize("size", [1, 7, 50])
def test_numbers_against_scikit_learn(size: int) -> None:
    labels = 3 + 2 * normal(50)
    predictions = labels[:, None] + 0.7 * normal(50, 1, seed=1)
    expected = [mean_squared_error(labels, predictions[:, 0]), r2_score(labels, predictions[:, 0])]
    assert results(NUMBERS, predictions, labels, size) == pytest.approx(expected, rel=1e-12)
    assert NUMBERS.loss(predictions, labels).item() == pytest.approx(expected[0], rel=1e-12)


def test_predictions_worse_than_the_mean_score_below_zero() -> None:
    labels = normal(20)
    found = results(NUMBERS, -labels[:, None], labels, 20)[1]
    assert found == pytest.approx(r2_score(labels, -labels), rel=1e-12)
    assert found < -2


@pytest.mark.parametrize("label", [0.0, 0.1, -1234.567])
@pytest.mark.parametrize("error", [0.0, 0.5])
def test_labels_that_do_not_differ(label: float, error: float) -> None:
    """There R² has no denominator; scikit-learn's convention is 1 for perfect predictions, else 0."""
    labels = torch.full((9,), label, dtype=torch.float64)
    expected = r2_score(labels, labels + error)
    assert expected == (error == 0)
    assert results(NUMBERS, (labels + error)[:, None], labels, 4)[1] == expected


def test_numbers_of_a_column_are_not_broadcast_against_labels() -> None:
    """Predictions ``[B, 1]`` minus labels ``[B]`` would be ``[B, B]``."""
    labels = torch.tensor([0.0, 2.0])
    assert NUMBERS.loss(torch.tensor([[1.0], [2.0]]), labels).item() == 0.5


@pytest.mark.parametrize("size", [1, 7, 50])
def test_classes_against_scikit_learn(size: int) -> None:
    logits, labels = 2 * normal(50, 4), torch.arange(50) % 4
    shares = logits.softmax(1).numpy()
    expected = [log_loss(labels, shares), accuracy_score(labels, shares.argmax(1))]
    assert results(CLASSES, logits, labels, size) == pytest.approx(expected, rel=1e-12)
    assert CLASSES.loss(logits, labels).item() == pytest.approx(expected[0], rel=1e-12)


def test_sums_of_half_precision_outputs_are_wide() -> None:
    labels = normal(3000).float()
    found = results(NUMBERS, torch.zeros(3000, 1, dtype=torch.bfloat16), labels, 100)[0]
    assert found == pytest.approx(np.square(labels.double().numpy()).mean(), rel=1e-9)
