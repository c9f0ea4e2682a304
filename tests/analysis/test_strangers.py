"""Votes of strangers: against all permutations, scipy, and by the rate of error in studies without a relation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from sparsestudy.analysis.strangers import signs, strangers, together

DRAWS = 1999


def seen(epochs):
    epochs = np.asarray(epochs)
    return epochs, np.zeros(len(epochs), dtype=bool)


def test_signs_of_open_ends_are_known_only_past_them():
    late, early = np.array([9, 9, 3, 9]), np.array([5, 5, 5, 5])
    late_open, early_open = np.array([0, 1, 1, 0], dtype=bool), np.array([0, 0, 0, 1], dtype=bool)
    assert signs((late, late_open), (early, early_open), both=True).tolist() == [1, 0, 0, 0]
    # At 3 or later against 5: not known. At 9 against at 5 or later: not known.
    assert signs((late, late_open), (early, early_open), both=False).tolist() == [1, 1, 0, 0]
    turned = signs((early, early_open), (late, late_open), both=False)
    assert turned.tolist() == [-1, -1, 0, 0]


def test_share_and_p_are_those_of_all_permutations():
    random = np.random.default_rng(0)
    configurations, replicates = 6, 3
    group = np.repeat(np.arange(configurations), replicates)
    late = random.integers(0, 20, len(group))
    early = late - random.integers(-2, 6, len(group))
    found = strangers(seen(late), seen(early), group, both=True)

    def share(dealt):
        rows = early.reshape(configurations, replicates)[list(dealt)].ravel()
        votes = np.sign(np.bincount(group, np.sign(late - rows)))
        return (votes > 0).sum() / (votes != 0).sum()

    shares = np.array([share(p) for p in permutations(range(configurations))])
    own = share(range(configurations))
    exact = min(1.0, 2 * min((shares >= own - 1e-9).mean(), (shares <= own + 1e-9).mean()))
    # A mean of 1,999 draws, and twice a share of them: five standard errors.
    assert found.share == pytest.approx(shares.mean(), abs=5 * shares.std() / np.sqrt(DRAWS))
    assert found.p == pytest.approx(exact, abs=5 * 2 * np.sqrt(0.25 / DRAWS))


def test_configurations_of_any_size_and_order_are_dealt_whole():
    # One configuration alone is late in both; wherever its onsets go, it brings them all.
    group = np.array([1, 0, 2, 1, 2, 2])
    late, early = np.array([50, 10, 10, 50, 10, 10]), np.array([40, 5, 5, 40, 5, 5])
    found = strangers(seen(late), seen(early), group, both=True)
    # Of 6 permutations two leave configuration 1 with itself (3 of 3 first), four give one vote after: 2 of 3.
    assert found.share == pytest.approx((2 * 1 + 4 * 2 / 3) / 6, abs=0.02)


def test_a_single_configuration_has_no_strangers():
    found = strangers(seen([9, 8]), seen([3, 4]), np.zeros(2, dtype=np.int64), both=True)
    assert (found.share, found.p) == (None, None)
    assert together(np.array([9, 8]), np.array([3, 4]), np.zeros(2)).reason


def test_together_is_spearman_s_with_its_permutation_test():
    random = np.random.default_rng(3)
    group = np.repeat(np.arange(12), 2)
    late = random.integers(0, 40, 24)
    early = late + random.integers(-12, 12, 24)
    found = together(late, early, group)
    means = [np.bincount(group, v) / 2 for v in (late, early)]
    assert found.estimate == pytest.approx(stats.spearmanr(*means).statistic)
    drawn = stats.permutation_test(
        (means[0],), lambda x: stats.spearmanr(x, means[1]).statistic, permutation_type="pairings", n_resamples=DRAWS,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    assert found.p == pytest.approx(drawn.pvalue, abs=5 * 2 * np.sqrt(2 * 0.25 / DRAWS))


@pytest.mark.parametrize("early_by", [0, 3])
def test_onsets_located_early_alike_in_all_runs_are_no_finding(early_by):
    """Both onsets from one distribution, replicates alike; one kind is located some epochs early."""
    errors = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        group = np.repeat(np.arange(15), 2)
        late, early = (np.rint(20 + random.normal(0, 5, 15)[group] + random.normal(0, 3, 30)) for _ in range(2))
        p = strangers(seen(late), seen(early - early_by), group, both=True, draws=199).p
        errors += p is not None and p <= 0.05
    # At 5 % more than 20 of 200 come once in 1,000 times; a test of equal chances finds more of them at 3 epochs.
    assert errors <= 20
