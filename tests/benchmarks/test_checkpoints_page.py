"""What the page on checkpoints says follows from what was measured."""

from __future__ import annotations

import pytest

from tests.benchmarks.checkpoints import Row, page


@pytest.mark.parametrize(
    ("epoch", "cost", "interval", "share"),
    [
        (0.3, 0.03, 10.2, 100 * 0.03 / 10.23),  # 34 epochs are the first to last 10 s
        (7.0, 0.03, 14.0, 100 * 0.03 / 14.03),
        (60.0, 0.03, 60.0, 100 * 0.03 / 60.03),  # no sooner than an epoch is over
        (4.0, 0.9, 32.0, 100 * 0.9 / 32.9),  # 0.9 s are 3 % of 30 s
    ],
)
def test_interval_and_share(epoch: float, cost: float, interval: float, share: float) -> None:
    row = Row(name="x", epoch=epoch, cost=cost, size=1.0)
    assert (row.interval, row.share) == pytest.approx((interval, share))


def test_the_page_says_whether_the_goal_is_met() -> None:
    cheap, dear = Row(name="a", epoch=1.0, cost=0.1, size=1.0), Row(name="b", epoch=0.001, cost=1.0, size=1.0)
    assert "| a | 1000 ms | 100 ms | 1.0 MB | 0.99 % | 11.0 s |" in page([cheap], 5)
    assert "at most 2.91 %, goal at most 3 %: met" in page([cheap, dear], 5).replace("\n", " ")
