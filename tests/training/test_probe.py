"""The probe: which places it sees, what it keeps, and that it leaves the network as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from sparsestudy import measures
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


def observed(model: nn.Module, inputs: Tensor, *args: object, **options: bool) -> dict[str, Tensor]:
    with Probe(model, *args, **options) as probe:  # type: ignore[arg-type]
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
        (lambda name: "1" in name, ["tail.1"]),
    ],
)
def test_selection(layers: object, expected: list[str]) -> None:
    assert list(observed(Blocks(), torch.ones(2, 4), layers)) == expected


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    text = r"'act\?' matches no layer of this model; layers: block, act, tail\.1"
    for layers in ("act?", ("act", "act?")):
        with pytest.raises(NotFoundError, match=text):
            observed(Blocks(), torch.ones(2, 4), layers)


def test_callback_instead_of_keeping() -> None:
    model, seen = Blocks(), []
    with Probe(model, "act", lambda layer, a: seen.append((layer, tuple(a.shape)))) as probe:
        model(torch.ones(2, 4))
        model(torch.ones(3, 4))
    assert seen == [("act", (2, 6)), ("act", (3, 6))]
    assert probe.activations == {}


def test_all_layers_of_a_network_without_any() -> None:
    assert observed(nn.Linear(4, 2), torch.ones(2, 4)) == {}


# Any module, any output


class Mixed(nn.Module):
    """Outputs that are no tensors, and a part whose place in the network its name does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6))
        self.recurrent = nn.LSTM(6, 3, batch_first=True)
        self.outputs = Outputs()

    def forward(self, x: Tensor) -> Tensor:
        sequence, _ = self.recurrent(self.dense(x).unsqueeze(1))
        logits: Tensor = self.outputs(sequence)["deep"]["logits"]
        return logits


class Outputs(nn.Module):
    def forward(self, x: Tensor) -> dict[str, object]:
        return {"nothing": None, "deep": {"sizes": (3, [x * 2]), "logits": x}}


class Bare(nn.ReLU):
    """A non-linearity that returns its result and something else."""

    def forward(self, x: Tensor) -> tuple[str, Tensor]:  # type: ignore[override]
        return "relu", super().forward(x)


def test_any_module_by_its_name() -> None:
    model, inputs = Mixed(), torch.randn(2, 4)
    found = observed(model, inputs, ("dense", "dense.*", "recurrent", "outputs"))
    assert list(found) == ["dense.1", "dense", "recurrent", "outputs"]
    assert torch.equal(found["dense"], model.dense(inputs))
    sequence = model.recurrent(found["dense"].unsqueeze(1))[0]
    torch.testing.assert_close(found["recurrent"], sequence)
    torch.testing.assert_close(found["outputs"], 2 * sequence)


def test_patterns_match_layers_only() -> None:
    model = Mixed()
    assert list(observed(model, torch.randn(2, 4), "*")) == ["dense.1"]
    assert list(observed(model, torch.randn(2, 4), lambda name: True)) == ["dense.1"]


def test_a_non_linearity_inside_a_block_by_its_own_name() -> None:
    found = observed(Blocks(), torch.ones(2, 4), ("block", "block.1"))
    assert list(found) == ["block.1", "block"]
    assert found["block"] is found["block.1"]


def test_one_use_of_any_module() -> None:
    model = torchvision_models.resnet18(num_classes=3).eval()
    block = nn.Linear(3, 3)
    shared = nn.Sequential(block, nn.ReLU(), block)
    inputs = torch.randn(2, 3)
    assert list(observed(shared, inputs, "0#2")) == ["0#2"]
    assert torch.equal(observed(shared, inputs, "0#2")["0#2"], shared(inputs))
    with torch.no_grad():
        assert tuple(observed(model, torch.randn(1, 3, 32, 32), "layer3")["layer3"].shape) == (1, 256, 2, 2)


def test_a_non_linearity_that_returns_a_tuple() -> None:
    class First(nn.Module):
        def forward(self, x: tuple[str, Tensor]) -> Tensor:
            return x[1]

    inputs = torch.tensor([[-1.0, 2.0]])
    found = observed(nn.Sequential(Bare(), First()), inputs)
    assert torch.equal(found["0"], torch.tensor([[0.0, 2.0]]))


def test_a_module_that_returns_no_tensor() -> None:
    class Words(nn.Module):
        def forward(self, x: Tensor) -> list[str]:
            return ["word"]

    class Last(nn.Module):
        def forward(self, x: list[str]) -> Tensor:
            return torch.zeros(1)

    with pytest.raises(TypeError, match=r"there is no tensor in what '0' returns, list; observe another module"):
        observed(nn.Sequential(Words(), Last()), torch.ones(1), "0")


# Changes in place


def in_place() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Dropout(0.5, inplace=True), nn.Linear(4, 2))


def test_a_layer_changed_in_place_is_not_passed_off() -> None:
    text = r"the activations of '1' were changed in place.*give copy=True to the probe"
    with pytest.raises(RuntimeError, match=text):
        observed(in_place(), torch.randn(2, 3))


@pytest.mark.parametrize("quiet", [torch.no_grad, torch.enable_grad])
def test_a_copy_keeps_what_left_the_layer(quiet: type[torch.no_grad]) -> None:
    model, inputs = in_place(), torch.randn(2, 3)
    with quiet():
        found = observed(model, inputs, copy=True)["1"]
        assert torch.equal(found, nn.functional.gelu(model[0](inputs)))


def test_the_callback_sees_a_layer_before_it_is_changed() -> None:
    model, inputs, seen = in_place(), torch.randn(2, 3), []
    with Probe(model, "1", lambda layer, a: seen.append(a.clone())):
        model(inputs)
    assert torch.equal(seen[0], nn.functional.gelu(model[0](inputs)))


def test_inference_mode_counts_no_changes_and_so_is_copied() -> None:
    model, inputs = in_place(), torch.randn(2, 3)
    with torch.inference_mode():
        found = observed(model, inputs)["1"]
        assert torch.equal(found, nn.functional.gelu(model[0](inputs)))


def test_rectifier_in_place_behind_a_chosen_module() -> None:
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), torch.randn(2, 3)
    with pytest.raises(RuntimeError, match="'0' were changed in place"):
        observed(model, inputs, ("0", "1"))
    found = observed(model, inputs, ("0", "1"), copy=True)
    assert torch.equal(found["0"], model[0](inputs))
    assert torch.equal(found["1"], model[0](inputs).clamp(min=0))


def test_what_is_no_copy_has_a_gradient() -> None:
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    with Probe(model) as probe:
        [gradient] = torch.autograd.grad(model(inputs).sum(), probe.activations["1"])
    assert torch.equal(gradient, model[2].weight.sum(0).expand(5, 4))


# Frozen layers, precision


@pytest.mark.parametrize("frozen", ["block", "dense"])
def test_penalty_on_a_frozen_layer(frozen: str) -> None:
    """The first layer frozen: no gradient at all; a later one: it passes gradients on to those before it."""
    model, inputs = Blocks(), torch.randn(3, 4)
    model.get_submodule(frozen).requires_grad_(False)
    with Probe(model) as probe:
        loss = model(inputs).square().sum()
        layer = {"block": "block", "dense": "act"}[frozen]
        (loss + probe.activations[layer].square().sum()).backward()
    assert probe.activations[layer].requires_grad == (frozen == "dense")
    assert all(p.grad is None for p in model.get_submodule(frozen).parameters())
    if frozen == "dense":
        alone = torch.tanh(model.dense(torch.relu(model.block[0](inputs)))).square().sum()
        [penalty] = torch.autograd.grad(alone, model.block[0].bias)
        [task] = torch.autograd.grad(model(inputs).square().sum(), model.block[0].bias)
        torch.testing.assert_close(model.block[0].bias.grad, penalty + task)


def test_part_that_runs_without_gradients() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = torch.tanh(self.body(x))
            logits: Tensor = self.head(x)
            return logits

    model = Features()
    with Probe(model) as probe:
        loss = model(torch.randn(2, 3)).sum()
        (loss + sum(a.sum() for a in probe.activations.values())).backward()
    assert list(probe.activations) == ["body", "tanh"]
    assert not any(a.requires_grad for a in probe.activations.values())
    assert model.body[0].weight.grad is None
    assert model.head.weight.grad is not None


def test_activations_keep_the_type_of_autocast() -> None:
    class Function(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(super().forward(x))

    model, inputs = Function(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(100, 64)
    statistic, sums = measures.get("zero_fraction"), []
    with torch.autocast("cpu", torch.bfloat16):
        found = observed(model, inputs)
        with Probe(model, "1", lambda layer, a: sums.append(statistic.update(a))):
            model(inputs)
    assert {name: a.dtype for name, a in found.items()} == {"1": torch.bfloat16, "relu": torch.bfloat16}
    assert all(value.dtype != torch.bfloat16 for value in sums[0].values())
    expected = (found["1"] == 0).double().mean().item()
    assert statistic.compute(sums[0])["zero_fraction"].item() == pytest.approx(expected, abs=1e-6)


# Life cycle


def test_hooks_are_removed_on_exit() -> None:
    model = Blocks()
    with Probe(model):
        assert hooks(model) == 6  # three layers, the start of a forward pass, its end, and what is checked then
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


def test_a_disabled_probe_leaves_nothing_in_the_network() -> None:
    model = Blocks()
    with Probe(model) as probe:
        probe.enabled = False
        assert hooks(model) == 0
        probe.enabled = True
        assert hooks(model) == 6
    assert hooks(model) == 0


def test_switching_during_a_forward_pass() -> None:
    model = Blocks()

    def switch(layer: str, activations: Tensor) -> None:
        probe.enabled = False

    text = "a probe cannot be switched during a forward pass; do it before or after"
    with Probe(model, on_activation=switch) as probe, pytest.raises(RuntimeError, match=text):
        model(torch.ones(2, 4))
    assert hooks(model) == 0


def test_no_forward_pass_is_not_an_empty_one() -> None:
    model = Blocks()
    text = r"no forward pass of Blocks has been observed: call the network itself inside the probe's with block"
    with Probe(model) as probe:
        with pytest.raises(RuntimeError, match=text):
            _ = probe.activations
        model(torch.ones(2, 4))
        assert len(probe.activations) == 3
        probe.enabled = False
        probe.enabled = True
        with pytest.raises(RuntimeError, match=text):
            _ = probe.activations


def test_a_part_called_by_itself() -> None:
    model = Blocks()
    text = r"layer 'block' ran outside a forward pass of Blocks: call the network itself"
    for call in (model.block, model.forward):
        with Probe(model), pytest.raises(RuntimeError, match=text):
            call(torch.ones(2, 4))
    with Probe(model.tail) as probe:  # the part that is called
        model(torch.ones(2, 4))
    assert list(probe.activations) == ["1"]


class Skips(nn.Module):
    """Runs only those of its blocks that it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))
        self.run = [0, 2]

    def forward(self, x: Tensor) -> Tensor:
        for number in self.run:
            x = self.blocks[number](x)
        return x


def test_layers_that_do_not_run_are_missed() -> None:
    model = Skips()
    with Probe(model, ("blocks.0", "blocks.1", "blocks.0#2")) as probe:
        found = []
        for run in ([0, 0], [2], [1, 0]):
            model.run = run
            model(torch.ones(2, 4))
            found.append((list(probe.activations), list(probe.missed)))
    assert found == [
        (["blocks.0", "blocks.0#2"], ["blocks.1"]),
        ([], ["blocks.0", "blocks.1", "blocks.0#2"]),
        (["blocks.1", "blocks.0"], ["blocks.0#2"]),
    ]


def test_a_first_pass_without_any_wanted_layer() -> None:
    model = Skips()
    text = "no layer that was asked for has run in the first forward pass; asked for: blocks.1"
    with pytest.raises(NotFoundError, match=text):
        observed(model, torch.ones(2, 4), "blocks.1")


def test_copies_of_the_network_are_not_observed() -> None:
    model = Blocks()
    with Probe(model) as probe:
        twin = copy.deepcopy(model)
        model(torch.ones(2, 4))
        kept = probe.activations
        twin(torch.ones(5, 4))
        twin.block(torch.ones(5, 4))
        assert probe.activations is kept
        assert {len(a) for a in kept.values()} == {2}


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
