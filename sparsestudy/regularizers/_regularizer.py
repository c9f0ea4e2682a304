"""The one interface of every regulariser: what it is given, and the two places it may act."""

from __future__ import annotations

import math
from abc import ABC
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsestudy.errors import listing
from sparsestudy.space import Domain

Number: TypeAlias = float | Tensor


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


_PER_LAYER_SCHEMA = {"anyOf": [{"type": "number"}, {"additionalProperties": {"type": "number"}}]}
PerLayer = Annotated[Any, BeforeValidator(_number_per_layer), WithJsonSchema(_PER_LAYER_SCHEMA)]
Single = Annotated[Any, BeforeValidator(_number), WithJsonSchema({"type": "number"})]
Target = Annotated[Any, BeforeValidator(_number), WithJsonSchema({"type": "number", "minimum": 0})]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a regulariser sees of one training step.

    Attributes:
        activations: Layer name to activations ``[B, C, *spatial]`` or ``[B, C]`` after the non-linearity, in training
            mode, with their graph; the same forward pass as the loss.
        weights: Parameter name to tensor, for parameters of two or more dimensions: no biases, no norm gains.
        logits: Outputs of the network ``[B, classes]``, with their graph.
        labels: Classes ``[B]``.
        epoch: Epochs trained so far, with its fraction.
    """

    activations: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None
    labels: Tensor | None = None
    epoch: float = 0.0


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


class Regularizer(BaseModel, ABC):
    """A method against overfitting, frozen: equal parameters, equal behaviour.

    A subclass is one file of this folder. Its docstring is the method card. It overrides `penalty` if it adds to the
    loss, `install` if it changes the network; what it does not override does nothing.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )

    reads: ClassVar[Literal["activations", "weights", "logits", "nothing"]] = "nothing"
    """What `penalty` needs; activations of other layers than those it acts on are not kept."""

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

    def install(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> list[RemovableHandle]:
        """Change the network by hooks on it or on the modules of its layers; the handles undo it."""
        return []

    def acts_on(self, layer: str) -> bool:
        """Whether this instance concerns the layer of that name."""
        del layer
        return self.reads == "activations"

    def obstacle(self, shape: tuple[int, ...]) -> str:
        """Why it cannot work on a layer whose activations have this shape for one example, empty if it can."""
        del shape
        return ""


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
        layers: Mapping[str, nn.Module],
        transform: Callable[[str, Tensor, bool], Tensor],
    ) -> list[RemovableHandle]:
        """Replace the output of every chosen layer by ``transform(layer, output, training)``.

        Uses of one module within a forward pass are told apart, as in the names of layers.
        """
        uses: Counter[str] = Counter()

        def start(module: nn.Module, inputs: Any) -> None:
            uses.clear()

        def after(site: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
                uses[site] += 1
                layer = nth_use(site, uses[site])
                return transform(layer, output, module.training) if self.acts_on(layer) else output

            return hook

        sites = [module.register_forward_hook(after(site)) for site, module in layers.items()]
        return [model.register_forward_pre_hook(start), *sites]

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
    """A regulariser of the filters of chosen weights, each reshaped to ``[N, d]``: one row a filter or unit."""

    reads: ClassVar[Literal["activations", "weights", "logits", "nothing"]] = "weights"

    strength: Single = Field(0.0, description="Weight of the method.")
    layers: tuple[str, ...] | None = Field(None, strict=False, description="Patterns of weight names; None: all.")

    def filters(self, step: Step, least: int = 1) -> dict[str, Tensor]:
        """Chosen weights with at least ``least`` filters by name, as matrices in float32 or better.

        Raises:
            KeyError: None of the weights matches; the message lists them.
        """
        chosen = {name: weight.flatten(1) for name, weight in step.weights.items() if self.acts_on_weight(name)}
        if not chosen:
            raise KeyError(f"{type(self).__name__} matches none of the weights: {listing(step.weights)}")
        wide = {name: rows if rows.dtype == torch.float64 else rows.float() for name, rows in chosen.items()}
        return {name: rows for name, rows in wide.items() if rows.shape[0] >= least}

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
