"""Parts that a method adds to a network for good, as norms are: modules before a non-linearity.

They are submodules of the non-linearity, so that they train, move and are saved with the network and follow its mode,
and no layer changes its name. Nothing here refers to a module other than by its name, so that a copied or saved
network has parts of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn

from sparsestudy.regularizers._step import Layer


class Parts(nn.ModuleDict):
    """What stands before one non-linearity: a module for each use that has one, by the number of the use.

    Attributes:
        uses: How often the non-linearity was used so far in this forward pass.
    """

    uses = 0


def put_before(model: nn.Module, layers: Iterable[Layer], name: str, make: Callable[[Layer], nn.Module]) -> None:
    """Let what enters the non-linearity of each layer pass through ``make(layer)`` first, from now on.

    Args:
        model: The network of the layers.
        layers: Where; several may be uses of one module.
        name: Of the new submodules.
        make: Makes a module that keeps the shape of its input.
    """
    for layer in layers:
        place = layer.nonlinearity
        assert place is not None, f"layer {layer.name} is not a module"
        if not hasattr(place, name):
            place.add_module(name, Parts())
            place.register_forward_pre_hook(partial(_enter, name))
        place.get_submodule(name)[str(layer.use)] = make(layer)  # type: ignore[operator]
    model.register_forward_pre_hook(partial(_start, name))


def _start(name: str, model: nn.Module, inputs: Any) -> None:
    for path, module in model.named_modules():
        if isinstance(module, Parts) and path.rpartition(".")[2] == name:
            module.uses = 0


def _enter(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = module.get_submodule(name)
    assert isinstance(parts, Parts)
    parts.uses += 1
    use = str(parts.uses)
    return (parts[use](inputs[0]), *inputs[1:]) if use in parts else inputs
