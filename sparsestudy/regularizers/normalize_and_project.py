"""Normalize-and-project: norms before the non-linearities, and weights that keep the length they started with.

(1) What enters a chosen non-linearity is normalised per example, over channels and positions, without gain::

    layer_norm:  (x - mean) / sqrt(variance + epsilon)           rms_norm:  x / sqrt(mean of x**2 + epsilon)

(2) After every ``every`` updates each weight of two or more dimensions is scaled back to its Frobenius norm at the
start, ``W <- rho * W / ||W||``; the output layer's only with ``output: true``, because no norm follows it and its
scale matters.

Before a norm the scale of a weight does not change the function, only how far a step of given length turns it. Keeping
it keeps the effective learning rate what the schedule says: give it one. Do not combine it with decay of the weights,
which the projection undoes. Biases and gains of other norms are left free. The norms belong to the trained network and
stay in it, in evaluation mode too; they have no parameters, so that whoever loads the weights into a fresh network has
to install them there.

Source: Lyle et al. 2024 (arXiv 2407.01800). DERIVED from the abstract and two independent implementations that agree:
both parts, the norms at the start. ASSUMED: norms without gains and offsets, free biases, the output layer's
exception.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsestudy.regularizers._parts import put_before
from sparsestudy.regularizers._regularizer import OverRanks, Regularizer
from sparsestudy.regularizers._step import Layer, Step, match

Norm = Literal["layer_norm", "rms_norm"]


def norm_of(shape: tuple[int, ...], norm: Norm = "layer_norm", epsilon: float = 1e-5) -> nn.Module:
    """Makes each example of ``[B, *shape]`` one of mean 0 and variance 1 (layer_norm) or of mean square 1 (rms_norm).

    Example:
        >>> norm_of((2,), epsilon=0.0)(torch.tensor([[1.0, 3.0]])).tolist()
        [[-1.0, 1.0]]
        >>> norm_of((2,), "rms_norm", 0.0)(torch.tensor([[3.0, 4.0]])).square().mean().item()
        1.0
    """
    kind = nn.LayerNorm if norm == "layer_norm" else nn.RMSNorm
    return kind(shape, eps=epsilon, elementwise_affine=False)


@torch.no_grad()
def project(weight: Tensor, length: Tensor) -> None:
    """Scale a weight to a Frobenius norm, in place; a weight of zeros stays.

    Example:
        >>> weight = torch.tensor([[6.0, 8.0], [0.0, 5.0]])
        >>> project(weight, torch.tensor(5.0))
        >>> [[round(v, 5) for v in row] for row in weight.tolist()]
        [[2.68328, 3.57771], [0.0, 2.23607]]
    """
    found = torch.linalg.vector_norm(weight)
    weight.mul_(torch.where(found > 0, length / found, 1))


class NormalizeAndProject(Regularizer):
    """Norms before the non-linearities of the chosen layers, and projection of all weights."""

    over_ranks: ClassVar[OverRanks] = "same"

    layers: tuple[str, ...] | None = Field(None, strict=False, description="Layers to normalise; None: all.")
    norm: Norm = Field("layer_norm", description="layer_norm or rms_norm.")
    epsilon: float = Field(1e-5, gt=0, description="Added to the variance or mean square.")
    every: int = Field(1, gt=0, description="Updates from one projection to the next.")
    output: bool = Field(False, description="Whether to project the output layer's weight as well.")

    def acts_on(self, layer: str) -> bool:
        """Whether the layer is chosen."""
        return self.layers is None or match(self.layers, layer) is not None

    def obstacle(self, shape: tuple[int, ...]) -> str:
        """One number alone has no variance."""
        return "it has a single unit, and the norm is taken over units" if math.prod(shape) < 2 else ""

    def install(self, model: nn.Module, layers: Sequence[Layer]) -> list[RemovableHandle]:
        """Add the norms for good."""
        chosen = [layer for layer in layers if self.acts_on(layer.name)]
        put_before(model, chosen, "norm", lambda layer: norm_of(layer.shape, self.norm, self.epsilon))
        return []

    def around_gradient(self, step: Step, compute: Callable[[], None]) -> None:
        """Note the lengths at the start, before any other method touches a weight."""
        self._lengths(step)
        compute()

    def around_update(self, step: Step, take: Callable[[], None]) -> None:
        """Let the optimizer step, and project if it is time."""
        lengths = self._lengths(step)
        take()
        step.memory["updates"] = step.memory["updates"] + 1
        if step.memory["updates"].item() % self.every == 0:
            for name, length in lengths.items():
                project(step.weights[name], length)

    def _lengths(self, step: Step) -> dict[str, Tensor]:
        """Norms at the start of the weights to project, noted at the first call."""
        names = [name for name in step.weights if self.output or name != step.output_weight]
        if "updates" not in step.memory:
            step.memory["updates"] = torch.zeros((), dtype=torch.int64)
            for name in names:
                step.memory[f"length/{name}"] = torch.linalg.vector_norm(step.weights[name].detach())
        return {name: step.memory[f"length/{name}"] for name in names}
