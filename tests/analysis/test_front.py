"""Fronts worked out by hand: distances, what is told of them, and their figure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sparsestudy.analysis.front import Yardstick, front_lines, front_record, knee, reasons
from sparsestudy.analysis.front_figure import front_figures, front_section
from sparsestudy.study import StudySpec
from sparsestudy.trial import Trial, TrialConfig, TrialState

ACCURACY, GAP, SKIPPED = "best/validation/accuracy", "best/gap/loss", "best/compute/skipped"
THREE = [
    {"metric": ACCURACY},
    {"metric": GAP, "direction": "minimize"},
    {"metric": SKIPPED, "direction": "maximize"},
]
VALUES = [(0.9, 2.0, 0.1), (0.8, 0.0, 0.3), (0.7, 1.0, 0.5), (0.7, 2.0, 0.1)]
"""The last is beaten by all. Scaled costs of the others: (0, 1, 1), (0.5, 0, 0.5), (1, 0.5, 0)."""


def make_spec(*objectives: dict[str, Any], **chosen: Any) -> StudySpec:
    arms = [{"name": "none"}, {"name": "l1_activity"}]
    return StudySpec.from_dict(
        {"name": "s", "regularizers": arms, "search": {"objectives": objectives or THREE}, "selection": chosen}
    )


def make_trials(values: list[tuple[float, ...]]) -> list[Trial]:
    spec = make_spec()
    found = []
    for number, value in enumerate(values):
        config = TrialConfig(
            study="s", number=number, arm=("none", "l1_activity")[number % 2], parameters={},
            methods=({"method": "none"},), data=spec.data, model=spec.model, training=spec.training,
            measures=spec.measures, seed=number,
        )  # fmt: skip
        found.append(Trial(number=number, config=config, state=TrialState.COMPLETE, values=value))
    return found


def test_distances_by_hand() -> None:
    yardstick = Yardstick.of(make_spec(), make_trials(VALUES[:3]))
    assert (yardstick.best, yardstick.spans) == ((0.9, 0.0, 0.5), pytest.approx((0.2, 2.0, 0.4)))
    assert [yardstick.distance(v) for v in VALUES] == pytest.approx([2, 1, 1.5, 3], abs=1e-12)
    assert yardstick.distance((1.0, 0.0, 0.5)) == pytest.approx(-0.5, abs=1e-12)
    weighed = Yardstick.of(make_spec(weights={SKIPPED: 4.0, GAP: 0.0}), make_trials(VALUES[:3]))
    assert [weighed.distance(v) for v in VALUES[:3]] == pytest.approx([4, 2.5, 1], abs=1e-12)


def test_the_distance_of_a_mean_is_the_mean_of_distances() -> None:
    yardstick = Yardstick.of(make_spec(), make_trials(VALUES[:3]))
    mean = tuple((one + other) / 2 for one, other in zip(VALUES[0], VALUES[2], strict=True))
    both = (yardstick.distance(VALUES[0]) + yardstick.distance(VALUES[2])) / 2
    assert yardstick.distance(mean) == pytest.approx(both, abs=1e-12)


def test_an_objective_in_which_all_are_equal_says_nothing() -> None:
    front = make_trials([(0.9, 1.0, 0.5), (0.8, 0.5, 0.5)])
    assert Yardstick.of(make_spec(), front).spans == pytest.approx((0.1, 0.5, 1.0))
    assert knee(make_spec(), front) == [0, 1]


def test_what_is_told_of_a_front() -> None:
    trials = make_trials(VALUES)
    assert front_lines(make_spec(), trials) == [
        "Pareto front, the best compromise first (all objectives weighing the same): trial 1 (best/validation/accuracy "
        "0.8, best/gap/loss 0, best/compute/skipped 0.3); trial 2 (best/validation/accuracy 0.7, best/gap/loss 1, "
        "best/compute/skipped 0.5); trial 0 (best/validation/accuracy 0.9, best/gap/loss 2, best/compute/skipped 0.1)."
    ]
    (weighed,) = front_lines(make_spec(weights={SKIPPED: 4.0}), trials)
    assert weighed.startswith("Pareto front, the best compromise first (by selection.weights): trial 2 (")
    many = make_trials([(i / 10, i / 10, 0.5) for i in range(9)])
    assert front_lines(make_spec(), many)[0].endswith("; and 3 more.")
    assert front_lines(make_spec(THREE[0]), trials) == front_lines(make_spec(), []) == []


def test_the_record_of_a_front_and_why() -> None:
    record = front_record(make_spec(weights={GAP: 2.0}), make_trials(VALUES[:3]))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["objectives"][1] == {
        "metric": GAP, "direction": "minimize", "weight": 2.0, "best": 0.0, "span": 2.0,
    }  # fmt: skip
    assert [(p["trial"], p["distance"]) for p in record["points"]] == [
        (1, pytest.approx(1)), (2, pytest.approx(2)), (0, pytest.approx(3)),
    ]  # fmt: skip
    assert record["points"][1]["values"] == {ACCURACY: 0.7, GAP: 1.0, SKIPPED: 0.5}
    finalists = [{"trial": 2, "distance": 0.25}, {"trial": 1, "distance": 0.5}]
    first, _, last = reasons({"front": record, "finalists": finalists})
    assert "best/gap/loss (minimize, weight 2)" in first
    assert "3 of the configurations searched are on the Pareto front" in first
    assert last == (
        "In the search, trial 2 was number 2 of the front. On fresh seeds its distance is 0.25, the next finalist's "
        "(trial 1) 0.5."
    )
    outside = reasons({"front": record, "finalists": [{"trial": 9, "distance": 0.25}]})[-1]
    assert outside == "In the search, trial 9 was not on the front. On fresh seeds its distance is 0.25."
    assert reasons({"finalists": finalists}) == []


def test_a_panel_for_every_further_objective() -> None:
    one, other = front_figures(make_spec(), make_trials(VALUES))
    none, l1 = one.data
    assert (list(none.x), list(none.y), list(l1.x), list(l1.y)) == ([0.9, 0.7], [2, 1], [0.8, 0.7], [0, 2])
    assert list(other.data[0].y) == [0.1, 0.5]
    assert list(none.marker.size) == [11, 11]
    assert (l1.marker.symbol[0], list(l1.marker.size)) == ("star", [16, 7])
    assert one.layout.yaxis.title.text == "best/gap/loss (minimize)"
    assert "on the front" in l1.text[0]
    assert "on the front" not in l1.text[1]
    assert front_figures(make_spec(THREE[0]), make_trials(VALUES)) == front_figures(make_spec(), []) == []


def test_the_section_of_the_page() -> None:
    html = front_section(make_spec(), make_trials(VALUES), lambda name, _: f"[{name}]")
    assert html.startswith("<h2>Pareto front</h2>")
    assert "[front0][front1]" in html
    assert front_section(make_spec(THREE[0]), make_trials(VALUES), lambda name, _: name) == ""
