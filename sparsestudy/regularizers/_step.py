"""What a regulariser is shown: one training step, the layers of a network, and its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor, nn

Memory: TypeAlias = MutableMapping[str, Tensor]
"""Tensors that a method keeps from step to step. Replaced, never changed in place: a step may be undone."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a regulariser sees of one training step.

    `Regularizer.around_gradient` and `Regularizer.around_update` are given the step before its forward pass: there
    activations, logits and features are missing.

    Attributes:
        activations: Layer name to activations ``[B, C, *spatial]`` or ``[B, C]`` after the non-linearity, in training
            mode, with their graph; the same forward pass as the loss.
        weights: Parameter name to tensor, for parameters of two or more dimensions: no biases, no norm gains.
        grouped: Names of weights whose filters see different inputs: grouped and depthwise convolutions.
        logits: Outputs of the network ``[B, classes]``, or ``[B, 1]`` where a number is predicted, with their graph.
        labels: Classes ``[B]``, or numbers to predict.
        features: Inputs ``[B, A]`` of the last linear layer, with their graph.
        inputs: Inputs of the network ``[B, ...]``.
        network: The network.
        rate: Learning rate of this step.
        epoch: Epochs trained so far, with its fraction.
        memory: What this method keeps from step to step.
        seed: Of this method's random numbers in this step.
    """

    activations: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    grouped: frozenset[str] = frozenset()
    logits: Tensor | None = None
    labels: Tensor | None = None
    features: Tensor | None = None
    inputs: Tensor | None = None
    network: nn.Module | None = None
    rate: float = 0.0
    epoch: float = 0.0
    memory: Memory = field(default_factory=dict)
    seed: int = 0

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Random numbers of this method in this step: the same whatever other methods draw, and if the step repeats."""
        return torch.Generator(device).manual_seed(self.seed)

    @property
    def output_weight(self) -> str:
        """Name of the output layer's weight, the last one; empty if there is only one."""
        return list(self.weights)[-1] if len(self.weights) > 1 else ""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A place where activations leave a non-linearity.

    Attributes:
        name: As in the study file; ``name#2`` is the second use of one module in a forward pass.
        shape: Shape of one example's activations, ``(C, *spatial)``.
        module: The module whose output the activations are.
        nonlinearity: The non-linearity itself: ``module`` or the last part of it.
        use: Which use of the module in one forward pass this is, counted from 1.
    """

    name: str
    shape: tuple[int, ...]
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    nonlinearity: nn.Module | None = field(default=None, repr=False, compare=False)
    use: int = field(default=1, compare=False)


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A parameter of two or more dimensions: its name, its shape and, of a convolution, the number of groups."""

    name: str
    shape: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a network offers to the methods, known before anything trains.

    Attributes:
        layers: In the order of the forward pass.
        weights: In the order of definition.
        classifier: Name of the last linear layer's weight if that is the last weight of all, else empty.
    """

    layers: Sequence[Layer]
    weights: Sequence[Weight]
    classifier: str = ""


def survey(model: nn.Module, layers: Sequence[Layer]) -> Network:
    """What a model offers, given its layers."""
    groups = {f"{name}.weight": getattr(module, "groups", 1) for name, module in model.named_modules()}
    linear = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    weights = [
        Weight(name=name, shape=tuple(p.shape), groups=groups.get(name.lstrip("."), 1))
        for name, p in trained_weights(model).items()
    ]
    last = weights[-1].name if weights else ""
    return Network(layers=layers, weights=weights, classifier=last if last in linear else "")


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of two or more dimensions that train, by name, in the order of definition."""
    return {name: p for name, p in model.named_parameters() if p.dim() >= 2 and p.requires_grad}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, for a further forward pass that must neither drop units nor move batch statistics."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@lru_cache(maxsize=4096)
def match(patterns: tuple[str, ...], layer: str) -> str | None:
    """The pattern that claims a layer: its exact name if listed, else the first shell pattern that matches.

    Example:
        >>> match(("features.*", "features.conv2"), "features.conv2")
        'features.conv2'
        >>> match(("features.*",), "classifier.dense1") is None
        True
    """
    if layer in patterns:
        return layer
    return next((pattern for pattern in patterns if fnmatchcase(layer, pattern)), None)


def nth_use(layer: str, use: int) -> str:
    """Name of a layer at the nth use of its module in one forward pass, counted from 1.

    Example:
        >>> nth_use("layer1.0.relu", 1), nth_use("layer1.0.relu", 2)
        ('layer1.0.relu', 'layer1.0.relu#2')
    """
    return layer if use == 1 else f"{layer}#{use}"
