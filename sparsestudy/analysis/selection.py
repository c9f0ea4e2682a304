"""The honest winner: who is re-run, who wins on fresh seeds and unseen data, and how sure that is.

A search keeps the luckiest of many noisy scores, so the score that won overstates what the configuration is worth.
Here the search only nominates: finalists are trained again on fresh seeds and compared on the selection split, and the
winner alone is looked at, once, on the test split. What the search promised and the test split did not hold is the
optimism.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparsestudy.analysis.table import pareto_front, ranking
from sparsestudy.study import StudySpec, digest
from sparsestudy.trial import Trial

Rule: TypeAlias = Literal["mean", "lower_bound", "probability_best"]
Floats: TypeAlias = NDArray[np.float64]
SEED = "training.seed"
DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration as the search saw it.

    Attributes:
        trial: The trial that stands for it: the first of its replicates.
        trials: Numbers of all its replicates.
        score: Mean of the first objective over the replicates, on the search split.
        spread: Standard deviation over the replicates; None with a single one.
    """

    trial: Trial
    trials: tuple[int, ...]
    score: float
    spread: float | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a finalist did on the selection split.

    Attributes:
        number: Trial of the search that it comes from.
        scores: One per fresh seed.
        mean: Their mean.
        bound: One-sided 95 % bound of the mean on the bad side (Student's t); None with a single seed.
        probability_best: Share of draws of the means in which it is the best.
        searched: Its score on the search split.
    """

    number: int
    scores: tuple[float, ...]
    mean: float
    bound: float | None
    probability_best: float
    searched: float


def configuration_key(trial: Trial) -> str:
    """Equal for trials that train the same configuration on different seeds."""
    config = trial.config.model_dump(mode="json", exclude={"number", "seed", "study"})
    config["parameters"].pop(SEED, None)
    config["training"].pop("seed", None)
    return digest(config)


def candidates(spec: StudySpec, trials: Sequence[Trial]) -> list[Candidate]:
    """Configurations with at least one COMPLETE trial that meets the study's constraints, best first.

    With several objectives the Pareto front comes first, its knee at the head; `knee` says how it is found.
    """
    allowed = [trial for trial in trials if not violations(spec, trial)]
    ranked = ranking(spec, allowed)
    groups: dict[str, list[Trial]] = {}
    for trial in ranked:
        groups.setdefault(configuration_key(trial), []).append(trial)
    found = [_candidate(group) for group in groups.values()]
    objectives = spec.search.objectives
    if len(objectives) == 1:
        sign = 1 if objectives[0].direction == "minimize" else -1
        return sorted(found, key=lambda c: (sign * c.score, c.trial.number))
    front = {configuration_key(trial) for trial in pareto_front(spec, allowed)}
    best = [c for c in found if configuration_key(c.trial) in front]
    return [best[i] for i in knee(spec, [c.trial for c in best])] + [c for c in found if c not in best]


def _candidate(group: Sequence[Trial]) -> Candidate:
    scores = np.array([trial.values[0] for trial in group])
    return Candidate(
        trial=min(group, key=lambda t: t.number),
        trials=tuple(sorted(trial.number for trial in group)),
        score=float(scores.mean()),
        spread=float(scores.std(ddof=1)) if len(scores) > 1 else None,
    )


def violations(spec: StudySpec, trial: Trial) -> list[str]:
    """Constraints of the study that a trial breaks, or of which it has no value."""
    found = []
    for constraint in spec.selection.constraints:
        value = trial.headlines.get(constraint.metric)
        if value is None or not constraint.holds(value):
            shown = "has no value" if value is None else f"is {value:.4g}"
            found.append(f"{constraint.metric} {shown}, wanted {constraint}")
    return found


def knee(spec: StudySpec, front: Sequence[Trial]) -> list[int]:
    """Positions of a Pareto front's trials, the best compromise first.

    Every objective is scaled to [0, 1] over the front, 0 its best. With weights the least weighted sum comes first;
    without, the trial farthest below the plane through the extremes, which for equal weights is the least sum.
    """
    costs = np.array([t.values for t in front], dtype=float).reshape(len(front), -1)
    signs = np.array([1.0 if o.direction == "minimize" else -1.0 for o in spec.search.objectives])
    costs = costs * signs
    span = np.ptp(costs, axis=0) if len(costs) else np.ones(len(signs))
    scaled = (costs - costs.min(axis=0)) / np.where(span > 0, span, 1.0) if len(costs) else costs
    weights = np.array([spec.selection.weights.get(o.metric, 1.0) for o in spec.search.objectives])
    total = scaled @ weights
    return sorted(range(len(front)), key=lambda i: (total[i], front[i].number))


def finalists(spec: StudySpec, trials: Sequence[Trial]) -> list[Candidate]:
    """The ``selection.finalists`` best candidates, and those that tie with the last of them, at most twice as many."""
    found, count = candidates(spec, trials), spec.selection.finalists
    if len(found) <= count:
        return found
    last = found[count - 1].score
    tied = [c for c in found[count:] if math.isclose(c.score, last, rel_tol=1e-12)]
    return found[:count] + tied[:count]


def judge(
    spec: StudySpec, chosen: Sequence[Candidate], scores: Sequence[Sequence[float]], *, maximize: bool
) -> list[Standing]:
    """Rank finalists by their scores on the selection split under the study's risk rule, the winner first.

    Args:
        spec: Its ``selection.rule``: ``mean``, ``lower_bound`` (the 95 % bound on the bad side) or
            ``probability_best``.
        chosen: The finalists.
        scores: Of each finalist, one score per fresh seed.
        maximize: Whether a larger score is better.
    """
    sign = 1.0 if maximize else -1.0
    wins = probability_best([sign * np.asarray(s, dtype=float) for s in scores])
    found = [
        Standing(
            number=candidate.trial.number,
            scores=tuple(own),
            mean=float(np.mean(own)),
            bound=None if (bound := lower_bound(sign * np.asarray(own, dtype=float))) is None else sign * bound,
            probability_best=share,
            searched=candidate.score,
        )
        for candidate, own, share in zip(chosen, scores, wins, strict=True)
    ]

    def merit(standing: Standing) -> tuple[float, float]:
        by = {
            "mean": sign * standing.mean,
            "lower_bound": sign * (standing.mean if standing.bound is None else standing.bound),
            "probability_best": standing.probability_best,
        }
        return by[spec.selection.rule], sign * standing.mean

    return sorted(found, key=merit, reverse=True)


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


def probability_best(scores: Sequence[Floats], seed: int = 0) -> list[float]:
    """Probability that each finalist has the largest expected score, under flat priors.

    Means are drawn from Student's t around the observed ones, with the variance pooled over finalists: with a handful
    of seeds each, a variance of one's own says next to nothing. A single seed each, or no variance at all, decides by
    the means alone; equal means share.
    """
    means = np.array([s.mean() for s in scores])
    counts = np.array([len(s) for s in scores])
    freedom = int((counts - 1).sum())
    squares = sum(float(((s - s.mean()) ** 2).sum()) for s in scores)
    best = means == means.max()
    if freedom < 1 or squares <= 0:
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
    spec: StudySpec, standings: Sequence[Standing], metric: str, test: Mapping[str, float], searched: float
) -> dict[str, Any]:
    """What ``selection.json`` holds, as plain data."""
    maximize = metric.endswith("accuracy")
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
        "optimism": optimism(searched, test["mean"], maximize=maximize),
    }
