"""The search over the ledger: every suggestion once, every end as it was, the same after a restart."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from sparsestudy.scheduling.retries import FailureClass
from sparsestudy.scheduling.search import StudySearch
from sparsestudy.space import ARM, Choice, Parameter, Scalar, SearchSpace, Uniform
from sparsestudy.study import BudgetSpec, StudySpec
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.trial import Failure, Measurement, TrialConfig, TrialState

SPACE = SearchSpace(
    arms=("none", "dropout", "perplexity"),
    parameters=(
        Parameter(name="training.optimizer.lr", domain=Uniform(low=0.001, high=0.1, log=True)),
        Parameter(name="dropout/strength", domain=Uniform(low=0.1, high=0.5), arm="dropout"),
        Parameter(name="perplexity/strength", domain=Choice(values=(0.1, 1.0)), arm="perplexity"),
        Parameter(name="perplexity/targets/conv1", domain=Uniform(low=0.2, high=0.8), arm="perplexity"),
    ),
)


def spec(**search: object) -> StudySpec:
    objectives = [{"metric": "final/validation/accuracy", "direction": "maximize"}]
    return StudySpec.model_validate(
        {
            "name": "s",
            "regularizers": [{"name": "none"}],
            "search": {"sampler": "tpe", "trials": 12, "objectives": objectives, **search},
        },
        strict=False,
    )


def space_of(*arms: str) -> SearchSpace:
    """The part of `SPACE` that has these arms, in this order."""
    return SearchSpace(arms=arms, parameters=tuple(p for p in SPACE.parameters if p.arm in (None, *arms)))


def configure(number: int, parameters: Mapping[str, Scalar], seed: int) -> TrialConfig:
    study = spec()
    return TrialConfig(
        study="s",
        number=number,
        arm=str(parameters[ARM]),
        parameters=dict(parameters),
        methods=(),
        data=study.data,
        model=study.model,
        training=study.training,
        measures=study.measures,
        seed=seed,
    )


def measurement(epoch: int, accuracy: float) -> Measurement:
    return Measurement(
        epoch=epoch,
        train_loss=1.0,
        train_accuracy=1.0,
        validation_loss=1.0,
        validation_accuracy=accuracy,
        penalty=0.0,
        learning_rate=0.1,
        seconds=0.1,
        timestamp=epoch,
    )


def score(parameters: Mapping[str, Scalar]) -> float:
    """A made-up answer that depends on the point only."""
    return (
        0.5
        + 0.3 * float(str(parameters.get("dropout/strength", 0.0)))
        + float(str(parameters.get("training.optimizer.lr", 0.0)))
    )


class Launch:
    """One launch of a driver on a study's folder."""

    def __init__(self, folder: Path, study: StudySpec, space: SearchSpace = SPACE) -> None:
        self.folder, self.ledger = folder, Ledger.in_folder(folder)
        known = [r for r in self.ledger.studies() if r.name == study.name]
        record = known[0] if known else self.ledger.create_study(study.name, study)
        self.lease = self.ledger.lease(record)
        self.search = StudySearch(study, space, configure, self.lease)

    def train(self, count: int) -> list[TrialConfig]:
        """Ask for and complete up to ``count`` trials one after the other."""
        done = []
        for _ in range(count):
            asked = self.search.ask()
            if asked is None:
                break
            self.complete(asked[0])
            done.append(asked[0])
        return done

    def complete(self, config: TrialConfig) -> None:
        self.search.record(config.number, [measurement(0, score(config.parameters))])
        self.search.finish(config.number, TrialState.COMPLETE)

    def die(self) -> None:
        """Vanish without a word, as after kill -9; only the lease is given up, which a dead process does too."""
        self.lease.release()
        self.ledger.close()


def points(launch: Launch) -> list[dict[str, Scalar]]:
    return [t.config.parameters for t in launch.ledger.trials(launch.lease.study_id)]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "cmaes"])
def test_each_trial_has_the_parameters_of_its_arm_and_no_others(tmp_path: Path, sampler: str) -> None:
    launch = Launch(tmp_path, spec(sampler=sampler))
    configs = launch.train(99)
    assert [c.number for c in configs] == list(range(12))
    for config in configs:
        expected = {ARM, *(p.name for p in SPACE.active(config.arm))}
        assert set(config.parameters) == expected
        for parameter in SPACE.active(config.arm):
            assert parameter.domain.contains(config.parameters[parameter.name])
    assert launch.search.exhausted
    assert launch.search.ask() is None
    launch.die()


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_a_restart_at_any_moment_changes_nothing(tmp_path: Path, sampler: str) -> None:
    """Deaths after 1, 4 and 9 trials, each with one trial under way, against a launch that was left alone."""
    calm = Launch(tmp_path / "calm", spec(sampler=sampler))
    calm.train(99)
    restless = Launch(tmp_path / "restless", spec(sampler=sampler))
    for trials in (1, 3, 5):
        restless.train(trials)
        restless.search.ask()
        restless.die()
        restless = Launch(tmp_path / "restless", spec(sampler=sampler))
        assert restless.search.requeued
    restless.train(99)
    assert points(restless) == points(calm)
    assert [t.config.seed for t in restless.ledger.trials(1)] == [t.config.seed for t in calm.ledger.trials(1)]
    for launch in (calm, restless):
        launch.die()


def test_an_interrupted_trial_comes_first_with_the_same_configuration(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec())
    launch.train(3)
    interrupted, attempt = launch.search.ask() or pytest.fail("nothing left")
    launch.search.record(interrupted.number, [measurement(0, 0.5)])
    launch.die()
    launch = Launch(tmp_path, spec())
    again, second = launch.search.ask() or pytest.fail("nothing left")
    assert (again, attempt, second) == (interrupted, 1, 2)
    launch.die()


def test_abandon_puts_running_trials_back(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec())
    launch.search.ask()
    launch.search.ask()
    assert launch.search.live == 2
    assert launch.search.abandon() == [0, 1]
    states = [t.state for t in launch.ledger.trials(launch.lease.study_id)]
    assert (launch.search.live, states) == (0, [TrialState.WAITING] * 2)
    launch.die()


def test_grid_points_run_exactly_once_also_across_restarts(tmp_path: Path) -> None:
    space = SearchSpace(
        arms=("none", "dropout"),
        parameters=(
            Parameter(name="training.optimizer.lr", domain=Choice(values=(0.01, 0.1))),
            Parameter(name="dropout/strength", domain=Uniform(low=0.1, high=0.5, step=0.2), arm="dropout"),
        ),
    )
    study = spec(sampler="grid", trials=None)
    launch = Launch(tmp_path, study, space)
    assert launch.search.total == 2 + 2 * 3
    launch.train(3)
    launch.search.ask()
    launch.die()
    launch = Launch(tmp_path, study, space)
    launch.train(99)
    ran = points(launch)
    assert len(ran) == 8
    assert {tuple(sorted(p.items())) for p in ran} == {tuple(sorted(p.items())) for p in space.grid()}
    assert all(t.state is TrialState.COMPLETE for t in launch.ledger.trials(launch.lease.study_id))
    launch.die()


def test_balanced_arms_take_turns(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec(arms="balanced"))
    assert [c.arm for c in launch.train(99)] == ["none", "dropout", "perplexity"] * 4
    launch.die()


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_configuration_trains_on_several_seeds(tmp_path: Path, sampler: str) -> None:
    """Three trials in a row differ in nothing but their seed, also where a launch ended between them."""
    study = spec(sampler=sampler, arms="balanced", seeds=3)
    launch = Launch(tmp_path, study)
    launch.train(4)
    launch.search.ask()
    launch.die()
    launch = Launch(tmp_path, study)
    launch.train(99)
    configs = [trial.config for trial in launch.ledger.trials(launch.lease.study_id)]
    launch.die()
    assert [c.arm for c in configs[::3]] == ["none", "dropout", "perplexity", "none"]
    assert [c.parameters for c in configs] == [c.parameters for c in configs[::3] for _ in range(3)]
    assert len({str(c.parameters) for c in configs}) == 4
    assert len({c.seed for c in configs}) == 12


def test_a_sequence_takes_its_next_point_with_the_next_configuration(tmp_path: Path) -> None:
    once, thrice = (Launch(tmp_path / name, spec(sampler="qmc", trials=3 * seeds, seeds=seeds))
                    for name, seeds in (("once", 1), ("thrice", 3)))  # fmt: skip
    assert [c.parameters for c in once.train(99)] == [c.parameters for c in thrice.train(99)[::3]]
    once.die()
    thrice.die()


def test_a_grid_trains_every_point_on_several_seeds(tmp_path: Path) -> None:
    space = SearchSpace(arms=("none",), parameters=(Parameter(name="lr", domain=Choice(values=(0.01, 0.1))),))
    launch = Launch(tmp_path, spec(sampler="grid", trials=None, seeds=2), space)
    assert launch.search.total == 4
    assert [c.parameters["lr"] for c in launch.train(99)] == [0.01, 0.01, 0.1, 0.1]
    launch.die()


def test_ends_reach_the_search_as_they_were(tmp_path: Path) -> None:
    """Pruned is not complete, failed is not running: what Optuna sees, before and after a restart."""
    launch = Launch(tmp_path, spec())
    numbers = [(launch.search.ask() or pytest.fail("nothing left"))[0].number for _ in range(3)]
    launch.search.record(0, [measurement(e, 0.5 + 0.1 * e) for e in range(3)])
    launch.search.finish(0, TrialState.PRUNED)
    failure = Failure(kind="DivergedError", message="nan", traceback="...")
    launch.search.finish(1, TrialState.FAIL, failure)
    launch.search.record(2, [measurement(0, 0.75)])
    launch.search.finish(2, TrialState.COMPLETE)
    assert numbers == [0, 1, 2]

    def seen(search: StudySearch) -> list[tuple[str, object, object]]:
        trials = search._study.get_trials()
        return [(t.state.name, t.values, dict(t.intermediate_values)) for t in trials]

    expected = [("PRUNED", [0.7], {2: 0.7}), ("FAIL", None, {}), ("COMPLETE", [0.75], {})]
    before = seen(launch.search)
    launch.die()
    launch = Launch(tmp_path, spec())
    after = seen(launch.search)
    launch.die()
    for found in (before, after):
        assert [state for state, _, _ in found] == [state for state, _, _ in expected]
        assert found[0][2] == {2: pytest.approx(0.7)}
        assert found[2][1] == [0.75]


def test_a_pruned_trial_is_recorded_at_its_step(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec())
    launch.search.ask()
    launch.search.record(0, [measurement(e, 0.5) for e in range(4)])
    trial = launch.search.finish(0, TrialState.PRUNED)
    assert (trial.state, trial.epochs, trial.values) == (TrialState.PRUNED, 4, (0.5,))
    launch.die()


def test_an_undefined_objective_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    objectives = [{"metric": "final/sparsity/mean", "direction": "minimize"}]
    launch = Launch(tmp_path, spec(objectives=objectives))
    launch.search.ask()
    launch.search.record(0, [measurement(0, 0.5)])
    trial = launch.search.finish(0, TrialState.COMPLETE)
    assert trial.state is TrialState.FAIL
    assert trial.failure is not None
    assert trial.failure.kind == "UndefinedObjective"
    assert "final/sparsity/mean is undefined" in trial.failure.message
    launch.die()


def test_a_searched_seed_is_the_trial_s_seed(tmp_path: Path) -> None:
    space = SearchSpace(arms=("none",), parameters=(Parameter(name="training.seed", domain=Choice(values=(5, 11))),))
    launch = Launch(tmp_path, spec(sampler="grid", trials=None), space)
    assert [c.seed for c in launch.train(9)] == [5, 11]
    launch.die()


def test_every_trial_has_its_own_seed_derived_from_the_study_s(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec())
    seeds = [c.seed for c in launch.train(12)]
    assert len(set(seeds)) == 12
    launch.die()


def test_the_budget_ends_the_launch_not_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = spec().model_copy(update={"budget": spec().budget.model_copy(update={"minutes": 1e-9})})
    launch = Launch(tmp_path, study)
    assert launch.search.ask() is None
    launch.die()
    launch = Launch(tmp_path, spec())
    assert len(launch.train(99)) == 12
    launch.die()


def test_tpe_learns_on_a_conditional_space(tmp_path: Path) -> None:
    """The good arm and the good end of its strength are found: not a random search in disguise."""
    launch = Launch(tmp_path, spec(trials=60))
    configs = launch.train(60)
    late = configs[30:]
    share = sum(c.arm == "dropout" for c in late) / len(late)
    assert share > 0.5, share  # a third by chance; 0.63 to 0.87 over study seeds 0 to 7
    launch.die()


# Trials that are tried again


def test_a_trial_whose_worker_died_is_asked_for_again_in_the_same_launch(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec(trials=2))
    (first, attempt), (second, _) = launch.search.ask(), launch.search.ask()
    launch.search.record(first.number, [measurement(0, 0.5)])
    assert launch.search.exhausted
    assert launch.search.retry(first.number, FailureClass.INFRASTRUCTURE, "WorkerDied: it was killed")
    assert launch.search.live == 1
    assert not launch.search.exhausted
    launch.complete(second)
    again = launch.search.ask()
    assert again == (first, attempt + 1)
    assert launch.search.epochs(first.number) == 1
    launch.complete(first)
    assert launch.search.exhausted
    assert [t.state for t in launch.ledger.trials(launch.lease.study_id)] == [TrialState.COMPLETE] * 2
    outcomes = launch.ledger.outcomes(launch.lease.study_id, first.number)
    assert outcomes == ["infrastructure: WorkerDied: it was killed", "COMPLETE"]


def test_retries_have_a_limit_over_all_launches_and_interruptions_do_not_count(tmp_path: Path) -> None:
    study = spec(trials=1).model_copy(update={"budget": BudgetSpec(retries=2)})
    retried = []
    for _ in range(3):
        launch = Launch(tmp_path, study)
        config, _ = launch.search.ask()
        retried.append(launch.search.retry(config.number, FailureClass.INFRASTRUCTURE, "WorkerDied"))
        launch.die()
        launch = Launch(tmp_path, study)
        assert launch.search.ask() is not None
        launch.die()  # an interruption
    assert retried == [True, True, False]


def test_what_cannot_be_mended_by_trying_is_not_tried_again(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec(trials=1))
    config, _ = launch.search.ask()
    for kind in (FailureClass.DIVERGED, FailureClass.ERROR):
        assert not launch.search.retry(config.number, kind, "x")
    assert launch.search.live == 1
    assert launch.ledger.outcomes(launch.lease.study_id, 0) == []


def test_batches_that_do_not_fit_are_halved_until_they_do(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec(trials=1))
    config, _ = launch.search.ask()
    tried = []
    for expected in (1, 2, 4, 8, 16):
        assert launch.search.parts(config.number) == expected
        tried.append(launch.search.retry(config.number, FailureClass.MEMORY, "OutOfMemoryError: no room"))
        if tried[-1]:
            assert launch.search.ask() == (config, len(tried) + 1)
    assert tried == [True, True, True, True, False]


def test_a_trial_that_waits_before_it_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    launch = Launch(tmp_path, spec(trials=1))
    config, _ = launch.search.ask()
    assert launch.search.retry(config.number, FailureClass.DATA, "OSError: the file server does not answer")
    for seconds, expected in ((0.0, None), (9.0, None), (2.0, (config, 2))):
        now[0] += seconds
        assert not launch.search.exhausted
        assert launch.search.ask() == expected


def test_the_search_is_the_same_after_a_retry(tmp_path: Path) -> None:
    calm = Launch(tmp_path / "calm", spec())
    calm.train(12)
    shaken = Launch(tmp_path / "shaken", spec())
    for _ in range(12):
        config, _ = shaken.search.ask()
        shaken.search.retry(config.number, FailureClass.INFRASTRUCTURE, "WorkerDied")
        shaken.search.ask()
        shaken.complete(config)
    assert points(shaken) == points(calm)


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_more_trials_are_those_of_a_study_that_asked_for_them_at_once(tmp_path: Path, sampler: str) -> None:
    once = Launch(tmp_path / "once", spec(sampler=sampler, trials=12))
    once.train(99)
    twice = Launch(tmp_path / "twice", spec(sampler=sampler, trials=7))
    twice.train(99)
    assert twice.search.exhausted
    twice.die()
    twice = Launch(tmp_path / "twice", spec(sampler=sampler, trials=12))
    assert len(twice.train(99)) == 5
    assert points(twice) == points(once)
    for launch in (once, twice):
        launch.die()


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "cmaes", "gp"])
def test_an_arm_that_is_added_is_searched_with_the_history_of_the_others(tmp_path: Path, sampler: str) -> None:
    launch = Launch(tmp_path, spec(sampler=sampler, trials=8), space_of("none", "dropout"))
    launch.train(7)
    interrupted, _ = launch.search.ask() or pytest.fail("nothing left")
    before = points(launch)
    launch.die()
    launch = Launch(tmp_path, spec(sampler=sampler, trials=40), SPACE)
    resumed, attempt = launch.search.ask() or pytest.fail("nothing left")
    assert (resumed, attempt) == (interrupted, 2)
    launch.complete(resumed)
    history = launch.search._study.get_trials(deepcopy=False)
    assert [t.params[ARM] for t in history] == [point[ARM] for point in before]
    assert len(launch.train(99)) == 32
    assert points(launch)[:8] == before
    arms = [point[ARM] for point in points(launch)[8:]]
    assert set(arms) == {"none", "dropout", "perplexity"}
    launch.die()


def test_arms_take_turns_and_one_that_is_added_catches_up(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec(arms="balanced", trials=5), space_of("none", "dropout"))
    launch.train(99)
    launch.die()
    launch = Launch(tmp_path, spec(arms="balanced", trials=12), SPACE)
    launch.train(99)
    arms = [str(point[ARM]) for point in points(launch)]
    assert arms[:5] == ["none", "dropout", "none", "dropout", "none"]
    # Three of one and two of the other: two of the new one first, then whoever has fewest, in the order of the file.
    assert arms[5:] == ["perplexity", "perplexity", "dropout", "perplexity", "none", "dropout", "perplexity"]
    launch.die()


def test_a_grid_that_an_arm_is_added_to_goes_on_with_its_points(tmp_path: Path) -> None:
    seeds = Parameter(name="training.seed", domain=Choice(values=(5, 11)))
    grid = spec(sampler="grid", trials=None)
    launch = Launch(tmp_path, grid, SearchSpace(arms=("b",), parameters=(seeds,)))
    launch.train(1)
    launch.die()
    launch = Launch(tmp_path, grid, SearchSpace(arms=("a", "b"), parameters=(seeds,)))
    assert launch.search.total == 4
    launch.train(99)
    assert [(p[ARM], p["training.seed"]) for p in points(launch)] == [("b", 5), ("b", 11), ("a", 5), ("a", 11)]
    launch.die()


def test_a_failed_trial_that_is_tried_again_is_the_same_trial(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec(trials=4))
    launch.train(1)
    failed, _ = launch.search.ask() or pytest.fail("nothing left")
    launch.search.finish(failed.number, TrialState.FAIL, Failure(kind="E", message="m"))
    launch.train(99)
    launch.ledger.retry(launch.lease)
    launch.die()
    launch = Launch(tmp_path, spec(trials=4))
    assert not launch.search.exhausted
    assert launch.train(99) == [failed]
    trial = launch.ledger.trial(1, failed.number)
    assert (trial.state, trial.attempts, trial.order) == (TrialState.COMPLETE, 2, 4)
    launch.die()


def test_what_a_trial_costs_the_ledger_does_not_grow_with_the_study(tmp_path: Path) -> None:
    """No query of asking, recording, finishing and delivering reads a table, or all trials of a study."""
    launch = Launch(tmp_path, spec(trials=3))
    launch.train(1)
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.extend(f"{row[-1]}  in  {statement}" for row in plan)

    engine = launch.ledger._database.engine
    event.listen(engine, "before_cursor_execute", explain)
    launch.train(1)
    asked, _ = launch.search.ask() or pytest.fail("nothing left")
    launch.search.record(asked.number, [measurement(0, 0.5)])
    for delivery in launch.ledger.undelivered(1):
        launch.ledger.mark_delivered(1, delivery)
    launch.ledger.running_runs(1)
    launch.lease.renew()
    event.remove(engine, "before_cursor_execute", explain)
    assert len(plans) > 20
    whole_study = re.compile(r"SEARCH trials USING INDEX \S+ \(study_id=\?\)")
    assert [plan for plan in plans if plan.startswith("SCAN") or whole_study.match(plan)] == []
    launch.die()


# Suggestions ahead of their time


@pytest.mark.parametrize("sampler", ["random", "grid", "qmc"])
def test_what_does_not_learn_is_the_same_when_it_is_prepared(tmp_path: Path, sampler: str) -> None:
    space = SearchSpace(arms=("none",), parameters=(Parameter(name="lr", domain=Choice(values=(1, 2, 3, 4, 5, 6))),))
    study = spec(sampler=sampler, trials=None if sampler == "grid" else 6)
    late, early = (Launch(tmp_path / name, study, space) for name in ("late", "early"))
    late.train(99)
    for _ in range(6):
        config, _ = early.search.ask() or pytest.fail("nothing left")
        early.search.prepare(2)
        early.complete(config)
    assert points(early) == points(late)
    assert [t.config.seed for t in early.ledger.trials(1)] == [t.config.seed for t in late.ledger.trials(1)]
    for launch in (late, early):
        assert launch.search.exhausted
        launch.die()


def test_no_more_are_prepared_than_asked_for_nor_than_the_study_has(tmp_path: Path) -> None:
    launch = Launch(tmp_path, spec(trials=4))
    first, _ = launch.search.ask() or pytest.fail("nothing left")
    for _ in range(5):
        launch.search.prepare(2)
    states = [t.state for t in launch.ledger.trials(launch.lease.study_id)]
    assert states == [TrialState.RUNNING, TrialState.WAITING, TrialState.WAITING]
    launch.complete(first)
    for _ in range(5):
        launch.search.prepare(9)
    assert [c.number for c in launch.train(99)] == [1, 2, 3]
    assert launch.search.exhausted
    launch.die()


def test_what_was_prepared_survives_a_death_and_the_search_goes_on_as_it_would_have(tmp_path: Path) -> None:
    """TPE, two trials at once and one ahead; one launch dies in the middle with all three under way."""

    def follow(launch: Launch, until: int) -> Launch:
        running = [launch.search.ask(), launch.search.ask()]
        while running:
            launch.search.prepare(1)
            asked = running.pop(0)
            if asked is None:
                continue
            if asked[0].number == until:
                launch.die()
                launch = Launch(launch.folder, study)
                assert [config.number for config, _ in launch.search._waiting] == [until, until + 1, until + 2]
                return follow(launch, -1)
            launch.complete(asked[0])
            running.append(launch.search.ask())
        return launch

    study = spec(trials=30)
    calm, restless = follow(Launch(tmp_path / "calm", study), -1), follow(Launch(tmp_path / "restless", study), 17)
    assert points(restless) == points(calm)
    assert len(points(calm)) == 30
    for launch in (calm, restless):
        assert {t.state for t in launch.ledger.trials(1)} == {TrialState.COMPLETE}
        launch.die()
