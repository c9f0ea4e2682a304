"""The same eight trials with Ray Tune, Optuna and MLflow as they are, for comparison.

As their documentation has it: a function trainable that reports every epoch, with a checkpoint as often as ours takes
one; `OptunaSearch`; `MLflowLoggerCallback`; and `Tuner.restore` when the same command is run again. Departures in its
favour: trials may fail three times, where Tune's default is never, and the search lives in memory, where Optuna's
storage in SQL makes most restores crash. The search suggests the index of a configuration, each once.

Usage: ``python -m tests.faults.stock_stack run FILE``, beside whose FILE lies ``configurations.json``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
from optuna.samplers import RandomSampler
from optuna.trial import Trial
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from sparsestudy.training.loop import Trainer
from sparsestudy.trial import TrialConfig
from tests.faults.harness import EVERY

EXPERIMENT = "stock"
OBJECTIVE = "validation/accuracy"


def train(config: dict[str, Any], configurations: list[dict[str, Any]]) -> None:
    """The trainable."""
    trial = TrialConfig.model_validate_json(json.dumps(configurations[config["number"]]))
    found = tune.get_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        resume = found and (Path(found.to_directory(folder)) / "kept").read_bytes()
    trainer = Trainer(trial, resume or None)
    for measurement in trainer:
        if trainer.epochs % EVERY or trainer.done:
            tune.report(measurement.scalars())
            continue
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "kept").write_bytes(trainer.checkpoint())
            tune.report(measurement.scalars(), checkpoint=tune.Checkpoint.from_directory(folder))


class Space:
    """The define-by-run space; a class at module level, because Tune pickles it by name."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, trial: Trial) -> None:
        """Suggest which configuration."""
        trial.suggest_int("number", 0, self._size - 1)


def main(verb: str, file: str) -> None:
    """Run the trials, or go on with them."""
    folder = Path(file).parent
    chosen = json.loads((folder / "configurations.json").read_text(encoding="utf-8"))
    trainable = tune.with_parameters(train, configurations=chosen)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    tuner = _restored(folder, trainable) or _new(folder, trainable, len(chosen))
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]


def _restored(folder: Path, trainable: Any) -> tune.Tuner | None:
    path = str(folder / "tune" / EXPERIMENT)
    if not tune.Tuner.can_restore(path):
        return None
    return tune.Tuner.restore(path, trainable, resume_unfinished=True, resume_errored=True)


def _new(folder: Path, trainable: Any, size: int) -> tune.Tuner:
    search = OptunaSearch(
        Space(size),
        metric=OBJECTIVE,
        mode="max",
        sampler=RandomSampler(seed=0),
        points_to_evaluate=[{"number": number} for number in range(size)],
    )
    tracker = MLflowLoggerCallback(tracking_uri=os.environ["MLFLOW_TRACKING_URI"], experiment_name=EXPERIMENT)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=search, num_samples=size, max_concurrent_trials=2),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(folder / "tune"),
            callbacks=[tracker],
            failure_config=tune.FailureConfig(max_failures=3),
        ),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
