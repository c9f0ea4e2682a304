"""Networks trained on digits with wrong labels, on which tests check that methods do what they claim."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsestudy.study import DataSpec, MeasuresSpec, ModelSpec, OptimizerSpec, SplitSpec, TrainingSpec
from sparsestudy.training import data
from sparsestudy.training.loop import fit
from sparsestudy.training.probe import Probe
from sparsestudy.trial import Measurement, TrialConfig

SEEDS = (0, 1, 2)
every_seed = pytest.mark.parametrize("seed", SEEDS)
DATA = DataSpec(train_size=300, label_noise=0.2, splits=SplitSpec(search=400, selection=100, test=100))
MLP = ModelSpec(name="mlp", arguments={"hidden": [64, 64]})
TANH = ModelSpec(name="mlp", arguments={"hidden": [64, 64], "activation": "tanh"})
CONVNET = ModelSpec(name="convnet", arguments={"channels": [8, 16], "dense": 32})


def trained(
    *methods: Mapping[str, Any], seed: int, model: ModelSpec = MLP, epochs: int = 20
) -> tuple[nn.Module, Measurement]:
    """The trained network, in evaluation mode, and its last measurement; each is trained once."""
    return _trained(json.dumps(methods), seed, model.model_dump_json(), epochs)


@functools.cache
def _trained(methods: str, seed: int, model: str, epochs: int) -> tuple[nn.Module, Measurement]:
    config = TrialConfig(
        study="claims",
        number=0,
        arm="arm",
        parameters={},
        methods=tuple(json.loads(methods)) or ({"method": "none"},),
        data=DATA,
        model=ModelSpec.model_validate_json(model),
        training=TrainingSpec(epochs=epochs, batch_size=64, optimizer=OptimizerSpec(lr=0.03)),
        measures=MeasuresSpec(every=100),
        seed=seed,
    )
    network, trajectory = fit(config)
    return network, trajectory[-1]


def held_out() -> data.Split:
    """Images that no network here was trained on, with right labels."""
    return data.load(DATA).search


def activations(model: nn.Module) -> dict[str, Tensor]:
    """Of every layer, on the images held out."""
    with Probe(model) as probe, torch.no_grad():
        model(held_out().inputs)
    return probe.activations
