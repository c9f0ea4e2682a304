"""The honest winner: who is re-run, who wins on fresh seeds and unseen data, and how sure that is.

A search keeps the luckiest of many noisy scores, so the score that won overstates what the configuration is worth.
Here the search only nominates: finalists are trained again on fresh seeds and compared on the selection split, and the
winner alone is looked at, once, on the test split. What the search promised and the test split did not hold is the
optimism.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsestudy.analysis.chances import lower_bound, probability_best
from sparsestudy.analysis.front import knee
from sparsestudy.analysis.table import pareto_front, ranking
from sparsestudy.study import StudySpec, digest
from sparsestudy.trial import Trial, TrialState, without_seeds


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration as the search saw it.

    Attributes:
        trials: Its replicates that are COMPLETE, by number; the first one stands for it.
        values: Mean of each objective over the replicates, on the search split.
    """

    trials: tuple[Trial, ...]
    values: tuple[float, ...]

    @property
    def trial(self) -> Trial:
        """The trial that stands for it."""
        return self.trials[0]

    @property
    def score(self) -> float:
        """Mean of the first objective."""
        return self.values[0]

    @property
    def methods(self) -> int:
        """How many methods it uses; ``none`` is none."""
        return sum(method["method"] != "none" for method in self.trial.config.methods)

    def mean(self, metric: str) -> float | None:
        """Mean of a headline over the replicates; None if one of them has no such value."""
        found = [trial.headlines.get(metric) for trial in self.trials]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if len(known) == len(found) else None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a finalist did on the selection split.

    Attributes:
        number: Trial of the search that it comes from.
        scores: One per fresh seed.
        mean: Their mean.
        bound: One-sided 95 % bound of the mean on the bad side (Student's t); None with a single seed.
        probability_best: Share of draws of the expected values in which it is the best; None with a single seed each,
            and for who trained on fewer seeds than another.
        searched: The same metric on the search split, mean over its replicates.
        distance: With several objectives, the mean distance from ideal over the fresh seeds.
    """

    number: int
    scores: tuple[float, ...]
    mean: float
    bound: float | None
    probability_best: float | None
    searched: float
    distance: float | None = None


def configuration_key(trial: Trial) -> str:
    """Equal for trials that train the same configuration on different seeds."""
    return digest(without_seeds(trial.config.model_dump(mode="json")))


def candidates(spec: StudySpec, trials: Sequence[Trial]) -> list[Candidate]:
    """Configurations with a COMPLETE trial that meet the study's constraints, best first, equals by number.

    Replicates count by their means, for the objectives as for the constraints: picking the lucky ones among them would
    be what the finals are there to prevent. With several objectives the Pareto front comes first, its knee at the head.
    """
    allowed = _allowed(spec, trials)
    means = _means(allowed)
    front = pareto_front(spec, means) if len(spec.search.objectives) > 1 else []
    first = [front[i].number for i in knee(spec, front)]
    rest = [trial.number for trial in ranking(spec, means) if trial.number not in first]
    return [allowed[number] for number in (*first, *rest)]


def front_of(spec: StudySpec, trials: Sequence[Trial]) -> list[Trial]:
    """The Pareto front that `candidates` begin with: a trial for each configuration, with the means of its values."""
    return pareto_front(spec, _means(_allowed(spec, trials)))


def _means(allowed: Mapping[int, Candidate]) -> list[Trial]:
    return [replace(candidate.trial, values=candidate.values) for candidate in allowed.values()]


def _allowed(spec: StudySpec, trials: Sequence[Trial]) -> dict[int, Candidate]:
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if trial.state is TrialState.COMPLETE:
            groups.setdefault(configuration_key(trial), []).append(trial)
    found = {group[0].number: _candidate(group) for group in groups.values()}
    return {number: candidate for number, candidate in found.items() if not violations(spec, candidate)}


def _candidate(group: Sequence[Trial]) -> Candidate:
    values = np.array([trial.values for trial in group], dtype=float).mean(axis=0)
    return Candidate(trials=tuple(group), values=tuple(float(value) for value in values))


def violations(spec: StudySpec, candidate: Candidate) -> list[str]:
    """Constraints of the study that a configuration breaks, or of whose metric it has no value."""
    found = []
    for constraint in spec.selection.constraints:
        value = candidate.mean(constraint.metric)
        if value is None or not constraint.holds(value):
            shown = "has no value" if value is None else f"is {value:.4g}"
            found.append(f"{constraint.metric} {shown}, wanted {constraint}")
    return found


def finalists(spec: StudySpec, trials: Sequence[Trial]) -> list[Candidate]:
    """The ``selection.finalists`` best candidates, and those that tie with the last of them, at most twice as many."""
    found, count = candidates(spec, trials), spec.selection.finalists
    if len(found) <= count:
        return found
    last = found[count - 1].values
    tied = [c for c in found[count:] if np.allclose(c.values, last, rtol=1e-12, atol=0)]
    return found[:count] + tied[:count]


def judge(
    spec: StudySpec,
    chosen: Sequence[Candidate],
    scores: Sequence[Sequence[float]],
    metric: str,
    distances: Sequence[Sequence[float]] | None = None,
) -> list[Standing]:
    """Rank finalists by their scores on the selection split under the study's risk rule, the winner first.

    A configuration that trains on some seeds only is no configuration to ship: whoever has fewer scores than another
    stands behind, whatever they are, and out of the comparison. Of equals under the rule the simpler one comes first,
    which has fewer methods, then the lower number.

    Args:
        spec: Its ``selection.rule``: ``mean``, ``lower_bound`` (the 95 % bound on the bad side) or
            ``probability_best``, of the scores or, with several objectives, of the distances.
        chosen: The finalists.
        scores: Of each finalist, one score per fresh seed that did not fail; finite.
        metric: What the scores are: ``accuracy``, larger is better, or ``loss``.
        distances: With several objectives, the distance from ideal beside each score.
    """
    sign = 1.0 if metric == "accuracy" else -1.0
    merits = [sign * np.asarray(s, dtype=float) for s in scores]
    if distances is not None:
        merits = [-np.asarray(own, dtype=float) for own in distances]
    most = max(len(own) for own in merits)
    running = [place for place, own in enumerate(merits) if len(own) == most]
    shares = dict(zip(running, probability_best([merits[place] for place in running]) or (), strict=False))

    def order(place: int) -> tuple[float, ...]:
        own, candidate = merits[place], chosen[place]
        # With as many seeds each and one variance for all, the likeliest best is the one with the best mean.
        bound = lower_bound(own) if spec.selection.rule == "lower_bound" else None
        keys = (float(own.mean()) if bound is None else bound, float(own.mean()))
        return (-len(own), *(-_even(key) for key in keys), candidate.methods, candidate.trial.number)

    places = sorted(range(len(chosen)), key=order)
    return [
        _standing(spec, chosen[i], scores[i], shares.get(i), None if distances is None else distances[i], metric=metric)
        for i in places
    ]


def _even(value: float) -> float:
    """Twelve digits, so that the order in which equal scores were added makes no winner."""
    return float(f"{value:.12g}")


def _standing(
    spec: StudySpec,
    candidate: Candidate,
    own: Sequence[float],
    share: float | None,
    distances: Sequence[float] | None,
    *,
    metric: str,
) -> Standing:
    sign = 1.0 if metric == "accuracy" else -1.0
    bound = lower_bound(sign * np.asarray(own, dtype=float))
    searched = candidate.mean(f"{spec.search.objectives[0].epoch}/validation/{metric}")
    assert searched is not None, "every COMPLETE trial has these headlines"
    return Standing(
        number=candidate.trial.number,
        scores=tuple(own),
        mean=float(np.mean(own)),
        bound=None if bound is None else sign * bound,
        probability_best=share,
        searched=searched,
        distance=None if distances is None else float(np.mean(distances)),
    )


def optimism(searched: float, tested: float, *, maximize: bool) -> float:
    """How much better the search split made the winner look than the test split; positive is optimistic."""
    return searched - tested if maximize else tested - searched


def selection_record(
    spec: StudySpec, standings: Sequence[Standing], metric: str, test: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``selection.json`` holds, as plain data."""
    maximize = metric == "accuracy"
    return {
        "rule": spec.selection.rule,
        "metric": metric,
        "winner": standings[0].number,
        "finalists": [
            {
                "trial": s.number,
                "search": s.searched,
                "selection": list(s.scores),
                "mean": s.mean,
                "bound": s.bound,
                "probability_best": s.probability_best,
                "distance": s.distance,
                "failed": spec.selection.seeds - len(s.scores),
            }
            for s in standings
        ],
        "test": dict(test),
        "optimism": optimism(standings[0].searched, test["mean"], maximize=maximize),
    }
