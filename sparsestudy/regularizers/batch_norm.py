"""Batch norm before the non-linearity: each channel to mean 0 and variance 1, then a trained gain and offset.

``y = gain * (x - mean) / sqrt(variance + epsilon) + offset`` per channel, over batch and positions: those of the batch
while the network trains, their running averages in evaluation mode. It stands between the linear or convolutional
layer and its non-linearity, has parameters of its own and stays in the trained network, whose ``state_dict`` has them
below the non-linearity (``features.conv1.1.batch_norm.1.weight``; the last number is the use of a shared
non-linearity). Networks whose blocks have a norm there already are refused. Measures see the activations after it. A
batch of one example cannot train a dense layer.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167); ``torch.nn.BatchNorm1d``, ``2d`` and ``3d`` with their defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsestudy.regularizers._parts import put_before
from sparsestudy.regularizers._regularizer import OverRanks, Regularizer
from sparsestudy.regularizers._step import Layer, Network, match

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


def norm_for(shape: tuple[int, ...]) -> type[nn.Module] | None:
    """The batch norm for activations of this shape of one example, ``(C, *spatial)``; None if there is none.

    Example:
        >>> norm_for((8,)).__name__, norm_for((8, 5, 5)).__name__, norm_for(())
        ('BatchNorm1d', 'BatchNorm2d', None)
    """
    kinds: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}
    return kinds.get(len(shape))


class BatchNorm(Regularizer):
    """Batch norm before the non-linearity of the chosen layers."""

    over_ranks: ClassVar[OverRanks] = "gather"

    layers: tuple[str, ...] | None = Field(None, strict=False, description="Layer patterns it acts on; None: all.")
    momentum: float = Field(0.1, gt=0, le=1, description="Weight of the newest batch in the running averages.")
    epsilon: float = Field(1e-5, gt=0, description="Added to the variance.")

    def acts_on(self, layer: str) -> bool:
        """Whether the layer is chosen."""
        return self.layers is None or match(self.layers, layer) is not None

    def obstacle(self, shape: tuple[int, ...]) -> str:
        """Channels are needed, and PyTorch's batch norms know up to three further dimensions."""
        count = len(shape)
        text = f"its activations have {count} dimensions for one example, and 1 to 4 are possible"
        return "" if norm_for(shape) else text

    def obstacles(self, network: Network) -> list[str]:
        """See `Regularizer.obstacles`; a block that has a norm already is one."""
        normed = [layer.name for layer in network.layers if self.acts_on(layer.name) and has_norm(layer)]
        text = "there is a norm before its non-linearity already; choose other layers"
        return super().obstacles(network) + [f"it cannot work on layer {name!r}: {text}" for name in normed]

    def install(self, model: nn.Module, layers: Sequence[Layer]) -> list[RemovableHandle]:
        """Add the norms for good."""
        put_before(model, [layer for layer in layers if self.acts_on(layer.name)], "batch_norm", self._norm)
        return []

    def _norm(self, layer: Layer) -> nn.Module:
        kind = norm_for(layer.shape)
        assert kind is not None, f"no batch norm for {layer}"
        return kind(layer.shape[0], eps=self.epsilon, momentum=self.momentum)


def has_norm(layer: Layer) -> bool:
    """Whether a norm stands right before the non-linearity of a layer that is a block.

    Example:
        >>> block = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU())
        >>> has_norm(Layer(name="block", shape=(3,), module=block, nonlinearity=block[2]))
        True
    """
    block = layer.module
    return isinstance(block, nn.Sequential) and len(block) > 1 and isinstance(block[-2], NORMS)
