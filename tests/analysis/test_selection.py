"""The choice of a winner: by hand on small studies, and on made-up searches whose true values are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.winner import Setting, simulate
from scipy import stats

from sparsestudy.analysis import selection
from sparsestudy.analysis.card import model_card
from sparsestudy.analysis.chances import probability_best
from sparsestudy.analysis.front import knee
from sparsestudy.analysis.selection import Candidate, candidates, finalists, judge
from sparsestudy.study import StudySpec
from sparsestudy.trial import Trial, TrialConfig, TrialState

ACCURACY = "best/validation/accuracy"
GAP = "final/gap/loss"
TWO = [{"metric": ACCURACY}, {"metric": GAP, "direction": "minimize"}]


def make_spec(*objectives: dict[str, Any], **chosen: Any) -> StudySpec:
    given = {"name": "s", "regularizers": [{"name": "none"}], "selection": chosen}
    if objectives:
        given["search"] = {"objectives": objectives}
    return StudySpec.from_dict(given)


def trial(number: int, *values: float, x: float | None = None, seed: int | None = None, **more: Any) -> Trial:
    """A complete trial; those with the same ``x`` are replicates."""
    spec = make_spec()
    parameters = {"arm": "none", "x": number if x is None else x} | ({} if seed is None else {"training.seed": seed})
    training = spec.training if seed is None else spec.training.model_copy(update={"seed": seed})
    config = TrialConfig(
        study="s", number=number, arm="none", parameters=parameters, methods=({"method": "none"},), data=spec.data,
        model=spec.model, training=training, measures=spec.measures, seed=number + 100,
    )  # fmt: skip
    return Trial(number=number, config=config, **{"state": TrialState.COMPLETE, "values": values, **more})


def numbers(found: list[Candidate]) -> list[int]:
    return [candidate.trial.number for candidate in found]


# Who is a candidate


def test_replicates_are_one_candidate_that_counts_by_its_mean() -> None:
    """Number 1 has the luckiest score and the worse mean."""
    trials = [
        trial(0, 0.8, x=1, seed=5),
        trial(3, 0.7, x=2, seed=5),
        trial(1, 0.9, x=2, seed=6),
        trial(2, 0.84, x=1, seed=6),
    ]
    first, second = candidates(make_spec(), trials)
    assert [t.number for t in first.trials] == [0, 2]
    assert (first.trial.number, first.score) == (0, pytest.approx(0.82, rel=1e-12))
    assert [t.number for t in second.trials] == [1, 3]
    assert second.score == pytest.approx(0.8, rel=1e-12)


def test_candidates_come_in_the_order_of_the_objective_then_of_the_numbers() -> None:
    trials = [trial(0, 0.5), trial(3, 0.9), trial(2, 0.9), trial(1, 0.7)]
    assert numbers(candidates(make_spec(), trials)) == [2, 3, 1, 0]
    assert numbers(candidates(make_spec({"metric": GAP, "direction": "minimize"}), trials)) == [0, 1, 2, 3]


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING, TrialState.RUNNING])
def test_only_complete_trials_count(state: TrialState) -> None:
    (found,) = candidates(
        make_spec(), [trial(0, 0.1, x=1), trial(1, 0.9, x=1, state=state), trial(2, 0.8, state=state)]
    )
    assert ([t.number for t in found.trials], found.score) == ([0], 0.1)


def test_constraints_bind_the_means_of_replicates() -> None:
    """Of three configurations the best breaks the constraint, and the second on the mean of its replicates."""
    spec = make_spec(constraints=[{"metric": GAP, "at_most": 0.5}])
    trials = [
        trial(0, 0.9, headlines={GAP: 0.6}),
        trial(1, 0.8, x=7, headlines={GAP: 0.1}),
        trial(2, 0.8, x=7, headlines={GAP: 1.0}),
        trial(3, 0.7, headlines={GAP: 0.5}),
        trial(4, 0.6, headlines={}),
    ]
    assert numbers(candidates(spec, trials)) == [3]
    assert numbers(candidates(make_spec(), trials)) == [0, 1, 3, 4]


def test_no_candidates() -> None:
    for spec in (make_spec(), make_spec(*TWO)):
        assert candidates(spec, []) == finalists(spec, []) == []


def test_violations_say_what_is_and_what_was_wanted() -> None:
    constraints = [
        {"metric": GAP, "at_most": 0.1},
        {"metric": "best/sparsity/mean", "at_least": 0.25, "at_most": 0.5},
        {"metric": ACCURACY, "at_least": 0.75},
        {"metric": "final/penalty", "at_most": 1},
    ]
    found = {GAP: 0.123456, "best/sparsity/mean": 0.2, ACCURACY: 0.75}
    (candidate,) = candidates(make_spec(), [trial(0, 0.75, headlines=found)])
    assert selection.violations(make_spec(constraints=constraints), candidate) == [
        "final/gap/loss is 0.1235, wanted at most 0.1",
        "best/sparsity/mean is 0.2, wanted at least 0.25 and at most 0.5",
        "final/penalty has no value, wanted at most 1",
    ]


# Several objectives


FRONT = [(0.90, 4.0), (0.70, 0.0), (0.86, 1.0), (0.80, 0.8)]
"""Accuracy spans 0.2 and the gap 4, so scaled costs are (0, 1), (1, 0), (0.2, 0.25), (0.5, 0.2)."""


def test_knee_of_a_front_worked_out_by_hand() -> None:
    """Sums of scaled costs: 1, 1, 0.45, 0.7; the first two tie and stand by number."""
    front = [trial(i, *values) for i, values in enumerate(FRONT)]
    assert knee(make_spec(*TWO), front) == [2, 3, 0, 1]


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ({ACCURACY: 9}, [0, 2, 3, 1]),  # 1, 9, 2.05, 4.7
        ({GAP: 9}, [1, 3, 2, 0]),  # 9, 1, 2.45, 2.3
        ({ACCURACY: 0, GAP: 1}, [1, 3, 2, 0]),  # 1, 0, 0.25, 0.2
        ({ACCURACY: 2, GAP: 2}, [2, 3, 0, 1]),
    ],
)
def test_knee_with_weights(weights: dict[str, float], order: list[int]) -> None:
    front = [trial(i, *values) for i, values in enumerate(FRONT)]
    assert knee(make_spec(*TWO, weights=weights), front) == order


def test_knee_of_a_front_of_one_and_of_equals() -> None:
    assert knee(make_spec(*TWO), [trial(4, 0.5, 0.1)]) == [0]
    assert knee(make_spec(*TWO), [trial(4, 0.5, 0.1), trial(2, 0.5, 0.1)]) == [1, 0]


def test_with_two_objectives_the_front_comes_first_its_knee_at_the_head() -> None:
    """Numbers 4 and 5 are dominated, by 2 and by everybody; 5 stands on the second front after 4."""
    trials = [trial(i, *values) for i, values in enumerate([*FRONT, (0.86, 1.5), (0.6, 5.0)])]
    assert numbers(candidates(make_spec(*TWO), trials)) == [2, 3, 0, 1, 4, 5]
    bound = [{"metric": ACCURACY, "at_least": 0.85}]
    with_headlines = [trial(i, *v, headlines={ACCURACY: v[0]}) for i, v in enumerate(FRONT)]
    assert numbers(candidates(make_spec(*TWO, constraints=bound), with_headlines)) == [0, 2]


def test_the_front_is_that_of_the_means() -> None:
    """One replicate of number 0 would stand on the front alone; its mean (0.5, 2) is dominated by number 2."""
    trials = [trial(0, 0.9, 0.0, x=1), trial(1, 0.1, 4.0, x=1), trial(2, 0.6, 1.0)]
    assert numbers(candidates(make_spec(*TWO), trials)) == [2, 0]


# Who is a finalist


def test_ties_with_the_last_finalist_are_finalists_up_to_twice_the_number() -> None:
    scores = [0.9, 0.8, 0.8, 0.8, 0.8, 0.8]
    trials = [trial(i, score) for i, score in enumerate(scores)]
    assert numbers(finalists(make_spec(finalists=1), trials)) == [0]
    assert numbers(finalists(make_spec(finalists=2), trials)) == [0, 1, 2, 3]
    assert numbers(finalists(make_spec(finalists=5), trials)) == [0, 1, 2, 3, 4, 5]
    assert numbers(finalists(make_spec(finalists=9), trials)) == [0, 1, 2, 3, 4, 5]


def test_with_two_objectives_a_tie_is_a_tie_in_both() -> None:
    """Number 4 has the accuracy of the knee, and is dominated by it."""
    trials = [trial(i, *values) for i, values in enumerate([*FRONT, (0.86, 1.5), FRONT[2]])]
    assert numbers(finalists(make_spec(*TWO, finalists=1), trials)) == [2, 5]


# The judge


SCORES = [[0.90, 0.60, 0.99], [0.82, 0.81, 0.83], [0.80, 0.80, 0.80]]
"""Means 0.83, 0.82 and 0.8; the first one is all over the place."""


def stand(number: int, searched: float = 0.5, methods: tuple[dict[str, Any], ...] = ()) -> Candidate:
    (candidate,) = candidates(make_spec(), [trial(number, searched, headlines={ACCURACY: searched})])
    if methods:
        config = candidate.trial.config.model_copy(update={"methods": methods})
        return replace(candidate, trials=(replace(candidate.trial, config=config),))
    return candidate


CHOSEN = [stand(4, 0.95), stand(7, 0.9), stand(2, 0.85)]


def test_the_mean_rule_takes_the_highest_mean() -> None:
    standings = judge(make_spec(rule="mean"), CHOSEN, SCORES, "accuracy")
    assert [s.number for s in standings] == [4, 7, 2]
    assert [s.mean for s in standings] == pytest.approx([0.83, 0.82, 0.8], rel=1e-12)
    assert [s.scores for s in standings] == [tuple(scores) for scores in SCORES]
    assert [s.searched for s in standings] == pytest.approx([0.95, 0.9, 0.85], rel=1e-12)


def test_the_lower_bound_rule_takes_the_steady_one() -> None:
    standings = judge(make_spec(rule="lower_bound"), CHOSEN, SCORES, "accuracy")
    assert [s.number for s in standings] == [7, 2, 4]
    spread = [np.std(SCORES[i], ddof=1) / math.sqrt(3) for i in (1, 2, 0)]
    expected = [np.mean(SCORES[i]) - stats.t(2).ppf(0.95) * s for i, s in zip((1, 2, 0), spread, strict=True)]
    assert [s.bound for s in standings] == pytest.approx(expected, rel=1e-12)


def test_the_probability_rule_takes_the_likeliest_best() -> None:
    standings = judge(make_spec(rule="probability_best"), CHOSEN, SCORES, "accuracy")
    shares = [s.probability_best for s in standings]
    assert [s.number for s in standings] == [4, 7, 2]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rule", ["mean", "lower_bound", "probability_best"])
def test_of_losses_the_smallest_wins_and_the_bound_lies_above(rule: str) -> None:
    chosen = [
        candidates(make_spec(), [trial(n, 0.5, headlines={"best/validation/loss": loss})])[0]
        for n, loss in ((3, 0.2), (5, 0.1))
    ]
    first, second = judge(make_spec(rule=rule), chosen, [[0.9, 1.0, 0.95], [0.4, 0.5, 0.45]], "loss")
    assert (first.number, second.number) == (5, 3)
    assert first.searched == 0.1
    assert first.bound == pytest.approx(0.45 + stats.t(2).ppf(0.95) * 0.05 / math.sqrt(3), rel=1e-12)
    assert first.probability_best > 0.99


def test_whose_other_seeds_failed_has_no_bound_to_win_by() -> None:
    standings = judge(make_spec(rule="lower_bound"), CHOSEN, [[0.99], [0.5, 0.6], [0.7, 0.72]], "accuracy")
    assert [(s.number, s.bound is None) for s in standings] == [(2, False), (7, False), (4, True)]


@pytest.mark.parametrize("rule", ["mean", "lower_bound", "probability_best"])
def test_a_single_seed_decides_by_its_score(rule: str) -> None:
    standings = judge(make_spec(rule=rule), CHOSEN, [[0.7], [0.9], [0.8]], "accuracy")
    assert [s.number for s in standings] == [7, 2, 4]
    assert [(s.bound, s.probability_best) for s in standings] == [(None, None)] * 3


def test_who_failed_on_a_seed_stands_behind_and_out_of_the_comparison() -> None:
    """Number 4 leads by far on the two seeds that it survived; the other two are compared as if it were not there."""
    standings = judge(make_spec(), CHOSEN, [[0.99, 0.98], *SCORES[1:]], "accuracy")
    assert [s.number for s in standings] == [7, 2, 4]
    assert standings[2].probability_best is None
    assert [s.probability_best for s in standings[:2]] == probability_best([np.array(own) for own in SCORES[1:]])
    record = selection.selection_record(make_spec(), standings, "accuracy", {"mean": 0.5})
    assert [finalist["failed"] for finalist in record["finalists"]] == [0, 0, 1]
    # Nobody is whole: those who failed least.
    assert [s.number for s in judge(make_spec(), CHOSEN, [[0.9], [0.5, 0.6], [0.6, 0.7]], "accuracy")] == [2, 7, 4]


@pytest.mark.parametrize("rule", ["mean", "lower_bound", "probability_best"])
def test_of_equals_the_simpler_comes_first_then_the_lower_number(rule: str) -> None:
    """0.1 + 0.2 and 0.3 + 0 differ in their last bit only."""
    both, plain = ({"method": "dropout"}, {"method": "perplexity"}), ({"method": "none"},)
    chosen = [stand(4, methods=both), stand(7, methods=both[:1]), stand(9, methods=plain), stand(8, methods=plain)]
    scores = [[0.1, 0.2], [0.2, 0.1], [0.1, 0.2], [0.2, 0.1]]
    standings = judge(make_spec(rule=rule), chosen, scores, "accuracy")
    assert [s.number for s in standings] == [8, 9, 7, 4]
    last = [[0.1 + 0.2, 0.0], [0.3, 0.0]]
    assert sum(last[0]) > sum(last[1])
    assert [s.number for s in judge(make_spec(), chosen[:2], last, "accuracy")] == [7, 4]


def test_with_several_objectives_the_distance_decides() -> None:
    """Number 2 is nearest to ideal on all seeds, and has the worst scores."""
    distances = [[0.9, 0.8, 1.0], [0.5, 0.7, 0.6], [0.1, 0.2, 0.3]]
    standings = judge(make_spec(*TWO), CHOSEN, SCORES, "accuracy", distances)
    assert [s.number for s in standings] == [2, 7, 4]
    assert [s.distance for s in standings] == pytest.approx([0.2, 0.6, 0.9], rel=1e-12)
    assert [s.mean for s in standings] == pytest.approx([0.8, 0.82, 0.83], rel=1e-12)
    assert standings[0].probability_best is not None
    assert standings[0].probability_best > 0.9


# What is written down


def test_optimism_is_positive_where_the_search_promised_too_much() -> None:
    assert selection.optimism(0.9, 0.8, maximize=True) == pytest.approx(0.1)
    assert selection.optimism(0.4, 0.6, maximize=False) == pytest.approx(0.2)


def test_the_record_and_the_card_hold_the_figures() -> None:
    spec = make_spec(rule="lower_bound")
    standings = judge(spec, CHOSEN, SCORES, "accuracy")
    test = {"mean": 0.81, "scores": [0.8, 0.82], "shipped": {"loss": 0.7, "accuracy": 0.8}, "looks": 2}
    record = selection.selection_record(spec, standings, "accuracy", test)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["winner"], record["rule"], record["metric"]) == (7, "lower_bound", "accuracy")
    assert record["optimism"] == pytest.approx(0.09)
    assert record["finalists"][2]["selection"] == SCORES[0]
    text = model_card(spec, CHOSEN[1].trial, {**record, "study": "s"}, Path("w"))
    assert "**Accuracy on the test split: 0.81**, the mean of 2 fresh seeds (0.8, 0.82)" in text
    assert "The search had promised 0.9; the optimism of that was +0.09." in text
    assert "has been looked at 2 times" in text
    assert "| 7 | 0.9 | 0.82 | 0.8031 |" in text
    assert "load_winner('w')" in text


# Made-up searches


def standard_error(values: np.ndarray[Any, Any]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def test_the_reported_score_is_honest_where_the_best_of_the_search_is_not() -> None:
    """60 configurations of values N(0, 1), noise 1, 3 finalists on 3 seeds each, 300 times.

    The reported mean of three has noise of 1 / sqrt(3), so a standard error of 0.033 over 300 repetitions: 0.1 is three
    of them. The score of the search's best is too high by half of the expected maximum of 60 draws from N(0, 2),
    2.32 * sqrt(2) / 2 = 1.64, with a standard error of 0.05.
    """
    found = simulate(Setting(), 300)
    assert standard_error(found.bias) == pytest.approx(1 / math.sqrt(3 * 300), rel=0.15)
    assert abs(found.bias.mean()) < 0.1
    assert found.argmax_bias.mean() == pytest.approx(1.64, abs=0.15)
    assert found.argmax_bias.mean() > 1
    saved = found.argmax_regret - found.regret
    assert standard_error(saved) < 0.06
    assert saved.mean() > 0.15


def test_noise_of_the_networks_stays_in_the_score_and_is_that_of_the_networks_themselves() -> None:
    """Whatever the winner's networks are worth beyond their configuration, the test split sees: they were chosen by it.

    The score is honest about those networks, exactly if all noise is theirs. Standard error at half: 0.024.
    """
    assert np.abs(simulate(Setting(network=1.0), 20).network_bias).max() < 1e-12
    assert abs(simulate(Setting(network=0.5), 300).network_bias.mean()) < 0.08
