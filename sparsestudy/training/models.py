"""Networks: two small ones whose layers have telling names, every classifier of torchvision, and the user's own."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsestudy.errors import NotFoundError, Problem, listing, suggest
from sparsestudy.study import ModelSpec
from sparsestudy.training.imports import (
    accepted,
    argument_problems,
    import_function,
    is_count,
    refuse,
    refuse_all,
    unknown_argument,
)

_ARGUMENTS = "model.arguments"
_FILLED_IN = ("input_shape", "outputs")
_SMALL_IMAGE = 64
"""Side in pixels below which the stems of torchvision's ImageNet networks would throw most of the image away."""

_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def names() -> list[str]:
    """Names of the built-in networks; ``torchvision:NAME`` and ``package.module:function`` come on top.

    Example:
        >>> names()
        ['convnet', 'mlp']
    """
    return sorted(_BUILDERS)


def build(spec: ModelSpec, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build a freshly initialised network in training mode.

    The only randomness is torch's default generator, which the caller seeds.

    Args:
        spec: Which network.
        input_shape: Shape of one example; images are (channels, height, width).
        outputs: Numbers returned for an example: as many as there are classes, or 1 where a number is predicted.

    Returns:
        A module that maps inputs [batch, *input_shape] to logits or predictions [batch, outputs].

    Raises:
        NotFoundError: No network or function of that name.
        SpecError: Wrong arguments, or a network that does not fit the data.

    Example:
        >>> net = build(ModelSpec(name="convnet", arguments={"channels": [4, 8]}), (1, 8, 8), 10)
        >>> [name for name, _ in net.features.named_children()]
        ['conv1', 'pool1', 'conv2', 'pool2']
    """
    if spec.name.startswith("torchvision:"):
        model = _from_torchvision(spec, input_shape, outputs)
    elif ":" in spec.name:
        model = _from_function(spec, input_shape, outputs)
    elif spec.name in _BUILDERS:
        builder = _BUILDERS[spec.name]
        refuse_all(argument_problems(builder, spec.arguments, spec.name, _ARGUMENTS, given=_FILLED_IN))
        model = builder(input_shape=input_shape, outputs=outputs, **spec.arguments)
    else:
        raise NotFoundError(_unknown_name(spec.name))
    _check_output(model, spec.name, input_shape, outputs)
    return model.train()


def _unknown_name(name: str) -> str:
    hint = f"; did you mean 'torchvision:{name}'?" if name in _classifiers() else suggest(name, names())
    return f"no model {name!r}; allowed: {listing(names())}, torchvision:NAME, package.module:function{hint}"


def _check_output(model: nn.Module, name: str, input_shape: tuple[int, ...], outputs: int) -> None:
    """Run two examples of zeros through the network, in evaluation mode so that batch statistics do not move."""
    model.eval()
    inputs = torch.zeros(2, *input_shape)
    images = ", or the size of the images with data.arguments.resize" if len(input_shape) == 3 else ""
    advice = f"change model.arguments{images}"
    try:
        with torch.no_grad():
            output = model(inputs)
    except Exception as error:
        text = f"{name} fails on inputs of shape {list(inputs.shape)}: {type(error).__name__}: {error}; {advice}"
        refuse("model", text, error)
    needs = f"needs outputs of shape {[2, outputs]} for inputs of shape {list(inputs.shape)}"
    if not isinstance(output, Tensor):
        refuse("model", f"{name} returns a {type(output).__name__}, not one tensor; {needs}")
    if output.shape != (2, outputs):
        refuse("model", f"{name} returns shape {list(output.shape)}, {needs}; {advice}")


# Built-in networks


def _initialise(model: nn.Module) -> nn.Module:
    """He initialisation, zero bias: std sqrt(2 / fan_in) keeps the variance of activations from layer to layer.

    PyTorch's default is smaller by a factor sqrt(6) and wastes many epochs of a short trial on growing the weights.

    Source: He et al. 2015, Delving Deep into Rectifiers, eq. 10.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _mlp(
    input_shape: tuple[int, ...],
    outputs: int,
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    batch_norm: bool = False,
) -> nn.Module:
    """Blocks ``features.dense1``, …, each ending with its non-linearity, then the linear layer ``classifier``."""
    refuse_all([*_width_problems("hidden", hidden), *_option_problems(activation, batch_norm)])
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    size = int(torch.Size(input_shape).numel())
    for number, width in enumerate(hidden, start=1):
        norm = [nn.BatchNorm1d(width)] if batch_norm else []
        blocks[f"dense{number}"] = nn.Sequential(nn.Linear(size, width), *norm, _ACTIVATIONS[activation]())
        size = width
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        flatten=nn.Flatten(),
        features=nn.Sequential(blocks),
        classifier=nn.Linear(size, outputs),
    )
    return _initialise(nn.Sequential(parts))


def _convnet(
    input_shape: tuple[int, ...],
    outputs: int,
    channels: Sequence[int] = (16, 32, 32),
    dense: int = 64,
    activation: str = "relu",
    batch_norm: bool = False,
    pool: Sequence[bool] | None = None,
) -> nn.Module:
    """A small VGG: blocks ``features.conv1``, … of 3x3 convolutions, each ending with its non-linearity.

    ``pool`` says after which blocks ``features.pool1``, … halve the image; by default after the first two. Then
    ``classifier.flatten``, ``classifier.dense1`` with its non-linearity, and the linear layer ``classifier.output``.
    """
    _check_image("convnet", input_shape)
    problems = [*_width_problems("channels", channels), *_option_problems(activation, batch_norm)]
    if not is_count(dense):
        problems.append(Problem(f"{_ARGUMENTS}.dense", f"needs an integer from 1 up; got {dense!r}"))
    refuse_all(problems)
    pools = _pools(pool, len(channels), input_shape)
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    before, height, width = input_shape
    for number, (after, halve) in enumerate(zip(channels, pools, strict=True), start=1):
        norm = [nn.BatchNorm2d(after)] if batch_norm else []
        conv = nn.Conv2d(before, after, 3, padding="same")
        blocks[f"conv{number}"] = nn.Sequential(conv, *norm, _ACTIVATIONS[activation]())
        if halve:
            blocks[f"pool{number}"] = nn.MaxPool2d(2)
            height, width = height // 2, width // 2
        before = after
    head: OrderedDict[str, nn.Module] = OrderedDict(
        flatten=nn.Flatten(),
        dense1=nn.Sequential(nn.Linear(before * height * width, dense), _ACTIVATIONS[activation]()),
        output=nn.Linear(dense, outputs),
    )
    parts: OrderedDict[str, nn.Module] = OrderedDict(features=nn.Sequential(blocks), classifier=nn.Sequential(head))
    return _initialise(nn.Sequential(parts))


_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {"mlp": _mlp, "convnet": _convnet}


def _check_image(name: str, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        needs = "needs images [channels, height, width]"
        refuse("model", f"{name} {needs}; got inputs of shape {list(input_shape)}; use mlp or data with images")


def _pools(pool: Sequence[bool] | None, blocks: int, input_shape: tuple[int, ...]) -> list[bool]:
    path = f"{_ARGUMENTS}.pool"
    pools = [number < 2 for number in range(blocks)] if pool is None else pool
    if not isinstance(pools, list | tuple) or not all(isinstance(halve, bool) for halve in pools):
        refuse(path, f"needs a list of true and false, one per entry of channels; got {pools!r}")
    if len(pools) != blocks:
        refuse(path, f"needs one entry per entry of channels, that is {blocks}; got {len(pools)}")
    side, most = min(input_shape[1:]), min(input_shape[1:]).bit_length() - 1
    if sum(pools) > most:
        size = "x".join(str(side) for side in input_shape[1:])
        refuse(path, f"{sum(pools)} poolings shrink {size} images below 1x1; a side of {side} allows at most {most}")
    return list(pools)


def _width_problems(key: str, widths: object) -> list[Problem]:
    if isinstance(widths, list | tuple) and widths and all(is_count(width) for width in widths):
        return []
    return [Problem(f"{_ARGUMENTS}.{key}", f"needs a list of one or more integers from 1 up; got {widths!r}")]


def _option_problems(activation: object, batch_norm: object) -> list[Problem]:
    problems = []
    if activation not in _ACTIVATIONS:
        text = f"allowed: {listing(_ACTIVATIONS)}; got {activation!r}{suggest(str(activation), _ACTIVATIONS)}"
        problems.append(Problem(f"{_ARGUMENTS}.activation", text))
    if not isinstance(batch_norm, bool):
        problems.append(Problem(f"{_ARGUMENTS}.batch_norm", f"needs true or false; got {batch_norm!r}"))
    return problems


# Networks from elsewhere


def _from_function(spec: ModelSpec, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    function = import_function(spec.name)
    named, takes_any = accepted(function)
    if getattr(function, "__init__", None) is nn.Module.__init__:
        named, takes_any = {}, False  # its signature claims to take everything, and it refuses everything
    offered = {"input_shape": input_shape, "classes": outputs}
    if "outputs" in named:  # the word that fits every task; classes is what most classifiers call it
        offered = {"input_shape": input_shape, "outputs": outputs}
    arguments = {key: value for key, value in offered.items() if takes_any or key in named} | spec.arguments
    refuse_all(argument_problems(function, arguments, spec.name, _ARGUMENTS))
    try:
        model = function(**arguments)
    except Exception as error:
        refuse("model.name", f"{spec.name} raised {type(error).__name__}: {error}", error)
    if not isinstance(model, nn.Module):
        refuse("model.name", f"{spec.name} must return a torch.nn.Module; got {type(model).__name__}")
    return model


def _classifiers() -> list[str]:
    from torchvision import models  # slow to import, and most studies do without

    return list(models.list_models(module=models))


def _from_torchvision(spec: ModelSpec, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build an image classifier of torchvision, its stem adapted to the channels and to small images."""
    from torchvision import models  # slow to import, and most studies do without

    name = spec.name.partition(":")[2]
    if name not in _classifiers():
        raise NotFoundError(_unknown_classifier(name, models.list_models()))
    _check_image(spec.name, input_shape)
    taken = {"weights": "networks start untrained here", "num_classes": "it follows from the data"}
    refuse_all(
        [Problem(f"{_ARGUMENTS}.{key}", f"leave it out: {taken[key]}") for key in spec.arguments if key in taken]
    )
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=outputs, **spec.arguments)
    except Exception as error:
        problem = _torchvision_problem(name, error)
        refuse(problem.path, problem.message, error)
    if getattr(model, "aux_logits", False):
        # It shows only in training mode: there the output is a tuple.
        refuse(f"{_ARGUMENTS}.aux_logits", f"{spec.name} returns auxiliary outputs in training; set aux_logits: false")
    _adapt_stem(model, input_shape)
    return model


def _unknown_classifier(name: str, everything: Sequence[str]) -> str:
    allowed = _classifiers()
    if name in everything:
        return f"torchvision:{name} is not an image classifier (but for detection, segmentation, video or quantised)"
    known = f"torchvision has {len(allowed)} classifiers such as resnet18, vgg11_bn, mobilenet_v2"
    return f"no model 'torchvision:{name}'; {known}{suggest(name, allowed)}"


def _torchvision_problem(name: str, error: Exception) -> Problem:
    from torchvision import models  # slow to import

    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not unknown:
        return Problem(_ARGUMENTS, f"torchvision:{name} refused them: {type(error).__name__}: {error}")
    # Torchvision's functions pass their arguments on, so only the class of the network knows the names.
    with torch.device("meta"):
        parameters, _ = accepted(type(models.get_model(name, weights=None)))
    # Those without a default make up the architecture, and are given by its name; so is SqueezeNet's version.
    optional = [key for key, p in parameters.items() if p.default is not p.empty or key == "image_size"]
    allowed = [key for key in optional if key not in ("num_classes", "version")]
    return unknown_argument(unknown[1], f"torchvision:{name}", _ARGUMENTS, allowed)


def _adapt_stem(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Give the first convolution the data's channels; keep it and the pooling behind it from shrinking small images.

    A convolution whose stride equals its kernel cuts the image into patches, on which the rest of the network relies.
    """
    name, stem = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    strided = max(stem.stride) > 1 and stem.stride != stem.kernel_size
    shrinks = strided and min(input_shape[1:]) < _SMALL_IMAGE
    if shrinks:
        for pooling in ("maxpool", "features.pool0"):  # the latter is DenseNet's
            parent, _, child = pooling.rpartition(".")
            if isinstance(getattr(_child(model, parent), child, None), nn.MaxPool2d):
                setattr(_child(model, parent), child, nn.Identity())
    if not shrinks and stem.in_channels == input_shape[0]:
        return
    shape: dict[str, Any] = {"kernel_size": 3, "padding": 1}
    if not shrinks:
        shape = {key: getattr(stem, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    adapted = nn.Conv2d(input_shape[0], stem.out_channels, bias=stem.bias is not None, **shape)
    parent, _, child = name.rpartition(".")
    setattr(_child(model, parent), child, _initialise(adapted))


def _child(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
