"""Recordings from an MLflow store, of this project or of somebody else's training.

Runs are trials. The k-th step at which a run logged its validation loss is its epoch k, counted from 0; of what it
logged elsewhere the last value since the step before counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import orjson

from sparsestudy.tracking.mlflow_runs import Run, read_runs
from sparsestudy.tracking.recordings import Array, Excluded, Place, RecordedTrial, Recordings, single
from sparsestudy.tracking.run_names import RunNames, detected, match, nothing_to_read
from sparsestudy.trial import TrialState

_STATES = {"FINISHED": TrialState.COMPLETE, "KILLED": TrialState.PRUNED, "FAILED": TrialState.FAIL}


def recordings(uri: str, experiment: str, names: RunNames | None = None) -> Recordings:
    """Read an experiment.

    Runs that are parents of others are no trials. FINISHED runs count as COMPLETE and KILLED ones as PRUNED.

    Args:
        uri: The store: ``sqlite:///mlflow.db``, or the address of a server.
        experiment: Name or number of the experiment.
        names: What things are called there; default: as `run_names.detected` finds them.

    Raises:
        NotFoundError: There is no such experiment, or none of its runs logged the validation loss.
        TrackingError: The store cannot be read.
    """
    given = names
    runs = read_runs(uri, experiment, lambda metrics: (given or detected(metrics)).wanted(metrics))
    names = given or detected({metric for run in runs for metric in run.metrics})
    parents = {run.tags.get("mlflow.parentRunId") for run in runs}
    runs = [run for run in runs if run.id not in parents and run.tags.get("sparsestudy.kind", "trial") == "trial"]
    if not any(names.validation_loss in run.series for run in runs):
        raise nothing_to_read(experiment, len(runs), {metric for run in runs for metric in run.metrics}, given)
    usable: list[tuple[Run, RecordedTrial]] = []
    excluded: list[Excluded] = []
    for index, run in enumerate(runs):
        number = int(run.tags.get("sparsestudy.trial", index))
        reason = _unusable(run, names)
        if reason:
            excluded.append(Excluded(study=experiment, number=number, arm=_arm(run, names), reason=reason))
        else:
            usable.append((run, _trial(run, experiment, number, names)))
    usable.sort(key=lambda pair: pair[1].number)
    return _recordings(usable, tuple(excluded), names)


def _recordings(
    usable: Sequence[tuple[Run, RecordedTrial]], excluded: tuple[Excluded, ...], names: RunNames
) -> Recordings:
    places = _places([run for run, _ in usable], names)
    shape = (len(usable), max((trial.epochs for _, trial in usable), default=0))
    curves: dict[str, Array] = {name: np.full(shape, np.nan) for name in names.curves}
    values = np.full((*shape, len(places)), np.nan, dtype=np.float32)
    columns = {place: column for column, place in enumerate(places)}
    for row, (run, _) in enumerate(usable):
        for name, metric in names.curves.items():
            _fill(curves[name][row], run, metric, names)
        for metric in run.series:
            if (place := names.place(metric)) is not None:
                wide = np.full(shape[1], np.nan)
                _fill(wide, run, metric, names)
                values[row, :, columns[place]] = single(wide)
    return Recordings(
        trials=tuple(trial for _, trial in usable),
        curves=curves,
        places=places,
        values=values,
        excluded=excluded,
        main=names.main,
    )


def _fill(row: Array, run: Run, metric: str, names: RunNames) -> None:
    """Write a metric of a run to its epochs."""
    if metric not in run.series:
        return
    steps, values = run.series[metric]
    epochs = np.searchsorted(run.series[names.validation_loss][0], steps)
    within = epochs < len(run.series[names.validation_loss][0])
    row[epochs[within]] = values[within]


def _places(runs: Sequence[Run], names: RunNames) -> tuple[Place, ...]:
    """Series in the order of their layers' names, digits by value: a store keeps no order of layers."""
    found = {place for run in runs for metric in run.series if (place := names.place(metric)) is not None}
    return tuple(sorted(found, key=lambda place: (place[0], _natural(place[1]), place[2])))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _unusable(run: Run, names: RunNames) -> str:
    state = _state(run)
    if state == TrialState.FAIL:
        return f"failed: {run.tags.get('sparsestudy.failure', 'no reason recorded')}"
    if state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return f"has not finished: {run.status}"
    return "" if names.validation_loss in run.series else f"logged no {names.validation_loss}"


def _state(run: Run) -> str:
    return run.tags.get("sparsestudy.state") or str(_STATES.get(run.status, run.status))


def _arm(run: Run, names: RunNames) -> str:
    return run.tags.get(names.arm) or run.params.get(names.arm) or "all"


def _trial(run: Run, experiment: str, number: int, names: RunNames) -> RecordedTrial:
    arm = _arm(run, names)
    kept = {key: value for key, value in run.params.items() if key not in (*names.seeds, names.arm, "arm")}
    parameters = {key: _number(value) for key, value in kept.items()}
    targets: dict[str, float] = {}
    for key, value in parameters.items():
        found = match(names.targets, key)
        if found is not None and found.get("arm", arm) == arm and isinstance(value, float):
            # Metrics have the short names of layers, parameters the full ones.
            parts = found["layer"].split(".")
            targets |= {".".join(parts[i:]): value for i in range(len(parts))}
    return RecordedTrial(
        study=experiment,
        number=number,
        run=run.id,
        arm=arm,
        state=_state(run),
        epochs=len(run.series[names.validation_loss][0]),
        seconds=None if run.started is None or run.ended is None else (run.ended - run.started) / 1000,
        parameters=parameters,
        targets=targets,
        configuration=orjson.dumps([arm, kept], option=orjson.OPT_SORT_KEYS).decode(),
    )


def _number(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text
