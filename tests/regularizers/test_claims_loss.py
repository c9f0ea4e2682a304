"""Methods on outputs, features and inputs lower what they penalise, in real training and on images held out.

Each is compared with training without a method from the same seed, and has learnt the images whose labels are right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparsestudy.regularizers.adversarial_training import adversarial_rise
from sparsestudy.regularizers.gradient_penalty import steepest_gradients
from sparsestudy.regularizers.isda import augmentation_term, spread
from sparsestudy.regularizers.loss_gradient import loss_gradient
from sparsestudy.regularizers.perturbation_penalty import largest_rises

from .trained import every_seed, held_out, trained

Method = Mapping[str, Any]
IMAGES = held_out()


def confidence(model: nn.Module) -> float:
    """Mean of the largest probability."""
    with torch.no_grad():
        return model(IMAGES.inputs).softmax(1).amax(1).mean().item()


def augmentation(model: nn.Module) -> float:
    """What ISDA would add, with the covariances of the very features it is measured on, by numpy."""
    with torch.no_grad():
        features = model.features(model.flatten(IMAGES.inputs))
        weight = model.classifier.weight
        of_class = [features[c == IMAGES.labels].numpy() for c in range(len(weight))]
        covariance = torch.from_numpy(np.stack([np.cov(f.T, bias=True) for f in of_class])).float()
        variances = spread(weight, covariance, IMAGES.labels)
        return augmentation_term(model.classifier(features), IMAGES.labels, variances, 0.5).item()


def steepness(model: nn.Module) -> float:
    return steepest_gradients(model, IMAGES.inputs).item()


def loss_steepness(model: nn.Module) -> float:
    return loss_gradient(model, IMAGES.inputs, IMAGES.labels).item()


def loss_steepness_l1(model: nn.Module) -> float:
    return loss_gradient(model, IMAGES.inputs, IMAGES.labels, "l1").item()


def adversarial(model: nn.Module) -> float:
    return adversarial_rise(model, IMAGES.inputs, IMAGES.labels, 0.3).item()


def perturbation(model: nn.Module) -> float:
    return largest_rises(model, IMAGES.inputs[:64], 0.1).item()


def norms(model: nn.Module) -> list[float]:
    """Largest singular value of each weight, by numpy."""
    weights = [p.detach().flatten(1).numpy() for p in model.parameters() if p.dim() >= 2]
    return [np.linalg.svd(weight, compute_uv=False)[0] for weight in weights]


def summed_squared_norms(model: nn.Module) -> float:
    return float(np.square(norms(model)).sum())


CLAIMS: dict[str, tuple[Method, Callable[[nn.Module], float], float]] = {
    "label smoothing": ({"method": "label_smoothing", "strength": 0.1}, confidence, 0.95),
    "ISDA": ({"method": "isda", "strength": 0.5}, augmentation, 0.9),
    "gradient penalty": ({"method": "gradient_penalty", "strength": 0.01}, steepness, 0.25),
    "loss gradient": ({"method": "loss_gradient", "strength": 0.1}, loss_steepness, 0.75),
    "loss gradient, L1": ({"method": "loss_gradient", "strength": 0.1, "form": "l1"}, loss_steepness_l1, 0.75),
    "adversarial training": ({"method": "adversarial_training", "strength": 0.3}, adversarial, 0.75),
    "spectral penalty": ({"method": "spectral_penalty", "strength": 0.01}, summed_squared_norms, 0.9),
}


@every_seed
@pytest.mark.parametrize(("method", "quantity", "factor"), CLAIMS.values(), ids=CLAIMS)
def test_lowers_what_it_penalises(
    method: Method, quantity: Callable[[nn.Module], float], factor: float, seed: int
) -> None:
    (none, _), (regularized, last) = trained(seed=seed), trained(method, seed=seed)
    assert quantity(regularized) < factor * quantity(none)
    assert last.train_accuracy > 0.75


@every_seed
def test_perturbation_penalty_lowers_the_rises_it_penalises(seed: int) -> None:
    """In fewer epochs than the others: its steps are the dearest of all."""
    none, _ = trained(seed=seed, epochs=6)
    penalized, last = trained({"method": "perturbation_penalty", "strength": 0.1}, seed=seed, epochs=6)
    assert perturbation(penalized) < 0.6 * perturbation(none)
    assert last.train_accuracy > 0.6


@every_seed
@pytest.mark.parametrize(("tau", "kappa", "epochs"), [(1.0, 2.0, 20), (1.0, 50.0, 5)])
def test_spectral_projection_bounds_every_singular_value(tau: float, kappa: float, epochs: int, seed: int) -> None:
    """By tau (1 + 4 exp(-epoch / kappa)), which some weights would exceed; the last epoch has number epochs - 1."""
    method = {"method": "spectral_projection", "tau": tau, "kappa": kappa}
    bound = tau * (1 + 4 * np.exp(-(epochs - 1) / kappa))
    projected, last = trained(method, seed=seed, epochs=epochs)
    assert max(norms(projected)) <= bound * (1 + 1e-4)
    if kappa == 2:
        assert min(norms(trained(seed=seed)[0])) > bound
        assert min(norms(projected)) > 0.99 * bound
        assert last.train_accuracy > 0.75


@every_seed
def test_a_hybrid_bounds_from_below_and_from_above(seed: int) -> None:
    gradient, spectral = {"method": "gradient_penalty", "strength": 0.01}, {"method": "spectral_projection", "tau": 1.5}
    (none, _), (hybrid, last) = trained(seed=seed), trained(gradient, spectral, seed=seed)
    assert max(norms(hybrid)) <= 1.5 * (1 + 4 * np.exp(-19 / 2)) * (1 + 1e-4)
    assert steepness(hybrid) < 0.2 * steepness(none)
    assert last.train_accuracy > 0.75


@every_seed
def test_adversarial_training_is_what_protects_from_the_attack(seed: int) -> None:
    """The accuracy on attacked images rises, not only the measure that is trained on."""

    def attacked(model: nn.Module) -> float:
        inputs = IMAGES.inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(inputs), IMAGES.labels, reduction="sum"), inputs)
        moved = IMAGES.inputs + 0.5 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        return (model(moved).argmax(1) == IMAGES.labels).float().mean().item()

    (none, _), (trained_against, _) = trained(seed=seed), trained(CLAIMS["adversarial training"][0], seed=seed)
    assert attacked(trained_against) > attacked(none) + 0.05
