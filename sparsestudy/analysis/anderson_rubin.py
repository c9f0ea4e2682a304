"""The interval of an instrumented effect that holds however weak the instrument: Anderson & Rubin's test, inverted.

An effect b is in the interval unless the instrument foretells ``gap - b * sparsity``, which it cannot if b is true.
With one instrument that test is Student's t of one coefficient, and "not rejected" a quadratic inequality in b: its
solution is an interval, all but an interval, or everything (Fieller 1954, J. R. Stat. Soc. B 16, 175; Dufour 1997,
Econometrica 65, 1365). The clustered small-sample variance makes no difference to that. DERIVED.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from sparsestudy.analysis.clustered import Floats, Projection


@dataclass(frozen=True, kw_only=True)
class Region:
    """Effects that the data do not reject at 5 %.

    Attributes:
        low: Lower end; None where it is not an interval.
        high: Upper end.
        outside: Where all but an interval is left, that interval's ends.
        p: Of no effect at all.
        words: The region in words.
    """

    low: float | None = None
    high: float | None = None
    outside: tuple[float, float] | None = None
    p: float | None = None
    words: str

    def holds(self, value: float) -> bool:
        """Whether an effect is in the region; a region that cannot be said holds everything."""
        if self.low is not None and self.high is not None:
            return self.low <= value <= self.high
        return self.outside is None or not self.outside[0] < value < self.outside[1]


def region_of(
    projection: Projection, gap: Floats, sparsity: Floats, left: tuple[Floats, Floats], *, scale: float = 1.0
) -> Region:
    """Solve the inequality.

    Args:
        projection: Of the instrument's coefficient, given what is held constant.
        gap: Response, ``[m]``.
        sparsity: What is instrumented, ``[m]``.
        left: What instrument and held-constant columns leave of gap and sparsity.
        scale: Effects are per this much sparsity.
    """
    own, moved = float(projection.weights @ gap), float(projection.weights @ sparsity)
    errors, noise = projection.scores(left[0]), projection.scores(left[1])
    wide = projection.quantile**2
    # (own - b moved)^2 <= wide * sum (errors - b noise)^2, sorted by powers of b: square b^2 - 2 cross b + rest <= 0.
    square = moved**2 - wide * float(noise @ noise)
    cross = own * moved - wide * float(errors @ noise)
    rest = own**2 - wide * float(errors @ errors)
    error = math.sqrt(float(errors @ errors))
    p = float(2 * stats.t.sf(abs(own) / error, projection.freedom)) if error > 0 else None
    root = cross**2 - square * rest
    if not math.isfinite(root) or square == 0:
        return Region(p=p, words="unbounded: it cannot be solved for")
    if square < 0 and root <= 0:
        return Region(p=p, words="unbounded: no effect whatever is rejected, for the targets hardly move this sparsity")
    ends = sorted(scale * (cross + sign * math.sqrt(max(root, 0.0))) / square for sign in (-1, 1))
    low, high = ends
    if square < 0:
        words = f"unbounded: every effect but those between {low:.3g} and {high:.3g}, for the targets hardly move it"
        return Region(outside=(low, high), p=p, words=words)
    return Region(low=low, high=high, p=p, words=f"from {low:.3g} to {high:.3g}")
