"""Methods that add parts to the network: where the parts stand, that they stay, and that no layer changes its name."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from sparsestudy import regularizers
from sparsestudy.regularizers import Layer, Network, Step, survey
from sparsestudy.regularizers.normalize_and_project import norm_of, project
from sparsestudy.study import ModelSpec
from sparsestudy.training import models
from sparsestudy.training.loop import fit
from sparsestudy.training.probe import Probe, find_layers
from tests.training.test_loop import config

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def convnet(**arguments: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ModelSpec(name="convnet", arguments={"channels": [3, 4], "dense": 5, **arguments})
        return models.build(spec, (1, 8, 8), 10)


def install(name: str, model: nn.Module, inputs: Tensor, **parameters: Any) -> None:
    assert regularizers.get(name, **parameters).install(model, find_layers(model, inputs)) == []


class Shared(nn.Module):
    """One rectifier behind two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(inputs))))


# Batch norm


def test_norms_by_the_shape_of_the_layer() -> None:
    model = convnet()
    install("batch_norm", model, IMAGES)
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert {name: (type(norm), norm.num_features) for name, norm in norms.items()} == {
        "features.conv1.1.batch_norm.1": (nn.BatchNorm2d, 3),
        "features.conv2.1.batch_norm.1": (nn.BatchNorm2d, 4),
        "classifier.dense1.1.batch_norm.1": (nn.BatchNorm1d, 5),
    }
    parts = nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(2), nn.Conv1d(2, 3, 2), nn.ReLU()
    volumes = nn.Sequential(*parts)
    install("batch_norm", volumes, torch.ones(2, 1, 4, 4, 4))
    found = [type(m) for m in volumes.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert found == [nn.BatchNorm3d, nn.BatchNorm1d]


@pytest.mark.parametrize("training", [True, False])
def test_equals_a_network_that_was_built_with_them(training: bool) -> None:
    ours, theirs = convnet(), convnet(batch_norm=True)
    install("batch_norm", ours, IMAGES, layers=["features.*"])
    for block in ("features.conv1", "features.conv2"):
        own, built = ours.get_submodule(block), theirs.get_submodule(block)
        built[0].load_state_dict(own[0].state_dict())
        for norm in (own[1].batch_norm["1"], built[1]):
            nn.init.constant_(norm.weight, 1.5)
            nn.init.constant_(norm.bias, -0.25)
            norm.running_mean.fill_(0.3)
    theirs.classifier.load_state_dict(ours.classifier.state_dict())
    for model in (ours, theirs):
        model.train(training)
    assert torch.equal(ours(IMAGES), theirs(IMAGES))
    own, built = ours.features.conv1[1].batch_norm["1"], theirs.features.conv1[1]
    assert torch.equal(own.running_mean, built.running_mean)
    assert own.num_batches_tracked.item() == int(training)
    assert own.running_mean.eq(0.3).all().item() == (not training)


def test_uses_of_a_shared_rectifier_have_norms_of_their_own() -> None:
    model = Shared()
    install("batch_norm", model, ROWS)
    first, second = model.relu.batch_norm["1"], model.relu.batch_norm["2"]
    for _ in range(3):  # counted anew in every pass
        model(ROWS)
    assert (first.num_batches_tracked.item(), second.num_batches_tracked.item()) == (3, 3)
    one = Shared()
    one.load_state_dict({key: value for key, value in model.state_dict().items() if "batch_norm" not in key})
    install("batch_norm", one, ROWS, layers=["relu#2"])
    assert list(one.relu.batch_norm) == ["2"]
    hidden = torch.relu(one.first(ROWS))
    plain = nn.BatchNorm1d(4)
    torch.testing.assert_close(one(ROWS), torch.relu(plain(one.second(hidden))))


@pytest.mark.parametrize("name", ["batch_norm", "normalize_and_project"])
def test_layers_keep_their_names_and_the_probe_sees_what_follows(name: str) -> None:
    model = convnet()
    before = find_layers(model, IMAGES)
    install(name, model, IMAGES, layers=["features.conv1"])
    assert find_layers(model, IMAGES) == before
    with Probe(model) as probe:
        model(IMAGES)
        seen = probe.activations["features.conv1"]
    entering = model.features.conv1[0](IMAGES)
    normed = nn.BatchNorm2d(3)(entering) if name == "batch_norm" else layer_norm(entering, entering.shape[1:])
    torch.testing.assert_close(seen, torch.relu(normed))
    assert seen.mean() != torch.relu(entering).mean()


@pytest.mark.parametrize("name", ["batch_norm", "normalize_and_project"])
@pytest.mark.parametrize("how", ["copied", "saved"])
def test_copies_have_parts_of_their_own(name: str, how: str) -> None:
    model = Shared()
    install(name, model, ROWS)
    other = copy.deepcopy(model) if how == "copied" else pickle.loads(pickle.dumps(model))
    assert torch.equal(other(ROWS), model(ROWS))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert other(ROWS).abs().sum() > 0


def test_parameters_are_saved_and_loaded_by_name() -> None:
    model, fresh = convnet(), convnet()
    for each in (model, fresh):
        install("batch_norm", each, IMAGES)
    model(IMAGES)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(IMAGES), model.eval()(IMAGES))
    assert "features.conv1.1.batch_norm.1.running_mean" in model.state_dict()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", ["batch_norm", "normalize_and_project"])
def test_trains_and_stays_in_every_precision(name: str, precision: str) -> None:
    trial = config({"method": name}, model=ModelSpec(arguments={"channels": [4], "dense": 8}), precision=precision)
    model, trajectory = fit(trial)
    assert trajectory[-1].train_loss < trajectory[0].train_loss
    assert {p.dtype for p in model.parameters()} == {torch.float64 if precision == "float64" else torch.float32}
    if name == "batch_norm":
        norm = model.features.conv1[1].batch_norm["1"]
        assert not torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert norm.num_batches_tracked.item() == 6  # two epochs of three steps; evaluation leaves them alone
    images = IMAGES.to(next(model.parameters()))
    entered: list[Tensor] = []
    model.features.conv1[1].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    model(images)
    # Still normalised after training: what enters the rectifier is not what the convolution gives.
    assert not torch.allclose(entered[0], model.features.conv1[0](images), rtol=1e-3)


def test_norms_that_are_there_already_are_named() -> None:
    model = convnet(batch_norm=True)
    network = survey(model, find_layers(model, IMAGES))
    text = "there is a norm before its non-linearity already; choose other layers"
    assert regularizers.get("batch_norm").obstacles(network) == [
        f"it cannot work on layer {name!r}: {text}" for name in ("features.conv1", "features.conv2")
    ]
    assert regularizers.get("batch_norm", layers=["classifier.*"]).obstacles(network) == []


@pytest.mark.parametrize(("shape", "fine"), [((), False), ((3,), True), ((3, 2, 2, 2), True), ((3, 2, 2, 2, 2), False)])
def test_shapes_that_a_batch_norm_takes(shape: tuple[int, ...], fine: bool) -> None:
    text = f"its activations have {len(shape)} dimensions for one example, and 1 to 4 are possible"
    network = Network(layers=[Layer(name="a", shape=shape, module=nn.ReLU())], weights=())
    found = [] if fine else [f"it cannot work on layer 'a': {text}; choose other layers"]
    assert regularizers.get("batch_norm").obstacles(network) == found


# Normalize-and-project


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 2, 2)])
def test_norms_by_their_formulas(shape: tuple[int, ...]) -> None:
    inputs = 3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = inputs.flatten(1).numpy()
    centred = rows - rows.mean(1, keepdims=True)
    expected = {
        "layer_norm": centred / np.sqrt((centred**2).mean(1, keepdims=True) + 0.01),
        "rms_norm": rows / np.sqrt((rows**2).mean(1, keepdims=True) + 0.01),
    }
    for name, values in expected.items():
        found = norm_of(shape[1:], name, 0.01)  # type: ignore[arg-type]
        np.testing.assert_allclose(found(inputs).flatten(1).numpy(), values, rtol=1e-12, atol=1e-12)
        assert not list(found.parameters())


def test_projected_weight() -> None:
    weight = torch.tensor([[6.0, 8.0], [0.0, 5.0]], dtype=torch.float64)
    project(weight, torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64).norm())
    expected = torch.tensor([[2.683282, 3.577709], [0, 2.236068]], dtype=torch.float64)
    torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-9)
    zero = torch.zeros(2, 2)
    project(zero, torch.tensor(5.0))
    assert torch.equal(zero, torch.zeros(2, 2))


@pytest.mark.parametrize(("output", "every"), [(False, 1), (True, 1), (False, 3)])
def test_projection_after_the_update(output: bool, every: int) -> None:
    method = regularizers.get("normalize_and_project", output=output, every=every)
    weights = {"a.weight": torch.tensor([[3.0, 4.0]]), "b.weight": torch.tensor([[1.0], [0.0]])}
    memory: dict[str, Tensor] = {}
    lengths = []
    for _ in range(6):
        step = Step(weights=weights, memory=memory)
        method.around_gradient(step, lambda: None)
        method.around_update(step, lambda: [weight.mul_(2) for weight in weights.values()] and None)
        lengths.append(tuple(round(weight.norm().item(), 5) for weight in weights.values()))
    grown = [2.0**n for n in range(1, 7)]
    assert [b for _, b in lengths] == ([1.0] * 6 if output else grown)
    assert [a for a, _ in lengths] == ([5.0] * 6 if every == 1 else [10, 20, 5, 10, 20, 5])


def test_a_layer_of_one_unit_cannot_be_normalised() -> None:
    method = regularizers.get("normalize_and_project")
    assert method.obstacle((1,)) == "it has a single unit, and the norm is taken over units"
    assert method.obstacle((1, 2, 2)) == ""
