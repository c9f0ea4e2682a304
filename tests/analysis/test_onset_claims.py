"""A short form of the claims about onsets; the table of simulated worlds has the long one."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

from tests.analysis.onset_claims import SERIES, alarms_run, located_run

STUDIES = 12


def means(outcomes):
    """Mean of every claim over the studies that answer it."""
    keys = {key for outcome in outcomes for key in outcome}
    return {key: np.mean([o[key] for o in outcomes if o[key] is not None]) for key in keys}


def test_false_alarms_stay_below_their_rate() -> None:
    shares = means([alarms_run(seed) for seed in range(STUDIES)])
    assert len(shares) == 16
    # 600 series each: more than this come once in 10,000 times at 5 %, and there are 16 claims.
    assert max(shares.values()) <= binom.ppf(0.9999, STUDIES * SERIES, 0.05) / (STUDIES * SERIES)


def test_onsets_of_clear_rises_are_found_where_they_are() -> None:
    found = means([located_run(seed) for seed in range(STUDIES)])
    clear = {key: value for key, value in found.items() if "by 16 σ" in key}
    assert min(value for key, value in clear.items() if key.endswith("found")) >= 0.95
    assert max(abs(value) for key, value in clear.items() if "median error" in key) <= 2
    less = [found[key.replace("by 16 σ", "by 4 σ")] for key in clear if key.endswith("found")]
    assert max(less) <= 1.0
    assert np.mean(less) < np.mean([value for key, value in clear.items() if key.endswith("found")])
