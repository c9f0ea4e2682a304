"""Skipped compute by hand, against loops over every multiplication, and against the counts of torch and torchvision."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import ResNet18_Weights, resnet18

from sparsestudy import measures
from sparsestudy.measures.skipped_compute import SkippedCompute, skipped_compute
from sparsestudy.training.data import Split
from sparsestudy.training.inspection import Inspection


def share(model: nn.Module, inputs: Tensor) -> float:
    found = measures.get("skipped_compute").compute(model, inputs, torch.zeros(len(inputs), dtype=torch.int64), 0)
    return found["skipped_compute"].item()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_two_layers_by_hand() -> None:
    """The first layer costs 2 * 3 and is not skipped; the second 3 * 4, of which 2/3 and 0/3 of two examples are."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 4)).requires_grad_(False)
    model[0].weight[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    inputs = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    assert share(model, inputs) == pytest.approx(12 * (1 / 3) / 18, rel=1e-12)
    assert share(model, inputs[:1]) == pytest.approx(12 * (2 / 3) / 18, rel=1e-12)
    assert skipped_compute(model, inputs)[1] == 18


def test_a_convolution_by_hand() -> None:
    """4 channels of 5 x 5 in 2 groups give 6 of 3 x 3: 54 outputs of 2 * 9 MACs; the linear layer behind has 54 * 2.

    A quarter of the convolution's input is zero, one channel of four. Its padding of one adds no zeros.
    """
    identity = nn.Conv2d(4, 4, 1, bias=False)
    model = nn.Sequential(
        identity, nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), nn.Flatten(), nn.Linear(54, 2)
    ).requires_grad_(False)
    identity.weight[:] = torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0]))[:, :, None, None]
    inputs = 1 + noise(3, 4, 5, 5).abs()
    costs = (25 * 4 * 4, 54 * 18, 108)
    assert share(model, inputs) == pytest.approx(costs[1] / 4 / sum(costs), rel=1e-12)
    assert skipped_compute(model, inputs)[1] == sum(costs)


def test_zeros_of_the_data_do_not_count() -> None:
    assert share(nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), torch.zeros(4, 2, 2, 2)) == 0


def test_every_position_of_a_sequence_costs() -> None:
    """Two layers of 4 * 4 MACs at each of 5 positions; half of what the second reads is zero."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4)).requires_grad_(False)
    model[0].weight[:] = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    found, total = skipped_compute(model, 1 + noise(3, 5, 4).abs())
    assert (found.item(), total) == (0.25, 160)


# Every multiplication of a layer, one by one


def loop(layer: nn.Conv1d | nn.ConvTranspose1d, length: int) -> int:
    """How often a weight of a 1-d convolution meets an entry of its padded input, or makes one of its uncut output."""
    (kernel,), (stride,), (dilation,) = layer.kernel_size, layer.stride, layer.dilation
    padding = int(layer.padding[0])
    count, inside = 0, layer.in_channels // layer.groups
    if isinstance(layer, nn.ConvTranspose1d):
        outside = layer.out_channels // layer.groups
        for _ in itertools.product(range(layer.in_channels), range(length), range(outside), range(kernel)):
            count += 1
        return count
    start = -padding
    while start + dilation * (kernel - 1) < length + padding:
        for _ in itertools.product(range(layer.out_channels), range(inside), range(kernel)):
            count += 1
        start += stride
    return count


LAYERS: list[nn.Conv1d | nn.ConvTranspose1d] = [
    nn.Conv1d(4, 6, 3),
    nn.Conv1d(4, 6, 3, stride=2),
    nn.Conv1d(4, 6, 3, dilation=2, padding=1),
    nn.Conv1d(4, 6, 2, groups=2, stride=3),
    nn.Conv1d(4, 4, 3, groups=4, padding=2),
    nn.ConvTranspose1d(4, 6, 3),
    nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, groups=2),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_costs_and_zeros_are_those_of_loops(layer: nn.Conv1d | nn.ConvTranspose1d) -> None:
    """Behind a rectifier; what is read is counted entry by entry in numpy."""
    first = nn.Conv1d(2, 4, 1)
    inputs = noise(5, 2, 9)
    found, total = skipped_compute(nn.Sequential(first, nn.ReLU(), layer), inputs)
    read = np.maximum(first(inputs).detach().numpy(), 0)
    zeros = sum(float(entry == 0) for entry in read.ravel()) / read.size
    own, others = loop(layer, 9), 4 * 2 * 9
    assert 0.1 < zeros < 0.9
    assert total == own + others
    assert found.item() == pytest.approx(own * zeros / (own + others), rel=1e-12)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "grouped, strided, dilated": (lambda: nn.Conv2d(6, 9, (3, 2), stride=2, dilation=(1, 2), groups=3), (6, 11, 12)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, groups=2), (6, 5, 5)),
    "3-d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 4, 5, 6)),
    "sequence": (lambda: nn.Linear(7, 5), (6, 7)),
    "resnet18": (lambda: resnet18().eval(), (3, 64, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_torch(name: str) -> None:
    """Torch counts a multiplication and an addition as two."""
    build, shape = NETWORKS[name]
    model, inputs = build(), noise(2, *shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    assert skipped_compute(model, inputs)[1] == counter.get_total_flops() / 2 / 2


def test_resnet18_takes_what_is_known_of_it() -> None:
    """1.814 billion multiplications at 224 x 224, as torchvision states them."""
    found, total = skipped_compute(resnet18().eval(), noise(1, 3, 224, 224))
    known = ResNet18_Weights.IMAGENET1K_V1.meta["_ops"]
    assert known == 1.814
    assert total / 1e9 == pytest.approx(known, abs=0.0005)
    assert 0 < found.item() < 1


# What is seen


class Twice(nn.Module):
    """One layer that runs twice, the second time by keyword, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.idle = nn.Linear(3, 3, bias=False), nn.Linear(3, 300)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.layer(input=self.layer(x))
        return answers


def test_every_call_counts_and_what_never_runs_does_not() -> None:
    model = Twice().requires_grad_(False)
    model.layer.weight[:] = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    found, total = skipped_compute(model, torch.ones(2, 3))
    assert (found.item(), total) == (pytest.approx(9 * (1 / 3) / 18, rel=1e-12), 18)


def test_compiled_networks_are_seen_through_and_not_compiled_again() -> None:
    """With hooks, code would have to be made anew in every epoch; whoever measures a trial puts it aside."""
    made: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    inputs, labels = noise(5, 3), torch.zeros(5, dtype=torch.int64)
    compiled = torch.compile(model, backend=backend)
    compiled(inputs)
    before = len(made)
    inspection = Inspection(weights={}, networks={"": SkippedCompute()}, initial={}, seed=0, probe_size=5)
    found = inspection.values(compiled, {"validation": Split(inputs, labels)})
    assert found["network", "validation", "skipped_compute"].item() == share(model, inputs) > 0
    assert len(made) == before == 1


def test_smooth_networks_skip_nothing() -> None:
    assert share(nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2)), noise(5, 3)) == 0


def test_undefined_without_layers_and_for_networks_without_finite_answers() -> None:
    assert math.isnan(share(nn.Sequential(nn.Flatten(), nn.ReLU()), torch.ones(2, 3)))
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    model[0].weight.fill_(torch.inf)
    assert math.isnan(share(model, noise(4, 3)))
