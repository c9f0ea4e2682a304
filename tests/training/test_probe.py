"""The probe: which places it sees, what it keeps, and that it leaves the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from sparsestudy.errors import NotFoundError
from sparsestudy.regularizers import Layer
from sparsestudy.study import ModelSpec
from sparsestudy.training.models import build
from sparsestudy.training.probe import NONLINEARITIES, Probe, discover, expand, sites


class Blocks(nn.Module):
    """A block, a bare non-linearity, and a non-linearity in the middle of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.dense = nn.Linear(5, 6)
        self.act = nn.Tanh()
        self.tail = nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.tail(self.act(self.dense(self.block(x))))
        return logits


class Functional(nn.Module):
    """No non-linearity that is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.dense(x))


def observed(model: nn.Module, inputs: Tensor, *args: object) -> dict[str, Tensor]:
    with Probe(model, *args) as probe:  # type: ignore[arg-type]
        model(inputs)
    return probe.activations


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# Sites and names


def test_blocks_and_bare_non_linearities() -> None:
    model = Blocks()
    inputs = torch.randn(2, 4)
    found = observed(model, inputs)
    assert list(found) == ["block", "act", "tail.1"]
    block = torch.relu(model.block[0](inputs))
    act = torch.tanh(model.dense(block))
    assert torch.equal(found["block"], block)
    assert torch.equal(found["act"], act)
    assert torch.equal(found["tail.1"], nn.functional.gelu(model.tail[0](act)))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        # The whole model is never a layer.
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ["1"]),
        # The innermost sequence that ends with the only non-linearity is the block.
        (nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), ["0"]),
        (nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))), ["0.0"]),
        (nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Identity())), ["0.0"]),
        # Not the last child: the activation leaves the non-linearity, not the sequence.
        (nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(2, 2))), ["0.0"]),
        # Not the only one, even if the other is nested.
        (nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.ReLU())), ["0.0", "0.2"]),
        (nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.ReLU())), ["0.0", "0.1"]),
        (nn.Sequential(nn.Sequential(), nn.Linear(2, 2), nn.ReLU()), ["2"]),
    ],
)
def test_rules_of_sequences(model: nn.Sequential, expected: list[str]) -> None:
    assert list(sites(model)) == expected
    assert list(observed(model, torch.ones(3, 2))) == expected


@pytest.mark.parametrize("kind", NONLINEARITIES)
def test_every_non_linearity_is_seen(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), kind(), nn.Linear(4, 2))
    assert discover(model, torch.ones(2, 3)) == [Layer(name="1", shape=(4,))]


def test_blocks_of_convnet_with_their_shapes() -> None:
    model = build(ModelSpec(name="convnet", arguments={"channels": [4, 6], "dense": 5}), (1, 8, 8), 10)
    assert discover(model, torch.zeros(2, 1, 8, 8)) == [
        Layer(name="features.conv1", shape=(4, 8, 8)),
        Layer(name="features.conv2", shape=(6, 4, 4)),
        Layer(name="classifier.dense1", shape=(5,)),
    ]


# Modules used several times


def test_residual_network_yields_one_layer_per_use() -> None:
    model = torchvision_models.resnet18(num_classes=3).eval()
    with torch.no_grad():
        found = observed(model, torch.randn(2, 3, 32, 32))
    blocks = [f"layer{stage}.{block}.relu" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert list(found) == ["relu", *(f"{block}{use}" for block in blocks for use in ("", "#2"))]
    assert not torch.equal(found["layer1.0.relu"], found["layer1.0.relu#2"])
    # In place, and never changed by what comes after.
    assert all(activations.min() == 0 for activations in found.values())


def test_uses_are_counted_anew_in_every_forward_pass() -> None:
    model = torchvision_models.resnet18(num_classes=3).eval()
    with Probe(model, "layer1.0.*") as probe, torch.no_grad():
        for _ in range(2):
            model(torch.randn(1, 3, 32, 32))
            assert list(probe.activations) == ["layer1.0.relu", "layer1.0.relu#2"]


def test_one_non_linearity_shared_by_two_blocks() -> None:
    act = nn.ReLU()
    first, second = nn.Sequential(nn.Linear(3, 4), act), nn.Sequential(nn.Linear(4, 5), act)
    found = observed(nn.Sequential(first, second, nn.Linear(5, 2)), torch.randn(2, 3))
    assert {name: tuple(a.shape) for name, a in found.items()} == {"0.1": (2, 4), "0.1#2": (2, 5)}


def test_one_non_linearity_twice_in_a_block() -> None:
    act = nn.ReLU()
    block = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 5), act)
    found = observed(nn.Sequential(block, nn.Linear(5, 2)), torch.randn(2, 3))
    assert {name: tuple(a.shape) for name, a in found.items()} == {"0.1": (2, 4), "0.1#2": (2, 5)}


def test_block_used_twice() -> None:
    block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert list(observed(nn.Sequential(block, nn.Linear(3, 3), block), torch.randn(2, 3))) == ["0", "0#2"]


def test_in_place_relu_of_vgg11() -> None:
    with torch.device("meta"):  # its classifier alone has 120 million weights
        model = torchvision_models.vgg11()
    features = model.features.to_empty(device="cpu")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in features.parameters():
            nn.init.normal_(parameter, std=0.1)
        found = observed(features, torch.randn(2, 3, 32, 32))
    assert list(found) == ["1", "4", "7", "9", "12", "14", "17", "19"]
    assert all(module.inplace for module in features.modules() if isinstance(module, nn.ReLU))
    assert all(activations.min() == 0 and activations.max() > 0 for activations in found.values())
    assert tuple(found["1"].shape) == (2, 64, 32, 32)
    assert list(sites(model)) == [*(f"features.{name}" for name in found), "classifier.1", "classifier.4"]


# Selection


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("*", ["block", "act", "tail.1"]),
        ("tail.*", ["tail.1"]),
        (("act", "bl*"), ["block", "act"]),
        ((), []),
        ("nothing", []),
        (lambda name: "1" in name, ["tail.1"]),
    ],
)
def test_selection(layers: object, expected: list[str]) -> None:
    assert list(observed(Blocks(), torch.ones(2, 4), layers)) == expected


def test_callback_instead_of_keeping() -> None:
    model, seen = Blocks(), []
    with Probe(model, "act", lambda layer, a: seen.append((layer, tuple(a.shape)))) as probe:
        model(torch.ones(2, 4))
        model(torch.ones(3, 4))
    assert seen == [("act", (2, 6)), ("act", (3, 6))]
    assert probe.activations == {}


# Life cycle


def test_hooks_are_removed_on_exit() -> None:
    model = Blocks()
    with Probe(model):
        assert hooks(model) == 4  # three layers and the start of a forward pass
    assert hooks(model) == 0


def test_hooks_are_removed_after_an_exception() -> None:
    model = Blocks()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), Probe(model):
        model(torch.ones(2, 99))
    assert hooks(model) == 0


def test_network_gives_the_same_under_observation() -> None:
    model, inputs = Blocks(), torch.randn(2, 4)
    expected = model(inputs)
    with Probe(model):
        assert torch.equal(model(inputs), expected)


def test_disabled_probe_keeps_nothing() -> None:
    model = Blocks()
    with Probe(model) as probe:
        model(torch.ones(2, 4))
        assert len(probe.activations) == 3
        probe.enabled = False
        model(torch.ones(2, 4))
        assert probe.activations == {}
        probe.enabled = True
        model(torch.ones(5, 4))
        assert {len(a) for a in probe.activations.values()} == {5}


def test_two_probes_at_once() -> None:
    model = Blocks()
    with Probe(model, "act") as one, Probe(model) as other:
        model(torch.ones(2, 4))
    assert list(one.activations) == ["act"]
    assert list(other.activations) == ["block", "act", "tail.1"]


def test_activations_carry_the_graph() -> None:
    model = Blocks()
    found = observed(model, torch.randn(2, 4))
    weights = (model.block[0].weight, model.dense.weight, model.tail[0].weight)
    gradients = torch.autograd.grad(found["act"].square().sum(), weights, allow_unused=True)
    assert [gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients] == [True, True, False]


# Discovery


@pytest.mark.parametrize("training", [True, False])
def test_discovery_leaves_the_network_as_it_was(training: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2)).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert [layer.name for layer in discover(model, torch.randn(1, 3))] == ["2"]
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert hooks(model) == 0


def test_discovery_keeps_the_mode_of_every_module() -> None:
    model = Blocks().train()
    model.block.eval()  # such as a frozen block
    discover(model, torch.ones(2, 4))
    assert [m.training for m in (model, model.block, model.block[0], model.tail)] == [True, False, False, True]


def test_discovery_restores_the_mode_after_an_exception() -> None:
    model = Blocks().train()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        discover(model, torch.ones(2, 99))
    assert model.training
    assert hooks(model) == 0


def test_functional_network_cannot_be_observed() -> None:
    text = (
        r"Functional has no non-linearity that is a module, so no layer can be observed; functional calls such as "
        r"F\.relu\(x\) are invisible: use nn\.ReLU\(\) and its relatives"
    )
    with pytest.raises(NotFoundError, match=text):
        discover(Functional(), torch.ones(2, 4))


# Patterns


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"*": 1}, {"conv1": 1, "conv2": 1, "dense1": 1}),
        ({"dense1": 1, "conv1": 2}, {"conv1": 2, "dense1": 1}),  # in the order of the network
        ({"conv*": 1, "conv2": 2}, {"conv1": 1, "conv2": 2}),
        ({"conv2": 2, "conv*": 1}, {"conv1": 1, "conv2": 2}),
        ({"conv?": None}, {"conv1": None, "conv2": None}),
        ({}, {}),
    ],
)
def test_expand(patterns: dict[str, object], expected: dict[str, object]) -> None:
    found = expand(patterns, ["conv1", "conv2", "dense1"])
    assert list(found.items()) == list(expected.items())


def test_expand_refuses_a_pattern_that_matches_nothing() -> None:
    with pytest.raises(NotFoundError, match=r"'conv9' matches no layer of this model; layers: conv1, dense1"):
        expand({"conv*": 1, "conv9": 2}, ["conv1", "dense1"])


def test_expand_refuses_two_patterns_for_one_layer() -> None:
    with pytest.raises(ValueError, match=r"layer 'conv1' is claimed by 'conv\*' and by '\*1'; keep one"):
        expand({"conv*": 1, "*1": 2}, ["conv1", "conv2"])
