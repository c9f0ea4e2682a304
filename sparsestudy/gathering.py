"""Evidence from what is recorded: the ledgers of studies, or somebody's MLflow server.

A PRUNED trial is evidence up to the epoch it reached: its curves end there, and what had not begun by then is censored
there. How it stands at its end is not comparable with trials that trained to the last epoch, which is why the state
stands beside it. Trials that failed, or have not finished, are left out and listed with the reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from sparsestudy.analysis.evidence import CURVES, TRIAL_COLUMNS, Array, Evidence, Signal
from sparsestudy.errors import ConflictError, listing
from sparsestudy.recorded import Study
from sparsestudy.study import ArmSpec, StudySpec
from sparsestudy.tracking import bulk, mlflow_reader
from sparsestudy.tracking.recordings import RecordedTrial, Recordings
from sparsestudy.tracking.run_names import RunNames


def from_studies(*studies: Study) -> Evidence:
    """Evidence of one or several recorded studies.

    Arms are called as `arm_names` says, so that no two that differ become one.

    Raises:
        ConflictError: Their targets are in different measures.
        TrackingError: A ledger cannot be read.
    """
    names = arm_names({study.name: study.spec for study in studies})
    return joined([_called(bulk.recordings(study.ledger, study.record), names[study.name]) for study in studies])


def arm_names(specs: Mapping[str, StudySpec]) -> dict[str, dict[str, str]]:
    """What the arms of several studies are called when they are analysed together: by study, old name -> new.

    An arm is one arm of both studies, and its trials are compared with each other, only if the files give it the same
    methods, data, network, training and searched parameters; the study's own seed may differ, for that makes
    replicates. Otherwise it is `STUDY:ARM` in each of them: slopes within arms would else compare two data sets with
    each other and call it sparsity. Arms of one study alone keep their names.
    """
    meanings: dict[str, set[str]] = {}
    for spec in specs.values():
        for arm in spec.regularizers:
            meanings.setdefault(arm.name, set()).add(_meaning(spec, arm))
    return {
        study: {
            arm.name: arm.name if len(meanings[arm.name]) == 1 else f"{study}:{arm.name}" for arm in spec.regularizers
        }
        for study, spec in specs.items()
    }


def _meaning(spec: StudySpec, arm: ArmSpec) -> str:
    """What makes trials of an arm comparable, as text."""
    training = spec.training.model_dump(mode="json", exclude={"seed"})
    circumstances = [spec.data.model_dump(mode="json"), spec.model.model_dump(mode="json"), training]
    searched = {name: str(domain) for name, domain in spec.search.parameters.items()}
    methods = [method.model_dump(mode="json") for method in arm.methods]
    return json.dumps([methods, circumstances, searched], sort_keys=True, default=str)


def _called(part: Recordings, names: Mapping[str, str]) -> Recordings:
    """The same recordings under other names of arms; parameters of an arm bear its name too."""
    if all(old == new for old, new in names.items()):
        return part
    trials = [
        replace(
            t,
            arm=names.get(t.arm, t.arm),
            parameters={_renamed(name, t.arm, names): v for name, v in t.parameters.items()},
        )
        for t in part.trials
    ]
    excluded = [replace(e, arm=names.get(e.arm, e.arm)) for e in part.excluded]
    return replace(part, trials=tuple(trials), excluded=tuple(excluded))


def _renamed(parameter: str, arm: str, names: Mapping[str, str]) -> str:
    return names.get(arm, arm) + parameter.removeprefix(arm) if parameter.startswith(f"{arm}/") else parameter


def from_mlflow(uri: str, experiment: str, names: RunNames | None = None) -> Evidence:
    """Evidence of the runs of an MLflow experiment, of this project or of anybody's training.

    Args:
        uri: ``sqlite:///mlflow.db`` or another database, or the address of a server.
        experiment: Its name or number.
        names: What metrics and parameters are called there; default: as this project or a common framework does.

    Raises:
        NotFoundError: There is no such experiment, or none of its runs logged the validation loss.
        TrackingError: The store cannot be read.
    """
    return joined([mlflow_reader.recordings(uri, experiment, names)])


def joined(parts: Sequence[Recordings]) -> Evidence:
    """One body of evidence.

    Trials stand in the order of ``parts``; configurations are numbered in the order they first appear, over all parts.

    Raises:
        ConflictError: Targets are in different measures.
    """
    mains = list(dict.fromkeys(part.main for part in parts))
    if len(mains) > 1:
        raise ConflictError(
            f"the studies call different measures their main one: {listing(mains)}; analyse them one by one, or give "
            f"them the same measures.main"
        )
    places = list(dict.fromkeys(place for part in parts for place in part.places))
    signals = tuple(Signal(kind=kind, layer=layer, measure=measure) for kind, layer, measure in places)  # type: ignore[arg-type]
    trials = [trial for part in parts for trial in part.trials]
    epochs = max((trial.epochs for trial in trials), default=0)
    layers = list(dict.fromkeys(layer for kind, layer, _ in places if kind == "activations"))
    excluded = [(e.study, e.number, e.arm, e.reason) for part in parts for e in part.excluded]
    return Evidence(
        trials=_trials(trials),
        curves={name: _stacked([part.curves[name] for part in parts], epochs) for name in CURVES},
        signals=signals,
        values=_values(parts, places, epochs),
        targets=_targets(trials, layers),
        main=mains[0] if mains else "perplexity",
        excluded=pd.DataFrame(excluded, columns=["study", "trial", "arm", "reason"]),
    )


def _stacked(curves: Sequence[Array], epochs: int) -> Array:
    wide = [np.pad(c, ((0, 0), (0, epochs - c.shape[1])), constant_values=np.nan) for c in curves]
    return np.concatenate(wide) if wide else np.empty((0, epochs))


def _values(parts: Sequence[Recordings], places: Sequence[Any], epochs: int) -> Array:
    if len(parts) == 1 and parts[0].values.shape[1] == epochs:
        return parts[0].values  # the largest array by far is not copied
    found = np.full((sum(len(part.trials) for part in parts), epochs, len(places)), np.nan, dtype=np.float32)
    row = 0
    for part in parts:
        columns = [places.index(place) for place in part.places]
        found[row : row + len(part.trials), : part.values.shape[1], columns] = part.values
        row += len(part.trials)
    return found


def _trials(trials: Sequence[RecordedTrial]) -> pd.DataFrame:
    numbers: dict[str, int] = {}
    seen: Counter[int] = Counter()
    rows = []
    for trial in trials:
        configuration = numbers.setdefault(trial.configuration, len(numbers))
        rows.append((trial.study, trial.number, trial.arm, configuration, seen[configuration], trial.epochs,
                     trial.state, np.nan if trial.seconds is None else trial.seconds))  # fmt: skip
        seen[configuration] += 1
    columns = dict(zip(TRIAL_COLUMNS, zip(*rows, strict=True), strict=True)) if rows else {}
    typed = {name: pd.Series(columns.get(name, ()), dtype=kind) for name, kind in TRIAL_COLUMNS.items()}
    names = dict.fromkeys(name for trial in trials for name in trial.parameters)
    parameters = {f"parameter/{name}": _column([trial.parameters.get(name) for trial in trials]) for name in names}
    runs = {"run": [trial.run for trial in trials]} if any(trial.run for trial in trials) else {}
    return pd.DataFrame({**typed, **runs, **parameters})


def _column(values: Sequence[Any]) -> pd.Series[Any]:
    """float64 where every value is a number, else as it is."""
    numbers = all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values)
    return pd.Series(values, dtype="float64" if numbers else "object")


def _targets(trials: Sequence[RecordedTrial], layers: Iterable[str]) -> dict[str, Array]:
    found = {layer: np.array([_target(trial, layer) for trial in trials], dtype=np.float64) for layer in layers}
    return {layer: values for layer, values in found.items() if np.isfinite(values).any()}


def _target(trial: RecordedTrial, layer: str) -> float:
    if layer in trial.targets:
        return float(trial.targets[layer])
    return next((float(t) for pattern, t in trial.targets.items() if fnmatchcase(layer, pattern)), np.nan)
