"""The arithmetic of the cost page."""

from __future__ import annotations

import pytest

from tests.benchmarks.cost_page import Goal, Result, Sample


def sample(step: float, rest: float = 1.0) -> Sample:
    return Sample(step=step, rest=rest, whole=0.0)


def test_ratio_is_taken_to_the_bare_steps_around() -> None:
    result = Result()
    result.add(sample(3.0), sample(1.0), sample(2.0))
    result.add(sample(2.0), sample(2.0), sample(2.0))
    assert result.ratios() == [2.0, 1.0]


def test_share_of_an_epoch_of_cifar() -> None:
    result = Result()
    result.add(sample(9.0, rest=1.5), sample(0.1, rest=0.5), sample(0.1, rest=0.5))
    # 30,000 images in steps of 128 of 0.1 s; 12,048 evaluated where 1,000 take 0.5 s; measuring takes one second.
    epoch = 30_000 / 128 * 0.1 + 12_048 / 1_000 * 0.5
    assert result.cifar_shares(128, 1_000) == pytest.approx([1 / epoch])


@pytest.mark.parametrize(
    ("values", "share", "row"),
    [
        ([0.01, 0.1, 0.2], True, "| x | 10.0 % (1.0–20.0) | at most 10 %: met |"),
        ([0.101, 0.101], True, "| x | 10.1 % (10.1–10.1) | at most 10 %: **missed** |"),
        ([0.1004], True, "| x | 10.0 % (10.0–10.0) | at most 10 %: met |"),
        ([0.104], False, "| x | 0.10 | at most 0.1: met |"),
        ([0.106], False, "| x | 0.11 | at most 0.1: **missed** |"),
    ],
)
def test_a_goal_is_held_against_the_figure_that_is_shown(values: list[float], share: bool, row: str) -> None:
    assert Goal(title="x", values=values, limit=0.1, share=share).row() == row
