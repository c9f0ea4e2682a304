"""Studies that no analysis may stumble over: tiny, constant, singular, empty, or full of what is no number."""

import dataclasses
import json
from typing import Any

import numpy as np

from sparsestudy.analysis.evidence import Evidence
from tests.analysis.worlds import simulate


def plain(result: Any) -> dict[str, Any]:
    """What a JSON file holds of a result; raises where a number is not one."""
    return dict(json.loads(json.dumps(dataclasses.asdict(result), allow_nan=False)))


def part(evidence: Evidence, rows: Any) -> Evidence:
    """Some trials, in the order given; a trial may come several times."""
    return dataclasses.replace(
        evidence,
        trials=evidence.trials.iloc[rows].reset_index(drop=True),
        curves={name: curve[rows] for name, curve in evidence.curves.items()},
        values=evidence.values[rows],
        targets={name: target[rows] for name, target in evidence.targets.items()},
    )


def _curves(evidence: Evidence, value: float) -> dict[str, Any]:
    return {name: np.full_like(curve, value) for name, curve in evidence.curves.items()}


def _targets(evidence: Evidence, value: Any) -> dict[str, Any]:
    return {name: np.full(len(evidence), value) for name in evidence.targets}


def _odd_studies() -> dict[str, Evidence]:
    whole, _ = simulate("causal", 1)
    n, trials, sparsity = len(whole), whole.trials, whole.values
    train = whole.curves["train/loss"]
    parameters = {"parameter/axis": "layer", "parameter/a/strength": None, "parameter/b/strength": 0.0}
    chosen = {
        **{f"{m} trials": np.arange(m) for m in (0, 1, 2, 3, 5, 8, 13, 24, 25)},
        "one configuration": np.flatnonzero(trials["configuration"] == 0),
        "one arm": np.flatnonzero(trials["arm"] == "both"),
        "no replicates": np.flatnonzero(trials["replicate"] == 0),
        "copies": np.zeros(40, dtype=int),
    }
    changed: dict[str, dict[str, Any]] = {
        "an arm each": {"trials": trials.assign(arm=[str(i) for i in range(n)])},
        "configurations mistaken for one": {"trials": trials.assign(configuration=0)},
        "constant sparsity": {"values": np.full_like(sparsity, 0.5)},
        "hardly any variation": {"values": 1e-9 * sparsity + 0.5},
        "no sparsity": {"values": np.full_like(sparsity, np.nan)},
        "layers that died": {"values": np.where(np.arange(n) % 2, np.nan, 1.0)[:, None, None] * sparsity},
        "constant gap": {"curves": _curves(whole, 1.0)},
        "no gap": {"curves": _curves(whole, np.nan)},
        "a gap beyond all numbers": {"curves": {**whole.curves, "validation/loss": 1e300 * train}},
        "a gap without noise": {"curves": {**whole.curves, "validation/loss": train + sparsity[..., 0]}},
        "all stopped": {"trials": trials.assign(state="PRUNED")},
        "nothing measured": {"signals": (), "values": sparsity[..., :0]},
        "no targets": {"targets": {}},
        "targets of a layer not measured": {"targets": {"elsewhere": whole.targets["conv1"]}},
        "targets missing": {"targets": _targets(whole, np.nan)},
        "one target for all": {"targets": _targets(whole, 0.5)},
        "layers that share a target": {"targets": dict.fromkeys(whole.targets, whole.targets["conv1"])},
        "odd parameters": {"trials": trials.assign(**parameters)},
    }
    return {
        **{name: part(whole, rows) for name, rows in chosen.items()},
        **{name: dataclasses.replace(whole, **fields) for name, fields in changed.items()},
    }


ODD = _odd_studies()
