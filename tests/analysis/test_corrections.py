import numpy as np
import pytest

from sparsestudy.analysis.corrections import benjamini_hochberg, effective_sample, select, without_each_arm
from tests.analysis.worlds import simulate


def test_benjamini_and_hochbergs_own_example():
    # The fifteen p-values of their section 4.1: at 5 % the first four are discoveries, since 0.0095 <= 4 / 15 * 0.05
    # and no later one is below its line.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    found = benjamini_hochberg([*p[::-1], None], alpha=0.05)
    assert found.tests == 15
    assert found.rejected == (False,) * 11 + (True,) * 4 + (False,)
    assert found.adjusted[-1] is None
    assert found.adjusted[11] == pytest.approx(0.0095 * 15 / 4)
    assert benjamini_hochberg([0.01, 0.011], alpha=0.0105).rejected == (False, False)


@pytest.mark.parametrize("p", [[], [None, None]])
def test_no_tests(p):
    found = benjamini_hochberg(p)
    assert (found.tests, found.adjusted, found.rejected) == (0, (None,) * len(p), (False,) * len(p))


def test_effective_sample_by_hand():
    # Mean squares 4 between and 0.5 within: (4 - 0.5) / (4 + 0.5); 4 / (1 + 7 / 9).
    found = effective_sample(np.array([1.0, 2.0, 3.0, 4.0, np.nan]), np.array([7, 7, 3, 3, 3]))
    assert (found.trials, found.configurations) == (4, 2)
    assert found.correlation == pytest.approx(7 / 9)
    assert found.effective == pytest.approx(2.25)
    # Sizes 1 and 3 around 0 and 1 ± 1: mean squares 0.75 and 1, size (4 - 10 / 4) / 1 = 1.5; negative counts as zero.
    found = effective_sample(np.array([0.0, 0.0, 1.0, 2.0]), np.array([0, 1, 1, 1]))
    assert found.correlation == pytest.approx((0.75 - 1) / (0.75 + 0.5 * 1))
    assert (found.design_effect, found.effective) == (1, 4)


def test_effective_sample_of_simulated_replicates():
    # Half of the noise of the gap is the configuration's; Donner's standard error for 400 groups of 3 is 0.029.
    evidence, _ = simulate("null", 0, configurations=400)
    found = effective_sample(evidence.gap(), evidence.trials["configuration"].to_numpy())
    assert found.correlation == pytest.approx(0.5, abs=4 * 0.029)
    assert found.effective == pytest.approx(600, abs=80)


@pytest.mark.parametrize(
    ("values", "groups", "reason", "effective"),
    [
        ([], [], "no trials", 0),
        ([np.nan], [0], "no trials", 0),
        ([1.0, 2.0], [0, 1], "no replicates", 2),
        ([1.0, 2.0], [5, 5], "one configuration", 2),
        ([1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1], "do not vary", 4),
    ],
)
def test_samples_without_a_correlation(values, groups, reason, effective):
    found = effective_sample(np.array(values), np.array(groups, dtype=np.int64))
    assert found.correlation is None
    assert reason in found.reason
    assert found.effective == effective


def test_an_estimate_without_each_arm():
    evidence, _ = simulate("simpson", 0)
    sizes = evidence.trials["arm"].value_counts()
    found = without_each_arm(evidence, len)
    assert found.without == {arm: 60 - sizes[arm] for arm in ("none", "perplexity", "dropout")}
    assert (found.estimate, found.low, found.high, found.sign_holds) == (60, 30, 60, True)

    def needs_dropout(rest):
        return 1.0 if "dropout" in set(rest.trials["arm"]) else -1.0

    assert without_each_arm(evidence, needs_dropout).sign_holds is False
    unknown = without_each_arm(evidence, lambda rest: float("nan") if len(rest) == 30 else 2.0)
    assert (unknown.without["perplexity"], unknown.sign_holds) == (None, None)
    assert unknown.reason == "not estimable without perplexity"


def test_an_estimate_of_one_arm_and_of_none():
    evidence, _ = simulate("simpson", 0)
    one = select(evidence, evidence.trials["arm"].to_numpy() == "none")
    found = without_each_arm(one, len)
    assert (found.estimate, found.without, found.sign_holds) == (15, {}, None)
    assert found.reason == "there is one arm only"
    assert without_each_arm(select(one, np.zeros(15, dtype=bool)), lambda rest: None).reason == "no trials"


def test_selected_evidence_is_consistent():
    evidence, _ = simulate("causal", 0)
    which = evidence.trials["replicate"].to_numpy() == 1
    part = select(evidence, which)
    assert len(part) == 20
    assert part.trials.index.tolist() == list(range(20))
    assert part.gap() == pytest.approx(evidence.gap()[which])
    assert part.series(part.signals[0]) == pytest.approx(evidence.series(part.signals[0])[which])
    assert part.targets["conv1"] == pytest.approx(evidence.targets["conv1"][which])
