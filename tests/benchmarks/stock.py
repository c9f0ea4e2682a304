"""Side (a) of the throughput benchmark: what one would write with Ray Tune, Optuna and MLflow as they are.

A function trainable that reports every epoch, `OptunaSearch`, `MLflowLoggerCallback` on SQLite, and the defaults, a
fresh process for every trial among them. Two departures, both in its favour: no dashboard, as ours has none, and
Optuna's random sampler instead of TPE, as ours uses that here.

The search suggests the index of a configuration rather than its parts, from a define-by-run space, and every index is
enqueued once (``points_to_evaluate``), so that exactly the trials of the other sides are trained. What a real space
would cost on top, some milliseconds of suggesting a trial, is spared.

Usage: ``python stock.py CONFIGURATIONS OUTCOME SLOTS``, in the folder that gets the MLflow store.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
from optuna.samplers import RandomSampler
from optuna.trial import Trial
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from sparsestudy.training.loop import Trainer
from sparsestudy.trial import Measurement, TrialConfig, short_names

OBJECTIVE = "validation/accuracy"


def train(config: dict[str, Any], configurations: list[dict[str, Any]]) -> None:
    """The trainable."""
    trial = TrialConfig.model_validate_json(json.dumps(configurations[config["number"]]))
    for measurement in Trainer(trial):
        tune.report(metrics(measurement, trial.measures.main))


def metrics(measurement: Measurement, measure: str) -> dict[str, float]:
    """What ours ships to MLflow an epoch.

    Spelled out, because the worker would otherwise import our tracker and all that it needs.
    """
    short = short_names(measurement.statistics.get("validation", {}))
    layers = {f"sparsity/{measure}/{short[layer]}": value for layer, value in measurement.series(measure).items()}
    return {**measurement.scalars(), "learning_rate": measurement.learning_rate, **layers}


class Space:
    """The define-by-run space; a class at module level, because Tune pickles it by name."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, trial: Trial) -> None:
        """Suggest which configuration."""
        trial.suggest_int("number", 0, self._size - 1)


def main(configurations: str, outcome: str, slots: str) -> None:
    """Run the study, and write down how it ended."""
    chosen = json.loads(Path(configurations).read_text(encoding="utf-8"))
    here = Path.cwd()
    ray.init(address="local", include_dashboard=False)
    search = OptunaSearch(
        Space(len(chosen)),
        metric=OBJECTIVE,
        mode="max",
        sampler=RandomSampler(),
        points_to_evaluate=[{"number": number} for number in range(len(chosen))],
    )
    tracker = MLflowLoggerCallback(tracking_uri=f"sqlite:///{here / 'mlflow.db'}", experiment_name="stock")
    tuner = tune.Tuner(
        tune.with_parameters(train, configurations=chosen),
        tune_config=tune.TuneConfig(search_alg=search, num_samples=len(chosen), max_concurrent_trials=int(slots)),
        run_config=tune.RunConfig(storage_path=str(here / "tune"), callbacks=[tracker]),
    )
    started = time.time()
    results = tuner.fit()
    finished = time.time()
    if results.errors:
        raise results.errors[0]
    trials = {r.config["number"]: [r.metrics[OBJECTIVE], r.metrics["validation/loss"]] for r in results}
    found = {"trials": trials, "started": started, "finished": finished}
    Path(outcome).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
