"""Compressive hyperspherical energy against vectors and against independent formulas in numpy and autograd.

The vectors were made with the authors' published formulas (Lin et al. 2020) in float64; close pairs amplify the last
digit, so that single precision agrees to a hundredth only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsestudy.regularizers import Step, get
from sparsestudy.regularizers.comhe import adversarial_loss, angle_loss, projected_energy, stepped
from tests.contracts.inputs import AWKWARD

B = torch.tensor([[1.0, 2.0, 2.0], [2.0, -1.0, 0.5], [-1.0, 0.5, 3.0], [0.2, 0.1, -0.4]], dtype=torch.float64)
P1 = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 1.0]], dtype=torch.float64)
P2 = torch.tensor([[0.0, 1.0, 1.0], [1.0, -1.0, 0.5]], dtype=torch.float64)
FORMS = ["random", "angle_preserving", "adversarial", "group"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference_energy(filters: Tensor, half_space: bool = True) -> float:
    """Mean of ``1 / (2 - 2 c)`` over pairs, written out pair by pair."""
    rows = filters.detach().double().numpy()
    rows = np.concatenate([rows, -rows]) if half_space else rows
    norms = np.sqrt((rows**2).sum(1) + 1e-4)
    pairs = itertools.combinations(range(len(rows)), 2)
    return float(np.mean([1 / (2 - 2 * rows[i] @ rows[j] / (norms[i] * norms[j])) for i, j in pairs]))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 1e-2)], ids=str)
def test_vectors_of_projected_energies(dtype: torch.dtype, tolerance: float) -> None:
    filters, projections = B.to(dtype), torch.stack([P1, P2]).to(dtype)
    found = [projected_energy(filters, projection[None]).item() for projection in projections]
    assert found == pytest.approx([4.013581, 4957.48], rel=tolerance)
    assert projected_energy(filters, projections).item() == pytest.approx((4.013581 + 4957.48) / 2, rel=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 5e-5), (torch.float32, 1e-2)], ids=str)
def test_vectors_of_the_angle_preserving_step(dtype: torch.dtype, tolerance: float) -> None:
    filters, projection = B.to(dtype), P1.to(dtype)
    moved = stepped(projection, filters, 0.1, "angle_preserving")
    slope = [-0.381365, -0.072258, -0.333987, -0.917117, 0.377094, -0.247933]
    assert angle_loss(projection, filters).item() == pytest.approx(1.898276, rel=1e-6)
    assert ((projection - moved) / 0.1).flatten().tolist() == pytest.approx(slope, rel=tolerance)
    assert projected_energy(filters, moved[None]).item() == pytest.approx(193.11, rel=tolerance)


@pytest.mark.parametrize(("p", "energy"), [(10, 0.570), (20, 0.528), (40, 0.5126), (80, 0.5054)])
def test_random_projections_of_gaussian_filters(p: int, energy: float) -> None:
    """64 filters of 576 entries; values to the digits given, from the formula in numpy."""
    filters, projections = normal(64, 576), normal(20, p, 576, seed=1)
    assert projected_energy(filters, projections).item() == pytest.approx(energy, rel=4e-3)


@pytest.mark.parametrize("loss", [angle_loss, adversarial_loss])
def test_losses_against_numpy(loss: object) -> None:
    filters, projection = normal(5, 7), normal(3, 7, seed=1)

    def cosines(rows: np.ndarray) -> np.ndarray:
        units = rows / np.sqrt((rows**2).sum(1, keepdims=True) + 1e-4)
        return units @ units.T

    shadow = (filters @ projection.T).numpy()
    if loss is angle_loss:
        assert angle_loss(projection, filters).item() == pytest.approx(
            np.linalg.norm(cosines(shadow) - cosines(filters.numpy())), rel=1e-10
        )
    else:
        expected = -reference_energy(torch.from_numpy(shadow), half_space=False)
        assert adversarial_loss(projection, filters).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", ["angle_preserving", "adversarial"])
def test_gradients_reach_the_weights_through_the_step_of_the_projection(form: str) -> None:
    filters, projection = normal(4, 5).requires_grad_(), normal(3, 5, seed=1)
    assert torch.autograd.gradcheck(lambda w: projected_energy(w, stepped(projection, w, 0.1, form)[None]), filters)
    through = torch.autograd.grad(projected_energy(filters, stepped(projection, filters, 0.1, form)[None]), filters)[0]
    fixed = stepped(projection, filters, 0.1, form).detach()
    assert not torch.allclose(through, torch.autograd.grad(projected_energy(filters, fixed[None]), filters)[0])


def learned_by_hand(filters: Tensor, projection: Tensor, form: str, rate: float, iterations: int) -> Tensor:
    """Plain stochastic gradient descent of torch on the loss and the decay of the authors' code."""
    variable = projection.clone().requires_grad_()
    optimizer = torch.optim.SGD([variable], lr=rate)
    for _ in range(iterations):
        shadow = filters @ variable.T
        units = [rows / (rows.square().sum(1, keepdim=True) + 1e-4).sqrt() for rows in (shadow, filters)]
        cosines, wanted = (unit @ unit.T for unit in units)
        if form == "angle_preserving":
            loss = torch.linalg.norm(cosines - wanted)
        else:
            i, j = torch.triu_indices(len(filters), len(filters), 1)
            loss = -(1 / (2 - 2 * cosines[i, j])).mean()
        optimizer.zero_grad()
        (loss + 1e-3 * 5e-4 / 2 * variable.square().sum()).backward()
        optimizer.step()
    return variable.detach()


@pytest.mark.parametrize(("form", "default"), [("angle_preserving", 1), ("adversarial", 10)])
@pytest.mark.parametrize("iterations", [None, 3])
def test_learned_projections_are_kept_and_go_on(form: str, default: int, iterations: int | None) -> None:
    weights = {"hidden.weight": normal(6, 20), "output.weight": normal(3, 6)}
    method = get("comhe", form=form, dimensions=4, iterations=iterations)
    step = Step(weights=weights, rate=0.05, seed=3)
    start = torch.randn(1, 4, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)[0]
    for round_ in (1, 2):
        before = dict(step.memory)
        kept = {name: tensor.clone() for name, tensor in before.items()}
        method.penalty(step)
        assert list(step.memory) == ["hidden.weight"]
        expected = learned_by_hand(weights["hidden.weight"], start, form, 0.05, round_ * (iterations or default))
        torch.testing.assert_close(step.memory["hidden.weight"][0], expected, rtol=1e-9, atol=1e-12)
        assert all(torch.equal(before[name], kept[name]) for name in before)  # replaced, not changed in place
        assert not step.memory["hidden.weight"].requires_grad


@pytest.mark.parametrize(
    ("form", "loss", "rate"), [("angle_preserving", angle_loss, 0.1), ("adversarial", adversarial_loss, 5.0)]
)
def test_learning_does_what_it_is_for(form: str, loss: Callable[[Tensor, Tensor], Tensor], rate: float) -> None:
    filters, projection = normal(16, 60), normal(10, 60, seed=1)
    learned = projection
    for _ in range(50):
        learned = stepped(learned, filters, rate, form)
    before = loss(projection, filters).item()
    assert loss(learned, filters).item() < before - 0.05 * abs(before)


def test_which_weights_are_projected() -> None:
    """Stem, few entries and output are not; the draws are those of the step's generator, in the order of weights."""
    weights = {
        "stem.weight": normal(8, 3, 5, 5),
        "few.weight": normal(8, 10, 2, 2, seed=1),
        "one.weight": normal(8, 60, seed=2),
        "two.weight": normal(6, 50, seed=3),
        "output.weight": normal(5, 70, seed=4),
    }
    step = Step(weights=weights, seed=11)
    generator = torch.Generator().manual_seed(11)
    expected = reference_energy(weights["stem.weight"].flatten(1)) + reference_energy(weights["few.weight"].flatten(1))
    expected += 10 * reference_energy(weights["output.weight"], half_space=False)
    for name in ("one.weight", "two.weight"):
        draws = torch.randn(20, 40, weights[name].shape[1], generator=generator, dtype=torch.float64)
        expected += float(np.mean([reference_energy(weights[name] @ draw.T) for draw in draws]))
    penalty = get("comhe", strength=0.5).penalty(step)
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.5 * expected, rel=1e-10)


def test_groups_share_no_coordinate() -> None:
    """Four coordinates in two groups of two: one of three partitions, whatever the draw."""
    filters = normal(5, 4)
    partitions = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    energies = [np.mean([reference_energy(filters[:, list(group)]) for group in groups]) for groups in partitions]
    method = get("comhe", strength=1.0, form="group", dimensions=2)
    found = [method.penalty(Step(weights={"w": filters}, seed=seed)).item() for seed in range(30)]
    places = [int(np.argmin([abs(energy - value) for energy in energies])) for value in found]
    assert found == pytest.approx([energies[place] for place in places], rel=1e-10)
    assert set(places) == {0, 1, 2}


@pytest.mark.parametrize("form", FORMS)
def test_random_numbers_are_those_of_the_step(form: str) -> None:
    weights = {"hidden.weight": normal(6, 50)}
    method = get("comhe", form=form, dimensions=10)
    state = torch.get_rng_state()
    first, again, other = (method.penalty(Step(weights=weights, rate=0.1, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.item() == again.item() != other.item()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", AWKWARD)
def test_finite_where_few_dimensions_make_filters_collinear(form: str, name: str) -> None:
    method = get("comhe", form=form, dimensions=1, projections=3)
    weight = AWKWARD[name].flatten(1).float().requires_grad_()
    step = Step(weights={"w": weight}, rate=0.1)
    for _ in range(3):
        penalty = method.penalty(step)
        assert penalty is not None
        assert penalty.isfinite()
        if penalty.requires_grad:
            assert torch.autograd.grad(penalty, weight)[0].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_vmap_over_strengths_of_projected_filters_equals_a_loop(form: str) -> None:
    weights = {"w": normal(5, 30)}

    def penalty(strength: object) -> Tensor:
        found = get("comhe", strength=strength, form=form, dimensions=10).penalty(Step(weights=weights, rate=0.1))
        assert found is not None
        return found

    strengths = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    expected = torch.stack([penalty(strength) for strength in strengths.tolist()])
    torch.testing.assert_close(torch.func.vmap(penalty, randomness="same")(strengths), expected, rtol=1e-12, atol=0)
    assert expected[1] > 0


def test_half_precision_is_widened() -> None:
    weight = normal(6, 50).to(torch.bfloat16)
    narrow = get("comhe").penalty(Step(weights={"w": weight}, seed=1))
    wide = get("comhe").penalty(Step(weights={"w": weight.float()}, seed=1))
    assert narrow is not None
    assert wide is not None
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, wide)
