import itertools

import numpy as np
import pytest
from scipy import stats

from sparsestudy.analysis.agreement import agreement
from sparsestudy.analysis.corrections import select
from sparsestudy.analysis.granulated import granulated
from sparsestudy.analysis.information import information
from sparsestudy.analysis.pairs import Axis, axes_of, between_levels, part_of, single_axis, within_levels
from sparsestudy.analysis.robust import hoeffding_weight, sign_errors
from tests.analysis.test_ranks import study
from tests.analysis.worlds import simulate


def grid(levels=(3, 4, 2), noise=0.5):
    """A full grid of three axes, every point twice: codes ``[n, 3]``, signal, gap, configurations."""
    codes = np.repeat(np.array(list(itertools.product(*map(range, levels)))), 2, axis=0)
    random = np.random.default_rng(0)
    signal = codes @ [1.0, -0.5, 0.3] + noise * random.standard_normal(len(codes))
    gap = signal + codes @ [0.0, 2.0, -1.0] + noise * random.standard_normal(len(codes))
    return codes, signal, gap, np.repeat(np.arange(len(codes) // 2), 2)


def test_axes_are_levels_or_three_quantile_bins():
    evidence = study(
        np.zeros(12),
        np.zeros(12),
        np.arange(12),
        arms=["a", "b"] * 6,
        rate=np.arange(12.0),
        batch=[16, 32, 64] * 4,
        constant=[1.0] * 12,
        strength=[0.1 * i if i % 2 else np.nan for i in range(12)],
        name=["x", None] * 6,
    )
    axes = {axis.name: axis for axis in axes_of(evidence)}
    assert list(axes) == ["arm", "rate", "batch", "strength"]
    assert axes["rate"].binned
    assert np.bincount(axes["rate"].codes).tolist() == [4, 4, 4]
    assert axes["rate"].levels == ("below 3.67", "3.67 to 7.33", "from 7.33")
    assert axes["batch"].levels == ("16", "32", "64")
    assert not axes["batch"].binned
    assert (axes["strength"].codes[::2] == -1).all()


def test_pairs_differ_on_one_axis_that_both_have():
    a = Axis(name="a", codes=np.array([0, 0, 1, 1]), levels=("x", "y"), binned=False)
    b = Axis(name="b", codes=np.array([0, 1, 1, -1]), levels=("p", "q"), binned=False)
    pairs = single_axis([a, b], np.arange(4))
    found = {(int(i), int(j)): pairs.names[g] for i, j, g in zip(pairs.first, pairs.second, pairs.group, strict=True)}
    assert found == {(0, 1): "b", (0, 3): "a", (1, 2): "a", (1, 3): "a"}
    changes = between_levels(pairs, [a, b])
    assert changes.names == ("a: x / y", "b: p / q")
    assert within_levels(a, np.array([0, 1, 2, 2])).first.tolist() == [0]


def test_a_large_study_is_represented_by_whole_configurations():
    configurations = np.repeat(np.arange(500), 3)
    taken = part_of(configurations, 800)
    assert 797 < taken.sum() <= 800
    assert set(np.bincount(configurations[taken])) <= {0, 3}
    assert part_of(configurations[:800], 800).all()


def test_agreement_leaves_out_configurations_and_counts_pairs_once():
    codes, signal, gap, configurations = grid()
    axes = [Axis(name=str(i), codes=codes[:, i], levels=("0", "1", "2", "3"), binned=False) for i in range(3)]
    pairs = single_axis(axes, configurations)
    found = agreement(pairs, signal, gap, configurations)
    for c in range(configurations.max() + 1):
        stay = configurations != c
        rest = agreement(
            single_axis(
                [Axis(name=a.name, codes=a.codes[stay], levels=a.levels, binned=False) for a in axes],
                configurations[stay],
            ),
            signal[stay],
            gap[stay],
            configurations[stay],
        )
        assert found.left_out[c] == pytest.approx(rest.value)
    for g in range(3):
        of = pairs.group == g
        e = np.sign(signal[pairs.first] - signal[pairs.second]) * np.sign(gap[pairs.first] - gap[pairs.second])
        shares = {}
        for i, j, v in zip(pairs.first[of], pairs.second[of], e[of], strict=True):
            ends = (configurations[i], configurations[j])
            shares[ends] = shares.get(ends, 0) + (v - found.value[g]) / of.sum()
        assert found.twice[g] == pytest.approx(sum(v**2 for v in shares.values()))


# Granulated Kendall and information, against the formulas taken literally.


def test_granulated_kendall_on_a_grid_is_the_mean_of_taus_of_groups():
    codes, signal, gap, configurations = grid()
    first = np.arange(0, len(gap), 2)  # one trial a point, as in the paper
    evidence = study(
        gap[first], signal[first], configurations[first], x=codes[first, 0], y=codes[first, 1], z=codes[first, 2]
    )
    row = granulated(evidence)[0]
    psi = {}
    for axis, name in enumerate("xyz"):
        others = [i for i in range(3) if i != axis]
        groups = {}
        for i in first:
            groups.setdefault(tuple(codes[i, others]), []).append(i)
        # Without ties scipy's tau is the mean of sign · sign over pairs.
        psi[name] = np.mean([stats.kendalltau(signal[g], gap[g]).statistic for g in groups.values()])
    found = {axis.axis: axis for axis in row.axes}
    assert found["x"].kendall.estimate == pytest.approx(psi["x"])
    assert found["y"].kendall.estimate == pytest.approx(psi["y"])
    assert (found["z"].pairs, found["z"].kendall.estimate) == (12, None)
    assert row.kendall.estimate == pytest.approx((psi["x"] + psi["y"]) / 2)
    assert row.pairs == 24 + 36


def literal_information(signal, gap, columns):
    """I(V_signal, V_gap | U) / H(V_gap | U) over ordered pairs, U the levels of both, by counting."""
    cells = {}
    for i, j in itertools.permutations(range(len(gap)), 2):
        table = cells.setdefault((*columns[i], *columns[j]), np.zeros((2, 2)))
        table[int(gap[i] > gap[j]), int(signal[i] > signal[j])] += 1
    total = sum(table.sum() for table in cells.values())
    mutual = uncertain = 0.0
    for table in cells.values():
        p = table / table.sum()
        rows, columns_ = p.sum(axis=1), p.sum(axis=0)
        for a, b in itertools.product(range(2), range(2)):
            if p[a, b] > 0:
                mutual += table.sum() / total * p[a, b] * np.log2(p[a, b] / rows[a] / columns_[b])
        uncertain -= table.sum() / total * sum(r * np.log2(r) for r in rows if r > 0)
    return mutual / uncertain


def test_information_is_the_least_over_sets_of_two_axes():
    codes, signal, gap, configurations = grid()
    axes = [Axis(name=str(i), codes=codes[:, i], levels=("0", "1", "2", "3"), binned=False) for i in range(3)]
    sets = [(), *itertools.combinations(range(3), 1), *itertools.combinations(range(3), 2)]
    values = {s: literal_information(signal, gap, codes[:, list(s)]) for s in sets}
    least = min(values, key=values.__getitem__)
    found = information(signal, gap, axes, configurations)
    assert found.value == pytest.approx(values[least], rel=1e-5)
    assert found.given == tuple(str(i) for i in least)


def test_information_of_a_perfect_and_of_no_relation():
    _, _, gap, configurations = grid()
    assert information(gap, gap, [], configurations).value == pytest.approx(1)
    noise = np.random.default_rng(1).standard_normal(len(gap))
    told = information(noise, gap, [], configurations)
    assert told.value < told.chance < 0.5
    assert information(gap + noise, gap, [], configurations).value > told.chance


# Sign-errors.


def test_sign_errors_by_hand():
    # Two arms of six configurations without replicates: one ranked right, the other with its two largest exchanged.
    gap = np.tile(np.arange(6.0), 2)
    values = np.concatenate([np.arange(6.0), [0, 1, 2, 3, 5, 4]])
    row = sign_errors(study(gap, values, np.arange(12), arms=["a"] * 6 + ["b"] * 6))[0]
    assert row.environments["arm: a"] == 0
    assert row.environments["arm: b"] == pytest.approx(1 / 15)
    # Between the arms 28 of 36 pairs are right; six have equal gaps and two equal signals, which count one half.
    assert row.environments["arm: a / b"] == pytest.approx(4 / 36)
    assert (row.worst, row.worst_environment) == (row.environments["arm: a / b"], "arm: a / b")
    assert row.mean.estimate == pytest.approx((0 + 1 / 15 + 4 / 36) / 3)
    assert row.weights == "none"


def test_weights_follow_the_noise_of_gaps():
    # (1 - 2 exp(-2 n (d / 2)²))² with n = 100: d = 0.4 gives 1 - 2 exp(-8), d = 0.2 gives (1 - 2 exp(-2))² = 0.5320.
    assert hoeffding_weight(np.array([0.0, 0.2, 0.4]), 100) == pytest.approx([0, 0.0320, 0.49866], abs=1e-4)
    evidence, _ = simulate("causal", 0)
    assert sign_errors(evidence)[0].weights == "replicates"
    assert sign_errors(evidence, of="accuracy", examples=500)[0].weights == "hoeffding"
    filtered, plain = sign_errors(evidence)[0], sign_errors(without_replicates(evidence))[0]
    assert filtered.mean.estimate < plain.mean.estimate  # pairs that noise may have ordered are no evidence


def without_replicates(evidence):
    return select(evidence, evidence.trials["replicate"].to_numpy() == 0)
