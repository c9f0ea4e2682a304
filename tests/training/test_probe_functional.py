"""Functional activations: which calls inside forward methods are layers, and by which names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack
from torchvision import models as torchvision_models

from sparsestudy.errors import NotFoundError
from sparsestudy.training.nonlinearities import FUNCTIONS
from sparsestudy.training.probe import NONLINEARITIES, Probe, discover


class Calls(nn.Module):
    """One block, and calls in the block and around it."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.dense(x))
            return functional.relu(self.dense(x), inplace=True)

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2 = self.Block(), self.Block()
        self.act = nn.Tanh()
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.block1(x))
        logits: Tensor = self.out(self.act(self.block2(x)).relu_())
        return logits


class Function(nn.Module):
    """Whatever it is given, as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.dense = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.dense(x))


CALLS = ["block1.relu", "block1.relu#2", "gelu", "block2.relu", "block2.relu#2", "act", "relu"]


def observed(model: nn.Module, inputs: Tensor, **options: Any) -> dict[str, Tensor]:
    with Probe(model, **options) as probe:
        model(inputs)
    return probe.activations


# Names and values


def test_calls_are_named_after_the_module_that_makes_them() -> None:
    model, inputs = Calls(), torch.randn(3, 4)
    found = observed(model, inputs, copy=True)
    assert list(found) == CALLS
    first = model.block1.dense(inputs).clamp(min=0)
    second = model.block1.dense(first).clamp(min=0)
    assert torch.equal(found["block1.relu"], first)
    assert torch.equal(found["block1.relu#2"], second)
    assert torch.equal(found["relu"], found["act"].clamp(min=0))


def test_names_are_the_same_in_every_pass() -> None:
    model = Calls()
    with Probe(model, copy=True) as probe:
        for _ in range(3):
            model(torch.randn(3, 4))
            assert list(probe.activations) == CALLS


@pytest.mark.parametrize("name", sorted({kind.__name__.lower() for kind in NONLINEARITIES}))
def test_every_non_linearity_has_its_functions(name: str) -> None:
    """Module names without underscores are the function's: LeakyReLU, leaky_relu."""
    spellings = [f for f, known in FUNCTIONS.items() if known.replace("_", "") == name]
    assert spellings
    extra = (torch.tensor([0.25]),) if name == "prelu" else ()
    for function in spellings:
        model = Function(lambda x, call=function: call(x, *extra))
        assert [layer.name.replace("_", "") for layer in discover(model, torch.ones(2, 3))] == [name], function


@pytest.mark.parametrize(
    "function",
    [torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu, lambda x: functional.relu(x, inplace=True)],
)
def test_every_spelling_of_relu(function: Callable[[Tensor], Tensor]) -> None:
    model, inputs = Function(function), torch.randn(5, 3)
    found = observed(model, inputs)
    assert list(found) == ["relu"]
    assert torch.equal(found["relu"], model.dense(inputs).clamp(min=0))


def test_gradients_flow_through_a_functional_activation() -> None:
    model = Function(torch.relu)
    inputs = torch.randn(5, 3)
    [found] = torch.autograd.grad(observed(model, inputs)["relu"].sum(), model.dense.bias)
    assert torch.equal(found, (model.dense(inputs) > 0).sum(0).float())


def test_a_name_that_a_module_has_already() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(torch.relu(x) - 1)

    assert list(observed(Both(), torch.ones(2, 3))) == ["functional.relu", "relu"]


def test_a_non_linearity_that_is_no_part_of_the_network() -> None:
    """Kept in a list, it is not among the network's modules: its function is seen instead."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = [nn.Linear(3, 4), nn.ReLU()]

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = part(x)
            return x

    assert list(observed(nn.Sequential(Hidden()), torch.ones(2, 3))) == ["0.relu"]


def test_the_forward_method_of_a_non_linearity_called_by_itself() -> None:
    """No hook runs then; the function inside still does."""
    relu = nn.ReLU()
    model = Function(relu.forward)
    model.relu = relu
    assert list(observed(model, torch.ones(2, 3))) == ["functional.relu"]


def test_the_callback_may_use_the_same_functions() -> None:
    model, seen = Calls(), []
    with Probe(model, ("*", "out"), lambda layer, a: seen.append((layer, a.sigmoid().relu().min().item() > 0))):
        model(torch.randn(3, 4))
    assert seen == [(name, True) for name in [*CALLS, "out"]]


def test_transformer_layer_in_training_and_on_its_fast_path() -> None:
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True), 2, enable_nested_tensor=False
    )
    inputs = torch.randn(2, 5, 8)
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            found = observed(model, inputs)
        assert {name: tuple(a.shape) for name, a in found.items()} == {
            "layers.0.relu": (2, 5, 12),
            "layers.1.relu": (2, 5, 12),
        }


def test_transformer_layer_whose_activation_is_a_module() -> None:
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True, activation=nn.GELU()).eval()
    with torch.no_grad():
        assert list(observed(model, torch.randn(2, 5, 8))) == ["activation"]


# When functions are watched


def watched(model: nn.Module, *layers: str) -> list[bool]:
    """Whether functions are watched, at the start of each of two passes in training mode and two in evaluation."""
    found = []
    with Probe(model, layers or "*", copy=True) as probe:
        model.register_forward_pre_hook(lambda *_: found.append(bool(_get_current_function_mode_stack())))
        for training in (True, False):
            model.train(training)
            for _ in range(2):
                model(torch.ones(2, 4))
        probe.enabled = False
        model(torch.ones(2, 4))
    assert _get_current_function_mode_stack() == []
    return found


def test_functions_are_watched_only_where_there_are_some() -> None:
    assert watched(nn.Sequential(nn.Linear(4, 2), nn.ReLU())) == [True, False, True, False, False]
    assert watched(Calls()) == [True, True, True, True, False]
    assert watched(Calls(), "act") == [True, False, True, False, False]


def test_an_activation_that_exists_in_training_only() -> None:
    class Auxiliary(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) if self.training else x

    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Auxiliary()).eval()
    with Probe(model) as probe:
        names = []
        for training in (False, False, True, True, False):
            model.train(training)
            model(torch.ones(2, 4))
            names.append(list(probe.activations))
    assert names == [["1"], ["1"], ["1", "2.relu"], ["1", "2.relu"], ["1"]]


def test_watching_ends_with_a_pass_that_fails() -> None:
    model = Calls()
    with Probe(model, copy=True) as probe:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(torch.ones(2, 99))
        assert _get_current_function_mode_stack() == []
        model(torch.ones(2, 4))
    assert list(probe.activations) == CALLS


def test_watching_ends_with_a_pass_that_is_interrupted() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    model = Calls()
    model.act.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), Probe(model):
        model(torch.ones(2, 4))
    assert _get_current_function_mode_stack() == []


def test_two_probes_watch_at_once() -> None:
    model = Calls()
    with Probe(model, "block?.*", copy=True) as one, Probe(model, "*relu", copy=True) as other:
        model(torch.ones(2, 4))
    assert list(one.activations) == ["block1.relu", "block1.relu#2", "block2.relu", "block2.relu#2"]
    assert list(other.activations) == ["block1.relu", "block2.relu", "relu"]


# Discovery


def test_discovery_lists_functional_activations_and_says_so() -> None:
    found = discover(Calls(), torch.ones(2, 4))
    assert [(layer.name, layer.shape, layer.functional) for layer in found] == [
        (name, (4,), name != "act") for name in CALLS
    ]


def test_network_without_any_non_linearity() -> None:
    text = (
        r"Linear has no non-linearity that can be observed, neither a module such as nn\.ReLU\(\) nor a function such "
        r"as F\.relu\(x\); TorchScript, autograd functions of your own and spellings such as x\.clamp\(min=0\) are "
        r"invisible: use nn\.ReLU\(\) and its relatives"
    )
    for model in (nn.Linear(4, 2), nn.DataParallel(nn.Linear(4, 2))):
        with pytest.raises(NotFoundError, match=text):
            discover(model, torch.ones(2, 4))


def test_scripted_parts_are_named() -> None:
    # Without torch.jit.script, whose deprecation is none of this test's business: any ScriptModule will do.
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), torch.jit.ScriptModule(), nn.Linear(4, 2))
    model.forward = lambda x: model[3](model[1](model[0](x)))  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match=r"activations inside TorchScript cannot be observed: 2"):
        assert list(observed(model, torch.ones(2, 4))) == ["1"]


class Counter:
    """Counts calls of non-linearities by putting itself in the place of torch's functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self._inside = False
        spellings = "relu relu_ relu6 leaky_relu elu selu gelu silu mish hardswish hardtanh tanh sigmoid hardsigmoid"
        for place in (torch, functional):
            for spelling in spellings.split():
                if hasattr(place, spelling):
                    monkeypatch.setattr(place, spelling, self._counted(getattr(place, spelling)))

    def _counted(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **options: Any) -> Tensor:
            if self._inside:  # F.relu calls torch.relu
                return function(*args, **options)
            self._inside = True
            try:
                output = function(*args, **options)
            finally:
                self._inside = False
            self.shapes.append(tuple(output.shape[1:]))
            return output

        return call


@pytest.mark.parametrize(
    ("name", "side", "options"),
    [
        ("alexnet", 64, {}),
        ("vgg11_bn", 32, {}),
        ("resnet18", 32, {}),
        ("densenet121", 32, {}),
        ("mobilenet_v3_small", 32, {}),
        ("efficientnet_b0", 32, {}),
        ("googlenet", 32, {"aux_logits": False, "init_weights": False}),
        ("inception_v3", 75, {"aux_logits": False, "init_weights": False}),
        ("shufflenet_v2_x0_5", 32, {}),
        ("squeezenet1_1", 32, {}),
        ("vit_b_16", 32, {"image_size": 32}),
        ("swin_t", 32, {}),
        ("convnext_tiny", 32, {}),
    ],
)
def test_every_call_in_torchvision_is_found(
    name: str, side: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):  # shapes only, no arithmetic
        model = torchvision_models.get_model(name, weights=None, num_classes=3, **options).eval()
        inputs = torch.zeros(2, 3, side, side)
    found = discover(model, inputs)
    with monkeypatch.context() as patch:
        counter = Counter(patch)
        model(inputs)
    assert [layer.shape for layer in found] == counter.shapes
    assert len(counter.shapes) >= 5
    assert len({layer.name for layer in found}) == len(found)


def test_functional_names_in_torchvision() -> None:
    with torch.device("meta"):
        options = {"aux_logits": False, "init_weights": False}
        inception = torchvision_models.inception_v3(weights=None, **options).eval()
        densenet = torchvision_models.densenet121(weights=None).eval()
        layers = discover(inception, torch.zeros(2, 3, 75, 75))
        last = discover(densenet, torch.zeros(2, 3, 32, 32))[-1]
    assert [layer.name for layer in layers[:2]] == ["Conv2d_1a_3x3.relu", "Conv2d_2a_3x3.relu"]
    assert all(layer.functional for layer in layers)
    # One per convolution: nothing else in this network is activated.
    assert len(layers) == sum(isinstance(module, nn.Conv2d) for module in inception.modules())
    assert (last.name, last.shape, last.functional) == ("relu", (1024, 1, 1), True)
