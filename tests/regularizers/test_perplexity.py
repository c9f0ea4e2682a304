"""The targeted perplexity penalty against numbers worked out by hand from its formula.

Two layers of two images each: by the formula, S of [1, 1, 0, 0] is 0.5, of [0, 0, 5, 0] 0.75 and of
[2, 2, 2, 2] 0.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsestudy.errors import SpecError
from sparsestudy.regularizers import Step, get
from sparsestudy.regularizers.perplexity import mean_sparsity

A = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0]])  # mean S = 0.625
B = torch.tensor([[2.0, 2.0, 2.0, 2.0], [3.0, 0.0, 3.0, 0.0]])  # mean S = 0.25
LAYERS = {"features.conv1": A, "features.conv2": B}
MAPS = torch.tensor(
    [[[[1.0, 0.0], [0.0, 1.0]], [[2.0, 2.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]]]
)


def penalty(epoch: float = 0.0, seen: dict[str, torch.Tensor] | None = None, **parameters: Any) -> float:
    found = get("perplexity", **parameters).penalty(Step(activations=seen or LAYERS, epoch=epoch))
    assert found is not None
    return found.item()


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"strength": 2.0}, 2 * (0.625 + 0.25)),
        ({"strength": -2.0}, -2 * (0.625 + 0.25)),
        ({"strength": 2.0, "layers": ["*.conv1"]}, 2 * 0.625),
        # S_affine of the rows: 2/3 and 1; 0 and 2/3.
        ({"strength": 1.0, "normalise": "affine"}, (2 / 3 + 1) / 2 + (2 / 3) / 2),
        # One strength per layer; the exact name wins over the pattern, wherever it stands.
        ({"strength": {"features.*": 1.0, "features.conv2": 10.0}}, 0.625 + 10 * 0.25),
        ({"strength": {"features.conv2": 10.0, "features.*": 1.0}}, 0.625 + 10 * 0.25),
        ({"strength": {"features.conv2": 10.0}}, 10 * 0.25),
        # Set points: denser than the target is free ...
        ({"strength": 2.0, "targets": {"*": 0.3}}, 2 * (0.625 - 0.3) ** 2),
        ({"strength": 2.0, "targets": {"*": 0.625}}, 0.0),
        # ... and for negative strengths sparser than the target is free.
        ({"strength": -2.0, "targets": {"*": 0.3}}, 2 * (0.3 - 0.25) ** 2),
        ({"strength": -2.0, "targets": {"*": 0.7}}, 2 * (0.7 - 0.625) ** 2 + 2 * (0.7 - 0.25) ** 2),
        # Only layers with a target are touched.
        ({"strength": 2.0, "targets": {"*.conv1": 0.1}}, 2 * (0.625 - 0.1) ** 2),
        ({"strength": 2.0, "targets": {"*": 0.0, "features.conv1": 0.6}}, 2 * 0.025**2 + 2 * 0.25**2),
        (
            {"strength": {"*.conv1": 3.0, "*.conv2": -3.0}, "targets": {"*": 0.5}},
            3 * (0.625 - 0.5) ** 2 + 3 * (0.5 - 0.25) ** 2,
        ),
    ],
)
def test_penalty(parameters: dict[str, Any], expected: float) -> None:
    assert penalty(**parameters) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("axis", "ratio"), [("layer", 0.513765), ("inter", 0.027530), ("intra", 0.4375), ("image", 0.027530)]
)
def test_axes(axis: str, ratio: float) -> None:
    # Computed independently in float64, to six decimals.
    assert penalty(seen={"conv": MAPS}, strength=1.0, axis=axis) == pytest.approx(ratio, rel=1e-4, abs=5e-7)


@pytest.mark.parametrize(("epoch", "share"), [(0.0, 0.0), (1.0, 0.25), (2.5, 0.625), (4.0, 1.0), (40.0, 1.0)])
def test_warm_up_is_linear(epoch: float, share: float) -> None:
    full = 2 * (0.625 + 0.25)
    assert penalty(epoch, strength=2.0, warmup_epochs=4) == pytest.approx(share * full, rel=1e-5)
    assert penalty(epoch, strength=2.0) == pytest.approx(full, rel=1e-5)


def test_silent_images_are_left_out_of_the_mean() -> None:
    silent = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert mean_sparsity(silent).item() == pytest.approx(0.5)
    assert mean_sparsity(torch.zeros(2, 4)).item() == 0


def test_layer_that_meets_its_target_is_left_alone() -> None:
    dense = (B + 0.5).requires_grad_()
    found = get("perplexity", strength=5.0, targets={"*": 0.6}).penalty(Step(activations={"conv": dense}))
    assert found is not None
    (gradient,) = torch.autograd.grad(found, dense)
    assert torch.equal(gradient, torch.zeros_like(dense))


@pytest.mark.parametrize(("strength", "direction"), [(1.0, -1), (-1.0, 1)])
def test_sign_of_strength_sets_the_direction(strength: float, direction: int) -> None:
    weights = torch.tensor([[0.5, 1.0, 2.0, 4.0]], requires_grad=True)
    before = mean_sparsity(weights).item()
    found = get("perplexity", strength=strength).penalty(Step(activations={"conv": weights}))
    assert found is not None
    (gradient,) = torch.autograd.grad(found, weights)
    after = mean_sparsity((weights - 0.1 * gradient).detach()).item()
    assert direction * (after - before) > 1e-4


def test_layers_that_match_nothing_are_an_error() -> None:
    with pytest.raises(KeyError, match=r"Perplexity matches none of the layers: features\.conv1, features\.conv2"):
        penalty(strength=1.0, targets={"dense*": 0.5})


def test_every_wrong_target_is_reported() -> None:
    with pytest.raises(SpecError) as error:
        get("perplexity", targets={"conv1": 1.0, "conv2": 0.5, "conv3": -0.1, "conv4": "low"})
    assert {problem.path: problem.message for problem in error.value.problems} == {
        "targets.conv1": "a sparsity target lies in [0, 1), got 1",
        "targets.conv3": "a sparsity target lies in [0, 1), got -0.1",
        "targets.conv4": "needs a number, got 'low'",
    }


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("axis", "layers", "got \"layers\"; allowed: layer, inter, intra, image; did you mean 'layer'?"),
        ("normalise", "softmax", 'got "softmax"; allowed: ratio, affine'),
        ("warmup_epochs", -1, "needs a number >= 0, got -1"),
        ("warmup_epochs", float("inf"), "needs a finite number, got .inf"),
    ],
)
def test_wrong_options(parameter: str, value: object, message: str) -> None:
    with pytest.raises(SpecError) as error:
        get("perplexity", **{parameter: value})
    assert [str(problem) for problem in error.value.problems] == [f"{parameter}: {message}"]
