"""The rival of the cost benchmark computes what we compute; two implementations that share no code."""

from __future__ import annotations

import pytest
import torch

from sparsestudy import measures
from tests.benchmarks import naive


@pytest.mark.parametrize("name", naive.MEASURES)
@pytest.mark.parametrize("shape", [(12, 5, 4, 4), (30, 6)], ids=str)
def test_rival_finds_the_same_values(name: str, shape: tuple[int, ...]) -> None:
    activations = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).relu()
    activations[2] = 0  # a silent image
    if activations.dim() == 4:
        activations[:, 1] = 0  # a dead filter
    statistic = measures.get(name)
    found = {output: value.item() for output, value in statistic.compute(statistic.update(activations)).items()}
    assert found == pytest.approx(naive.MEASURES[name](activations), rel=1e-6, abs=1e-6)
