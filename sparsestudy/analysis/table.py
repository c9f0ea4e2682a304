"""Tidy tables of a study: one row a trial, one row an epoch, one row an epoch, layer and measure; and the ranking.

Columns and their types depend on the study only, never on how many trials or epochs there happen to be, so that an
empty table concatenates with a full one and a parquet file has the same schema on every day of a study.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sparsestudy.space import ARM, Choice, Domain, leaves
from sparsestudy.study import StudySpec
from sparsestudy.trial import SCALARS, SPARSITY, Measurement, Trial, TrialState, objective_names, trial_label

TEXT = pd.StringDtype(na_value=np.nan)
"""Type of every text column; a missing text is NaN."""

_TRIAL_TYPES: dict[str, Any] = {"number": "int64", "label": TEXT, "arm": TEXT, "state": TEXT, "epochs": "int64"}
_END_TYPES: dict[str, Any] = {
    "seconds": "float64",
    "attempts": "int64",
    "failure/kind": TEXT,
    "failure/message": TEXT,
}
_TIDY_TYPES: dict[str, Any] = {"epoch": "int64", "split": TEXT, "layer": TEXT, "measure": TEXT, "value": "float64"}
_CURVE_TYPES: dict[str, Any] = {
    "epoch": "int64",
    **dict.fromkeys(SCALARS, "float64"),
    "learning_rate": "float64",
    "seconds": "float64",
}


def trials_table(spec: StudySpec, trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial, in the order given.

    Args:
        spec: The study; fixes the columns.
        trials: Trials in any state.

    Returns:
        Columns ``number``, ``label``, ``arm``, ``state``, ``epochs``; one per objective, named by its metric (the
        recorded objective value, or the headline of that name where none is recorded); the other headlines
        (``best/…``, ``final/…``); ``parameter/NAME`` for every searched parameter (float64, or text where a value is
        not a number, spelled as in YAML); ``seconds`` from start to finish; ``attempts``; ``failure/kind`` and
        ``failure/message``. What does not exist is NaN.
    """
    metrics = [objective.metric for objective in spec.search.objectives]
    found = dict.fromkeys(key for trial in trials for key in trial.headlines)
    standard = dict.fromkeys([*metrics, "best/epoch", "final/epoch", *objective_names(), *found])
    parameters = {f"parameter/{name}": kind for name, kind in _parameter_types(spec, trials).items()}
    types = {**_TRIAL_TYPES, **dict.fromkeys(standard, "float64"), **parameters, **_END_TYPES}
    return _frame([_trial_row(trial, metrics, parameters) for trial in trials], types)


def _trial_row(trial: Trial, metrics: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    searched = {f"parameter/{name}": value for name, value in trial.config.parameters.items()}
    started, finished = trial.started, trial.finished
    return {
        "number": trial.number,
        "label": trial_label(trial.config),
        "arm": trial.config.arm,
        "state": trial.state.value,
        "epochs": trial.epochs,
        **trial.headlines,
        **dict(zip(metrics, trial.values, strict=False)),
        **{key: _spelled(value, parameters[key]) for key, value in searched.items() if key in parameters},
        "seconds": None if started is None or finished is None else finished - started,
        "attempts": trial.attempts,
        "failure/kind": trial.failure.kind if trial.failure else None,
        "failure/message": trial.failure.message if trial.failure else None,
    }


def searched_domains(spec: StudySpec) -> dict[str, Domain]:
    """Every searched parameter the study file spells out, by name; ranges left to ``auto`` are not among them.

    Example:
        >>> spec = StudySpec(name="s", regularizers=({"name": "l1", "strength": {"log_uniform": [0.001, 1.0]}},))
        >>> searched_domains(spec)
        {'l1/strength': Uniform(low=0.001, high=1.0, log=True, step=None)}
    """
    shared = dict(spec.search.parameters)
    return {**shared, **{name: domain for arm in spec.regularizers for name, domain in leaves(arm.templates())}}


def _parameter_types(spec: StudySpec, trials: Sequence[Trial]) -> dict[str, Any]:
    """Type of each parameter by its domain, or by the values tried where the range was left to the method."""
    domains = searched_domains(spec)
    types = {name: _type_of(d.values if isinstance(d, Choice) else ()) for name, d in domains.items()}
    for trial in trials:
        for name, value in trial.config.parameters.items():
            if name != ARM and name not in domains:
                types[name] = TEXT if types.get(name) == TEXT else _type_of([value])
    return types


def _type_of(values: Iterable[Any]) -> Any:
    return "float64" if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) else TEXT


def _spelled(value: Any, kind: Any) -> Any:
    if kind != TEXT:
        return value
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def trajectory_table(trajectory: Sequence[Measurement], layers: Sequence[str] | None = None) -> pd.DataFrame:
    """One tidy row for each epoch, split, layer and measure that was taken.

    Args:
        trajectory: Measurements in order of epochs; epochs without statistics yield no row.
        layers: Only these layers (or weights), in this order; default: all, in the order recorded.

    Returns:
        Columns ``epoch`` (int64, from 0), ``split``, ``layer``, ``measure`` (text) and ``value`` (float64, NaN only
        where the measure is undefined). Split and layer are the first two keys of `Statistics`, so that measures of
        weights have split ``weights`` and the name of a weight for a layer, those of the network split ``network``.
    """
    rows = [
        {"epoch": m.epoch, "split": split, "layer": layer, "measure": measure, "value": value}
        for m in trajectory
        for split, by_layer in m.statistics.items()
        for layer in (by_layer if layers is None else layers)
        for measure, value in by_layer.get(layer, {}).items()
    ]
    return _frame(rows, _TIDY_TYPES)


def curves_table(trajectory: Sequence[Measurement]) -> pd.DataFrame:
    """One row an epoch: ``epoch`` (int64), the scalars of `SCALARS`, ``learning_rate`` and ``seconds`` (float64)."""
    rows = [
        {"epoch": m.epoch, **m.scalars(), "learning_rate": m.learning_rate, "seconds": m.seconds} for m in trajectory
    ]
    return _frame(rows, _CURVE_TYPES)


def _frame(rows: Sequence[Mapping[str, Any]], types: Mapping[str, Any]) -> pd.DataFrame:
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=kind) for name, kind in types.items()}
    return pd.DataFrame(columns, columns=list(types))


def write_parquet(table: pd.DataFrame | Iterable[pd.DataFrame], path: Path) -> None:
    """Write a table so that `pandas.read_parquet` returns an equal one; an existing file is replaced.

    Args:
        table: The table, or at least one parcel of it; parcels have the same columns and types.
        path: Where; folders are made.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(table, pd.DataFrame):
        table.to_parquet(path, engine="pyarrow", index=False)
        return
    parcels = (pa.Table.from_pandas(parcel, preserve_index=False) for parcel in table)
    first = next(parcels)
    texts = [field.name for field in first.schema if not pa.types.is_floating(field.type)]
    # Numbers hardly repeat: looking for repetitions takes as long as all the rest.
    with pq.ParquetWriter(path, first.schema, use_dictionary=texts) as writer:
        for parcel in itertools.chain([first], parcels):
            writer.write_table(parcel)


def ranking(spec: StudySpec, trials: Sequence[Trial]) -> list[Trial]:
    """COMPLETE trials, best first.

    One objective: by its value in its direction. Several: front by front of the non-dominated sorting (the Pareto
    front first), within a front by the first objective. Ties stand in the order of trial numbers; a value that is
    missing or not a number counts as the worst.
    """
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    costs = _cost_matrix(spec, complete)
    front = _fronts(costs) if len(spec.search.objectives) > 1 else np.zeros(len(complete), dtype=int)
    order = sorted(range(len(complete)), key=lambda i: (front[i], costs[i, 0], complete[i].number))
    return [complete[i] for i in order]


def pareto_front(spec: StudySpec, trials: Sequence[Trial]) -> list[Trial]:
    """COMPLETE trials that no other is at least as good as in every objective and better in one; as `ranking` sorts."""
    ranked = ranking(spec, trials)
    front = _fronts(_cost_matrix(spec, ranked))
    return [trial for trial, level in zip(ranked, front, strict=True) if level == 0]


def best_by_arm(spec: StudySpec, trials: Sequence[Trial]) -> dict[str, Trial]:
    """Best trial of each arm that has a COMPLETE one, by the first objective; the best arm first."""
    by_arm: dict[str, Trial] = {}
    order = sorted(ranking(spec, trials), key=lambda t: (_costs(spec, t)[0], t.number))
    for trial in order:
        by_arm.setdefault(trial.config.arm, trial)
    return by_arm


def _cost_matrix(spec: StudySpec, trials: Sequence[Trial]) -> np.ndarray[Any, Any]:
    """``[trials, objectives]``, also for no trials."""
    rows = [_costs(spec, trial) for trial in trials]
    return np.array(rows, dtype=float).reshape(len(trials), len(spec.search.objectives))


def _costs(spec: StudySpec, trial: Trial) -> list[float]:
    """Objective values with the sign that makes smaller better; infinite where missing or not a number."""
    values = [*trial.values, *[math.nan] * len(spec.search.objectives)]
    signs = [1 if objective.direction == "minimize" else -1 for objective in spec.search.objectives]
    return [math.inf if math.isnan(v) else sign * v for sign, v in zip(signs, values, strict=False)]


def _fronts(costs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Front of each row of ``costs [trials, objectives]``, smaller is better; 0 is the Pareto front."""
    one, other = costs[:, None, :], costs[None, :, :]
    dominates = np.logical_and(np.all(one <= other, axis=2), np.any(one < other, axis=2))
    level = np.full(len(costs), -1)
    for current in range(len(costs)):
        left = level < 0
        if not left.any():
            break
        level[left & ~dominates[left].any(axis=0)] = current
    return level


def layers_of(trajectory: Sequence[Measurement]) -> list[str]:
    """Layers measured on the validation probe set, each once, in the order first seen."""
    return list(dict.fromkeys(layer for m in trajectory for layer in m.statistics.get("validation", {})))


def sparsity_at_best(trial: Trial) -> dict[str, float]:
    """Main measure by layer at the epoch of lowest validation loss; layers where it is undefined are left out."""
    prefix = "best/sparsity/"
    return {k.removeprefix(prefix): v for k, v in trial.headlines.items() if k.startswith(prefix) and k[5:] != SPARSITY}
