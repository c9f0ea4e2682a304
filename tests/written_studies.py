"""Studies that nobody trained: ledgers with the curves a test asks for, written in a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsestudy.study import StudySpec
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.trial import Failure, Measurement, TrialConfig, TrialState, headlines

LAYERS = ("features.conv1", "features.conv2")
ARMS: tuple[Mapping[str, Any], ...] = (
    {"name": "none"},
    {"name": "perplexity", "strength": {"log_uniform": [0.1, 10]}, "targets": {"features.*": {"uniform": [0.2, 0.8]}}},
)


def spec_of(name: str, arms: Sequence[Mapping[str, Any]] = ARMS, **sections: Any) -> StudySpec:
    """A study of some arms."""
    return StudySpec.from_dict({"name": name, "regularizers": [dict(arm) for arm in arms], **sections})


def write(
    home: Path, spec: StudySpec, states: Sequence[TrialState], *, epochs: int = 14, measured: bool = True,
    task: str = "classification", same: bool = False, run_id: str | None = None,
) -> Path:  # fmt: skip
    """A study in a home folder; returns its folder.

    Args:
        home: Where studies are.
        spec: The study.
        states: One for each trial; the arms take turns.
        epochs: Of each trial that did not fail.
        measured: Whether activations were.
        task: As of `TrialConfig`.
        same: Whether all trials are of one configuration.
        run_id: Its run in MLflow.
    """
    ledger = Ledger.in_folder(home / spec.name)
    study = ledger.create_study(spec.name, spec)
    lease = ledger.lease(study)
    random = np.random.default_rng(0)
    configs = [_config(spec, n, task, np.random.default_rng(0 if same else n)) for n in range(len(states))]
    if configs:
        ledger.add_trials(lease, configs)
    for config, state in zip(configs, states, strict=True):
        ledger.start(lease, config.number)
        failed = state is TrialState.FAIL
        trajectory = [] if failed else _trajectory(random, config, epochs, measured=measured)
        if trajectory:
            ledger.record(lease, config.number, 1, trajectory)
        found = headlines(trajectory, spec.measures.main) if trajectory else {}
        values = [found[o.metric] for o in spec.search.objectives] if trajectory else []
        failure = Failure(kind="DivergedError", message="the loss left all bounds") if failed else None
        ledger.finish(lease, config.number, state, values=values, headlines=found, failure=failure)
    if run_id is not None:
        ledger.set_run(study.id, run_id)
    lease.release()
    ledger.close()
    return home / spec.name


def _config(spec: StudySpec, number: int, task: str, point: np.random.Generator) -> TrialConfig:
    arm = spec.regularizers[number % len(spec.regularizers)]
    strength, target = float(10 ** point.uniform(-1, 1)), float(point.uniform(0.2, 0.8))
    searched: dict[str, Any] = {}
    method: dict[str, Any] = {"method": arm.method or arm.name}
    if arm.name != "none":
        searched = {f"{arm.name}/strength": strength, f"{arm.name}/targets/{LAYERS[0]}": target}
        method |= {"strength": strength, "targets": {LAYERS[0]: target}}
    return TrialConfig(
        study=spec.name, number=number, arm=arm.name, parameters={"arm": arm.name, **searched}, methods=(method,),
        data=spec.data, model=spec.model, training=spec.training, measures=spec.measures, seed=number,
        task=task,
    )  # fmt: skip


def _trajectory(random: np.random.Generator, config: TrialConfig, epochs: int, *, measured: bool) -> list[Measurement]:
    """Losses that turn up at an epoch of their own, sparsity that climbs from a level of the trial's own."""
    at = np.arange(epochs)
    level, turn = random.uniform(0.3, 0.6), random.integers(4, epochs) if epochs > 4 else epochs
    loss = 0.5 + np.exp(-at / 3) + 0.05 * np.maximum(at - turn, 0) + 0.01 * random.standard_normal(epochs)
    return [
        Measurement(
            epoch=e, train_loss=float(np.exp(-e / 3)), train_accuracy=0.9, validation_loss=float(loss[e]),
            validation_accuracy=float(0.8 - 0.1 * level + 0.001 * random.standard_normal()), penalty=0.0,
            learning_rate=0.1, seconds=0.1, timestamp=1000 + e,
            statistics={
                "validation": {
                    layer: {"perplexity": float(level + 0.01 * e + 0.005 * random.standard_normal())}
                    for layer in LAYERS
                }
            } if measured else {},
        )
        for e in range(epochs)
    ]  # fmt: skip
