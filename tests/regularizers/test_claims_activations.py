"""Methods on activations do to activations what they claim, in real training and on images held out.

Each is compared with training without a method from the same seed. Where a claim needs the network to have learnt
something, accuracy on the training images, a fifth of which are labelled wrongly, is checked as well.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout2d

from sparsestudy import measures
from sparsestudy.study import ModelSpec

from .trained import CONVNET, MLP, TANH, activations, every_seed, held_out, trained

LAST = "features.dense2"


def sparsity(model: nn.Module, layer: str) -> float:
    """Perplexity sparsity as recorded in studies."""
    statistic = measures.get("perplexity")
    return statistic.compute(statistic.update(activations(model)[layer]))["perplexity"].item()


def covariance_between_units(responses: Tensor) -> float:
    covariance = torch.cov(responses.T, correction=0)
    return (covariance - covariance.diag().diag()).square().sum().item()


@every_seed
@pytest.mark.parametrize(("method", "power", "factor"), [("l1_activity", 1, 0.9), ("l2_activity", 2, 0.7)])
def test_activity_penalties_lower_activity(method: str, power: int, factor: float, seed: int) -> None:
    none, _ = trained(seed=seed)
    penalized, last = trained({"method": method, "strength": 1e-3}, seed=seed)
    before, after = activations(none), activations(penalized)
    assert all(after[layer].pow(power).mean() < factor * before[layer].pow(power).mean() for layer in before)
    assert last.train_accuracy > 0.85


@every_seed
def test_decov_lowers_the_covariances_between_units(seed: int) -> None:
    none, _ = trained(seed=seed)
    penalized, last = trained({"method": "decov", "strength": 0.01}, seed=seed)
    before, after = activations(none), activations(penalized)
    assert all(covariance_between_units(after[x]) < 0.2 * covariance_between_units(before[x]) for x in before)
    assert last.train_accuracy > 0.85


# Without units that can die, for the second form: it leaves dead units out, and with ReLU it kills some.
@every_seed
@pytest.mark.parametrize(("form", "strength", "model"), [("correlation", 1.0, MLP), ("log_det", 0.1, TANH)])
def test_basis_collapse_spreads_the_units_of_its_layer(form: str, strength: float, model: ModelSpec, seed: int) -> None:
    method = {"method": "basis_collapse", "strength": strength, "form": form, "layers": [LAST]}
    statistic = measures.get("basis_collapse")
    (none, _), (penalized, last) = trained(seed=seed, model=model), trained(method, seed=seed, model=model)
    before, after = (statistic.compute(statistic.update(activations(net)[LAST])) for net in (none, penalized))
    assert after["basis_collapse"] < 0.9 * before["basis_collapse"]
    assert after["basis_rank"] > 1.15 * before["basis_rank"]
    assert last.train_accuracy > 0.85


@every_seed
def test_perplexity_penalty_makes_layers_denser(seed: int) -> None:
    none, _ = trained(seed=seed)
    penalized, last = trained({"method": "perplexity", "strength": 1.0, "warmup_epochs": 5}, seed=seed)
    assert all(sparsity(penalized, layer) < sparsity(none, layer) - 0.05 for layer in activations(none))
    assert last.train_accuracy > 0.85


@every_seed
@pytest.mark.parametrize(
    ("layer", "target", "strength"), [("features.conv2", 0.65, 20.0), ("features.conv1", 0.8, -20.0)]
)
def test_perplexity_penalty_reaches_its_target(layer: str, target: float, strength: float, seed: int) -> None:
    """From above, where the layer would be sparser, with positive strength; from below with negative strength."""
    method = {"method": "perplexity", "strength": strength, "targets": {layer: target}, "warmup_epochs": 10}
    none, _ = trained(seed=seed, model=CONVNET, epochs=30)
    penalized, last = trained(method, seed=seed, model=CONVNET, epochs=30)
    away = sparsity(none, layer) - target
    assert (away if strength > 0 else -away) > 0.1
    assert sparsity(penalized, layer) == pytest.approx(target, abs=0.03)
    assert last.train_accuracy > 0.6


@every_seed
def test_sparseout_is_sparser_than_dropout_below_power_two_and_denser_above(seed: int) -> None:
    def zeros(q: float) -> float:
        method = {"method": "sparseout", "strength": 0.5, "q": q, "layers": [LAST]}
        model, last = trained(method, seed=seed, epochs=40)
        assert last.train_accuracy > 0.6
        return (activations(model)[LAST] == 0).float().mean().item()

    assert zeros(1.0) - 0.05 > zeros(2.0) > zeros(3.0) + 0.02


@every_seed
def test_spatial_dropout_makes_the_network_bear_the_loss_of_maps(seed: int) -> None:
    none, _ = trained(seed=seed, model=CONVNET)
    method = {"method": "spatial_dropout", "strength": 0.2, "layers": ["features.*"]}
    dropped, last = trained(method, seed=seed, model=CONVNET)
    assert all(_rise_without_maps(dropped, x) < 0.5 * _rise_without_maps(none, x) for x in ("conv1", "conv2"))
    assert last.train_accuracy > 0.5


def _rise_without_maps(model: nn.Module, block: str) -> float:
    """Rise of the cross-entropy when a fifth of a block's maps are zero, over 20 draws."""

    def drop(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return dropout2d(output, 0.2)

    def loss() -> float:
        return cross_entropy(model(images.inputs), images.labels).item()

    images = held_out()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        clean = loss()
        handle = model.get_submodule(f"features.{block}").register_forward_hook(drop)
        losses = [loss() for _ in range(20)]
        handle.remove()
    return sum(losses) / 20 - clean
