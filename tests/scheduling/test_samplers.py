"""Samplers: Optuna's own conformance tests, and what studies rely on beyond them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase

from sparsestudy.planning import resolve
from sparsestudy.scheduling.samplers import SobolSampler, from_unit, make
from sparsestudy.space import ARM, Choice, Domain, Integer, Parameter, SearchSpace, Uniform
from sparsestudy.specfile import read
from sparsestudy.study import derive_seed

SAMPLERS = ["tpe", "random", "grid", "qmc", "cmaes", "gp"]
Point = dict[str, Any]


class TestSobol(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's suite for samplers; the one for relative samplers does not apply, since nothing is sampled jointly."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        # "y" and "z" of the suite are not listed: those are drawn at random.
        return lambda: SobolSampler(["x", "category", "a"], seed=5)


def study_with(sampler: BaseSampler) -> optuna.Study:
    return optuna.create_study(sampler=sampler)


def ask(study: optuna.Study, space: SearchSpace) -> tuple[optuna.Trial, Point]:
    trial = study.ask()

    def suggest(name: str, domain: Domain) -> Any:
        if isinstance(domain, Uniform):
            return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
        if isinstance(domain, Integer):
            return trial.suggest_int(name, domain.low, domain.high, step=domain.step)
        return trial.suggest_categorical(name, domain.values)

    return trial, space.suggest(suggest)


def names(space: SearchSpace) -> list[str]:
    return [ARM, *(p.name for p in space.parameters)]


def conditional(arms: int) -> SearchSpace:
    labels = tuple(f"arm{i}" for i in range(arms))
    own = [Parameter(name=f"{arm}/strength", domain=Uniform(low=0.0, high=1.0), arm=arm) for arm in labels]
    shared = Parameter(name="lr", domain=Uniform(low=1e-3, high=1.0, log=True))
    return SearchSpace(arms=labels, parameters=(shared, *own))


def sobol_points(space: SearchSpace, trials: int, seed: int) -> list[Point]:
    study = study_with(SobolSampler(names(space), seed))
    return [ask(study, space)[1] for _ in range(trials)]


# Sobol sequence


def test_a_point_depends_on_its_number_alone() -> None:
    space = conditional(3)
    wanted = sobol_points(space, 16, seed=1)
    study = study_with(SobolSampler(names(space), 1))
    for number, point in enumerate(wanted):
        # Another sampler, other outcomes, failures and foreign trials before it make no difference.
        study.sampler = SobolSampler(names(space), 1)
        if number % 3 == 2:
            study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
            continue
        trial, found = ask(study, space)
        assert found == point
        study.tell(trial, float(number * (-1) ** number))


def test_a_seed_is_a_sequence() -> None:
    space = conditional(3)
    assert sobol_points(space, 8, seed=1) == sobol_points(space, 8, seed=1)
    assert sobol_points(space, 8, seed=1) != sobol_points(space, 8, seed=2)


@pytest.mark.parametrize("arms", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_arms_are_equally_spread_and_no_point_comes_twice(arms: int, seed: int) -> None:
    space = conditional(arms)
    for power in (3, 5):
        points = sobol_points(space, 2**power, seed)
        counts = Counter(point[ARM] for point in points)
        # One point in each of 2**power equal cells; an arm's share is whole cells and parts of at most two more.
        most = 0 if 2**power % arms == 0 else 2
        assert all(abs(counts[arm] - 2**power / arms) <= most for arm in space.arms), counts
        assert len({tuple(sorted(point.items())) for point in points}) == 2**power


def test_every_coordinate_is_stratified() -> None:
    # A (t, s)-sequence in base 2: its first 2**k points have one value in each of 2**k equal cells of each coordinate.
    points = sobol_points(conditional(1), 32, seed=9)
    cells = sorted(int(point["arm0/strength"] * 32) for point in points)
    assert cells == list(range(32))


def test_coordinates_of_arms_do_not_move_each_other() -> None:
    few, many = conditional(2), conditional(2)
    listed = [*names(many), "another"]
    study = study_with(SobolSampler(listed, 4))
    assert {tuple(sorted(ask(study, many)[1])) for _ in range(8)} == {
        ("arm", f"{arm}/strength", "lr") for arm in few.arms
    }


def test_names_that_are_not_listed_are_drawn_at_random_but_repeatably() -> None:
    drawn = [study_with(SobolSampler(["x"], seed)).ask().suggest_float("y", 0, 1) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


# The unit interval

DISTRIBUTIONS: list[tuple[BaseDistribution, list[Any]]] = [
    (CategoricalDistribution(["a", None, 3, 4.5, True]), ["a", None, 3, 4.5, True]),
    (IntDistribution(-1, 2), [-1, 0, 1, 2]),
    (IntDistribution(0, 10, step=5), [0, 5, 10]),
    (FloatDistribution(0.1, 0.7, step=0.2), [0.1, 0.3, 0.5, 0.7]),
]


@pytest.mark.parametrize(("distribution", "values"), DISTRIBUTIONS, ids=str)
def test_equal_shares_have_equal_probability(distribution: BaseDistribution, values: list[Any]) -> None:
    cells = 60  # a multiple of 3, 4 and 5
    found = [from_unit((k + 0.5) / cells, distribution) for k in range(cells)]
    assert found == [value for value in values for _ in range(cells // len(values))]
    assert [type(value) for value in found[:: cells // len(values)]] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("u", "distribution", "value"),
    [
        (0.0, FloatDistribution(-1.0, 3.0), -1.0),
        (0.25, FloatDistribution(-1.0, 3.0), 0.0),
        (0.5, FloatDistribution(1e-4, 1.0, log=True), 0.01),
        (0.25, FloatDistribution(1e-20, 1e-16, log=True), 1e-19),
        (0.0, FloatDistribution(1e-20, 1e-16, log=True), 1e-20),
    ],
)
def test_continua_by_hand(u: float, distribution: FloatDistribution, value: float) -> None:
    assert from_unit(u, distribution) == pytest.approx(value, rel=1e-12, abs=0)


@given(
    st.floats(0, 1, exclude_max=True),
    st.lists(st.floats(1e-30, 1e30), min_size=2, max_size=2, unique=True).map(sorted),
    st.booleans(),
)
def test_never_outside(u: float, pair: list[float], log: bool) -> None:
    low, high = pair
    assert low <= from_unit(u, FloatDistribution(low, high, log=log)) <= high


# Every sampler of a study file


@pytest.fixture(scope="module")
def quickstart() -> SearchSpace:
    return resolve(read(Path("studies/quickstart.yaml"))).space


def outcome(number: int, point: Point) -> float:
    """Some value that depends on the point."""
    return derive_seed(number, sorted(point.items())) / 2**31


def run(name: str, space: SearchSpace, trials: int, seed: int, known: list[optuna.trial.FrozenTrial]) -> list[Point]:
    study = optuna.create_study()
    study.add_trials(known)
    points = []
    for number in range(len(known), trials):
        study.sampler = make(name, names(space), seed, number)
        trial, point = ask(study, space)
        assert trial.number == number
        study.tell(trial, outcome(number, point))
        points.append(point)
    known[:] = study.trials
    return points


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_works_and_goes_on_where_it_stopped(name: str, quickstart: SearchSpace) -> None:
    trials: list[optuna.trial.FrozenTrial] = []
    points = run(name, quickstart, 12, 3, trials)
    for point in points:
        own = quickstart.active(point[ARM])
        assert list(point) == [ARM, *(p.name for p in own)]
        assert all(p.domain.contains(point[p.name]) for p in own)
    assert len({point[ARM] for point in points}) > 1
    # Told of the first seven trials, another process draws the same five.
    assert run(name, quickstart, 12, 3, trials[:7]) == points[7:]
    assert run(name, quickstart, 12, 4, []) != points


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_works_without_arms(name: str) -> None:
    space = SearchSpace(
        arms=("none",),
        parameters=(
            Parameter(name="lr", domain=Uniform(low=1e-3, high=1.0, log=True)),
            Parameter(name="momentum", domain=Uniform(low=0.0, high=0.9, step=0.1)),
            Parameter(name="batch", domain=Integer(low=16, high=64, step=16)),
            Parameter(name="activation", domain=Choice(values=("relu", "gelu", None))),
        ),
    )
    points = run(name, space, 12, 0, [])
    assert all(p.domain.contains(point[p.name]) for point in points for p in space.parameters)
    assert len({point["lr"] for point in points}) == 12
    assert run(name, space, 12, 0, []) == points
