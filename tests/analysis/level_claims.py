"""What `level` and `cause` say of simulated studies whose truth is known; `benchmarks/coverage.py` counts over many."""

from __future__ import annotations

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from sparsestudy.analysis.cause import LayerCause, cause
from sparsestudy.analysis.claims import cause_verdict
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import CURVES, TRIAL_COLUMNS, Evidence, Signal
from sparsestudy.analysis.level import level
from sparsestudy.analysis.verdict import WORTH_LOSS
from tests.analysis.card_claims import told
from tests.analysis.worlds import WORLDS, Truth, World, simulate

Outcome = dict[str, bool | float | None]
TENTH = 0.1  # betas are per unit of sparsity, effects per 0.1


def make(gap, sparsity, targets=None, *, arms=None, configurations=None, parameters=None) -> Evidence:
    """Evidence of one epoch: ``gap [n]``, sparsity by layer ``[n]``, targets by layer ``[n]``."""
    n = len(gap)
    fixed = {
        "study": "s",
        "trial": range(n),
        "arm": "arm" if arms is None else np.asarray(arms),
        "replicate": 0,
        "epochs": 1,
    }
    numbers = range(n) if configurations is None else configurations
    rest = {"configuration": np.asarray(numbers), "state": "COMPLETE", "seconds": 1.0, **(parameters or {})}
    return Evidence(
        trials=pd.DataFrame({**fixed, **rest}, index=range(n)).astype(TRIAL_COLUMNS),
        curves={name: np.asarray(gap)[:, None] * (name == "validation/loss") for name in CURVES},
        signals=tuple(Signal(kind="activations", layer=name, measure="perplexity") for name in sparsity),
        values=np.stack([np.asarray(v) for v in sparsity.values()], axis=-1)[:, None, :],
        targets=targets or {},
    )


def level_run(seed: int) -> Outcome:
    """Slopes of the gap within arms, of 20 configurations with three replicates."""
    return {
        key: value
        for world in ("causal", "null", "simpson", "heteroscedastic")
        for key, value in level_study(seed, world).items()
    }


def level_study(seed: int, world: World) -> Outcome:
    evidence, truth = simulate(world, seed)
    found = level(evidence, shapes=False)
    slopes = {name: layer.within for name, layer in found.layers.items()} | {"mean of layers": found.pooled.within}
    outcome = {f"{world}: slope of {n} within arms: covers": covers(slopes[n], b) for n, b in betas(truth).items()}
    if world == "null":
        outcome[f"{world}: slope between arms: covers"] = covers(found.pooled.between, 0.0)
        outcome[f"{world}: any slope within arms, corrected: false positive"] = any_of(slopes.values())
        return outcome
    sign = found.pooled.within.estimate * truth.within_sign
    outcome[f"{world}: slope of mean of layers within arms: wrong sign"] = sign < 0
    outcome[f"{world}: a reversal by arms is reported: share"] = found.pooled.reversal
    return outcome


def cause_run(seed: int) -> Outcome:
    """Effects by assigned targets, of 60 configurations with two replicates."""
    return {key: value for world in WORLDS for key, value in cause_study(seed, world).items()}


def weak_run(seed: int) -> Outcome:
    """Effects by assigned targets of which ten configurations with three replicates have one: often weak."""
    return cause_study(seed, "confounded", configurations=20, replicates=3, goal="")


def cause_study(
    seed: int, world: World, *, configurations: int = 60, replicates: int = 2, goal: str = "wrong sign"
) -> Outcome:
    evidence, truth = simulate(world, seed, configurations=configurations, replicates=replicates)
    found = cause(evidence, sampler="random")
    effects = found.layers | {"mean of layers": found.pooled}
    planted = TENTH * (truth.pooled or 0.0)
    outcome = told(
        f"{world}: assigned sparsity changes the gap", cause_verdict(found), planted, WORTH_LOSS, either=True
    )
    if world == "censored":
        return outcome
    for name, beta in betas(truth).items():
        outcome |= said(effects[name], beta, f"{world}: effect of {name}")
    outcome[f"{world}: a hidden cause is noticed: share"] = found.pooled.exogeneity < 0.05
    if world == "null":
        regions = [effect.anderson_rubin for effect in effects.values()]
        outcome[f"{world}: any effect, corrected: false positive"] = any_of(regions)
        return outcome
    for what, effect in (("effect", found.pooled.effect), ("naive slope", found.pooled.naive)):
        kind = (goal if what == "effect" else "") or "share with the wrong sign"
        outcome[f"{world}: {what} of mean of layers: {kind}"] = effect.estimate * truth.within_sign < 0
    return outcome


def learner_run(seed: int) -> Outcome:
    """Effects by targets that a sampler which learns has drawn, 60 trials, and what ignoring that does."""
    return {key: value for beta in (0.0, 0.6) for key, value in learner_study(seed, beta).items()}


def learner_study(seed: int, beta: float) -> Outcome:
    evidence, world = learned(seed, beta), "learning, null" if beta == 0 else "learning"
    ignored = cause(evidence, sampler="random").layers["a"].effect
    told = said(cause(evidence, sampler="tpe").layers["a"], beta, f"{world}: effect")
    return told | {f"{world}: effect, sampler taken for random: share that covers": covers(ignored, beta)}


def learned(seed: int, beta: float, trials: int = 60) -> Evidence:
    """A sampler that draws target and learning rate together around those of its best fifth; the rate moves the gap."""
    random = np.random.default_rng(seed)
    target, rate, sparsity, gap = np.zeros((4, trials))
    for i in range(trials):
        target[i], rate[i] = random.uniform(0.2, 0.8), random.uniform(-2, -1)
        if i >= 10:
            near = random.choice(np.argsort(gap[:i])[: max(3, i // 5)])
            target[i] = np.clip(target[near] + 0.08 * random.standard_normal(), 0.2, 0.8)
            rate[i] = np.clip(rate[near] + 0.12 * random.standard_normal(), -2, -1)
        hidden = random.standard_normal()
        natural = 0.6 + 0.06 * hidden
        sparsity[i] = natural - 0.7 * max(natural - target[i], 0) + 0.03 * random.standard_normal()
        gap[i] = 1 + beta * sparsity[i] + 0.5 * rate[i] + 0.1 * hidden + 0.1 * random.standard_normal()
    return make(gap, {"a": sparsity}, {"a": target}, parameters={"parameter/training.optimizer.lr": 10**rate})


def betas(truth: Truth) -> dict[str, float]:
    """Change of the gap per unit of sparsity, by layer and for their mean."""
    layers = {f"conv{i + 1}": beta for i, beta in enumerate(truth.betas)}
    return layers | {"mean of layers": truth.pooled}


def said(found: LayerCause, beta: float, name: str) -> Outcome:
    return {
        f"{name}, two stages: covers": covers(found.effect, beta),
        f"{name}, Anderson-Rubin: covers": found.anderson_rubin.holds(TENTH * beta),
        f"{name}, Anderson-Rubin: share bounded": found.anderson_rubin.low is not None,
    }


def covers(effect: Estimate, beta: float) -> bool | None:
    """Whether the interval holds the truth; None without an interval."""
    return None if effect.low is None else effect.low <= TENTH * beta <= effect.high


def any_of(effects) -> bool:
    """Whether any is significant at 5 % after Benjamini and Hochberg."""
    return bool(multipletests([e.p for e in effects], alpha=0.05, method="fdr_bh")[0].any())
