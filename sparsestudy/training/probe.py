"""The probe: what happens inside a network, layer by layer, without changing it.

A *layer* here is a place where activations leave a non-linearity. It is named by its module: the non-linearity itself,
or, where that is the last child and the only non-linearity of an ``nn.Sequential``, that block (``features.conv1``
rather than ``features.conv1.1``). A module that is used several times in one forward pass, as in residual networks,
yields one layer per use: ``layer1.0.relu``, ``layer1.0.relu#2``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsestudy.errors import NotFoundError, listing
from sparsestudy.regularizers import Layer, evaluating, match, nth_use

NONLINEARITIES: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardsigmoid,
)


def sites(model: nn.Module) -> dict[str, nn.Module]:
    """Modules whose output is an activation after a non-linearity, by name, in the order of definition."""
    names = {module: name for name, module in model.named_modules()}
    # One non-linearity shared by several blocks tells its uses apart only if it is looked at itself.
    places = Counter(child for module in names for child in module._modules.values())
    blocks = {
        block[-1]: block
        for block in model.modules()
        if isinstance(block, nn.Sequential)
        and block is not model
        and sum(isinstance(m, NONLINEARITIES) for m in block.modules()) == 1
        and places[block[-1]] == 1
    }
    inside = [module for module in names if isinstance(module, NONLINEARITIES)]
    return {names[site]: site for site in (blocks.get(module, module) for module in inside)}


def discover(model: nn.Module, example: Tensor) -> list[Layer]:
    """Layers in the order in which a forward pass reaches them, with their shapes.

    Args:
        model: Any module; it and its parts are left in the modes they were in.
        example: Inputs ``[B, ...]``.

    Raises:
        NotFoundError: The network has no non-linearity that is a module.
    """
    layers = find_layers(model, example)
    if not layers:
        raise NotFoundError(
            f"{type(model).__name__} has no non-linearity that is a module, so no layer can be observed; functional "
            f"calls such as F.relu(x) are invisible: use nn.ReLU() and its relatives"
        )
    return layers


def find_layers(model: nn.Module, example: Tensor) -> list[Layer]:
    """Like `discover`, but no layer is an empty list."""
    places = sites(model)
    with Probe(model) as probe, torch.no_grad(), evaluating(model):
        model(example)
    return [_layer(name, activations, places) for name, activations in probe.activations.items()]


def _layer(name: str, activations: Tensor, places: Mapping[str, nn.Module]) -> Layer:
    site, _, use = name.partition("#")
    module = places[site]
    last = next(m for m in reversed(list(module.modules())) if isinstance(m, NONLINEARITIES))
    shape = tuple(activations.shape[1:])
    return Layer(name=name, shape=shape, module=module, nonlinearity=last, use=int(use or 1))


class Probe:
    """Context manager that keeps the activations of chosen layers of every forward pass.

    Args:
        model: Any module.
        layers: Shell pattern or patterns of layer names, or a predicate on them; see the module's docstring.
        on_activation: Called with ``(layer, activations)`` instead of keeping them.

    Attributes:
        activations: Layer name to the tensor of the latest forward pass, with its graph. Emptied when the next
            forward pass starts.
        enabled: Set to False to let forward passes go unobserved at no cost but a branch.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with Probe(model) as probe:
        ...     _ = model(torch.ones(4, 2))
        >>> {name: tuple(a.shape) for name, a in probe.activations.items()}
        {'1': (4, 3)}
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | tuple[str, ...] | Callable[[str], bool] = "*",
        on_activation: Callable[[str, Tensor], None] | None = None,
    ) -> None:
        self._model = model
        if callable(layers):
            self._wanted = layers
        else:
            patterns = (layers,) if isinstance(layers, str) else tuple(layers)
            self._wanted = lambda layer: match(patterns, layer) is not None
        self._on_activation = on_activation
        self._uses: Counter[str] = Counter()
        self._handles: list[RemovableHandle] = []
        self.activations: dict[str, Tensor] = {}
        self.enabled = True

    def __enter__(self) -> Self:
        self._handles = [self._model.register_forward_pre_hook(self._start)]
        for name, module in sites(self._model).items():
            # First in line: a regulariser's hook on the same module may replace the output (dropout).
            self._handles.append(module.register_forward_hook(self._keep(name), prepend=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _start(self, module: nn.Module, inputs: Any) -> None:
        self.activations = {}
        self._uses.clear()

    def _keep(self, site: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if not self.enabled:
                return
            self._uses[site] += 1
            name = nth_use(site, self._uses[site])
            if not self._wanted(name):
                return
            if self._on_activation is None:
                self.activations[name] = output
            else:
                self._on_activation(name, output)

        return hook


def expand(patterns: Mapping[str, Any], layers: list[str], noun: str = "layer") -> dict[str, Any]:
    """Resolve layer patterns: one entry per layer, in the order of the network.

    An exact name wins over a shell pattern.

    Args:
        patterns: Pattern to value.
        layers: Names of the layers there are.
        noun: What to call a layer in messages.

    Raises:
        NotFoundError: A pattern matches no layer.
        ValueError: Two shell patterns claim the same layer.

    Example:
        >>> expand({"conv*": 0.3, "conv2": 0.5}, ["conv1", "conv2", "dense1"])
        {'conv1': 0.3, 'conv2': 0.5}
    """
    for pattern in patterns:
        if not any(match((pattern,), layer) for layer in layers):
            raise NotFoundError(f"{pattern!r} matches no {noun} of this model; {noun}s: {listing(layers)}")
    found = {}
    for layer in layers:
        claims = [layer] if layer in patterns else [p for p in patterns if match((p,), layer)]
        if len(claims) > 1:
            raise ValueError(f"{noun} {layer!r} is claimed by {claims[0]!r} and by {claims[1]!r}; keep one")
        if claims:
            found[layer] = patterns[claims[0]]
    return found
