"""What a study and its trials are in MLflow: metrics, parameters and tags, by the names that people see there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from sparsestudy.trial import Measurement, Trial, TrialState, short_names
from sparsestudy.words import UNITS

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
FAILURE = "sparsestudy.failure"
WAITS = "SCHEDULED"
"""Status of the runs of an interrupted study: nobody trains them now, the next launch will."""
Point: TypeAlias = tuple[str, float, int, int]
"""Metric, value, milliseconds since 1970, step."""


def points(trial: Trial, measurements: Iterable[Measurement], *, closing: bool) -> list[Point]:
    """All metrics of some epochs of a trial, and with ``closing`` those of its end."""
    main = trial.config.measures.main
    found = [
        (name, value, m.timestamp, m.epoch) for m in measurements for name, value in epoch_metrics(m, main).items()
    ]
    if closing:
        found += [(name, value, ended(trial), 0) for name, value in headline_metrics(trial).items()]
    return found


def ended(trial: Trial) -> int:
    """When it ended, in milliseconds since 1970."""
    return int(1000 * (trial.finished or 0))


def parameters(trial: Trial) -> dict[str, str]:
    """Searched values and the seed."""
    found = {mlflow_key(name): str(value) for name, value in trial.config.parameters.items()}
    return {**found, "seed": str(trial.config.seed)}


def start_tags(trial: Trial, study: str, parent: str) -> dict[str, str]:
    """What a trial is."""
    config = trial.config
    return {
        "mlflow.parentRunId": parent,
        "sparsestudy.kind": "trial",
        "sparsestudy.study": study,
        "sparsestudy.trial": str(trial.number),
        "sparsestudy.arm": config.arm,
        "sparsestudy.task": config.task,
        **({"mlflow.note.content": UNITS[config.task]} if UNITS[config.task] else {}),
        "sparsestudy.methods": "+".join(str(method["method"]) for method in config.methods),
        **{f"sparsestudy.parameter.{mlflow_key(name)}": str(v) for name, v in config.parameters.items()},
    }


def mlflow_key(name: str) -> str:
    """A name that MLflow takes for a metric, parameter or tag: it allows letters, digits and ``_ - . : /`` and spaces.

    Example:
        >>> mlflow_key("sparsity/perplexity/layer1.0.relu#2")
        'sparsity/perplexity/layer1.0.relu:2'
    """
    return re.sub(r"[^A-Za-z0-9_\-. :/]", ":", name)


def epoch_metrics(measurement: Measurement, main: str) -> dict[str, float]:
    """What one epoch adds to a run, by name; undefined values are left out.

    These are the scalars; ``sparsity/MAIN/LAYER``, the main measure of each layer on the validation probe set; and all
    measures of weights and of the network, ``weights/MEASURE/WEIGHT`` and ``network/SPLIT/MEASURE``.
    """
    layers, weights, network = (measurement.statistics.get(key, {}) for key in ("validation", "weights", "network"))
    short, short_weights = short_names(layers), short_names(weights)
    found: dict[str, float | None] = {
        **measurement.scalars(),
        "learning_rate": measurement.learning_rate,
        **{f"sparsity/{main}/{short[layer]}": value for layer, value in measurement.series(main).items()},
        **{f"weights/{name}/{short_weights[w]}": value for w, of in weights.items() for name, value in of.items()},
        **{f"network/{split}/{name}": value for split, of in network.items() for name, value in of.items()},
    }
    return {mlflow_key(name): value for name, value in found.items() if value is not None}


def headline_metrics(trial: Trial) -> dict[str, float]:
    """``best/…`` and ``final/…`` values under the short names of layers."""
    prefixes = ("best/sparsity/", "final/sparsity/")
    layers = {k.split("/", 2)[2] for k in trial.headlines if k.startswith(prefixes)} - {"mean"}
    short = short_names(sorted(layers))

    def rename(key: str) -> str:
        head, _, layer = key.rpartition("/")
        return mlflow_key(f"{head}/{short.get(layer, layer)}") if key.startswith(prefixes) else key

    return {rename(key): value for key, value in trial.headlines.items()}


def end_tags(trial: Trial) -> dict[str, str]:
    """How a trial ended."""
    tags = {"sparsestudy.state": str(trial.state), "sparsestudy.epochs": str(trial.epochs)}
    tags["sparsestudy.attempts"] = str(trial.attempts)
    if trial.failure is not None:
        tags[FAILURE] = f"{trial.failure.kind}: {trial.failure.message}"[:5000]
        tags["mlflow.note.content"] = f"```\n{trial.failure.traceback[-4000:]}\n```"
    return tags
