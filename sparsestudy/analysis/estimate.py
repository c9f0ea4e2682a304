"""A number with what is known about its error: the one form in which every module of the analysis says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate and what it is worth.

    Attributes:
        estimate: In the unit its owner says; None where it cannot be said.
        low: Lower end of the 95 % interval; None without one.
        high: Upper end.
        p: Two-sided, of no effect; None where nothing was tested.
        freedom: Degrees of freedom behind the interval, where it has any; a handful means few configurations carry it.
        count: Trials behind it, where its owner does not count them.
        reason: Why the estimate or its interval is None; empty otherwise.
    """

    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    freedom: float | None = None
    count: int | None = None
    reason: str = ""

    def excludes(self, value: float = 0.0) -> bool:
        """Whether there is an interval, and the value lies outside it.

        Example:
            >>> Estimate(estimate=2.0, low=1.0, high=3.0).excludes(), Estimate(estimate=2.0).excludes()
            (True, False)
        """
        return self.low is not None and self.high is not None and not self.low <= value <= self.high
