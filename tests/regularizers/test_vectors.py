"""Test vectors of the penalties, from runs of the authors' published code or from their formulas in float64.

Where both are known they agree to the digits given. Sources: Liu et al. 2018 (hyperspherical energy), Khan and Stavness
2019 (Sparseout), Cogswell et al. 2015 (DeCov), Bansal et al. 2018 (soft orthogonality), Wang et al. 2020 (minimal
angle), Yang et al. 2020 (Hoyer), El Helou et al. 2020 (AL2), Keras (activity regularisers).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from sparsestudy import measures, regularizers
from sparsestudy.measures.hyperspherical_energy import hyperspherical_energy
from sparsestudy.regularizers import Step
from sparsestudy.regularizers.basis_collapse import collapse
from sparsestudy.regularizers.decov import decov
from sparsestudy.regularizers.hoyer import hoyer_ratio
from sparsestudy.regularizers.l2_activity import l2_activity
from sparsestudy.regularizers.mma import minimal_angle
from sparsestudy.regularizers.soft_orthogonality import soft_orthogonality
from sparsestudy.regularizers.sparseout import sparseout
from sparsestudy.regularizers.spatial_dropout import drop_maps

A = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
I3 = torch.eye(3, dtype=torch.float64)
W = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5]], dtype=torch.float64)
RTOL = {torch.float64: 2e-6, torch.float32: 1e-4}
"""Relative to the six digits the vectors are given with."""

# filters, half space: powers 0, 1, 2 of the chord, then of the angle
ENERGIES = [
    (A, False, (-0.583664, 0.784050, 0.675896, 0.713961, 0.221456, 0.568295)),
    (A, True, (-0.636080, 0.793235, 0.761957, 0.636330, 0.219254, 0.644954)),
    (I3, False, (-0.693147, 0.707107, 0.5, 0.692947, 0.199960, 0.399840)),
    (I3, True, (-0.831767, 0.665688, 0.450002, 0.555240, 0.180056, 0.340049)),
]


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize(("filters", "half", "expected"), ENERGIES)
def test_hyperspherical_energy(filters: Tensor, half: bool, expected: tuple[float, ...], dtype: torch.dtype) -> None:
    found = [
        hyperspherical_energy(filters.to(dtype), power, angular=angular, half_space=half).item()
        for angular in (False, True)
        for power in (0, 1, 2)
    ]
    assert found == pytest.approx(expected, rel=RTOL[dtype], abs=2e-6)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_energy_of_orthonormal_filters_in_closed_form(n: int) -> None:
    rows = torch.eye(n, dtype=torch.float64)
    found = hyperspherical_energy(rows, 2, half_space=True, epsilon=0).item()
    assert found == pytest.approx((n - 0.75) / (2 * n - 1), rel=1e-12)


def test_energy_is_finite_for_large_and_duplicate_filters() -> None:
    """Where the published code is NaN or negative infinity in single precision."""
    rows = 80 * torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    rows[1] = rows[0]
    for power in (0, 1, 2):
        for angular in (False, True):
            filters = rows.clone().requires_grad_()
            energy = hyperspherical_energy(filters, power, angular=angular)
            energy.backward()
            assert energy.isfinite()
            assert filters.grad is not None
            assert filters.grad.isfinite().all()


def test_the_output_layer_uses_the_full_space_and_weighs_ten_times() -> None:
    method = regularizers.get("mhe", strength=0.5)
    step = Step(weights={"hidden.weight": A, "output.weight": I3})
    expected = 0.5 * (hyperspherical_energy(A, 2) + 10 * hyperspherical_energy(I3, 2, half_space=False))
    penalty = method.penalty(step)
    assert penalty is not None
    assert penalty.item() == pytest.approx(expected.item())


def test_a_layer_of_one_filter_has_no_energy() -> None:
    penalty = regularizers.get("mhe").penalty(Step(weights={"a.weight": A[:1]}))
    assert penalty is not None
    assert penalty.item() == 0


def test_minimal_angle() -> None:
    assert [minimal_angle(A).item(), minimal_angle(I3).item()] == pytest.approx([1.141796, 1.570796], rel=1e-6)


def test_soft_orthogonality() -> None:
    assert soft_orthogonality(W, "so").item() == pytest.approx(0.625)
    assert soft_orthogonality(W, "dso").item() == pytest.approx(2.25)
    assert soft_orthogonality(W, "off_diagonal").item() == pytest.approx(0.5)
    assert soft_orthogonality(W.T.contiguous(), "so").item() == pytest.approx(0.625)


def test_decov_equals_its_vector_and_torch_cov() -> None:
    rows = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0], [2.0, 2.0, 2.0], [0.0, 4.0, 1.0]], dtype=torch.float64)
    assert decov(rows).item() == pytest.approx(2.3125)
    covariance = torch.cov(rows.T, correction=0)
    assert decov(rows).item() == pytest.approx(0.5 * (covariance.square().sum() - covariance.diag().square().sum()))


def test_hoyer() -> None:
    vectors = ([0.0, 0.0, 5.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0])
    found = [hoyer_ratio(torch.tensor(v, dtype=torch.float64)).item() for v in vectors]
    assert found == pytest.approx([1, 2, 3.333333, 4], rel=1e-6)


def test_l2_activity_follows_the_keras_example() -> None:
    """ones(5, 5) * 2 through a dense layer of ones is 10 everywhere: 0.01 * sum of squares / batch = 5 * 100 * 0.01."""
    assert 0.01 * l2_activity(torch.full((5, 5), 10.0)).item() == pytest.approx(5.0)


X = torch.tensor([-2, -0.5, 0, 0.25, 1, 4], dtype=torch.float64)
KEEP = torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=torch.float64)
SPARSEOUT = {
    1.0: ((-3.414214, 0.207107, 0, -0.25, 2, 2), (1.707107, -0.414214, 1000001, -1, 2, 0.5)),
    1.5: ((-3.681793, 0.094604, 0, -0.103553, 2, 1.171573), (1.840896, -0.189207, 1001, -0.414214, 2, 0.292893)),
    2.0: ((-4, 0, 0, 0, 2, 0), (2, 0, 2, 0, 2, 0)),
}


@pytest.mark.parametrize("q", SPARSEOUT)
def test_sparseout_and_its_reference_gradient(q: float) -> None:
    x = X.clone().requires_grad_()
    y = sparseout(x, KEEP, 0.5, q)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == pytest.approx(SPARSEOUT[q][0], rel=1e-6, abs=1e-6)
    assert gradient.tolist() == pytest.approx(SPARSEOUT[q][1], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("q", [1.0, 1.5, 3.0])
def test_the_exact_gradient_is_the_derivative(q: float) -> None:
    x = torch.tensor([-2, -0.5, 0.25, 1, 4], dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([1.0, 0, 0, 1, 0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: sparseout(v, keep, 0.5, q, "exact"), x)


def test_sparseout_with_power_two_is_dropout_under_one_mask() -> None:
    x = torch.randn(40, 30, dtype=torch.float64)
    torch.manual_seed(4)
    dropped = dropout(torch.ones_like(x), 0.3)
    torch.testing.assert_close(sparseout(x, (dropped > 0).double(), 0.3, 2.0), x * dropped, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("q", "variance"), [(1, 0.857), (1.5, 1.212), (2, 1.714), (3, 3.429)])
def test_sparseout_keeps_the_mean_and_has_the_variance_of_the_formula(q: float, variance: float) -> None:
    """At x = 2, p = 0.3: variance 2**q * 0.3 / 0.7. 400,000 draws: standard errors below 0.5 %."""
    x = torch.full((400_000,), 2.0, dtype=torch.float64)
    keep = (torch.rand(len(x), generator=torch.Generator().manual_seed(0)) >= 0.3).double()
    y = sparseout(x, keep, 0.3, q)
    assert y.mean().item() == pytest.approx(2, rel=0.01)
    assert y.var().item() == pytest.approx(variance, rel=0.02)


def test_spatial_dropout_drops_whole_maps() -> None:
    torch.manual_seed(0)
    maps = drop_maps(torch.ones(200, 50, 3, 3), 0.2)
    assert ((maps.flatten(2) == maps.flatten(2)[:, :, :1]).all()).item()
    # 10,000 maps: the standard error of the share of dropped ones is 0.004.
    assert (maps[:, :, 0, 0] == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert maps.max().item() == pytest.approx(1.25)


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.4])
def test_label_smoothing_equals_torch(strength: float) -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    penalty = regularizers.get("label_smoothing", strength=strength).penalty(Step(logits=logits, labels=labels))
    assert penalty is not None
    expected = cross_entropy(logits, labels, label_smoothing=strength)
    assert (cross_entropy(logits, labels) + penalty).item() == pytest.approx(expected.item(), rel=1e-12)


PHI = torch.tensor([[1, 2, 0], [2, 4.1, 1], [3, 5.9, 0], [4, 8, 1]], dtype=torch.float64)


def test_basis_collapse_of_a_small_matrix() -> None:
    """Cosines .99991779, .77459667, .78229125 (float64, uncentred): one merged pair."""
    statistic = measures.get("basis_collapse")
    found = {name: value.item() for name, value in statistic.compute(statistic.update(PHI)).items()}
    assert found["basis_collapse"] == pytest.approx(0.85226857, rel=1e-7)
    assert found["basis_merged"] == pytest.approx(1 / 3)
    assert collapse(PHI).item() == pytest.approx(0.73727173, rel=1e-7)


def test_basis_rank_of_orthogonal_and_of_equal_units() -> None:
    statistic = measures.get("basis_collapse")
    apart = statistic.compute(statistic.update(torch.eye(4, dtype=torch.float64)))
    assert apart["basis_rank"].item() == pytest.approx(4)
    assert apart["basis_condition"].item() == pytest.approx(0, abs=1e-9)
    with_dead = torch.cat([torch.eye(4, dtype=torch.float64), torch.zeros(4, 3)], dim=1)
    assert statistic.compute(statistic.update(with_dead))["basis_rank"].item() == pytest.approx(4)
    same = torch.rand(6, 1, dtype=torch.float64).expand(6, 3)
    assert statistic.compute(statistic.update(same))["basis_rank"].item() == pytest.approx(1)


def test_log_det_is_zero_for_orthogonal_units_and_grows_towards_collapse() -> None:
    assert collapse(torch.eye(3, dtype=torch.float64), "log_det").item() == pytest.approx(0, abs=1e-5)
    near = torch.tensor([[1.0, 1.0], [1.0, 1.1]], dtype=torch.float64)
    nearer = torch.tensor([[1.0, 1.0], [1.0, 1.01]], dtype=torch.float64)
    assert collapse(nearer, "log_det") > collapse(near, "log_det") > 1


def test_al2_at_epoch_ten() -> None:
    h = torch.tensor([[1.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    penalty = regularizers.get("al2").penalty(Step(activations={"first": 9 * h, "last": h}, epoch=10.7))
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.0907810, rel=1e-6)


@pytest.mark.parametrize("name", ["mhe", "mma", "soft_orthogonality", "hoyer", "transformed_l1"])
def test_weights_are_chosen_by_the_names_of_their_modules(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    weights = {key: value for key, value in model.named_parameters() if value.dim() > 1}
    assert list(weights) == ["0.weight", "2.weight"]
    penalty = regularizers.get(name, strength=1.0, layers=["0"]).penalty(Step(weights=weights))
    assert penalty is not None
    found = torch.autograd.grad(penalty, list(weights.values()), allow_unused=True)
    assert found[0] is not None
    assert found[0].abs().sum() > 0
    assert found[1] is None
    with pytest.raises(KeyError, match=r"matches none of the weights: 0\.weight, 2\.weight"):
        regularizers.get(name, layers=["dense*"]).penalty(Step(weights=weights))
