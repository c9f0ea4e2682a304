"""What TPE is shown of a long history, and that a short one is Optuna's own business."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState, create_trial

from sparsestudy.scheduling.thinning import ThinnedTPESampler, selection

UNIT, ARM = FloatDistribution(0.0, 1.0), CategoricalDistribution(("a", "b"))


def study(trials: int, directions: int = 1, running: int = 0) -> optuna.Study:
    """Every arm in turn; of each ten trials one is pruned and one has failed; the best are scattered."""
    made = optuna.create_study(directions=["maximize", "minimize"][:directions])
    for n in range(trials):
        arm, x = "ab"[n % 2], (n * 0.6180339887) % 1
        state = {3: TrialState.PRUNED, 7: TrialState.FAIL}.get(n % 10, TrialState.COMPLETE)
        if directions > 1 and state is TrialState.PRUNED:
            state = TrialState.COMPLETE
        values = [x, (x - 0.3) ** 2][:directions] if state is TrialState.COMPLETE else None
        steps = {4: x} if state is TrialState.PRUNED else {}
        params, distributions = {"arm": arm, f"{arm}/x": x}, {"arm": ARM, f"{arm}/x": UNIT}
        made.add_trial(
            create_trial(
                state=state, params=params, distributions=distributions, values=values, intermediate_values=steps
            )
        )
    for _ in range(running):
        made.ask({"arm": ARM})
    return made


def points(made: optuna.Study, sampler: type[BaseSampler], **given: int) -> list[dict[str, object]]:
    found = []
    for seed in range(6):
        made.sampler = sampler(seed=seed, **given)
        trial = made.ask()
        arm = trial.suggest_categorical("arm", ARM.choices)
        trial.suggest_float(f"{arm}/x", 0, 1)
        found.append(trial.params)
        if seed % 2:  # some stay under way
            made.tell(trial, [0.5] * len(made.directions))
    return found


@pytest.mark.parametrize("trials", [0, 5, 60])
@pytest.mark.parametrize("directions", [1, 2])
def test_a_study_that_is_shown_whole_gets_what_optuna_suggests(trials: int, directions: int) -> None:
    expected = points(study(trials, directions, running=2), TPESampler)
    assert points(study(trials, directions, running=2), ThinnedTPESampler) == expected


def test_the_best_are_all_shown_and_the_others_evenly() -> None:
    made = study(1000, running=3)
    shown = selection(made, 300)
    finished = [t for t in shown if t.state is not TrialState.RUNNING]
    assert len(finished) == 300
    assert [t.number for t in shown] == sorted({t.number for t in shown})
    # A tenth of 300, but 25 at the most: the number of trials in TPE's first density.
    complete = [t for t in made.trials if t.state is TrialState.COMPLETE]
    best = {t.number for t in sorted(complete, key=lambda t: -t.values[0])[:25]}
    assert best <= {t.number for t in shown}
    others = [t for t in finished if t.number not in best]
    for quarter in range(4):  # of 275 others in 875: 68.75 in each quarter, give or take where the best ones lie
        assert sum(250 * quarter <= t.number < 250 * (quarter + 1) for t in others) == pytest.approx(68.75, abs=4)
    assert sum(t.params["arm"] == "a" for t in others) / 275 == pytest.approx(0.5, abs=0.07)
    assert sum(t.state is TrialState.PRUNED for t in others) / 275 == pytest.approx(100 / 875, abs=0.04)
    assert [t.number for t in shown if t.state is TrialState.RUNNING] == [1000, 1001, 1002]


def test_where_few_are_complete_the_pruned_ones_that_came_far_are_the_best() -> None:
    made = optuna.create_study(direction="maximize")
    for n in range(100):
        made.add_trial(
            create_trial(
                state=TrialState.PRUNED, params={"x": 0.5}, distributions={"x": UNIT}, intermediate_values={n: 0.5}
            )
        )
    assert {96, 97, 98, 99} <= {t.number for t in selection(made, 40)}  # a tenth of 40


def test_of_several_objectives_those_that_nothing_beats_are_shown() -> None:
    made = optuna.create_study(directions=["maximize", "minimize"])
    unbeaten = {13: 2.0, 114: 3.0, 215: 4.0, 316: 5.0}  # the better in one, the worse in the other
    for n in range(400):
        values = [unbeaten[n], unbeaten[n]] if n in unbeaten else [n / 400, 6.0]
        made.add_trial(create_trial(params={"x": 0.5}, distributions={"x": UNIT}, values=values))
    shown = {t.number for t in selection(made, 40)}  # of which a tenth are the best
    assert len(shown) == 40
    assert unbeaten.keys() <= shown


@pytest.mark.parametrize("directions", [1, 2])
def test_the_same_history_gives_the_same_suggestion(directions: int) -> None:
    first, second = (points(study(400, directions, running=1), ThinnedTPESampler, kept=100) for _ in range(2))
    assert first == second
    assert first != points(study(390, directions, running=1), ThinnedTPESampler, kept=100)
