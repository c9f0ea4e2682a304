"""Which searched parameters mattered: PED-ANOVA of Optuna, arm by arm, and over all arms for what they share.

Watanabe, Bansal and Hutter (2023, PED-ANOVA, IJCAI, arXiv 2304.10255): how much the density of the best trials along a
parameter differs from that of all trials. Parameters that only one arm has are compared within that arm, for elsewhere
there is nothing to compare. The best are the upper tenth, or more where that is fewer than `BEST` trials (ASSUMED;
Optuna advises at least five).

The shares say where the good trials lie, not why; a parameter with a share of 0.1 may still matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from sparsestudy.scheduling.distributions import to_distribution
from sparsestudy.space import ARM, Choice, Domain, Scalar, Uniform
from sparsestudy.study import ObjectiveSpec
from sparsestudy.trial import SEED, Trial, TrialState

FEWEST, BEST = 10, 5
_DECADE = 10.0


def importances(
    trials: Sequence[Trial], objective: ObjectiveSpec, domains: Mapping[str, Domain], every: str
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Share of every parameter in what makes the difference, by arm; and why there are none, by arm.

    Args:
        trials: Of one study; only COMPLETE ones with a finite value count.
        objective: The first of the study.
        domains: Of searched parameters, by name or by a pattern of names, as the study file spells them. What is not
            among them, its range being left to the method, is taken to range from the least to the largest value tried.
        every: What to call all arms together.

    Returns:
        By arm shares in [0, 1] that sum to 1; arms without a searched parameter are in neither dictionary.
    """
    known = [t for t in trials if t.state is TrialState.COMPLETE and t.values and math.isfinite(t.values[0])]
    arms = list(dict.fromkeys(t.config.arm for t in trials))
    shares: dict[str, dict[str, float]] = {}
    reasons: dict[str, str] = {}
    groups = {arm: [t for t in known if t.config.arm == arm] for arm in arms}
    if len(arms) > 1 and every not in arms:  # one arm alone is all arms
        groups[every] = known
    for name, group in groups.items():
        searched = _searched(group, domains, with_arm=name == every)
        if not searched:
            continue
        if len(group) < FEWEST:
            reasons[name] = f"{len(group)} complete trials, and it takes {FEWEST}"
            continue
        part = min(0.5, max(0.1, BEST / len(group)))
        if _tied(group, objective, part):
            reasons[name] = "more than half of the trials score as the best do, so that no best can be told apart"
            continue
        found = _ped_anova(group, objective, searched, part)
        if found is None:
            reasons[name] = "the best trials lie where all trials lie, so no parameter made a difference"
        else:
            shares[name] = found
    return shares, reasons


def _searched(trials: Iterable[Trial], domains: Mapping[str, Domain], *, with_arm: bool) -> dict[str, Domain]:
    """Domain of each parameter that all of the trials have and that takes several values among them."""
    values: dict[str, list[Scalar]] = {}
    count = 0
    for trial in trials:
        count += 1
        for name, value in trial.config.parameters.items():
            if name != SEED and (with_arm or name != ARM):
                values.setdefault(name, []).append(value)
    shared = {name: own for name, own in values.items() if len(own) == count and len(set(own)) > 1}
    return {name: _domain(name, own, domains) for name, own in shared.items()}


def _domain(name: str, values: Sequence[Any], domains: Mapping[str, Domain]) -> Domain:
    spelled = next((d for pattern, d in domains.items() if name == pattern or fnmatchcase(name, pattern)), None)
    if spelled is not None:
        return spelled
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        return Choice(values=tuple(dict.fromkeys(values)))
    low, high = float(min(values)), float(max(values))
    return Uniform(low=low, high=high, log=low > 0 and high >= _DECADE * low)


def _tied(trials: Sequence[Trial], objective: ObjectiveSpec, part: float) -> bool:
    """Whether more than half of the trials are among the best ``part``, because they score alike."""
    costs = sorted(t.values[0] if objective.direction == "minimize" else -t.values[0] for t in trials)
    last = costs[math.ceil(part * len(costs)) - 1]
    return 2 * sum(cost <= last for cost in costs) > len(costs)


def _ped_anova(
    trials: Sequence[Trial], objective: ObjectiveSpec, searched: Mapping[str, Domain], part: float
) -> dict[str, float] | None:
    """Shares of the parameters, the largest first; None if none matters."""
    study = optuna.create_study(direction=objective.direction)
    distributions = {name: to_distribution(domain) for name, domain in searched.items()}
    study.add_trials(
        [
            create_trial(
                state=OptunaState.COMPLETE,
                params={name: trial.config.parameters[name] for name in distributions},
                distributions=distributions,
                values=[trial.values[0]],
            )
            for trial in trials
        ]
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=part)
    found = evaluator.evaluate(study, params=list(distributions))
    total = sum(found.values())
    if not (math.isfinite(total) and total > 0):
        return None
    return {name: value / total for name, value in sorted(found.items(), key=lambda pair: -pair[1])}
