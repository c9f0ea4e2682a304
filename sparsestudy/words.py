"""How metrics are called where people read them: what loss and accuracy are depends on what is predicted.

Study files, MLflow and tables use one set of keys for every task, so that studies can be laid side by side. Pages,
pictures and the terminal say what stands behind a key.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsestudy.study import TaskName
from sparsestudy.trial import Trial

LOSS = {"classification": "loss (nats)", "regression": "loss (mean squared error)"}
"""Title of an axis of losses, by task."""

UNITS = {
    "classification": "",
    "regression": (
        "R² is what study files, MLflow and tables call accuracy: 1 is perfect, 0 is as good as the mean, below 0 is "
        "worse. Losses are mean squared errors, in units of the variance of the training labels."
    ),
}
"""What a reader has to know about the numbers beside their names, by task; empty where it goes without saying."""


def called(metric: str, task: TaskName) -> str:
    """What to call a metric: its key, with R² for accuracy where numbers are predicted.

    Example:
        >>> called("best/validation/accuracy", "classification"), called("best/validation/accuracy", "regression")
        ('best/validation/accuracy', 'best/validation/R²')
    """
    return metric.replace("accuracy", "R²") if task == "regression" else metric


def task_of(trials: Sequence[Trial]) -> TaskName:
    """The task of a study by its trials, which share it; classification if there are none."""
    return trials[0].config.task if trials else "classification"
