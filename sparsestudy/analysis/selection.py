"""The honest winner: who is re-run, who wins on fresh seeds and unseen data, and how sure that is.

A search keeps the luckiest of many noisy scores, so the score that won overstates what the configuration is worth.
Here the search only nominates: finalists are trained again on fresh seeds and compared on the selection split, and the
winner alone is looked at, once, on the test split. What the search promised and the test split did not hold is the
optimism.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparsestudy.analysis.table import pareto_front, ranking
from sparsestudy.study import StudySpec, digest
from sparsestudy.trial import Trial, TrialState, without_seeds

Floats: TypeAlias = NDArray[np.float64]
DRAWS = 10_000


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
        probability_best: Share of draws of the means in which it is the best; None with a single seed each.
        searched: The same metric on the search split, mean over its replicates.
    """

    number: int
    scores: tuple[float, ...]
    mean: float
    bound: float | None
    probability_best: float | None
    searched: float


def configuration_key(trial: Trial) -> str:
    """Equal for trials that train the same configuration on different seeds."""
    return digest(without_seeds(trial.config.model_dump(mode="json")))


def candidates(spec: StudySpec, trials: Sequence[Trial]) -> list[Candidate]:
    """Configurations with a COMPLETE trial that meet the study's constraints, best first.

    Replicates count by their means, for the objectives as for the constraints: picking the lucky ones among them would
    be what the finals are there to prevent. With several objectives the Pareto front comes first, its knee at the head.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if trial.state is TrialState.COMPLETE:
            groups.setdefault(configuration_key(trial), []).append(trial)
    found = {group[0].number: _candidate(group) for group in groups.values()}
    allowed = {number: candidate for number, candidate in found.items() if not violations(spec, candidate)}
    means = [replace(candidate.trial, values=candidate.values) for candidate in allowed.values()]
    front = pareto_front(spec, means) if len(spec.search.objectives) > 1 else []
    first = [front[i].number for i in knee(spec, front)]
    rest = [trial.number for trial in ranking(spec, means) if trial.number not in first]
    return [allowed[number] for number in (*first, *rest)]


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


def knee(spec: StudySpec, front: Sequence[Trial]) -> list[int]:
    """Positions of a Pareto front's trials, the best compromise first.

    Every objective is scaled to [0, 1] over the front, 0 its best; the least weighted sum comes first. With equal
    weights that is the trial farthest below the plane through the points that are worst in all objectives but one.
    """
    if not front:
        return []
    signs = np.array([1.0 if o.direction == "minimize" else -1.0 for o in spec.search.objectives])
    costs = np.array([trial.values for trial in front], dtype=float) * signs
    span = np.ptp(costs, axis=0)
    scaled = (costs - costs.min(axis=0)) / np.where(span > 0, span, 1.0)
    total = scaled @ np.array([spec.selection.weights.get(o.metric, 1.0) for o in spec.search.objectives])
    return sorted(range(len(front)), key=lambda i: (total[i], front[i].number))


def finalists(spec: StudySpec, trials: Sequence[Trial]) -> list[Candidate]:
    """The ``selection.finalists`` best candidates, and those that tie with the last of them, at most twice as many."""
    found, count = candidates(spec, trials), spec.selection.finalists
    if len(found) <= count:
        return found
    last = found[count - 1].values
    tied = [c for c in found[count:] if np.allclose(c.values, last, rtol=1e-12, atol=0)]
    return found[:count] + tied[:count]


def judge(
    spec: StudySpec, chosen: Sequence[Candidate], scores: Sequence[Sequence[float]], metric: str
) -> list[Standing]:
    """Rank finalists by their scores on the selection split under the study's risk rule, the winner first.

    Args:
        spec: Its ``selection.rule``: ``mean``, ``lower_bound`` (the 95 % bound on the bad side) or
            ``probability_best``.
        chosen: The finalists.
        scores: Of each finalist, one score per fresh seed; finite.
        metric: What the scores are: ``accuracy``, larger is better, or ``loss``.
    """
    sign = 1.0 if metric == "accuracy" else -1.0
    wins = probability_best([sign * np.asarray(own, dtype=float) for own in scores])
    shares = [None] * len(chosen) if wins is None else wins
    found = [_standing(spec, *each, metric=metric, sign=sign) for each in zip(chosen, scores, shares, strict=True)]

    def merit(standing: Standing) -> tuple[float, float]:
        by = {
            "mean": sign * standing.mean,
            # Who has a single score left, the other seeds having failed, has no bound to stand on.
            "lower_bound": -math.inf if standing.bound is None else sign * standing.bound,
            "probability_best": standing.probability_best or 0.0,
        }
        return by[spec.selection.rule], sign * standing.mean

    return sorted(found, key=merit, reverse=True)


def _standing(
    spec: StudySpec, candidate: Candidate, own: Sequence[float], share: float | None, *, metric: str, sign: float
) -> Standing:
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
    )


def lower_bound(scores: Floats) -> float | None:
    """One-sided 95 % lower bound of the mean (Student's t), None with fewer than two scores.

    Example:
        >>> round(lower_bound(np.array([0.8, 0.9, 1.0])), 4)  # 0.9 - 2.92 * 0.1 / sqrt(3)
        0.7314
    """
    if len(scores) < 2:
        return None
    error = float(scores.std(ddof=1)) / math.sqrt(len(scores))
    return float(scores.mean()) - float(stats.t.ppf(0.95, len(scores) - 1)) * error


def probability_best(scores: Sequence[Floats], seed: int = 0) -> list[float] | None:
    """Probability that each finalist has the largest expected score, under flat priors.

    Means are drawn from Student's t around the observed ones, with the variance pooled over finalists: with a handful
    of seeds each, a variance of one's own says next to nothing. A single seed each says nothing of the variance, and so
    of the probability: None. Without any variance the means alone decide; equal means share.
    """
    means = np.array([s.mean() for s in scores])
    counts = np.array([len(s) for s in scores])
    freedom = int((counts - 1).sum())
    squares = sum(float(((s - s.mean()) ** 2).sum()) for s in scores)
    best = means == means.max()
    if freedom < 1 and len(scores) > 1:
        return None
    if squares <= 0:
        return [float(v) for v in best / best.sum()]
    random = np.random.default_rng(seed)
    # One pooled variance drawn for all, then the means given it.
    variance = squares / random.chisquare(freedom, size=DRAWS)
    noise = random.standard_normal((DRAWS, len(means)))
    drawn = means + noise * np.sqrt(variance[:, None] / counts)
    wins = np.bincount(drawn.argmax(axis=1), minlength=len(means))
    return [float(v) for v in wins / DRAWS]


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
            }
            for s in standings
        ],
        "test": dict(test),
        "optimism": optimism(standings[0].searched, test["mean"], maximize=maximize),
    }
