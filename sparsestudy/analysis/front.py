"""Several objectives at once: the Pareto front of a study, its knee, and how far each configuration is from ideal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sparsestudy.analysis.table import pareto_front
from sparsestudy.study import StudySpec
from sparsestudy.trial import Trial
from sparsestudy.words import called, task_of

TOLD = 6
"""Most trials of a front that a sentence lists."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """How far a configuration is from the best of everything, over a front.

    The distance is the sum over objectives of weight * (what it lacks to the best value on the front) / (range of the
    front). 0 is best in all; at equal weights the least is the knee: farthest below the plane through the points that
    are worst in all objectives but one. It is linear, so that the mean of distances is the distance of the mean.

    Attributes:
        signs: 1 where an objective is minimised, -1 where it is maximised.
        best: Of each objective over the front.
        spans: Range of each over the front; 1 where all have the same.
        weights: Of the study's ``selection.weights``.
    """

    signs: tuple[float, ...]
    best: tuple[float, ...]
    spans: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, spec: StudySpec, front: Sequence[Trial]) -> Self:
        """That of a front of at least one trial."""
        signs = np.array([1.0 if o.direction == "minimize" else -1.0 for o in spec.search.objectives])
        costs = np.array([trial.values for trial in front], dtype=float) * signs
        spans = np.ptp(costs, axis=0)
        return cls(
            signs=tuple(signs.tolist()),
            best=tuple((signs * costs.min(axis=0)).tolist()),
            spans=tuple(np.where(spans > 0, spans, 1.0).tolist()),
            weights=tuple(spec.selection.weights.get(o.metric, 1.0) for o in spec.search.objectives),
        )

    def distance(self, values: Sequence[float]) -> float:
        """Of the values of all objectives; below 0 for what is better than all of the front."""
        lacks = (np.array(values, dtype=float) - self.best) * self.signs / self.spans
        return float(lacks @ np.array(self.weights))


def knee(spec: StudySpec, front: Sequence[Trial]) -> list[int]:
    """Positions of a front's trials, the nearest to ideal first; equals by number."""
    if not front:
        return []
    yardstick = Yardstick.of(spec, front)
    distances = [yardstick.distance(trial.values) for trial in front]
    return sorted(range(len(front)), key=lambda i: (round(distances[i], 12), front[i].number))


def front_record(spec: StudySpec, front: Sequence[Trial]) -> dict[str, Any]:
    """A front as ``selection.json`` holds it: objectives with their scale, and points, the nearest to ideal first."""
    yardstick = Yardstick.of(spec, front)
    metrics = [objective.metric for objective in spec.search.objectives]
    scales = zip(spec.search.objectives, yardstick.weights, yardstick.best, yardstick.spans, strict=True)
    return {
        "objectives": [
            {"metric": o.metric, "direction": o.direction, "weight": weight, "best": best, "span": span}
            for o, weight, best, span in scales
        ],
        "points": [
            {
                "trial": front[i].number,
                "values": dict(zip(metrics, front[i].values, strict=True)),
                "distance": yardstick.distance(front[i].values),
            }
            for i in knee(spec, front)
        ],
    }


def front_lines(spec: StudySpec, trials: Sequence[Trial]) -> list[str]:
    """What there is to say of a front, a sentence a line; nothing of a single objective or without complete trials."""
    front = pareto_front(spec, trials) if len(spec.search.objectives) > 1 else []
    if not front:
        return []
    ordered = [front[i] for i in knee(spec, front)]
    listed = "; ".join(f"trial {trial.number} ({_values(spec, trial)})" for trial in ordered[:TOLD])
    more = f"; and {len(ordered) - TOLD} more" if len(ordered) > TOLD else ""
    weighed = "by selection.weights" if spec.selection.weights else "all objectives weighing the same"
    return [f"Pareto front, the best compromise first ({weighed}): {listed}{more}."]


def reasons(record: Mapping[str, Any]) -> list[str]:
    """Why the winner of several objectives is the winner, a sentence a line; nothing of a single objective.

    Args:
        record: What ``selection.json`` holds.
    """
    front = record.get("front")
    if not front:
        return []
    aims = ", ".join(f"{o['metric']} ({o['direction']}, weight {o['weight']:g})" for o in front["objectives"])
    places = [point["trial"] for point in front["points"]]
    first, *others = record["finalists"]
    won = f"On fresh seeds its distance is {first['distance']:.4g}"
    won += f", the next finalist's (trial {others[0]['trial']}) {others[0]['distance']:.4g}." if others else "."
    return [
        f"Several objectives: {aims}. {len(places)} of the configurations searched are on the Pareto front, where none "
        "beats another in all.",
        "Distance from ideal: the sum over objectives of weight × what a configuration lacks to the best of the front, "
        "in units of the front's range; of the finals, losses and accuracies are those on the selection split.",
        f"In the search, trial {first['trial']} was {_place(places, first['trial'])}. {won}",
    ]


def _place(places: Sequence[int], number: int) -> str:
    if number not in places:
        return "not on the front"
    place = places.index(number) + 1
    return "the nearest of the front" if place == 1 else f"number {place} of the front"


def _values(spec: StudySpec, trial: Trial) -> str:
    task = task_of([trial])
    pairs = zip(spec.search.objectives, trial.values, strict=True)
    return ", ".join(f"{called(objective.metric, task)} {value:.4g}" for objective, value in pairs)
