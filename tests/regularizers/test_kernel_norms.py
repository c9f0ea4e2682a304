"""The penalties on inputs of Bietti et al. 2019 against vectors, closed forms and numpy.

The vectors were computed from the authors' formulas in float64, for f(x) = tanh(W x).
"""

from __future__ import annotations

import copy
import functools
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy import regularizers
from sparsestudy.regularizers import Step, trained_weights
from sparsestudy.regularizers._inputs import ascend
from sparsestudy.regularizers.adversarial_training import adversarial_rise
from sparsestudy.regularizers.gradient_penalty import steepest_gradients
from sparsestudy.regularizers.loss_gradient import loss_gradient
from sparsestudy.regularizers.perturbation_penalty import largest_rises
from sparsestudy.study import DataSpec, MeasuresSpec, ModelSpec, SplitSpec, TrainingSpec
from sparsestudy.training import models
from sparsestudy.training.loop import fit
from sparsestudy.training.probe import Probe, find_layers
from sparsestudy.trial import TrialConfig

W = torch.tensor([[1, -2, 0.5, 0], [0, 1, 1, -1]], dtype=torch.float64)
X = torch.tensor([(0.1, 0.2, 0.3, 0.4), (-0.5, 0.1, 0.2, 0), (0.3, -0.3, 0.1, 0.2)], dtype=torch.float64)
Y = torch.tensor([0, 1, 0])
ON_INPUTS = ["gradient_penalty", "loss_gradient", "adversarial_training", "perturbation_penalty"]


def f(x: Tensor) -> Tensor:
    return torch.tanh(x @ W.T)


def linear(x: Tensor) -> Tensor:
    return x @ W.T


# Vectors and closed forms


def test_vectors() -> None:
    found = [0.1 * value.item() for value in (steepest_gradients(f, X), loss_gradient(f, X, Y))]
    assert found == pytest.approx([0.796052, 0.145209], rel=4e-6)
    assert 0.1 * loss_gradient(f, X, Y, "l1").item() == pytest.approx(0.177587, rel=4e-6)


def test_ascent_ends_on_the_ball() -> None:
    moved = ascend(lambda x: cross_entropy(f(x), Y, reduction="sum"), X, 0.5)
    assert moved.norm(dim=1).tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert not moved.requires_grad


def test_ascent_leaves_an_example_without_gradient_where_it_is() -> None:
    moved = ascend(lambda x: x[0].sum(), torch.zeros(2, 4), 1.0)
    assert moved.tolist() == [pytest.approx([0.5] * 4), [0] * 4]


def test_ascent_stays_inside_the_ball_where_the_top_is_inside() -> None:
    """Steps of 0.3 to and fro over a top 0.1 away: the fifth ends where the first did."""
    top = torch.tensor([0.1, 0.0])
    moved = ascend(lambda x: -(x - top).square().sum(), torch.zeros(1, 2), 1.0)
    assert moved[0].tolist() == pytest.approx([0.3, 0.0], abs=1e-6)


def test_gradient_penalty_of_a_squashed_linear_function() -> None:
    """The gradient of tanh(w x) is (1 - tanh(w x)**2) w."""
    outputs = np.tanh(X.numpy() @ W.numpy().T)
    squares = (1 - outputs**2) ** 2 * (W.numpy() ** 2).sum(1)
    assert steepest_gradients(f, X).item() == pytest.approx(squares.max(0).sum(), rel=1e-12)


def test_loss_gradient_of_a_linear_classifier() -> None:
    """The gradient of its cross-entropy is W^T (p - y)."""
    logits = X.numpy() @ W.numpy().T
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradients = (probabilities - np.eye(2)[Y]) @ W.numpy()
    assert loss_gradient(linear, X, Y).item() == pytest.approx((gradients**2).sum() / 3, rel=1e-12)
    assert loss_gradient(linear, X, Y, "l1").item() == pytest.approx(np.abs(gradients).sum() / 3, rel=1e-12)


@pytest.mark.parametrize("radius", [0.05, 0.5, 2.0])
def test_perturbation_penalty_of_a_squashed_linear_function(radius: float) -> None:
    """The best perturbation points along w, whatever x is: tanh(w x + radius |w|) - tanh(w x)."""
    inside = X.numpy() @ W.numpy().T
    rises = np.tanh(inside + radius * np.linalg.norm(W.numpy(), axis=1)) - np.tanh(inside)
    assert largest_rises(f, X, radius).item() == pytest.approx((rises.max(0) ** 2).sum(), rel=1e-9)


@pytest.mark.parametrize("radius", [0.05, 0.5, 2.0])
def test_adversarial_training_of_a_linear_classifier(radius: float) -> None:
    """Of two classes: the margin falls by radius |w_1 - w_0|."""
    logits = X.numpy() @ W.numpy().T
    margins = np.where(Y == 1, 1, -1) * (logits[:, 1] - logits[:, 0])
    worst = margins - radius * np.linalg.norm((W[1] - W[0]).numpy())
    expected = (np.logaddexp(0, -worst) - np.logaddexp(0, -margins)).mean()
    assert adversarial_rise(linear, X, Y, radius).item() == pytest.approx(expected, rel=1e-9)


def test_attack_is_stronger_than_noise_of_its_length() -> None:
    network = models.build(ModelSpec(name="convnet", arguments={"channels": [4], "dense": 8}), (1, 8, 8), 10).eval()
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(32, 1, 8, 8, generator=generator), torch.arange(32) % 10
    noise = torch.randn(20, 32, 1, 8, 8, generator=generator)
    noise = 0.5 * noise / noise.flatten(2).norm(dim=2)[..., None, None, None]
    with torch.no_grad():
        clean = cross_entropy(network(images), labels)
        rises = torch.stack([cross_entropy(network(images + n), labels) - clean for n in noise])
    assert adversarial_rise(network, images, labels, 0.5) > 2 * rises.max()


# In networks


def network_step(name: str, arguments: dict[str, Any], classes: int = 10) -> Step:
    torch.manual_seed(0)
    network = models.build(ModelSpec(name=name, arguments=arguments), (3, 8, 8), classes)
    inputs, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 1, classes - 1])
    with torch.no_grad():
        network(inputs)  # moves the running statistics away from their start
    return Step(inputs=inputs, labels=labels, network=network, weights=trained_weights(network))


NETWORKS = {
    "convnet": functools.partial(network_step, "convnet", {"channels": [4, 4], "dense": 8, "batch_norm": True}),
    "resnet18": functools.partial(network_step, "torchvision:resnet18", {}, 2),
}


@pytest.mark.parametrize(
    ("network", "name"),
    [*(("convnet", name) for name in ON_INPUTS), ("resnet18", "gradient_penalty"), ("resnet18", "loss_gradient")],
)
def test_every_weight_gets_a_finite_gradient(network: str, name: str) -> None:
    step = NETWORKS[network]()
    penalty = regularizers.get(name, strength=0.2).penalty(step)
    assert penalty is not None
    gradients = torch.autograd.grad(penalty, list(step.weights.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", ON_INPUTS)
def test_further_passes_leave_no_trace(name: str) -> None:
    """Neither in batch statistics nor in modes, nor in the random numbers of dropout, nor in the activations kept."""
    step = NETWORKS["convnet"]()
    network, inputs = step.network, step.inputs
    assert network is not None
    assert inputs is not None
    network.features.conv1.eval()  # a part frozen by its user stays frozen
    dropout = regularizers.get("dropout", strength=0.5)
    with Probe(network) as probe:
        dropout.install(network, find_layers(network, inputs))
        network(inputs)
        kept = probe.activations
        before = copy.deepcopy(network.state_dict()), torch.get_rng_state(), [m.training for m in network.modules()]
        grads = [p.grad for p in network.parameters()]
        regularizers.get(name, strength=0.2).penalty(step)
        after = network.state_dict(), torch.get_rng_state(), [m.training for m in network.modules()]
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]
    assert grads == [p.grad for p in network.parameters()] == [None] * len(grads)
    assert len(kept) == 3
    assert all(activations.requires_grad for activations in kept.values())


@pytest.mark.parametrize("name", ON_INPUTS)
def test_taken_in_evaluation_mode(name: str) -> None:
    """Batch norm uses its running statistics: the penalty is that of the evaluated network."""
    step = NETWORKS["convnet"]()
    assert step.network is not None
    method = regularizers.get(name, strength=0.2)
    training = method.penalty(step)
    step.network.eval()
    evaluated = method.penalty(step)
    assert training is not None
    assert torch.equal(training, evaluated)


@pytest.mark.parametrize("name", ON_INPUTS)
def test_missing_parts_of_a_step(name: str) -> None:
    method = regularizers.get(name)
    with pytest.raises(ValueError, match="needs inputs and network: Step"):
        method.penalty(Step(inputs=X, labels=Y))
    if name in ("loss_gradient", "adversarial_training"):
        with pytest.raises(ValueError, match=r"needs labels: Step\(..., labels=labels\)"):
            method.penalty(Step(inputs=X, network=nn.Linear(4, 2).double()))


@pytest.mark.parametrize("name", [*ON_INPUTS, "spectral_penalty"])
def test_zero_strength_costs_nothing(name: str) -> None:
    assert regularizers.get(name, strength=0).penalty(Step()) is None


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_all_together_in_any_precision(precision: Literal["bfloat16", "float64"]) -> None:
    config = TrialConfig(
        study="precision",
        number=0,
        arm="all",
        parameters={},
        methods=(
            *({"method": name, "strength": 0.01} for name in ON_INPUTS),
            {"method": "isda", "strength": 0.1},
            {"method": "spectral_penalty", "strength": 0.001},
            {"method": "spectral_projection", "tau": 2.0},
            {"method": "dropout", "strength": 0.1},
        ),
        data=DataSpec(train_size=64, splits=SplitSpec(search=50, selection=20, test=20)),
        model=ModelSpec(name="convnet", arguments={"channels": [4], "dense": 8, "batch_norm": True}),
        training=TrainingSpec(epochs=2, batch_size=32, precision=precision),
        measures=MeasuresSpec(every=100),
        seed=0,
    )
    network, trajectory = fit(config)
    assert trajectory[-1].penalty > 0
    assert trajectory[-1].train_loss < trajectory[0].train_loss
    # Two epochs of two steps: further passes are not counted.
    assert network.features.conv1[1].num_batches_tracked.item() == 4
