"""Sparseout: dropout whose noise is scaled by a power of the activation, which makes codes sparser or denser.

During training, with p the probability of dropping and m_i = 1 with probability 1 - p::

    b_i = m_i / (1 - p) - 1                                 mean 0, variance p / (1 - p)
    y_i = x_i * (1 + (|x_i| + 1e-12)**((q - 2) / 2) * b_i)    mean x_i, variance |x_i|**q p / (1 - p)

q = 2 is dropout; q < 2 makes activations sparser than dropout does, q > 2 denser. Nothing changes in evaluation mode.

Gradients: ``reference`` treats the factor of x as a constant, as the authors' code does; ``exact`` is the derivative,
``1 + q / 2 |x|**((q - 2) / 2) b``. They agree for q = 2. With q < 2 the reference factor at x = 0 is up to 1e6:
harmless only right after a rectifier, which passes no gradient there. Keep q <= 3: large activations change sign
otherwise. After every layer at once, probabilities beyond 0.2 are too much for powers of 1 (nothing is learnt) and of 3
(noise grows from layer to layer, and training diverges); after one layer 0.5 is fine.

Source: Khan and Stavness 2019 (arXiv 1904.08050); forward and reference gradient VERBATIM from the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsestudy.regularizers._regularizer import LayerRegularizer, OverRanks, PerLayer
from sparsestudy.regularizers._step import Layer
from sparsestudy.space import Domain, Uniform

Gradient = Literal["reference", "exact"]


def sparseout(inputs: Tensor, keep: Tensor, p: float, q: float = 2.0, gradient: Gradient = "reference") -> Tensor:
    """Sparseout under a given mask.

    Args:
        inputs: Activations of any shape.
        keep: Mask of the same shape, 1 where kept.
        p: Probability of dropping, in [0, 1).
        q: Power, >= 0.
        gradient: See the module.

    Example:
        >>> x, keep = torch.tensor([-2.0, -0.5, 0.25]), torch.tensor([1.0, 0.0, 0.0])
        >>> [round(v, 6) for v in sparseout(x, keep, 0.5, 1.0).tolist()]
        [-3.414214, 0.207107, -0.25]
    """
    wide = inputs.float() if inputs.dtype.itemsize < 4 else inputs
    noise = keep / (1 - p) - 1
    if gradient == "reference":
        factor = (wide.detach().abs() + 1e-12).pow((q - 2) / 2)
        return (wide * (1 + factor * noise)).to(inputs.dtype)
    # sign(x) |x|**(q/2) without the pole of its derivative at zero, where the rectified activation does not move.
    magnitude = wide.abs()
    positive = magnitude > 0
    power = torch.where(positive, torch.where(positive, magnitude, 1).pow(q / 2), 0)
    return (wide + wide.sign() * power * noise).to(inputs.dtype)


class Sparseout(LayerRegularizer):
    """Sparseout after the chosen layers."""

    over_ranks: ClassVar[OverRanks] = "draws"
    strength_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.05, high=0.2), "q": Uniform(low=1.0, high=3.0)}

    strength: PerLayer = Field(0.5, description="Probability p of dropping an activation, in [0, 1).")
    q: float = Field(2.0, ge=0, le=4, description="Power: below 2 sparser, above 2 denser than dropout.")
    gradient: Gradient = Field("reference", description="reference or exact.")

    def install(self, model: nn.Module, layers: Sequence[Layer]) -> list[RemovableHandle]:
        """Perturb activations of every chosen layer while the network trains."""

        def perturb(layer: Layer, output: Tensor, training: bool) -> Tensor:
            p = float(self.strength_of(layer.name))
            if not training or p == 0:
                return output
            return sparseout(
                output, (torch.rand_like(output, dtype=torch.float32) >= p).to(output.dtype), p, self.q, self.gradient
            )

        return self.install_after(model, layers, perturb)
