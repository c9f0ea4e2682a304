"""Networks: names of their layers, initialisation, torchvision's stems and heads, and every refusal."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsestudy.errors import NotFoundError, SpecError
from sparsestudy.study import ModelSpec
from sparsestudy.training.models import build, names

MODULE = "user_models_for_tests"


def spec(name: str, **arguments: object) -> ModelSpec:
    return ModelSpec(name=name, arguments=arguments)


def refusal(model: ModelSpec, input_shape: tuple[int, ...] = (1, 8, 8), classes: int = 10) -> str:
    with pytest.raises(SpecError) as error:
        build(model, input_shape, classes)
    return "\n".join(str(problem) for problem in error.value.problems)


def outputs(model: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output of every module by name."""
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, args, output, name=name: seen.update({name: output}))
    model(inputs)
    return seen


def test_names_of_built_in_networks() -> None:
    assert names() == ["convnet", "mlp"]


# Built-in networks


def test_blocks_of_mlp() -> None:
    model = build(spec("mlp", hidden=[5, 7, 3]), (2, 4), 6)
    seen = outputs(model, torch.randn(9, 2, 4))
    assert [name for name in seen if re.fullmatch(r"features\.\w+|classifier", name)] == [
        "features.dense1",
        "features.dense2",
        "features.dense3",
        "classifier",
    ]
    shapes = [tuple(seen[name].shape) for name in ("features.dense1", "features.dense2", "features.dense3", "")]
    assert shapes == [(9, 5), (9, 7), (9, 3), (9, 6)]
    for block in ("features.dense1", "features.dense2", "features.dense3"):
        assert seen[block].min() == 0  # after the non-linearity
        assert seen[block].max() > 0
    assert model.training


def test_blocks_of_convnet() -> None:
    model = build(spec("convnet"), (3, 12, 10), 4)
    seen = outputs(model, torch.randn(5, 3, 12, 10))
    shapes = {
        name: tuple(output.shape) for name, output in seen.items() if re.fullmatch(r"(features|classifier)\.\w+", name)
    }
    assert shapes == {
        "features.conv1": (5, 16, 12, 10),
        "features.pool1": (5, 16, 6, 5),
        "features.conv2": (5, 32, 6, 5),
        "features.pool2": (5, 32, 3, 2),
        "features.conv3": (5, 32, 3, 2),
        "classifier.flatten": (5, 192),
        "classifier.dense1": (5, 64),
        "classifier.output": (5, 4),
    }
    for block in ("features.conv1", "features.conv2", "features.conv3", "classifier.dense1"):
        assert seen[block].min() == 0
        assert seen[block].max() > 0
    assert isinstance(model.get_submodule("classifier.output"), nn.Linear)


def test_pool_says_after_which_blocks() -> None:
    model = build(spec("convnet", channels=[4, 4], pool=[False, True]), (1, 8, 8), 10)
    assert [name for name, _ in model.get_submodule("features").named_children()] == ["conv1", "conv2", "pool2"]


@pytest.mark.parametrize(
    ("model", "block", "norm"),
    [
        (spec("mlp", batch_norm=True, activation="tanh"), "features.dense1", nn.BatchNorm1d),
        (spec("convnet", batch_norm=True, activation="tanh"), "features.conv3", nn.BatchNorm2d),
    ],
)
def test_a_block_is_weights_norm_and_non_linearity(model: ModelSpec, block: str, norm: type[nn.Module]) -> None:
    _, middle, last = build(model, (1, 8, 8), 10).get_submodule(block)
    assert isinstance(middle, norm)
    assert isinstance(last, nn.Tanh)


@pytest.mark.parametrize(
    ("activation", "kind"),
    [("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU), ("gelu", nn.GELU), ("silu", nn.SiLU), ("tanh", nn.Tanh)],
)
def test_activations(activation: str, kind: type[nn.Module]) -> None:
    for name, blocks in (("mlp", 2), ("convnet", 4)):
        model = build(spec(name, activation=activation), (1, 8, 8), 10)
        assert sum(type(module) is kind for module in model.modules()) == blocks


@pytest.mark.parametrize(
    ("model", "layer", "fan_in"),
    [
        (spec("mlp", hidden=[200, 200]), "features.dense2.0", 200),
        (spec("convnet", channels=[64, 64]), "features.conv2.0", 64 * 9),
        (spec("convnet", channels=[64, 64], dense=128), "classifier.dense1.0", 64 * 4),
    ],
)
def test_he_initialisation(model: ModelSpec, layer: str, fan_in: int) -> None:
    torch.manual_seed(0)
    module = build(model, (1, 8, 8), 10).get_submodule(layer)
    assert isinstance(module, nn.Linear | nn.Conv2d)
    # He et al. 2015, eq. 10. The standard error of a standard deviation is 1/sqrt(2n): below 0.4 % for 32768 weights.
    assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
    assert module.bias is not None
    assert not module.bias.any()


@pytest.mark.parametrize("name", ["mlp", "convnet", "torchvision:resnet18"])
def test_the_callers_seed_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(spec(name), (3, 16, 16), 10).parameters())

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            spec("mlp", hiden=[3]),
            "model.arguments.hiden: mlp has no argument 'hiden'; allowed: hidden, activation, batch_norm; "
            "did you mean 'hidden'?",
        ),
        (
            spec("mlp", classes=3),
            "model.arguments.classes: mlp has no argument 'classes'; allowed: hidden, activation, batch_norm",
        ),
        (spec("mlp", hidden=[]), "model.arguments.hidden: needs a list of one or more integers from 1 up; got []"),
        (
            spec("mlp", hidden=[3, -1], activation="rleu", batch_norm=1),
            "model.arguments.hidden: needs a list of one or more integers from 1 up; got [3, -1]\n"
            "model.arguments.activation: allowed: relu, leaky_relu, gelu, silu, tanh; got 'rleu'; "
            "did you mean 'relu'?\n"
            "model.arguments.batch_norm: needs true or false; got 1",
        ),
        (
            spec("convnet", channels=[], dense=0),
            "model.arguments.channels: needs a list of one or more integers from 1 up; got []\n"
            "model.arguments.dense: needs an integer from 1 up; got 0",
        ),
        (
            spec("convnet", pool=[True]),
            "model.arguments.pool: needs one entry per entry of channels, that is 3; got 1",
        ),
        (
            spec("convnet", pool=[True] * 4),
            "model.arguments.pool: needs one entry per entry of channels, that is 3; got 4",
        ),
        (
            spec("convnet", pool=[1, 0, 0]),
            "model.arguments.pool: needs a list of true and false, one per entry of channels; got [1, 0, 0]",
        ),
        (
            spec("convnet", channels=[4] * 4, pool=[True] * 4),
            "model.arguments.pool: 4 poolings shrink 8x8 images below 1x1; a side of 8 allows at most 3",
        ),
    ],
)
def test_wrong_arguments_of_built_in_networks(model: ModelSpec, expected: str) -> None:
    assert refusal(model) == expected


def test_as_many_poolings_as_the_image_allows() -> None:
    model = build(spec("convnet", channels=[4] * 3, pool=[True] * 3), (1, 8, 9), 10)
    assert model(torch.zeros(1, 1, 8, 9)).shape == (1, 10)


@pytest.mark.parametrize("name", ["convnet", "torchvision:resnet18"])
def test_a_convolutional_network_needs_images(name: str) -> None:
    assert refusal(spec(name), (16,)) == (
        f"model: {name} needs images [channels, height, width]; got inputs of shape [16]; use mlp or data with images"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("conv_net", "; did you mean 'convnet'?"),
        ("resnet18", "; did you mean 'torchvision:resnet18'?"),
        ("zebra", ""),
    ],
)
def test_unknown_name(name: str, hint: str) -> None:
    expected = f"no model '{name}'; allowed: convnet, mlp, torchvision:NAME, package.module:function{hint}"
    with pytest.raises(NotFoundError, match=f"^{re.escape(expected)}$"):
        build(spec(name), (1, 8, 8), 10)


# Torchvision


@pytest.mark.parametrize(
    ("name", "channels", "stem", "pooling"),
    [
        ("resnet18", 1, "conv1", "maxpool"),
        ("vgg11", 3, None, None),
        ("vgg11_bn", 1, None, None),
        ("mobilenet_v2", 3, "features.0.0", None),
        ("squeezenet1_1", 1, "features.0", None),
        ("densenet121", 3, "features.conv0", "features.pool0"),
        ("efficientnet_b0", 1, "features.0.0", None),
        ("shufflenet_v2_x1_0", 3, "conv1.0", "maxpool"),
    ],
)
def test_torchvision_networks_fit_small_images(name: str, channels: int, stem: str | None, pooling: str | None) -> None:
    model = build(spec(f"torchvision:{name}"), (channels, 32, 32), 7)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == channels
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    if stem is not None:
        assert model.get_submodule(stem) is first
    if pooling is not None:
        assert isinstance(model.get_submodule(pooling), nn.Identity)
    assert model(torch.randn(2, channels, 32, 32)).shape == (2, 7)  # in training mode
    assert model.training


def test_large_images_keep_the_stem_but_for_the_channels() -> None:
    torch.manual_seed(0)
    model = build(spec("torchvision:resnet18"), (2, 64, 64), 5)
    stem = model.get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d)
    assert (stem.in_channels, stem.kernel_size, stem.stride, stem.padding) == (2, (7, 7), (2, 2), (3, 3))
    assert stem.bias is None
    assert stem.weight.std().item() == pytest.approx((2 / (2 * 49)) ** 0.5, rel=0.05)
    assert isinstance(model.get_submodule("maxpool"), nn.MaxPool2d)


def test_patches_are_not_cut_differently() -> None:
    model = build(spec("torchvision:swin_t"), (1, 32, 32), 3)
    patches = model.get_submodule("features.0.0")
    assert isinstance(patches, nn.Conv2d)
    assert (patches.in_channels, patches.kernel_size, patches.stride) == (1, (4, 4), (4, 4))


def test_arguments_reach_torchvision() -> None:
    model = build(spec("torchvision:squeezenet1_1", dropout=0.25), (3, 32, 32), 3)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.25]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            spec("torchvision:squeezenet1_1", droput=0.1),
            "model.arguments.droput: torchvision:squeezenet1_1 has no argument 'droput'; allowed: dropout; "
            "did you mean 'dropout'?",
        ),
        (
            spec("torchvision:resnet18", weights="DEFAULT", num_classes=3),
            "model.arguments.weights: leave it out: networks start untrained here\n"
            "model.arguments.num_classes: leave it out: it follows from the data",
        ),
        (
            spec("torchvision:vit_b_16", image_size=30),
            "model.arguments: torchvision:vit_b_16 refused them: AssertionError: Input shape indivisible by patch",
        ),
        (
            spec("torchvision:googlenet", init_weights=False),
            "model.arguments.aux_logits: torchvision:googlenet returns auxiliary outputs in training; "
            "set aux_logits: false",
        ),
    ],
)
def test_torchvision_refusals(model: ModelSpec, expected: str) -> None:
    assert refusal(model, (3, 32, 32)).startswith(expected)


def test_a_network_too_deep_for_the_image_points_to_resize() -> None:
    text = refusal(spec("torchvision:squeezenet1_1"), (3, 4, 4))
    assert text.startswith("model: torchvision:squeezenet1_1 fails on inputs of shape [2, 3, 4, 4]: RuntimeError: ")
    assert text.endswith("; change model.arguments, or the size of the images with data.arguments.resize")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "resnet_18",
            r"^no model 'torchvision:resnet_18'; torchvision has \d+ classifiers .*; did you mean 'resnet18'\?$",
        ),
        ("fcn_resnet50", "^torchvision:fcn_resnet50 is not an image classifier"),
        ("fasterrcnn_resnet50_fpn", "^torchvision:fasterrcnn_resnet50_fpn is not an image classifier"),
        ("quantized_resnet18", "^torchvision:quantized_resnet18 is not an image classifier"),
    ],
)
def test_what_torchvision_does_not_have_as_classifier(name: str, expected: str) -> None:
    with pytest.raises(NotFoundError, match=expected):
        build(spec(f"torchvision:{name}"), (3, 32, 32), 10)


# The user's own network

USER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes, width=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(torch.Size(input_shape).numel(), width),
            nn.BatchNorm1d(width),
            nn.Linear(width, classes),
        )

    def forward(self, inputs):
        return self.layers(inputs)

class Pair(nn.Module):
    def forward(self, inputs):
        return inputs, inputs

def plain(width=64):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))

def numbers(input_shape, outputs):
    return nn.Linear(*input_shape, outputs)


def everything(**keywords):
    assert sorted(keywords) == ["classes", "extra", "input_shape"]
    return plain(keywords["classes"])

def number():
    return 3

def broken():
    raise RuntimeError("no luck")
"""


@pytest.fixture
def _user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{MODULE}.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


@pytest.mark.usefixtures("_user_module")
def test_a_users_network_is_told_shape_and_classes_if_it_asks() -> None:
    net = build(spec(f"{MODULE}:Net", width=6), (1, 8, 8), 10)
    assert net.get_submodule("layers.1").weight.shape == (6, 64)
    assert not net.get_submodule("layers.2").running_mean.any()  # the dry run leaves batch statistics alone
    assert net.get_submodule("layers.2").num_batches_tracked == 0
    assert build(spec(f"{MODULE}:plain", width=10), (1, 8, 8), 10)(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert build(spec(f"{MODULE}:everything", extra=1), (1, 8, 8), 10)(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert build(spec(f"{MODULE}:numbers"), (5,), 1)(torch.zeros(3, 5)).shape == (3, 1)


@pytest.mark.usefixtures("_user_module")
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (
            "Net",
            {"widht": 3},
            f"model.arguments.widht: {MODULE}:Net has no argument 'widht'; allowed: input_shape, classes, width; "
            "did you mean 'width'?",
        ),
        ("number", {}, f"model.name: {MODULE}:number must return a torch.nn.Module; got int"),
        ("broken", {}, f"model.name: {MODULE}:broken raised RuntimeError: no luck"),
        (
            "plain",
            {},
            f"model: {MODULE}:plain returns shape [2, 64], needs outputs of shape [2, 10] for inputs of shape "
            "[2, 1, 8, 8]; change model.arguments, or the size of the images with data.arguments.resize",
        ),
        (
            "Pair",
            {},
            f"model: {MODULE}:Pair returns a tuple, not one tensor; needs outputs of shape [2, 10] for inputs of shape "
            "[2, 1, 8, 8]",
        ),
    ],
)
def test_refusals_of_a_users_network(name: str, arguments: dict[str, object], expected: str) -> None:
    assert refusal(spec(f"{MODULE}:{name}", **arguments)) == expected


@pytest.mark.usefixtures("_user_module")
def test_a_users_network_that_cannot_be_found() -> None:
    with pytest.raises(NotFoundError, match=f"module '{MODULE}' has no function 'Nett'; it has .*did you mean 'Net'"):
        build(spec(f"{MODULE}:Nett"), (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (spec("mlp", hidden=[5], activation="tanh"), (7,)),
        (spec("convnet", channels=[4], dense=8), (1, 8, 8)),
        (spec("torchvision:squeezenet1_1"), (3, 32, 32)),
    ],
)
def test_one_output_where_a_number_is_predicted(network: ModelSpec, shape: tuple[int, ...]) -> None:
    assert build(network, shape, 1).eval()(torch.zeros(3, *shape)).shape == (3, 1)


def test_a_network_for_classes_does_not_fit_a_number() -> None:
    assert refusal(spec("torch.nn:Flatten"), (2, 3), 1) == (
        "model: torch.nn:Flatten returns shape [2, 6], needs outputs of shape [2, 1] for inputs of shape [2, 2, 3]; "
        "change model.arguments"
    )
