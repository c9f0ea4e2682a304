"""Perplexity sparsity against hand-computed vectors, closed forms and the identities it must obey.

Numbers were computed independently from the formula in float64 and are given to six decimals, or come from numpy and
scipy here.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from sparsestudy.measures import _activity, perplexity
from sparsestudy.measures.perplexity import Axis, Perplexity, perplexity_sparsity

AXES = get_args(Axis)
FORMS = ("ratio", "affine")
RTOL = {torch.float64: 1e-6, torch.float32: 1e-4}
PRINTED = 5e-7
"""Half a unit of the last decimal the reference prints."""

# a, perplexity, S_ratio, S_affine
VECTORS = [
    ([0, 0, 5, 0], 1.0, 0.75, 1.0),
    ([2, 2, 2, 2], 4.0, 0.0, 0.0),
    ([1, 1, 0, 0], 2.0, 0.5, 2 / 3),
    ([1, 2, 3, 4], 3.596115, 0.100971, 0.134628),
]
FIXTURE = [[[[1, 0], [0, 1]], [[2, 2], [0, 0]]], [[[0, 0], [0, 4]], [[1, 1], [1, 1]]]]
# axis -> perplexity of every vector, its length, mean S_ratio, mean S_affine
FIXTURE_VALUES = {
    "layer": ([3.779763, 4], 8, 0.513765, 0.587160),
    "inter": ([1.889882, 2], 2, 0.027530, 0.055059),
    "intra": ([[2, 2], [1, 4]], 4, 0.4375, 0.583333),
    "image": ([1.889882, 2], 2, 0.027530, 0.055059),
}
positive_vectors = arrays(
    np.float64, st.integers(2, 40), elements=st.just(0.0) | st.floats(1e-3, 1e3), fill=st.nothing()
).filter(np.any)


def sparsity(a: Any, axis: Axis = "layer", form: Any = "ratio") -> Tensor:
    return perplexity_sparsity(a, axis, form)[0]


def relu_noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()


# Test vectors


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize(("a", "perplexity", "ratio", "affine"), VECTORS)
def test_vectors(a: list[float], perplexity: float, ratio: float, affine: float, dtype: torch.dtype) -> None:
    vector = torch.tensor([a], dtype=dtype)
    approx = {"rel": RTOL[dtype], "abs": PRINTED}
    assert sparsity(vector).item() == pytest.approx(ratio, **approx)
    assert sparsity(vector, form="affine").item() == pytest.approx(affine, **approx)
    assert 4 * (1 - sparsity(vector).item()) == pytest.approx(perplexity, **approx)


@given(positive_vectors)
@settings(deadline=None, max_examples=50)
def test_equals_entropy_of_scipy(a: NDArray[np.float64]) -> None:
    n = len(a)
    perplexity = math.exp(stats.entropy(a))  # normalises a, natural logarithm
    vector = torch.from_numpy(a)[None]
    assert sparsity(vector).item() == pytest.approx(1 - perplexity / n, abs=1e-9)
    assert sparsity(vector, form="affine").item() == pytest.approx(1 - (perplexity - 1) / (n - 1), abs=1e-9)


def test_magnitudes_are_taken() -> None:
    # |a| = [1, 2, 3, 4]
    assert sparsity(torch.tensor([[-1.0, 2.0, -3.0, 4.0]])).item() == pytest.approx(0.100971, rel=1e-4)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("axis", AXES)
def test_tensor_fixture(axis: Axis, dtype: torch.dtype) -> None:
    perplexity, n, ratio, affine = FIXTURE_VALUES[axis]
    activations = torch.tensor(FIXTURE, dtype=dtype)
    found, live = perplexity_sparsity(activations, axis)
    expected = torch.tensor(perplexity, dtype=dtype)
    assert live.all()
    torch.testing.assert_close(n * (1 - found), expected, rtol=RTOL[dtype], atol=PRINTED)
    assert found.mean().item() == pytest.approx(ratio, rel=RTOL[dtype], abs=PRINTED)
    assert sparsity(activations, axis, "affine").mean().item() == pytest.approx(affine, rel=RTOL[dtype], abs=PRINTED)


def test_gradient_at_1_2_3_4() -> None:
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(sparsity(a).sum(), a)
    expected = torch.tensor([[-0.0919465, -0.0296305, 0.0068220, 0.0326854]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=5e-8)  # printed to seven decimals


def test_limit_for_rectified_normal_noise() -> None:
    """PP/n of ReLU(N(0, 1)) tends to exp(gamma / 2) / (2 sqrt(pi)).

    Tolerance: 64 vectors of 65536. Their sparsities scatter with a standard deviation of some 0.002 (checked below), so
    that the standard error of the mean is 0.00025; four of them are 0.001. The bias, of order 1/n, is far below that.
    """
    found = sparsity(relu_noise(64, 2**16))
    expected = 1 - math.exp(np.euler_gamma / 2) / (2 * math.sqrt(math.pi))
    assert expected == pytest.approx(0.623525, abs=PRINTED)
    assert found.std().item() < 0.003
    assert found.mean().item() == pytest.approx(expected, abs=0.001)


# Identities


@given(positive_vectors)
@settings(deadline=None)
def test_lies_between_zero_fraction_and_treves_rolls(a: NDArray[np.float64]) -> None:
    treves_rolls = 1 - np.mean(a) ** 2 / np.mean(a**2)
    found = sparsity(torch.from_numpy(a)[None]).item()
    assert np.mean(a == 0) - 1e-9 <= found <= treves_rolls + 1e-9


@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(2, 5), st.integers(2, 4))
@settings(deadline=None, max_examples=50)
def test_entropy_chain_rule(seed: int, batch: int, channels: int, side: int) -> None:
    """log PP_layer = log PP_inter + sum over c of w_c log PP_intra,c, with w_c the share of mass of filter c."""
    # One unit of each map is on for sure: a silent map has no entropy of its own, and weight 0.
    maps = relu_noise(batch, channels, side, side, seed=seed)
    maps[..., 0, 0] += 0.1
    mass = maps.sum((2, 3))
    weights = mass / mass.sum(1, keepdim=True)
    log_pp = {axis: ((1 - sparsity(maps, axis)) * n).log() for axis, n in zip(AXES, _lengths(maps), strict=True)}
    expected = log_pp["inter"] + (weights * log_pp["intra"]).sum(1)
    torch.testing.assert_close(log_pp["layer"], expected, rtol=0, atol=1e-9)


def _lengths(maps: Tensor) -> tuple[int, int, int, int]:
    batch, channels, height, width = maps.shape
    return channels * height * width, channels, height * width, batch


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("form", FORMS)
@given(scale=st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=20)
def test_scale_does_not_matter(axis: Axis, form: str, scale: float) -> None:
    maps = relu_noise(3, 4, 3, 3)
    torch.testing.assert_close(sparsity(scale * maps, axis, form), sparsity(maps, axis, form), rtol=1e-9, atol=1e-9)


def test_cloning_units_does_not_matter() -> None:
    # Hurley-Rickard D4, which the ratio form has and the affine form lacks (arXiv 0811.4706).
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(sparsity(a.repeat(1, 3)), sparsity(a))
    assert sparsity(a.repeat(1, 3), form="affine") < sparsity(a, form="affine") - 0.01


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("form", FORMS)
def test_moving_along_the_activations_changes_nothing(axis: Axis, form: str) -> None:
    """sum of a dS/da = 0, for every vector on its own: the gradient of a scale-invariant function."""
    maps = (relu_noise(3, 4, 3, 3) + 0.1).requires_grad_()
    for value in sparsity(maps, axis, form).flatten():
        (gradient,) = torch.autograd.grad(value, maps, retain_graph=True)
        assert gradient.abs().max() > 1e-6
        assert (maps * gradient).sum().item() == pytest.approx(0, abs=1e-12)


# Gradients


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck_away_from_zeros(axis: Axis, form: str) -> None:
    maps = relu_noise(3, 2, 2, 2) + 0.1
    maps[0] *= -1  # magnitudes have a gradient on this side too
    assert torch.autograd.gradcheck(lambda a: sparsity(a, axis, form), maps.requires_grad_())


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_finite_at_zeros(axis: Axis, form: str) -> None:
    maps = relu_noise(4, 3, 3, 3).float()
    maps[1] = 0  # a silent image
    maps[:, 1] = 0  # a dead filter
    maps.requires_grad_()
    (gradient,) = torch.autograd.grad(sparsity(maps, axis, form).sum(), maps)
    assert gradient.isfinite().all()
    assert gradient[1].abs().max() == 0
    assert gradient[:, 1].abs().max() == 0
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e-10, 1e10, 1e30])
def test_value_and_gradient_are_finite_at_extreme_magnitudes(scale: float) -> None:
    a = (torch.tensor([[1.0, 2.0, 3.0, 0.0]]) * scale).requires_grad_()
    value, live = perplexity_sparsity(a)
    (gradient,) = torch.autograd.grad(value.sum(), a)
    assert gradient.isfinite().all()
    # H of [1, 2, 3] / 6 by scipy; a sum of up to 1e-30 counts as silence.
    expected = 1 - math.exp(stats.entropy([1, 2, 3])) / 4 if live else 0.0
    assert live.item() == (scale >= 1e-30)
    assert value.item() == pytest.approx(expected, rel=1e-4)


@pytest.fixture(params=[1, 10**6], ids="parts of {}".format)
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_activity, "_PART", request.param)


@pytest.mark.parametrize("axis", AXES)
def test_second_derivatives(axis: Axis, parts: None) -> None:
    maps = (relu_noise(3, 2, 2, 2) + 0.1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a: sparsity(a, axis), maps)


@pytest.mark.parametrize("axis", AXES)
def test_vmap_over_activations_equals_a_loop(axis: Axis, parts: None) -> None:
    networks = relu_noise(3, 4, 2, 2, 2)

    def gradient(maps: Tensor) -> Tensor:
        maps = maps.detach().requires_grad_()
        return torch.autograd.grad(sparsity(maps, axis).square().sum(), maps)[0]

    found = torch.func.vmap(lambda a: sparsity(a, axis))(networks)
    assert torch.equal(found, torch.stack([sparsity(maps, axis) for maps in networks]))
    gradients = torch.func.vmap(torch.func.grad(lambda a: sparsity(a, axis).square().sum()))(networks)
    expected = torch.stack([gradient(maps) for maps in networks])
    torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-12)
    # One network, several strengths: only what comes back is different for each.
    several = torch.func.vmap(lambda w: torch.func.grad(lambda a: w * sparsity(a, axis).square().sum())(networks[0]))
    strengths = torch.tensor([0.5, 2.0], dtype=torch.float64)
    found = several(strengths)
    torch.testing.assert_close(found, torch.stack([0.5 * expected[0], 2 * expected[0]]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axis", AXES)
def test_value_and_gradient_do_not_depend_on_the_parts(axis: Axis, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (1, 20, 10**6):  # of a tensor of 96 entries
        monkeypatch.setattr(_activity, "_PART", size)
        maps = relu_noise(6, 4, 2, 2).requires_grad_()
        value = sparsity(maps, axis)
        found.append((value, torch.autograd.grad(value.square().sum(), maps)[0]))
    for value, gradient in found[1:]:
        torch.testing.assert_close((value, gradient), found[0], rtol=1e-12, atol=1e-15)


def test_gradient_of_a_penalty_waits_for_the_backward_pass_to_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else those of all layers lie in memory at once.
    order: list[object] = []
    compute = perplexity._gradient
    monkeypatch.setattr(perplexity, "_gradient", lambda v, *rest: (order.append(v.shape[1]), compute(v, *rest))[1])
    widths = (3, 5, 7)
    layers = [nn.Linear(before, after).double() for before, after in itertools.pairwise((2, *widths))]
    activations = [relu_noise(4, 2)]
    for layer in layers:
        layer.weight.register_hook(lambda gradient: order.append("weight"))
        activations.append(torch.sigmoid(layer(activations[-1])))
    (activations[-1].sum() + sum(sparsity(a).mean() for a in activations[1:])).backward()
    assert order == [7, "weight", 5, "weight", 3, "weight"]


def test_half_precision_keeps_its_type() -> None:
    maps = relu_noise(3, 4, 2, 2).bfloat16().requires_grad_()
    value = sparsity(maps)
    (gradient,) = torch.autograd.grad(value.sum(), maps)
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    exact = maps.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(sparsity(exact).sum(), exact)
    torch.testing.assert_close(gradient.double(), expected, rtol=2**-8, atol=0)  # eight bits


def test_gradient_descent_makes_a_layer_dense() -> None:
    """An independent run of the same loop gave S 0.6285 -> 0.3405 (50 steps) -> 0.0084 (200), zeros 0.51 -> 0.005.

    Tolerances: rounding differs between CPUs and grows along 200 steps of learning rate 1, and so it scatters the last
    digits; 0.02 is a tenth of the smallest distance between the stages.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
        inputs = torch.randn(128, 32)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    seen = []
    for _ in range(201):
        activations = net(inputs)
        loss = sparsity(activations).mean()
        seen.append((loss.item(), (activations == 0).double().mean().item()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert seen[0] == pytest.approx((0.6285, 0.51), abs=0.005)
    assert seen[50][0] == pytest.approx(0.3405, abs=0.02)
    assert seen[200] == pytest.approx((0.0084, 0.005), abs=0.02)


# Undefined


def test_silent_vectors_are_undefined_and_zero() -> None:
    value, live = perplexity_sparsity(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    assert live.tolist() == [False, True]
    assert value.tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("axis", "shape"), [("layer", (3, 1)), ("inter", (3, 1, 4, 4)), ("intra", (3, 5)), ("image", (1, 5))]
)
def test_vectors_of_one_entry_are_refused(axis: Axis, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"perplexity along axis '{axis}' needs vectors of at least 2 entries"):
        perplexity_sparsity(torch.ones(shape), axis)


# The statistic


@pytest.mark.parametrize(("axis", "output"), list(zip(AXES, Perplexity.outputs[:4], strict=True)))
def test_activity_equals_function(axis: Axis, output: str) -> None:
    maps = relu_noise(5, 4, 3, 3)
    maps[1] = 0  # a silent image
    maps[:, 2] = 0  # a dead filter
    value, live = perplexity_sparsity(maps, axis)
    statistic = Perplexity()
    found = statistic.compute(statistic.update(maps))
    assert found[output].item() == pytest.approx(value[live].mean().item(), rel=1e-12)
    assert found["perplexity_silent"].item() == pytest.approx(0.2)


def test_activity_of_tensor_fixture() -> None:
    statistic = Perplexity()
    found = statistic.compute(statistic.update(torch.tensor(FIXTURE, dtype=torch.float64)))
    expected = [FIXTURE_VALUES[axis][2] for axis in AXES] + [0.0]
    assert [found[name].item() for name in Perplexity.outputs] == pytest.approx(expected, rel=1e-6, abs=PRINTED)


def test_dense_layer_has_layer_and_image_axes_only() -> None:
    statistic = Perplexity()
    dense = relu_noise(6, 5)
    found = statistic.compute(statistic.update(dense))
    assert set(found) == {"perplexity", "perplexity_image", "perplexity_silent"}
    assert found["perplexity"].item() == pytest.approx(sparsity(dense, "inter").mean().item(), rel=1e-12)


def test_activity_of_silent_layer_is_undefined() -> None:
    statistic = Perplexity()
    found = statistic.compute(statistic.update(torch.zeros(3, 2, 2, 2)))
    assert found.pop("perplexity_silent").item() == 1
    assert [value.isnan().item() for value in found.values()] == [True] * 4
