"""The one interface of every regulariser, and what those of layers and those of weights share."""

from __future__ import annotations

import math
from abc import ABC
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsestudy.errors import listing
from sparsestudy.regularizers._step import Layer, Network, Step, Weight, match
from sparsestudy.space import Domain
from sparsestudy.study import TaskName

Number: TypeAlias = float | Tensor
Reads: TypeAlias = Literal["activations", "weights", "logits", "features", "inputs", "nothing"]
OverRanks: TypeAlias = Literal["sum", "gather", "same", "draws"]


def _number(value: Any) -> Any:
    if isinstance(value, Tensor) or (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ):
        return value
    raise ValueError(f"needs a number, got {value!r}")


def _number_per_layer(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(pattern): _number(item) for pattern, item in value.items()}
    return _number(value)


def is_zero(strength: Number) -> bool:
    """Whether a strength is the plain number 0, at which a method should cost nothing.

    Example:
        >>> is_zero(0.0), is_zero(torch.zeros(()))  # a tensor may stand for many strengths
        (True, False)
    """
    return not isinstance(strength, Tensor) and strength == 0


_PER_LAYER_SCHEMA = {"anyOf": [{"type": "number"}, {"additionalProperties": {"type": "number"}}]}
PerLayer = Annotated[Any, BeforeValidator(_number_per_layer), WithJsonSchema(_PER_LAYER_SCHEMA)]
Single = Annotated[Any, BeforeValidator(_number), WithJsonSchema({"type": "number"})]
Target = Annotated[Any, BeforeValidator(_number), WithJsonSchema({"type": "number", "minimum": 0})]


class Regularizer(BaseModel, ABC):
    """A method against overfitting, frozen: equal parameters, equal behaviour.

    A subclass is one file of this folder. Its docstring is the method card. It overrides `penalty` if it adds to the
    loss, `around_gradient` or `around_update` if it changes the step, `install` if it changes the network, `stops` if
    it ends training; what it does not override does nothing.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )

    reads: ClassVar[Reads] = "nothing"
    """What `penalty` needs; activations of other layers than those it acts on are not kept. They bring the features."""

    tasks: ClassVar[tuple[TaskName, ...]] = ("classification", "regression")
    """Tasks it can be used for."""

    over_ranks: ClassVar[OverRanks] = "gather"
    """How several processes that share a batch compute it as one would.

    - ``sum``: it is a mean over examples, each of them by itself; each process takes the mean over its own.
    - ``gather``: examples are seen together; each process sees those of all. Right for any method, and the dearest.
    - ``same``: it does not depend on the examples, but on weights, gradients or losses, which all processes share.
    - ``draws``: each process draws random numbers for its own examples, and not those that one process would draw.
    """

    strength_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """Allowed strengths: low included, high excluded."""

    search: ClassVar[Mapping[str, Domain]] = {}
    """Recommended range of each parameter, which ``auto`` in a study file stands for."""

    @field_validator("strength", check_fields=False)
    @classmethod
    def _in_range(cls, strength: Any) -> Any:
        low, high = cls.strength_range
        values = list(strength.values()) if isinstance(strength, Mapping) else [strength]
        wrong = [v for v in values if not isinstance(v, Tensor) and not low <= v < high]
        if wrong:
            raise ValueError(f"strength lies in [{low:g}, {high:g}), got {listing(f'{v:g}' for v in wrong)}")
        return strength

    def penalty(self, step: Step) -> Tensor | None:
        """What to add to the loss, a 0-d tensor, or None."""
        return None

    def around_gradient(self, step: Step, compute: Callable[[], None]) -> None:
        """Leave in ``.grad`` of every parameter what the optimizer shall use.

        ``compute()`` clears the gradients and takes the gradient of loss and penalties at the present weights; it may
        be called several times. Of several methods in one arm the first is the outermost.
        """
        compute()

    def around_update(self, step: Step, take: Callable[[], None]) -> None:
        """Update the weights; ``take()`` is the optimizer's step. The first method of an arm is the outermost."""
        take()

    def install(self, model: nn.Module, layers: Sequence[Layer]) -> list[RemovableHandle]:
        """Change the network, before the optimizer is made, by hooks or by new parts; the handles undo what ends.

        A part that belongs to the trained network, such as a norm, stays.
        """
        return []

    def stops(self, validation_losses: Sequence[float]) -> bool:
        """Whether to end training after the epochs whose validation losses these are."""
        return False

    def acts_on(self, layer: str) -> bool:
        """Whether this instance concerns the layer of that name."""
        del layer
        return self.reads == "activations"

    def obstacle(self, shape: tuple[int, ...]) -> str:
        """Why it cannot work on a layer whose activations have this shape for one example, empty if it can."""
        del shape
        return ""

    def obstacles(self, network: Network) -> list[str]:
        """Why it cannot work on a network as it is asked to, by the names of layers or weights; empty if it can."""
        found = [
            (layer.name, self.obstacle(layer.shape) or self._unreachable(layer))
            for layer in network.layers
            if self.acts_on(layer.name)
        ]
        return [f"it cannot work on layer {name!r}: {why}; choose other layers" for name, why in found if why]

    def _unreachable(self, layer: Layer) -> str:
        """Why nothing can be put after or before a layer."""
        installs = type(self).install is not Regularizer.install
        return "a function makes it, not a module such as nn.ReLU()" if installs and layer.functional else ""


class LayerRegularizer(Regularizer):
    """A regulariser of chosen layers, with one strength or one per layer."""

    strength: PerLayer = Field(0.0, description="Weight of the method; a number, or layer pattern: number.")
    layers: tuple[str, ...] | None = Field(None, strict=False, description="Layer patterns it acts on; None: all.")

    def acts_on(self, layer: str) -> bool:
        """Whether the layer is chosen by `layers` and has a strength."""
        chosen = self.layers is None or match(self.layers, layer) is not None
        return chosen and (not isinstance(self.strength, Mapping) or match(tuple(self.strength), layer) is not None)

    def strength_of(self, layer: str) -> Number:
        """Strength for a layer that `acts_on`."""
        if not isinstance(self.strength, Mapping):
            return self.strength  # type: ignore[no-any-return]
        pattern = match(tuple(self.strength), layer)
        assert pattern is not None, f"no strength for {layer}"
        return self.strength[pattern]  # type: ignore[no-any-return]

    def install_after(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        transform: Callable[[Layer, Tensor, bool], Tensor],
    ) -> list[RemovableHandle]:
        """Replace the output of every chosen layer by ``transform(layer, output, training)``."""
        return intercept(model, [layer for layer in layers if self.acts_on(layer.name)], transform)

    def chosen(self, activations: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The layers it acts on with their activations.

        Raises:
            KeyError: None of the layers matches; the message lists them.
        """
        found = [(name, tensor) for name, tensor in activations.items() if self.acts_on(name)]
        if not found:
            raise KeyError(f"{type(self).__name__} matches none of the layers: {listing(activations)}")
        yield from found


class WeightRegularizer(Regularizer):
    """A regulariser of the filters of chosen weights, each reshaped to ``[N, d]``: one row a filter or unit.

    Without ``layers`` it acts on every weight that it can act on.
    """

    reads: ClassVar[Reads] = "weights"
    over_ranks: ClassVar[OverRanks] = "same"

    compares: ClassVar[bool] = False
    """Whether it compares the filters of a weight with each other: it needs two or more that see the same inputs."""

    strength: Single = Field(0.0, description="Weight of the method.")
    layers: tuple[str, ...] | None = Field(None, strict=False, description="Patterns of weight names; None: all.")

    def weight_obstacle(self, weight: Weight) -> str:
        """Why it cannot work on a weight, empty if it can."""
        if self.compares and weight.groups > 1:
            return f"its filters see different inputs ({weight.groups} groups)"
        if self.compares and weight.shape[0] < 2:
            return "it has a single filter, and filters are compared with each other"
        return ""

    def obstacles(self, network: Network) -> list[str]:
        """See `Regularizer.obstacles`; weights that nobody named may be unfit as long as one is fit."""
        chosen = [weight for weight in network.weights if self.acts_on_weight(weight.name)]
        unfit = {w.name.removesuffix(".weight"): why for w in chosen if (why := self.weight_obstacle(w))}
        if chosen and len(unfit) < len(chosen) and self.layers is None:
            return []
        found = [f"it cannot work on weight {name!r}: {why}; choose other layers" for name, why in unfit.items()]
        return found if chosen else ["the network has no weight that it could act on"]

    def filters(self, step: Step) -> dict[str, Tensor]:
        """Chosen weights that it can act on by name, as matrices in float32 or better; none at strength 0.

        Raises:
            KeyError: None of the weights matches; the message lists them.
        """
        chosen = {name: weight.flatten(1) for name, weight in step.weights.items() if self.acts_on_weight(name)}
        if not chosen:
            raise KeyError(f"{type(self).__name__} matches none of the weights: {listing(step.weights)}")
        if is_zero(self.strength):
            return {}
        wide = {name: rows if rows.dtype == torch.float64 else rows.float() for name, rows in chosen.items()}
        if not self.compares:
            return wide
        return {name: rows for name, rows in wide.items() if rows.shape[0] >= 2 and name not in step.grouped}

    def acts_on_weight(self, name: str) -> bool:
        """Whether the parameter of that name is chosen; patterns leave its ``.weight`` away."""
        return self.layers is None or match(self.layers, name.removesuffix(".weight")) is not None

    def summed(self, terms: Sequence[Tensor], step: Step) -> Tensor:
        """Strength times the sum of the terms; zero, with a graph, if there are none."""
        if not terms:
            nothing: Tensor = self.strength * torch.zeros((), device=next(iter(step.weights.values())).device)
            return nothing
        total: Tensor = self.strength * torch.stack(list(terms)).sum()
        return total


def intercept(
    model: nn.Module,
    layers: Sequence[Layer],
    transform: Callable[[Layer, Tensor, bool], Tensor],
    *,
    before: bool = False,
) -> list[RemovableHandle]:
    """Replace the output of layers, or what enters their non-linearity, by ``transform(layer, tensor, training)``.

    Uses of one module within a forward pass are told apart, as in the names of layers.
    """
    uses: Counter[nn.Module] = Counter()
    places: dict[nn.Module, dict[int, Layer]] = {}
    for layer in layers:
        place = layer.nonlinearity if before else layer.module
        assert place is not None, f"layer {layer.name} is not a module"
        places.setdefault(place, {})[layer.use] = layer

    def start(module: nn.Module, inputs: Any) -> None:
        uses.clear()

    def replace(module: nn.Module, tensor: Tensor) -> Tensor:
        uses[module] += 1
        layer = places[module].get(uses[module])
        return tensor if layer is None else transform(layer, tensor, module.training)

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (replace(module, inputs[0]), *inputs[1:])

    def leave(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return replace(module, output)

    handles = [model.register_forward_pre_hook(start)]
    for module in places:
        handles.append(module.register_forward_pre_hook(enter) if before else module.register_forward_hook(leave))
    return handles
