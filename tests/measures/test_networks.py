"""Measures of whole networks against paths counted one by one, numpy and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsestudy import measures
from sparsestudy.measures.path_norm import has_paths, path_norm
from sparsestudy.measures.sharpness import rise


def dense(*widths: int, bias: bool = True, seed: int = 0) -> nn.Sequential:
    """A rectified network with weights and biases of all signs, in float64."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for width, after in itertools.pairwise(widths):
        layers += [nn.Linear(width, after, bias=bias, dtype=torch.float64), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def value(name: str, model: nn.Module, inputs: Tensor, labels: Tensor | None = None, seed: int = 0) -> dict[str, float]:
    labels = torch.zeros(len(inputs), dtype=torch.int64) if labels is None else labels
    return {key: v.item() for key, v in measures.get(name).compute(model, inputs, labels, seed).items()}


def norm(model: nn.Module, *shape: int) -> float:
    return path_norm(model, torch.zeros(1, *shape, dtype=torch.float64)).item()


def normal(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Path norm


def test_path_norm_of_two_layers_by_hand() -> None:
    """Inputs 2, hidden 2, output 1.

    Hidden 1 has weights 1, -2 and bias 3, hidden 2 has 0, 1 and no bias; the output 2, -1 and bias 1. The squares of
    the paths: (1 + 4 + 9) * 4 + (0 + 1 + 0) * 1 + 1 = 58.
    """
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).requires_grad_(False)
    model[0].weight[:], model[0].bias[:] = torch.tensor([[1.0, -2.0], [0.0, 1.0]]), torch.tensor([3.0, 0.0])
    model[2].weight[:], model[2].bias[:] = torch.tensor([[2.0, -1.0]]), 1.0
    assert value("path_norm", model, torch.zeros(4, 2)) == pytest.approx({"path_norm": math.sqrt(58)})


def test_path_norm_equals_the_paths_counted_one_by_one() -> None:
    model = dense(3, 4, 2, 3)
    # Rows: units of a layer; columns: units of the one before, then the bias.
    layers = [np.concatenate([m.weight.numpy(), m.bias.numpy()[:, None]], 1) for m in model if isinstance(m, nn.Linear)]
    total = 0.0
    for start in range(len(layers)):
        widths = [matrix.shape[0] for matrix in layers[start:]]
        sources = range(layers[0].shape[1]) if start == 0 else [layers[start].shape[1] - 1]  # later ones: biases alone
        for source, *path in itertools.product(sources, *(range(width) for width in widths)):
            product = 1.0
            for matrix, (before, unit) in zip(layers[start:], itertools.pairwise([source, *path]), strict=True):
                product *= matrix[unit, before]
            total += product**2
    assert norm(model, 3) == pytest.approx(math.sqrt(total), rel=1e-12)


def test_path_norm_of_a_convolution_is_that_of_its_matrix() -> None:
    convolution = nn.Conv2d(2, 3, 2, padding=1, dtype=torch.float64).requires_grad_(False)
    images = torch.eye(2 * 3 * 3, dtype=torch.float64).reshape(-1, 2, 3, 3)
    matrix = (convolution(images) - convolution(torch.zeros_like(images))).flatten(1).T
    linear = nn.Linear(*matrix.T.shape, dtype=torch.float64).requires_grad_(False)
    linear.weight[:], linear.bias[:] = matrix, convolution(torch.zeros_like(images[:1])).flatten()
    last = dense(len(matrix), 4)
    convolved = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), last)
    assert norm(convolved, 2, 3, 3) == pytest.approx(norm(nn.Sequential(linear, nn.ReLU(), last), 18), rel=1e-12)


def with_batch_norm(norm: nn.Module) -> nn.Sequential:
    first, relu, last = dense(3, 4, 2)
    first.bias[:] = 0
    norm.double().requires_grad_(False)
    if norm.affine:
        norm.weight[:], norm.bias[:] = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([0.1, -0.2, 0.3, 0.0])
    norm.running_mean[:], norm.running_var[:] = torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([4.0, 1.0, 0.3, 2.0])
    return nn.Sequential(first, norm, relu, last)


@pytest.mark.parametrize("affine", [True, False])
def test_path_norm_of_batch_norm_is_that_of_the_layer_it_folds_into(affine: bool) -> None:
    model = with_batch_norm(nn.BatchNorm1d(4, affine=affine)).eval()
    folded = nn.Sequential(nn.Linear(3, 4, dtype=torch.float64), nn.ReLU(), model[3]).requires_grad_(False)
    origin = torch.zeros(1, 3, dtype=torch.float64)
    offset = model[:2](origin)[0]
    folded[0].weight[:] = (model[:2](torch.eye(3, dtype=torch.float64)) - offset).T
    folded[0].bias[:] = offset
    torch.testing.assert_close(folded(normal(5, 3)), model(normal(5, 3)), rtol=1e-9, atol=1e-9)
    assert norm(model.train(), 3) == pytest.approx(norm(folded, 3), rel=1e-12)


def test_rescaling_units_changes_neither_path_norm_nor_sharpness() -> None:
    model, inputs, labels = dense(3, 8, 4), normal(20, 3), torch.arange(20) % 4
    before = value("path_norm", model, inputs), value("sharpness", model, inputs, labels)
    factors = 2.0 ** torch.arange(-3, 5, dtype=torch.float64)
    model[0].weight.mul_(factors[:, None])
    model[0].bias.mul_(factors)
    model[2].weight.div_(factors)
    assert value("path_norm", model, inputs) == pytest.approx(before[0], rel=1e-12)
    assert value("sharpness", model, inputs, labels) == pytest.approx(before[1], rel=1e-9)


@pytest.mark.parametrize(
    ("module", "defined"),
    [
        (nn.ReLU(), True),
        (nn.LeakyReLU(), True),
        (nn.PReLU(), True),
        (nn.MaxPool2d(2), True),
        (nn.BatchNorm2d(3), True),
        (nn.Dropout(), True),
        (nn.GELU(), False),
        (nn.ReLU6(), False),
        (nn.Tanh(), False),
        (nn.LayerNorm(3), False),
        (nn.GroupNorm(1, 3), False),
        (nn.InstanceNorm2d(3), False),
        (nn.BatchNorm2d(3, track_running_stats=False), False),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), False),
    ],
)
def test_networks_with_paths(module: nn.Module, defined: bool) -> None:
    assert has_paths(nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sequential(module))) == defined


def test_path_norm_is_undefined_where_outputs_are_not_in_proportion() -> None:
    assert math.isnan(value("path_norm", nn.Sequential(nn.Linear(2, 2), nn.GELU()), torch.zeros(2, 2))["path_norm"])


# Spectral product


def spectral(matrix: Tensor) -> float:
    return float(np.linalg.svd(matrix.flatten(1).numpy(), compute_uv=False)[0])


def test_spectral_product_and_margin_equal_numpy() -> None:
    model, inputs = dense(3, 8, 6, 4), normal(25, 3)
    labels = model(inputs).argmax(1)  # all answers are right, so all margins positive
    logits = np.sort(model(inputs).numpy(), 1)
    lowest = np.quantile(logits[:, -1] - logits[:, -2], 0.1, method="inverted_cdf")
    product = sum(math.log(spectral(m.weight)) for m in model if isinstance(m, nn.Linear))
    found = value("spectral_product", model, inputs, labels)
    assert found["spectral_product"] == pytest.approx(product, rel=1e-12)
    assert found["spectral_product_margin"] == pytest.approx(product - math.log(lowest), rel=1e-12)


def test_spectral_product_over_the_margin_needs_nine_right_answers_in_ten() -> None:
    model, inputs = dense(3, 8, 4), normal(20, 3)
    labels = model(inputs).argmax(1)
    for wrong, undefined in ((1, False), (2, True)):  # the second smallest of twenty decides
        spoilt = torch.cat([(labels[:wrong] + 1) % 4, labels[wrong:]])
        found = value("spectral_product", model, inputs, spoilt)
        assert math.isfinite(found["spectral_product"])
        assert math.isnan(found["spectral_product_margin"]) == undefined


def test_spectral_product_counts_batch_norms() -> None:
    model = with_batch_norm(nn.BatchNorm1d(4))
    product = value("spectral_product", model, normal(5, 3))["spectral_product"]
    first, norm, _, last = model
    factors = norm.weight.numpy() / np.sqrt(norm.running_var.numpy() + 1e-5)
    expected = math.log(spectral(first.weight)) + math.log(np.abs(factors).max()) + math.log(spectral(last.weight))
    assert product == pytest.approx(expected, rel=1e-12)
    # A layer in front of a batch norm may have any scale (the norm's epsilon aside).
    norm.eps = 0.0
    before = value("spectral_product", model, normal(5, 3))
    first.weight.mul_(4)
    norm.running_mean.mul_(4)
    norm.running_var.mul_(16)
    assert value("spectral_product", model, normal(5, 3)) == pytest.approx(before, rel=1e-9, nan_ok=True)


def test_spectral_product_of_a_zero_weight_is_undefined() -> None:
    model = dense(3, 8, 4)
    model[2].weight.zero_()
    found = value("spectral_product", model, normal(5, 3))
    assert all(math.isnan(number) for number in found.values())


# Sharpness


def quadratic(curvature: Tensor, slope: Tensor, point: Tensor, draws: int = 50) -> float:
    def loss(weights: Mapping[str, Tensor]) -> Tensor:
        moved = weights["w"] - point
        return 0.5 * moved @ curvature @ moved + slope @ moved + 3

    return rise(loss, {"w": point}, seed=0, draws=draws).item()


def test_sharpness_of_a_quadratic_in_closed_form() -> None:
    """Rise of 0.5 d^T H d + g^T d + c with d_i = 0.1 w_i e_i: on average 0.005 sum_i H_ii w_i**2.

    The standard error over 8,000 draws is 1.1 % of it.
    """
    curvature = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 4.0]], dtype=torch.float64)
    point = torch.tensor([3.0, -5.0, 1.0], dtype=torch.float64)
    expected = 0.005 * (curvature.diagonal() * point.square()).sum().item()
    flat = torch.zeros(3, dtype=torch.float64)
    assert quadratic(curvature, flat, point, 8000) == pytest.approx(expected, rel=0.05)
    found = quadratic(curvature, flat, point)
    # The slope cancels within each draw and its opposite.
    assert quadratic(curvature, torch.full_like(flat, 100.0), point) == pytest.approx(found, rel=1e-9)
    assert quadratic(-curvature, flat, point) == pytest.approx(-found, rel=1e-9)
    assert quadratic(torch.zeros_like(curvature), flat, point) == 0


def test_sharpness_of_a_network_is_that_of_its_loss() -> None:
    """A weight w times an input of one against a logit of 0: loss log(1 + exp(-w)), second derivative s (1 - s)."""
    model = nn.Linear(1, 2, bias=False, dtype=torch.float64).requires_grad_(False)
    model.weight[:] = torch.tensor([[0.5], [0.0]])
    inputs, labels = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    found = np.mean([value("sharpness", model, inputs, labels, seed)["sharpness"] for seed in range(1000)])
    sigmoid = 1 / (1 + math.exp(-0.5))
    # The next term of the expansion is smaller by a factor of 1e-3; the standard error of 4,000 draws is 2.2 %.
    assert found == pytest.approx(0.005 * sigmoid * (1 - sigmoid) * 0.25, rel=0.08)


def test_sharpness_repeats_for_a_seed_and_differs_between_seeds() -> None:
    model, inputs = dense(3, 8, 4), normal(20, 3)
    found = [value("sharpness", model, inputs, seed=seed)["sharpness"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


# Gradient disparity


def test_gradient_disparity_of_two_examples_by_hand() -> None:
    """Weights of zero answer one half: an input x of class 0 has the gradient -x / 2 in its row and x / 2 in the other.

    Inputs 1 and 3 are a batch each: the rows differ by 1, the distance is the root of 2.
    """
    model = nn.Linear(1, 2, bias=False, dtype=torch.float64).requires_grad_(False)
    model.weight[:] = 0
    inputs = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    assert value("gradient_disparity", model, inputs) == pytest.approx({"gradient_disparity": math.sqrt(2)})


def test_gradient_disparity_is_that_of_gradients_taken_one_by_one() -> None:
    """Four examples are four batches, whatever their order; the gradients come from torch's own backward pass."""
    model, inputs, labels = dense(3, 5, 2), normal(4, 3), torch.tensor([0, 1, 1, 0])
    gradients = []
    for example, label in zip(inputs.split(1), labels.split(1), strict=True):
        copy = copy_of(model)
        nn.functional.cross_entropy(copy(example), label).backward()
        gradients.append(np.concatenate([p.grad.numpy().ravel() for p in copy.parameters()]))
    expected = np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(gradients, 2)])
    assert value("gradient_disparity", model, inputs, labels)["gradient_disparity"] == pytest.approx(expected, rel=1e-9)


def copy_of(model: nn.Module) -> nn.Module:
    found = dense(3, 5, 2)
    found.load_state_dict(model.state_dict())
    return found.requires_grad_(True)


def test_gradient_disparity_of_equal_batches_is_zero_and_grows_with_wrong_labels() -> None:
    model = dense(3, 8, 4)
    inputs = normal(1, 3).expand(40, 3)
    same = torch.zeros(40, dtype=torch.int64)
    assert value("gradient_disparity", model, inputs, same)["gradient_disparity"] < 1e-12
    assert value("gradient_disparity", model, inputs, torch.arange(40) % 4)["gradient_disparity"] > 1e-3


def test_gradient_disparity_repeats_for_a_seed_and_is_undefined_for_one_example() -> None:
    model, inputs, labels = dense(3, 8, 4), normal(23, 3), torch.arange(23) % 4
    found = [value("gradient_disparity", model, inputs, labels, seed)["gradient_disparity"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert math.isnan(value("gradient_disparity", model, inputs[:1], labels[:1])["gradient_disparity"])


def test_gradient_disparity_leaves_no_gradient_behind() -> None:
    model = dense(3, 8, 4).requires_grad_(True)
    value("gradient_disparity", model, normal(10, 3))
    assert all(parameter.grad is None for parameter in model.parameters())
