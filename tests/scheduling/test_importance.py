"""Importance finds the parameter that was planted, arm by arm, and says why where there is nothing to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from sparsestudy.scheduling.importance import importances
from sparsestudy.space import Domain, Uniform
from sparsestudy.study import ObjectiveSpec
from sparsestudy.trial import Trial, TrialConfig, TrialState
from tests.test_gathering import SPEC

OBJECTIVE = ObjectiveSpec(metric="final/validation/accuracy", direction="maximize")
DOMAINS: dict[str, Domain] = {"p/strength": Uniform(low=0.1, high=10.0, log=True)}


def trials_of(value: Callable[[Mapping[str, Any]], float], count: int = 100, arms: int = 2) -> list[Trial]:
    """Trials of the arms p and q in turn, each with two parameters, and one that both have."""
    random = np.random.default_rng(1)
    found = []
    for number in range(count):
        arm = "pq"[number % arms]
        parameters = {
            "arm": arm,
            f"{arm}/strength": float(10 ** random.uniform(-1, 1)),
            f"{arm}/targets/conv1": float(random.uniform(0.2, 0.8)),
            "training.optimizer.lr": float(10 ** random.uniform(-3, -1)),
        }
        config = TrialConfig(
            study="s", number=number, arm=arm, parameters=parameters, methods=({"method": "perplexity"},),
            data=SPEC.data, model=SPEC.model, training=SPEC.training, measures=SPEC.measures, seed=number,
        )  # fmt: skip
        found.append(Trial(number=number, config=config, state=TrialState.COMPLETE, values=(value(parameters),)))
    return found


def test_the_planted_parameter_has_the_largest_share_in_its_arm() -> None:
    # In p the strength decides, in q the target; the learning rate never does. 50 trials an arm, of which the best five
    # crowd at one end: their density along a parameter that decides nothing is that of five random draws.
    trials = trials_of(lambda p: p["p/strength"] if p["arm"] == "p" else 100 * p["q/targets/conv1"])
    shares, reasons = importances(trials, OBJECTIVE, DOMAINS, "all")
    assert next(iter(shares["p"])) == "p/strength"
    assert next(iter(shares["q"])) == "q/targets/conv1"
    assert shares["p"]["p/strength"] > 0.5
    assert reasons == {}
    for own in shares.values():
        assert sum(own.values()) == pytest.approx(1.0)


def test_over_all_arms_stand_what_they_share_and_the_arm() -> None:
    # Half of the trials are of arm q, whose best five would all be of the same value without the strength.
    trials = trials_of(lambda p: 100.0 + p["q/strength"] if p["arm"] == "q" else p["p/strength"])
    shares, _ = importances(trials, OBJECTIVE, DOMAINS, "all")
    assert set(shares["all"]) == {"arm", "training.optimizer.lr"}
    assert next(iter(shares["all"])) == "arm"


def test_smaller_is_better_where_the_study_minimises() -> None:
    # Of an objective that is flat but for the smallest learning rates, only minimising can tell them apart.
    trials = trials_of(lambda p: min(p["training.optimizer.lr"], 0.004), arms=1)
    objective = ObjectiveSpec(metric="final/validation/loss", direction="minimize")
    shares, _ = importances(trials, objective, DOMAINS, "all")
    assert list(shares) == ["p"]
    assert next(iter(shares["p"])) == "training.optimizer.lr"


def test_few_trials_say_so() -> None:
    shares, reasons = importances(trials_of(lambda p: p["training.optimizer.lr"], count=16), OBJECTIVE, DOMAINS, "all")
    assert list(shares) == ["all"]
    assert reasons == dict.fromkeys("pq", "8 complete trials, and it takes 10")


def test_trials_that_all_score_alike_are_no_error() -> None:
    shares, reasons = importances(trials_of(lambda p: 0.5), OBJECTIVE, DOMAINS, "all")
    assert shares == {}
    assert reasons.keys() == {"p", "q", "all"}
    assert "score as the best do" in reasons["p"]


def test_no_trials_are_no_error() -> None:
    assert importances([], OBJECTIVE, DOMAINS, "all") == ({}, {})
