"""Trials on different data are not compared: blocks of the design in slopes, verdicts and effects of targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm

from sparsestudy.analysis.cause import cause
from sparsestudy.analysis.conditions import conditions
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.level import level
from sparsestudy.analysis.verdict import compare, difference_within
from tests.analysis.worlds import simulate


def on_data(evidence: Evidence, noise: np.ndarray, shift: float, inside: float = 0.5) -> Evidence:
    """The study with wrong labels in some configurations, which raise the gap, and sparsity by a share of that."""
    added = noise * shift
    curves = {**evidence.curves, "validation/loss": evidence.curves["validation/loss"] + added[:, None]}
    values = evidence.values + inside * added[:, None, None]
    trials = evidence.trials.assign(**{"parameter/data.label_noise": noise})
    return replace(evidence, trials=trials, curves=curves, values=values)


def noisy(evidence: Evidence, seed: int) -> np.ndarray:
    """Wrong labels in half of the configurations, ``[n]``, drawn at random."""
    drawn = np.random.default_rng(seed).permutation(evidence.trials["configuration"].nunique()) % 2
    return np.asarray(drawn[evidence.trials["configuration"].to_numpy()] * 0.2)


def test_conditions_are_combinations_of_what_is_searched_of_the_data() -> None:
    evidence, _ = simulate("null", 0, configurations=4, replicates=1, epochs=12, layers=1)
    assert conditions(evidence).names == ()
    assert set(conditions(evidence).codes) == {0}
    searched = {"parameter/data.train_size": [100, 100, 300, 300], "parameter/data.label_noise": [0.0, 0.2, 0.0, 0.0]}
    other = {"parameter/data.seed": [1, 1, 1, 1], "parameter/training.batch_size": [8, 16, 8, 16]}
    found = conditions(replace(evidence, trials=evidence.trials.assign(**searched, **other)))
    assert sorted(found.names) == ["data.label_noise", "data.train_size"]
    assert len(set(found.codes[:3])) == 3
    assert found.codes[2] == found.codes[3]
    nothing = replace(evidence, trials=evidence.trials.iloc[:0])
    assert conditions(nothing).names == ()


def test_data_that_moves_gap_and_sparsity_is_no_relation_between_them() -> None:
    """Nothing relates but through the data: 60 studies, at 5 % more than 8 rejections come in 0.4 % of runs."""
    rejected = ignoring = 0
    for seed in range(60):
        evidence, _ = simulate("null", seed, configurations=24, replicates=2, epochs=12, layers=1)
        noise = noisy(evidence, seed)
        moved = on_data(evidence, noise, 2.0)
        slope = level(moved, shapes=False).pooled.within
        rejected += slope.excludes(0.0)
        names = {"parameter/data.label_noise": "parameter/training.unrelated"}
        blind = level(replace(moved, trials=moved.trials.rename(columns=names)), shapes=False).pooled.within
        ignoring += blind.excludes(0.0)
    assert rejected <= 8
    assert ignoring >= 50  # the test can fail: who compares different data finds what is not there


def test_data_is_told_of_where_it_is_held_fixed() -> None:
    evidence, _ = simulate("null", 1, configurations=24, replicates=2, epochs=12, layers=1)
    told = "Compared are trials on the same data only (data.label_noise held fixed)."
    assert told in level(on_data(evidence, noisy(evidence, 1), 2.0), shapes=False).caveats
    assert told not in level(evidence, shapes=False).caveats
    few, _ = simulate("null", 1, configurations=4, replicates=2, epochs=12, layers=1)
    assert told not in level(on_data(few, noisy(few, 1), 2.0), shapes=False).caveats  # one configuration to a cell


def test_the_difference_within_blocks_is_least_squares() -> None:
    random = np.random.default_rng(0)
    blocks = (np.repeat([0, 1, 2], 4), np.array([0, 1, 1, 2, 2]))
    of, minus = random.normal(size=12) + blocks[0], random.normal(size=5) + blocks[1]
    found = difference_within(of, minus, blocks)
    side = np.repeat([1.0, 0.0], [12, 5])
    columns = np.column_stack([side, np.concatenate(blocks)[:, None] == np.arange(3)]).astype(float)
    fit = sm.OLS(np.concatenate([of, minus]), columns).fit(cov_type="HC2")
    assert found.effect == pytest.approx(fit.params[0])
    assert found.error == pytest.approx(fit.bse[0])
    assert found.counts == (12, 5)


def test_balanced_blocks_give_the_mean_of_their_differences() -> None:
    found = difference_within(
        np.array([3.0, 5.0, 13.0, 17.0]), np.array([1.0, 1.0, 11.0, 11.0]), (np.array([0, 0, 1, 1]),) * 2
    )
    assert found.effect == pytest.approx(3.5)  # of 3 and 4; as two heaps they would differ by as much
    # HC2 by hand: residuals -0.75, 1.25, -2.25, 1.75 and 0.25, 0.25, -0.25, -0.25; leverages 3 / 8; weights 1 / 4.
    error = np.sqrt((0.75**2 + 1.25**2 + 2.25**2 + 1.75**2 + 4 * 0.25**2) / (1 - 3 / 8) / 16)
    assert found.error == pytest.approx(error)


def test_blocks_without_rivals_bear_no_interval() -> None:
    found = difference_within(np.array([1.0, 2.0]), np.array([3.0, 4.0]), (np.array([0, 0]), np.array([1, 1])))
    assert (found.low, found.high, found.error) == (None, None, None)


def test_arms_are_compared_on_the_same_data() -> None:
    """A difference of 0.1 beside one of 10 between data sets: seen within them, lost in one heap."""
    evidence, _ = simulate("null", 0, configurations=16, replicates=1, epochs=12, layers=1)
    number = evidence.trials["configuration"].to_numpy()
    wrong = (number % 4 // 2) * 0.2
    trials = evidence.trials.assign(arm=np.where(number % 2, "b", "a"))
    values = (number % 2) * 0.1 + wrong * 50 + np.random.default_rng(0).normal(size=16, scale=0.01)
    arms, worth = {"b": ["b"], "a": ["a"]}, 0.01
    heap = compare(
        "b is better.", replace(evidence, trials=trials), values, arms, worth=worth, unit="", names=("b", "a")
    )
    trials = trials.assign(**{"parameter/data.label_noise": wrong})
    found = compare(
        "b is better.", replace(evidence, trials=trials), values, arms, worth=worth, unit="", names=("b", "a")
    )
    assert (heap.status, found.status) == ("undecided", "supported")
    assert found.effect == pytest.approx(0.1, abs=0.02)
    assert found.said.endswith("Compared on the same data (data.label_noise held fixed).")


def test_effects_of_targets_are_sharper_on_the_same_data() -> None:
    """Targets are drawn whatever the data, so both estimates are of the same effect; one has less noise."""
    widths = []
    for seed in range(6):
        evidence, _ = simulate("causal", seed, configurations=60, replicates=1, epochs=12, layers=1)
        moved = on_data(evidence, noisy(evidence, seed), 10.0, inside=0.0)
        blind = moved.trials.rename(columns={"parameter/data.label_noise": "parameter/training.unrelated"})
        with_, without = (cause(e, sampler="random").pooled.effect for e in (moved, replace(moved, trials=blind)))
        assert with_.low is not None
        assert without.low is not None
        widths.append((with_.high - with_.low) / (without.high - without.low))
    assert max(widths) < 0.8
