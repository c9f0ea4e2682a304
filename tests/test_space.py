"""Domains and the conditional space: properties that hold for all of them, and cases counted by hand."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsestudy.errors import NotFoundError
from sparsestudy.space import (
    ARM,
    Choice,
    Domain,
    Integer,
    Parameter,
    SearchSpace,
    Uniform,
    fill,
    leaves,
    looks_like_domain,
    parse_domain,
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
REALS = st.floats(-1e9, 1e9, allow_subnormal=False)


@st.composite
def uniforms(draw: st.DrawFn) -> Uniform:
    low, high = sorted(draw(st.lists(REALS, min_size=2, max_size=2, unique=True)))
    if low > 0 and draw(st.booleans()):
        return Uniform(low=low, high=high, log=True)
    return Uniform(low=low, high=high)


@st.composite
def lattices(draw: st.DrawFn) -> Uniform:
    """As people write them: tenths, halves, thousandths."""
    unit = Fraction(draw(st.sampled_from(["0.1", "0.5", "0.05", "0.001", "2", "1e-13"])))
    low = draw(st.integers(-20, 20)) * unit
    step = draw(st.integers(1, 3)) * unit
    return Uniform(low=float(low), high=float(low + draw(st.integers(1, 12)) * step), step=float(step))


@st.composite
def integers(draw: st.DrawFn) -> Integer:
    low, step = draw(st.integers(-50, 50)), draw(st.integers(1, 5))
    return Integer(low=low, high=low + step * draw(st.integers(1, 8)), step=step)


def choices(scalars: st.SearchStrategy[Any] = SCALARS) -> st.SearchStrategy[Choice]:
    # A set holds equal values once, as a choice must.
    return st.lists(scalars, min_size=1, max_size=5, unique=True).map(lambda values: Choice(values=tuple(values)))


DOMAINS = uniforms() | lattices() | integers() | choices()
FINITE = lattices() | integers() | choices()


@given(DOMAINS)
def test_domains_are_read_back(domain: Domain) -> None:
    assert parse_domain(domain.to_yaml()) == domain
    assert parse_domain(json.loads(json.dumps(domain.to_yaml()))) == domain
    assert looks_like_domain(domain.to_yaml())


@given(DOMAINS)
def test_corners_and_grid_are_inside(domain: Domain) -> None:
    assert all(domain.contains(corner) for corner in domain.corners())
    grid = domain.grid()
    if grid is None:
        assert isinstance(domain, Uniform)
        assert domain.step is None
        return
    assert all(domain.contains(value) for value in grid)
    assert all(corner in grid for corner in domain.corners())
    assert len(set(grid)) == len(grid)


@given(lattices())
def test_lattice_has_the_numbers_as_written(domain: Uniform) -> None:
    low, high, step = (Fraction(str(n)) for n in (domain.low, domain.high, domain.step))
    wanted = [low + k * step for k in range(int((high - low) / step) + 1)]
    assert [Fraction(str(value)) for value in domain.grid() or []] == wanted
    assert wanted[-1] == high


@given(DOMAINS)
def test_outside_is_outside(domain: Domain) -> None:
    if isinstance(domain, Choice):
        assert not domain.contains(object())
        return
    beyond = (domain.high - domain.low) * 2 + 1
    outside = [domain.low - beyond, domain.high + beyond, True, "0.5", None, float("nan")]
    assert not any(domain.contains(value) for value in outside)
    if isinstance(domain, Integer):
        assert not domain.contains(float(domain.low))


@pytest.mark.parametrize(
    ("domain", "grid"),
    [
        (Uniform(low=0.1, high=0.7, step=0.2), [0.1, 0.3, 0.5, 0.7]),
        (Uniform(low=0.0, high=3e-13, step=1e-13), [0.0, 1e-13, 2e-13, 3e-13]),
        (Integer(low=-1, high=5, step=3), [-1, 2, 5]),
        (Choice(values=("a", None, 0.5)), ["a", None, 0.5]),
        (Uniform(low=0.0, high=1.0), None),
    ],
)
def test_grids_by_hand(domain: Domain, grid: list[object] | None) -> None:
    assert domain.grid() == grid


@pytest.mark.parametrize(
    ("value", "whether"),
    [
        ({"uniform": [0, 1]}, True),
        ({"unifrom": [0, 1]}, True),
        ({"range": [0, 1], "step": 0.1}, True),
        ({"choice": 5}, True),
        ({"features.*": 0.5}, False),
        ({"a": [0, 1], "b": [0, 1]}, False),
        ({"step": 0.5}, False),
        ({}, False),
        ([0, 1], False),
    ],
)
def test_what_is_spelled_as_a_domain(value: object, whether: bool) -> None:
    assert looks_like_domain(value) is whether


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "a domain has exactly one of the keys uniform, log_uniform, int, choice; got an empty mapping"),
        ({"uniform": [0, 1], "step": float("nan")}, "step must be above 0 and at most high - low = 1, got .nan"),
        ({"uniform": [0, 1], "step": True}, "step must be a number, got true"),
        ({"uniform": [True, 2]}, "uniform needs two numbers [low, high], got [true, 2]"),
        ({"choice": [0.5, float("inf")]}, "choice needs finite numbers, got .inf"),
        ({"choice": [False, 0]}, "choice names false and 0, which are equal; every value may stand once"),
    ],
)
def test_refusals_that_a_file_cannot_provoke_or_only_just(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^[a-z]") as error:
        parse_domain(value)
    assert str(error.value) == message


# Templates

TEMPLATES = st.recursive(
    st.integers() | DOMAINS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc.*"), inner, max_size=3),
    max_leaves=8,
)


@given(TEMPLATES, st.sampled_from(["", "arm", "arm/method"]))
def test_filling_puts_each_value_at_its_leaf(template: Any, path: str) -> None:
    found = list(leaves(template, path))
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    values: dict[str, Any] = {name: f"value of {name}" for name in names}
    filled = fill(template, values, path)
    assert list(leaves(filled, path)) == []
    # Filling with the domains themselves is the identity, so that nothing but leaves is touched.
    assert fill(template, dict(found), path) == template


def test_names_of_leaves() -> None:
    domain = Integer(low=1, high=2)
    template = {"strength": domain, "targets": {"features.conv1": domain}, "pair": [0, domain], "axis": "layer"}
    assert [name for name, _ in leaves(template, "both/perplexity")] == [
        "both/perplexity/strength",
        "both/perplexity/targets/features.conv1",
        "both/perplexity/pair/1",
    ]


# Spaces


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    arms = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True))
    small = integers() | choices(st.integers(0, 9))
    owners = [None] * draw(st.integers(0, 2)) + [arm for arm in arms for _ in range(draw(st.integers(0, 2)))]
    parameters = [Parameter(name=f"p{i}", domain=draw(small), arm=arm) for i, arm in enumerate(owners)]
    return SearchSpace(arms=tuple(arms), parameters=tuple(parameters))


@given(spaces())
def test_grid_is_the_product_of_each_arm(space: SearchSpace) -> None:
    grid = space.grid()
    wanted = []
    for arm in space.arms:
        mine = [p for p in space.parameters if p.arm in (None, arm)]
        axes = [[(p.name, value) for value in p.domain.grid() or []] for p in mine]
        wanted += [{ARM: arm, **dict(point)} for point in itertools.product(*axes)]
    assert grid == wanted
    assert len({json.dumps(point, sort_keys=True) for point in grid}) == len(grid)


@given(spaces(), st.data())
def test_suggest_asks_for_the_arm_and_then_for_what_it_has(space: SearchSpace, data: st.DataObject) -> None:
    asked: list[str] = []

    def ask(name: str, domain: Domain) -> Any:
        asked.append(name)
        return data.draw(st.sampled_from(domain.grid() or []))

    point = space.suggest(ask)
    arm = point[ARM]
    own = [p.name for p in space.parameters if p.arm in (None, arm)]
    assert asked == ([ARM] if len(space.arms) > 1 else []) + own
    assert list(point) == [ARM, *own]
    assert point in space.grid()


def test_grid_by_hand() -> None:
    space = SearchSpace(
        arms=("none", "l1"),
        parameters=(
            Parameter(name="lr", domain=Choice(values=(0.1, 0.2))),
            Parameter(name="l1/strength", domain=Integer(low=1, high=2), arm="l1"),
        ),
    )
    assert space.grid() == [
        {"arm": "none", "lr": 0.1},
        {"arm": "none", "lr": 0.2},
        {"arm": "l1", "lr": 0.1, "l1/strength": 1},
        {"arm": "l1", "lr": 0.1, "l1/strength": 2},
        {"arm": "l1", "lr": 0.2, "l1/strength": 1},
        {"arm": "l1", "lr": 0.2, "l1/strength": 2},
    ]


def test_grid_of_a_continuum_and_an_arm_that_is_not_there() -> None:
    space = SearchSpace(arms=("none",), parameters=(Parameter(name="lr", domain=Uniform(low=0.0, high=1.0)),))
    with pytest.raises(ValueError, match=r"^lr is continuous; a grid needs a step or a choice of values$"):
        space.grid()
    with pytest.raises(NotFoundError, match=r"^no arm named 'nome'; arms: none; did you mean 'none'\?$"):
        space.active("nome")
