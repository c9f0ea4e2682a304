"""Findings of simulated studies, fitted once for all tests that look at pages."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.findings import Findings
from sparsestudy.analysis.relation import relate
from tests.analysis.worlds import World, simulate

METHODS = {
    "none": frozenset[str](),
    "perplexity": frozenset({"perplexity"}),
    "dropout": frozenset({"dropout"}),
    "both": frozenset({"perplexity", "dropout"}),
}
IMPORTANCE = {
    "all": {"arm": 0.3, "training.optimizer.lr": 0.1},
    "perplexity": {"perplexity/strength": 0.6, "training.optimizer.lr": 0.2},
}


@cache
def findings_of(world: World = "causal") -> Findings:
    """A study of 60 trials in 20 configurations with three layers."""
    evidence, _ = simulate(world, 1)
    return Findings(
        relation=relate(evidence, METHODS, sampler="random", question="What holds here?"),
        evidence=evidence,
        importance=IMPORTANCE,
    )


def fitted(evidence: Evidence) -> Findings:
    """Findings of any evidence."""
    return Findings(relation=relate(evidence, METHODS, sampler="random"), evidence=evidence)


def with_arms(found: Findings, count: int) -> Findings:
    """The same trials, dealt out to so many arms with long names."""
    names = np.array([f"a_method_with_a_long_name_{i:02}" for i in range(count)], dtype=object)
    evidence = replace(found.evidence, trials=found.evidence.trials.assign(arm=np.resize(names, len(found.evidence))))
    without = {str(name): 0.1 + 0.01 * i for i, name in enumerate(names)}
    relation = replace(
        found.relation,
        arms=tuple(names),
        sensitivity=replace(found.relation.sensitivity, estimate=0.1, without=without, sign_holds=True),
    )
    return replace(found, relation=relation, evidence=evidence)
