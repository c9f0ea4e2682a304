"""What methods on the inputs share: the network they ask a second time, norms of examples, and ascent in a ball.

Further passes run in evaluation mode, so that they neither move batch statistics nor draw random numbers, and without
automatic mixed precision. Gradients with respect to inputs are taken by ``torch.func``, whose results can be
differentiated again and mapped over.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsestudy.regularizers._regularizer import Number
from sparsestudy.regularizers._step import Step

STEPS = 5
"""Steps of the ascent, each 1.5 / STEPS of the radius long: the authors' (see `ascend`)."""

_NO_DIRECTION = 1e-12
"""A gradient of this norm or less has no direction: it is divided by this instead, which leaves it next to zero."""


def network_and_inputs(step: Step, method: str) -> tuple[nn.Module, Tensor]:
    """The network and its inputs ``[B, ...]``.

    Raises:
        ValueError: The step lacks one of them.
    """
    if step.network is None or step.inputs is None:
        raise ValueError(f"{method} needs inputs and network: Step(..., inputs=inputs, network=network)")
    return step.network, step.inputs


def squared_norms(examples: Tensor) -> Tensor:
    """Squared L2 norm of each example of ``[B, ...]``, shape ``[B]``, in float32 or better.

    Example:
        >>> squared_norms(torch.tensor([[[3.0, 4.0]], [[0.0, 1.0]]])).tolist()
        [25.0, 1.0]
    """
    wide = examples.float() if examples.dtype.itemsize < 4 else examples
    return wide.flatten(1).square().sum(1)


def ascend(gain: Callable[[Tensor], Tensor], inputs: Tensor, radius: Number, steps: int = STEPS) -> Tensor:
    """Perturbations of the inputs that climb a gain, each example's of L2 norm ``radius`` at most; without graph.

    From zero, ``steps`` times by ``1.5 * radius / steps`` along the normalised gradient, back into the ball each time.

    Source: Bietti et al. 2019 (arXiv 1810.00363), VERBATIM from the authors' code but for the guard against a vanishing
    gradient, by whose norm that code divides: an example without one stays where it is.

    Args:
        gain: Perturbed inputs ``[B, ...]`` to the sum over examples of what to climb, 0-d.
        inputs: ``[B, ...]``.
        radius: Of the ball, >= 0.
        steps: Of the ascent.

    Example:
        >>> slope = torch.tensor([[3.0, 4.0]])
        >>> [round(v, 6) for v in ascend(lambda x: (slope * x).sum(), torch.zeros(1, 2), 0.5)[0].tolist()]
        [0.3, 0.4]
    """
    direction = torch.func.grad(gain)
    with torch.no_grad():
        moved = torch.zeros_like(inputs)
        for _ in range(steps):
            gradient = direction(inputs + moved)
            moved = moved + (1.5 / steps) * radius * (gradient / _norms(gradient))
            moved = moved * (radius / _norms(moved)).clamp(max=1)
    return moved.to(inputs.dtype).detach()


def _norms(examples: Tensor) -> Tensor:
    """L2 norms of examples, guarded against zero, in a shape that the examples can be divided by."""
    norms = squared_norms(examples).sqrt().clamp(min=_NO_DIRECTION)
    return norms.reshape(-1, *[1] * (examples.dim() - 1))
