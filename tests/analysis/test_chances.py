"""Bounds and probabilities against scipy, another form of the same model, and worlds whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from sparsestudy.analysis.chances import lower_bound, probability_best

SCORES = [np.array(own) for own in ([0.90, 0.60, 0.99], [0.82, 0.81, 0.83], [0.80, 0.80, 0.80])]


def test_the_lower_bound_is_that_of_scipy() -> None:
    scores = np.random.default_rng(1).normal(0.8, 0.1, size=7)
    # Of a two-sided 90 % interval the lower end is the one-sided 95 % bound.
    low, _ = stats.t.interval(0.9, 6, loc=scores.mean(), scale=stats.sem(scores))
    assert lower_bound(scores) == pytest.approx(low, rel=1e-12)
    assert lower_bound(scores[:1]) is None


def test_the_lower_bound_covers_as_often_as_it_says() -> None:
    """95 % of 4,000 samples of three; standard error 0.34 %, so 1.2 % is three and a half of them."""
    samples = np.random.default_rng(2).normal(size=(4000, 3))
    below = np.mean([(lower_bound(sample) or 0) <= 0 for sample in samples])
    assert below == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([0.80, 0.90, 0.85], [0.79, 0.86, 0.78]),
        ([0.5, 0.7, 0.45, 0.65], [0.55, 0.75, 0.8, 0.6]),
        ([0.1, 0.3, 0.2], [0.9, 0.7, 0.8]),
    ],
)
def test_the_probability_of_the_better_of_two_has_a_closed_form(one: list[float], other: list[float]) -> None:
    """Student's t of the pooled two-sample test, as scipy has it.

    10,000 draws have a standard error of at most 0.005; 0.02 is four of them.
    """
    expected = stats.ttest_ind(one, other, alternative="less").pvalue
    found = probability_best([np.array(one), np.array(other)])
    assert found is not None
    assert found[0] == pytest.approx(expected, abs=0.02)
    assert sum(found) == pytest.approx(1, abs=1e-12)


def test_the_probability_of_the_best_of_equals_is_shared() -> None:
    same = np.array([0.5, 0.7, 0.6])
    # Standard error of a share of a third: 0.0047.
    assert probability_best([same, same, same]) == pytest.approx([1 / 3] * 3, abs=0.02)
    assert probability_best([np.array([0.5]), np.array([0.5]), np.array([0.4])]) is None
    assert probability_best([np.array([0.5])]) == [1]
    steady = np.array([0.5, 0.5])
    assert probability_best([steady, steady, steady - 0.25, steady]) == [1 / 3, 1 / 3, 0, 1 / 3]
    assert probability_best([steady]) == [1]


def test_the_probability_is_the_same_every_time() -> None:
    scores = [np.array(own) for own in SCORES]
    assert probability_best(scores) == probability_best(scores)
    assert probability_best(scores) != probability_best(scores, seed=1)


@pytest.mark.parametrize(
    "scores",
    [
        [[0.8, 0.9, 0.85], [0.79, 0.86, 0.78], [0.7, 0.8, 0.9]],
        [[0.1, 0.2], [0.9, 0.7], [0.8, 1.0], [0.5, 0.6]],
        [[3.0, 3.5, 2.9, 3.1], [1.0, 0.5, 0.9, 1.1], [2.5, 3.0, 2.9, 3.2]],
    ],
)
def test_the_probability_of_the_best_of_several_is_that_of_the_model_on_a_grid(scores: list[list[float]]) -> None:
    """Gelman et al., Bayesian Data Analysis, section 5.4, with the ratio of deviations and the noise on a grid.

    20,000 draws there and 10,000 here: standard errors of at most 0.0061 together; 0.02 is more than three.
    """
    found = probability_best([np.array(own) for own in scores])
    assert found == pytest.approx(on_a_grid(np.array(scores), np.random.default_rng(3)), abs=0.02)


def on_a_grid(scores: NDArray[np.float64], random: np.random.Generator, draws: int = 20_000) -> list[float]:
    count, seeds = scores.shape
    means, within = scores.mean(axis=1), ((scores.T - scores.mean(axis=1)) ** 2).sum()
    guess = math.sqrt(within / (count * (seeds - 1)))
    ratio, noise = (a.ravel() for a in np.meshgrid(np.linspace(0.0, 60, 3000), guess * np.geomspace(0.1, 12, 400)))
    spread, error = ratio * noise, noise / math.sqrt(seeds)
    total = np.sqrt(spread**2 + error**2)
    centre = means.mean()
    density = np.log(total) - 0.5 * math.log(count) - count * np.log(total)  # the mean integrated out
    density -= ((means - centre) ** 2).sum() / (2 * total**2)
    density += -count * (seeds - 1) * np.log(noise) - within / (2 * noise**2)  # flat in log noise, as the grid is
    weights = np.exp(density - density.max())
    picked = random.choice(len(weights), size=draws, p=weights / weights.sum())
    spread, error, total = spread[picked], error[picked], total[picked]
    common = centre + total / math.sqrt(count) * random.standard_normal(draws)
    keep = (spread**2 / total**2)[:, None]
    drawn = keep * means + (1 - keep) * common[:, None]
    drawn += (spread * error / total)[:, None] * random.standard_normal((draws, count))
    return [float(v) for v in np.bincount(drawn.argmax(axis=1), minlength=count) / draws]


@pytest.mark.parametrize("count", [5, 8])
def test_the_probability_of_the_leader_comes_true(count: int) -> None:
    """Expected scores of deviation 0.6, three scores around each of deviation 1, 1,200 times.

    The share of leaders that are the best has a standard error of 0.014 around what they were promised; 0.043 is three.
    Flat priors of each promise 0.06 too much of five, and 0.10 of eight.
    """
    random = np.random.default_rng(count)
    promised, kept = [], []
    for _ in range(1200):
        truth = 0.6 * random.standard_normal(count)
        scores = truth[:, None] + random.standard_normal((count, 3))
        found = probability_best(list(scores))
        assert found is not None
        leader = int(scores.mean(axis=1).argmax())
        promised.append(found[leader])
        kept.append(leader == truth.argmax())
    assert np.mean(promised) == pytest.approx(np.mean(kept), abs=0.043)
