"""Studies are killed, starved and confused at drawn moments; whoever looks at what is left must not be able to tell.

SPARSESTUDY_FAULTS says how many runs: ten by default, each fault once before any comes twice; `make test-faults` forty.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults import injuries, invariants, table

pytestmark = [pytest.mark.study, pytest.mark.faults, pytest.mark.timeout(900)]
RUNS = int(os.environ.get("SPARSESTUDY_FAULTS", "10"))
ROOT = {"disk full"}
"""Faults that only root can do."""


@pytest.mark.parametrize(
    ("fault", "seed"),
    [
        pytest.param(fault, seed, marks=pytest.mark.mount if fault in ROOT else ())
        for fault, seed in table.planned(RUNS)
    ],
)
def test_nothing_is_lost_doubled_or_different(fault: str, seed: int, calm: invariants.Outcome, tmp_path: Path) -> None:
    table.injured(fault, seed, tmp_path / "run", calm)


def test_each_fault_comes_once_before_any_comes_twice() -> None:
    kinds = len(injuries.ALL)
    plan = table.planned(40)
    assert {fault for fault, _ in plan[:kinds]} == {*injuries.ALL}
    assert len({*plan}) == len(plan) == 40
    assert [seed for fault, seed in plan if fault == "driver killed"] == [
        *range(7)
    ]  # 3 in each round of 16, 1 in the 8 left
