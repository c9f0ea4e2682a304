"""p-norm path regularisation: the sparsest pair of dense layers that fits, by a p-norm of its paths with p <= 1.

Two dense layers in a row, ``W[H, d]`` with biases and ``V[O, H]``, have the paths ``u_kj = |v_k|_2 W_kj`` from input j
through unit k, with v_k the column of V that unit k feeds. For one output ``|u_kj| = |v_k W_kj|``. The smaller p, the
more ``sum of |u|**p`` only counts paths, rather than adding up their sizes. Forms:

- ``penalty``: ``strength * sum of (u**2 + 1e-8)**(p / 2)`` is added to the loss.
- ``proximal``: the loss is left alone. After each step of the optimizer, with u' the paths before it, each path shrinks
  by ``C = strength * rate * p * max(|u'|, 1e-8)**(p - 1)``: ``u <- sign(u) max(|u| - C, 0)``. Then each unit is
  balanced: ``v_k`` is scaled to length ``sqrt(|u_k|_2)`` and ``W_k = u_k / |v_k|``, its bias with it. A path that
  is zero stays zero (for p < 1), and a unit without paths is gone, with its bias.

It acts on the last two weights in a row, of those chosen by ``layers``, that are dense and fit. Balancing leaves the
function of the network alone for ReLU and LeakyReLU without a norm in between.

Source: "sparsest ReLU networks" (arXiv 2505.21791) for one hidden layer, one input and one output: objective VERBATIM,
several inputs and the proximal form DERIVED from others' implementations. The length of v_k in place of the one output
weight, for several outputs, is ASSUMED.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsestudy.regularizers._regularizer import Single, WeightRegularizer, is_zero
from sparsestudy.regularizers._step import Network, Step
from sparsestudy.regularizers._tensors import lengths, widened
from sparsestudy.space import Domain, Uniform

Form = Literal["penalty", "proximal"]


def paths(inner: Tensor, outer: Tensor) -> Tensor:
    """Paths ``[H, d]`` of ``W[H, d]`` and ``V[O, H]``.

    Example:
        >>> paths(torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0], [4.0]]))
        tensor([[  5., -10.]])
    """
    return lengths(outer.T)[:, None] * inner


def p_norm(values: Tensor, p: float, *, epsilon: float = 1e-8) -> Tensor:
    """``sum of (u**2 + epsilon)**(p / 2)``, a 0-d tensor: the p-norm to the power of p, smooth at zero.

    Example:
        >>> round(p_norm(torch.tensor([4.0, -9.0]), 0.5).item(), 5)
        5.0
    """
    return (values.square() + epsilon).pow(p / 2).sum()


def shrunk(values: Tensor, before: Tensor, p: float, amount: float | Tensor) -> Tensor:
    """Values moved towards zero by ``amount * p * max(|before|, 1e-8)**(p - 1)``, and no further.

    Example:
        >>> shrunk(torch.tensor([0.3, -0.02]), torch.tensor([0.25, 0.04]), 0.5, 0.01)
        tensor([0.2900, -0.0000])
    """
    threshold = amount * p * before.abs().clamp(min=1e-8).pow(p - 1)
    return values.sign() * (values.abs() - threshold).clamp(min=0)


def last_pair(shapes: Mapping[str, Sequence[int]]) -> tuple[str, str] | None:
    """Names of the last two weights in a row that are dense and fit, None if there are none.

    Example:
        >>> last_pair({"a": (8, 4), "b": (6, 8), "c": (2, 6), "d": (3, 3, 1, 1)})
        ('b', 'c')
    """
    for (first, inner), (second, outer) in reversed(list(pairwise(shapes.items()))):
        if len(inner) == len(outer) == 2 and inner[0] == outer[1]:
            return first, second
    return None


class PNormPath(WeightRegularizer):
    """p-norm of the paths through one hidden layer."""

    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {
        "strength": Uniform(low=1e-6, high=1e-3, log=True),
        "p": Uniform(low=0.4, high=1.0),
    }

    strength: Single = Field(1e-4, description="Weight of the penalty.")
    p: float = Field(0.7, gt=0, le=1, description="Power, in (0, 1].")
    form: Form = Field("penalty", description="penalty or proximal.")
    bias: bool = Field(False, description="Count the biases of the hidden units as paths of their own.")

    def obstacles(self, network: Network) -> list[str]:
        """See `Regularizer.obstacles`."""
        chosen = {w.name: w.shape for w in network.weights if self.acts_on_weight(w.name)}
        if last_pair(chosen):
            return []
        found = ", ".join(f"{name.removesuffix('.weight')} {list(shape)}" for name, shape in chosen.items())
        return [f"it needs two dense weights in a row, [H, d] and [O, H], and finds none among {found or 'no weights'}"]

    def penalty(self, step: Step) -> Tensor | None:
        """Strength times the `p_norm` of the paths; None in the proximal form."""
        if self.form == "proximal" or is_zero(self.strength):
            return None
        first, second = self._pair(step)
        return self.summed([p_norm(paths(self._inner(step, first), widened(step.weights[second])), self.p)], step)

    def around_update(self, step: Step, take: Callable[[], None]) -> None:
        """In the proximal form, shrink and balance after the optimizer's step."""
        if self.form == "penalty" or is_zero(self.strength):
            take()
            return
        first, second = self._pair(step)
        inner, outer, bias = step.weights[first], step.weights[second], _bias(step, first)
        with torch.no_grad():
            before = paths(self._inner(step, first), widened(outer))
            take()
            old = lengths(widened(outer).T)
            left = shrunk(old[:, None] * self._inner(step, first), before, self.p, step.rate * self.strength)
            new = lengths(left).sqrt()
            inner.copy_(_quotient(left, new[:, None])[:, : inner.shape[1]])
            outer.mul_(_quotient(new, old).to(outer.dtype))
            if bias is not None and self.bias:
                bias.copy_(_quotient(left[:, -1], new))
            elif bias is not None:
                bias.mul_(_quotient(old, new).to(bias.dtype))

    def _pair(self, step: Step) -> tuple[str, str]:
        pair = last_pair({name: w.shape for name, w in step.weights.items() if self.acts_on_weight(name)})
        if pair is None:
            raise KeyError(f"PNormPath finds no two dense weights in a row: {', '.join(step.weights)}")
        return pair

    def _inner(self, step: Step, name: str) -> Tensor:
        """Weights ``[H, d]`` of the hidden units, with the biases as a last column if they count."""
        bias = _bias(step, name) if self.bias else None
        inner = widened(step.weights[name])
        return inner if bias is None else torch.cat([inner, widened(bias)[:, None]], dim=1)


def _bias(step: Step, weight: str) -> Tensor | None:
    parameters = dict(step.network.named_parameters()) if step.network is not None else {}
    return parameters.get(f"{weight.removesuffix('weight')}bias")


def _quotient(over: Tensor, under: Tensor) -> Tensor:
    """``over / under``, zero where ``under`` is."""
    return torch.where(under > 0, over / torch.where(under > 0, under, 1), 0)
