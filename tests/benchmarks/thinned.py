"""Does a search suffer that is shown 1,000 trials of 3,000? TPE on all of them against TPE on a selection, in pairs.

Each pair begins with the same recorded history on a made-up conditional objective: half of it random, half around the
best points so far, as a search leaves it, with noisy scores. From there each of the two suggests further trials and is
told their scores. What counts is what the suggestions are worth without noise. Smaller is better.

Usage: ``python -m tests.benchmarks.thinned [--history N] [--suggestions K] [--seeds S]``
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from scipy.stats import t

from sparsestudy.scheduling.thinning import KEPT, ThinnedTPESampler
from sparsestudy.study import derive_seed

Point = Mapping[str, Any]
UNIT, LOG = FloatDistribution(0.0, 1.0), FloatDistribution(0.001, 10.0, log=True)
SPACE: dict[str, dict[str, BaseDistribution]] = {
    "none": {"lr": LOG},
    "dropout": {"lr": LOG, "dropout/strength": UNIT},
    "penalty": {"lr": LOG, "penalty/strength": LOG, **{f"penalty/targets/{i}": UNIT for i in range(3)}},
}
ARMS = CategoricalDistribution(tuple(SPACE))
NOISE = 0.05


def _targets(point: Point) -> list[float]:
    return [float(point[f"penalty/targets/{i}"]) for i in range(3)]


def bowl(point: Point) -> float:
    """Each arm has one best strength; the penalty is best, if all its targets are right."""
    value = 0.1 * (math.log10(point["lr"]) + 1) ** 2
    if point["arm"] == "dropout":
        return value + 0.3 + (point["dropout/strength"] - 0.4) ** 2
    if point["arm"] == "penalty":
        off = sum((target - wanted) ** 2 for target, wanted in zip(_targets(point), (0.3, 0.5, 0.7), strict=True))
        return value + 0.1 * (math.log10(point["penalty/strength"]) + 0.5) ** 2 + off
    return value + 0.5


def valley(point: Point) -> float:
    """Of the penalty, only targets in a narrow curved valley are good; dropout is better at most of its points."""
    value = 0.1 * (math.log10(point["lr"]) + 1) ** 2
    if point["arm"] == "penalty":
        a, b, c = _targets(point)
        curved = 4 * abs(b - a**2) + 4 * abs(c - b**2) + (a - 0.8) ** 2
        return value + 0.05 * abs(math.log10(point["penalty/strength"])) + curved
    return value + 0.25 + (0.2 * point["dropout/strength"] if point["arm"] == "dropout" else 0.3)


def pits(point: Point) -> float:
    """Many local minima in every arm."""
    value = 0.1 * (math.log10(point["lr"]) + 1) ** 2
    own = [float(v) for name, v in point.items() if name not in ("arm", "lr", "penalty/strength")]
    rough = sum((x - 0.6) ** 2 + 0.05 * (1 - math.cos(10 * math.pi * (x - 0.6))) for x in own)
    return value + rough + {"none": 0.6, "dropout": 0.2, "penalty": 0.0}[point["arm"]]


OBJECTIVES: tuple[Callable[[Point], float], ...] = (bowl, valley, pits)


def history(objective: Callable[[Point], float], trials: int, seed: int) -> list[optuna.trial.FrozenTrial]:
    """Random points at first; every second one from then on lies near one of the best so far."""
    random, scored = np.random.default_rng(seed), list[tuple[float, dict[str, Any]]]()
    for number in range(trials):
        point: dict[str, Any] = {"arm": random.choice(ARMS.choices)}
        near = number > 20 and number % 2
        if near:
            best = heapq.nsmallest(25, scored, key=lambda one: one[0])
            point = dict(best[random.integers(len(best))][1])
        for name, distribution in SPACE[str(point["arm"])].items():
            u = _to_unit(point[name], distribution) + 0.1 * random.standard_normal() if near else random.random()
            point[name] = _from_unit(min(max(u, 0.0), 1.0), distribution)
        scored.append((objective(point) + NOISE * random.standard_normal(), point))
    return [
        optuna.trial.create_trial(params=p, distributions={"arm": ARMS, **SPACE[str(p["arm"])]}, value=v)
        for v, p in scored
    ]


def _to_unit(value: float, distribution: BaseDistribution) -> float:
    return value if distribution is UNIT else (math.log10(value) + 3) / 4


def _from_unit(u: float, distribution: BaseDistribution) -> float:
    return u if distribution is UNIT else min(max(10 ** (4 * u - 3), 0.001), 10.0)


def go_on(
    objective: Callable[[Point], float], known: list[optuna.trial.FrozenTrial], suggestions: int, seed: int,
    sampler: Callable[[int], BaseSampler],
) -> list[float]:  # fmt: skip
    """What each of the next suggestions is worth."""
    study, worth = optuna.create_study(), list[float]()
    study.add_trials(known)
    for number in range(suggestions):
        study.sampler = sampler(derive_seed(seed, "suggest", number))
        trial = study.ask()
        arm = trial.suggest_categorical("arm", ARMS.choices)
        for name, distribution in SPACE[str(arm)].items():
            trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)  # type: ignore[attr-defined]
        worth.append(objective(trial.params))
        noise = np.random.default_rng(derive_seed(seed, "noise", number)).standard_normal()
        study.tell(trial, worth[-1] + NOISE * noise)
    return worth


def row(objective: Callable[[Point], float], trials: int, suggestions: int, seeds: int) -> str:
    """A line of the table: means over seeds, and the paired differences with their 95 % intervals."""
    pairs = []
    for seed in range(seeds):
        known = history(objective, trials, seed)
        full = go_on(objective, known, suggestions, seed, lambda s: TPESampler(seed=s))
        thin = go_on(objective, known, suggestions, seed, lambda s: ThinnedTPESampler(seed=s))
        random = [objective(one.params) for one in known[:20]]
        pairs.append([np.mean(full), np.mean(thin), min(full), min(thin), np.mean(random)])
    table = np.array(pairs)
    parts = [f"| {objective.__name__} | {table[:, 4].mean():.3f}"]
    for full_at, thin_at in ((0, 1), (2, 3)):
        difference = table[:, thin_at] - table[:, full_at]
        half = float(t.ppf(0.975, seeds - 1)) * difference.std(ddof=1) / math.sqrt(seeds)
        parts.append(f"{table[:, full_at].mean():.3f} | {table[:, thin_at].mean():.3f}")
        parts.append(f"{difference.mean():+.4f} ({difference.mean() - half:+.4f} to {difference.mean() + half:+.4f})")
    return " | ".join(parts) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--history", type=int, default=3000)
    parser.add_argument("--suggestions", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=30)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sys.stdout.write(
        f"{given.history} recorded trials, {KEPT} shown; {given.suggestions} suggestions, {given.seeds} seeds\n\n"
    )
    sys.stdout.write(
        "| objective | random points | mean of the suggestions, all shown | thinned | difference | best of them, all "
        "shown | thinned | difference |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for objective in OBJECTIVES:
        sys.stdout.write(row(objective, given.history, given.suggestions, given.seeds) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
