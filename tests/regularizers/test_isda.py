"""ISDA against numbers from its authors' formulas, against numpy, and against sampling.

The vectors were computed from the published formulas in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy import regularizers
from sparsestudy.regularizers import Step, survey
from sparsestudy.regularizers.isda import augmentation_term, merge, spread
from sparsestudy.study import DataSpec, MeasuresSpec, ModelSpec, SplitSpec, TrainingSpec
from sparsestudy.training import models
from sparsestudy.training.loop import fit
from sparsestudy.training.probe import find_layers
from sparsestudy.trial import TrialConfig

WEIGHT = torch.tensor([[0.5, -0.2], [0.1, 0.3], [-0.4, 0.6]], dtype=torch.float64)
BIAS = torch.tensor([0, 0.1, -0.1], dtype=torch.float64)
FEATURES = torch.tensor([[1, 2], [3, 0], [2, 2], [0, 1]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1])
LOGITS = FEATURES @ WEIGHT.T + BIAS


def step(**changes: Any) -> Step:
    seen = {"features": FEATURES, "logits": LOGITS, "labels": LABELS, "weights": {"output.weight": WEIGHT}, **changes}
    return Step(**seen)


def penalty(of: Step, strength: float = 1.0) -> float:
    found = regularizers.get("isda", strength=strength).penalty(of)
    assert found is not None
    return found.item()


def nothing(classes: int, features: int) -> tuple[Tensor, Tensor, Tensor]:
    zeros = torch.zeros(classes, features, features, dtype=torch.float64)
    return zeros[:, 0, 0], zeros[:, 0], zeros


# Half of the strength, in the sixth of ten epochs.
HALFWAY = {"epoch": 5.9, "epochs": 10}


def test_loss_and_covariances_of_a_first_batch() -> None:
    first = step(**HALFWAY)
    task = cross_entropy(LOGITS, LABELS).item()
    assert task == pytest.approx(0.928115, rel=1e-6)
    assert task + penalty(first) == pytest.approx(1.057869, rel=1e-6)
    covariance = first.memory["covariance"]
    assert covariance[:2].tolist() == [[[1, -1], [-1, 1]], [[1, 0.5], [0.5, 0.25]]]
    assert not covariance[2].any()


def test_quadratic_form_is_that_of_the_definition() -> None:
    random = np.random.default_rng(0)
    weight, roots, labels = random.normal(size=(4, 3)), random.normal(size=(4, 3, 3)), random.integers(0, 4, 6)
    covariance = roots @ roots.transpose(0, 2, 1)
    expected = [[(weight[j] - weight[y]) @ covariance[y] @ (weight[j] - weight[y]) for j in range(4)] for y in labels]
    found = spread(*(torch.from_numpy(array) for array in (weight, covariance, labels)))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_bounds_the_loss_over_sampled_features() -> None:
    """Jensen: E CE(W a + b) <= CE of the raised logits, for a from N(feature, λ Σ) and few classes far apart."""
    strength = 0.5
    _, _, covariance = merge(nothing(3, 2), FEATURES, LABELS)
    generator = torch.Generator().manual_seed(0)
    # Σ is singular for two examples: its root by eigendecomposition.
    values, vectors = torch.linalg.eigh(strength * covariance[LABELS])
    root = vectors * values.clamp(min=0).sqrt()[:, None]
    noise = torch.randn(20_000, 4, 2, 1, generator=generator, dtype=torch.float64)
    sampled = FEATURES + (root @ noise)[..., 0]
    losses = cross_entropy((sampled @ WEIGHT.T + BIAS).flatten(0, 1), LABELS.repeat(20_000))
    raised = augmentation_term(LOGITS, LABELS, spread(WEIGHT, covariance, LABELS), strength)
    bound = cross_entropy(LOGITS, LABELS) + raised
    # The plain loss is far outside of what 80,000 samples leave open (about 0.002).
    assert cross_entropy(LOGITS, LABELS) + 0.02 < losses < bound


@given(st.data())
def test_moments_are_those_of_everything_seen(draws: st.DataObject) -> None:
    classes, features = 3, draws.draw(st.integers(1, 4))
    sizes = draws.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    random = np.random.default_rng(draws.draw(st.integers(0, 1000)))
    moments, batches = nothing(classes, features), []
    for size in sizes:
        # Far from zero, where a sloppy formula cancels.
        batch, labels = random.normal(100, 1, size=(size, features)), random.integers(0, classes, size)
        batches.append((batch, labels))
        moments = merge(moments, torch.from_numpy(batch), torch.from_numpy(labels))
    rows, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    for c in range(classes):
        seen = rows[labels == c]
        count, mean, covariance = (moment[c].numpy() for moment in moments)
        assert count == len(seen)
        if len(seen):
            np.testing.assert_allclose(mean, seen.mean(0), rtol=1e-12)
            expected = np.cov(seen.T, bias=True).reshape(features, features)
            np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-9)
        else:
            assert not mean.any()
            assert not covariance.any()


def test_ramp_follows_whole_epochs() -> None:
    full = penalty(step())  # epochs unknown
    assert full > 0
    found = [penalty(step(epoch=epoch, epochs=4)) for epoch in (0.0, 0.99, 2.0, 2.9)]
    expected = [penalty(step(), strength) for strength in (0.5, 0.5)]
    assert found == [0, 0, *expected]


def test_first_epoch_gathers_covariances_though_it_adds_nothing() -> None:
    first = step(epoch=0.5, epochs=4)
    assert penalty(first) == 0
    assert first.memory["count"].tolist() == [2, 2, 0]


def test_memory_is_replaced_and_not_changed() -> None:
    memory: dict[str, Tensor] = {}
    penalty(step(memory=memory))
    kept = dict(memory)
    copies = {name: value.clone() for name, value in memory.items()}
    penalty(step(memory=memory, features=FEATURES + 1))
    assert memory["count"].tolist() == [4, 4, 0]
    assert all(torch.equal(kept[name], copies[name]) for name in copies)


def test_statistics_pass_no_gradient_and_the_classifier_gets_one() -> None:
    weight, features = WEIGHT.clone().requires_grad_(), FEATURES.clone().requires_grad_()
    # Logits that depend on neither: what is left of the gradient comes through the quadratic form.
    found = regularizers.get("isda", strength=1.0).penalty(
        step(features=features, weights={"output.weight": weight}, logits=LOGITS)
    )
    assert found is not None
    through_weight, through_features = torch.autograd.grad(found, (weight, features), allow_unused=True)
    assert through_weight is not None
    assert through_weight.abs().min() > 1e-3
    assert through_features is None


def test_zero_strength_keeps_no_statistics() -> None:
    idle = step()
    assert regularizers.get("isda", strength=0).penalty(idle) is None
    assert not idle.memory


def test_missing_parts_of_a_step() -> None:
    with pytest.raises(ValueError, match="ISDA needs features, logits, labels and weights"):
        penalty(Step(logits=LOGITS, labels=LABELS, weights={"output.weight": WEIGHT}))


def test_in_training_the_ramp_knows_the_number_of_epochs() -> None:
    """From the same seed, the second of two epochs has half of the strength, the second of four a quarter."""
    halves, quarters = (_second_epoch(epochs, 0.1) for epochs in (2, 4))
    assert halves == _second_epoch(4, 0.2) > 1.5 * quarters > 0


def _second_epoch(epochs: int, strength: float) -> float:
    config = TrialConfig(
        study="ramp",
        number=0,
        arm="isda",
        parameters={},
        methods=({"method": "isda", "strength": strength},),
        data=DataSpec(train_size=100, splits=SplitSpec(search=50, selection=20, test=20)),
        model=ModelSpec(name="mlp", arguments={"hidden": [12]}),
        training=TrainingSpec(epochs=epochs, batch_size=50),
        measures=MeasuresSpec(every=100),
        seed=0,
    )
    _, trajectory = fit(config, lambda measurement: measurement.epoch == 1)
    assert trajectory[0].penalty == 0
    return trajectory[1].penalty


# Networks


def obstacles(model: nn.Module, size: int = 8) -> list[str]:
    layers = find_layers(model, torch.zeros(2, 3, size, size))
    return regularizers.get("isda").obstacles(survey(model, layers))


def test_networks_that_end_in_a_linear_layer_are_fine() -> None:
    model = models.build(ModelSpec(name="convnet"), (3, 8, 8), 10)
    assert obstacles(model) == []
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    assert regularizers.get("isda").obstacles(survey(linear, ())) == []


def test_network_without_a_last_linear_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 10, 6), nn.Flatten())
    assert obstacles(model) == ["it works in front of a last linear layer, and the network does not end in one"]


@pytest.mark.parametrize(("features", "refused"), [(518, False), (519, True)])
def test_covariances_beyond_a_gibibyte_are_refused(features: int, refused: bool) -> None:
    """1000 classes: 4 bytes * 1000 * 518**2 is the last below 2**30."""
    assert (4 * 1000 * features**2 > 2**30) == refused
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, features), nn.ReLU(), nn.Linear(features, 1000))
    expected = (
        "it keeps a covariance of the 519 inputs of '3' for each of 1000 classes, 1.0 GiB, and at most 1 GiB is "
        "allowed; take a network with fewer features"
    )
    assert obstacles(model) == [expected] * refused


def test_half_precision_is_widened() -> None:
    halves = {"features": FEATURES.bfloat16(), "logits": LOGITS.bfloat16(), "weights": {"w": WEIGHT.float()}}
    found = regularizers.get("isda", strength=1.0).penalty(step(**halves))
    assert found is not None
    assert found.dtype == torch.float32
    assert math.isclose(found.item(), penalty(step()), rel_tol=0.02)
