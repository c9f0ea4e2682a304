"""Trained weights as safetensors, the network they belong to, and its score on a split."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import nn

from sparsestudy import regularizers
from sparsestudy.regularizers import Regularizer
from sparsestudy.study import derive_seed
from sparsestudy.training import data, models
from sparsestudy.training.data import Split
from sparsestudy.training.probe import find_layers
from sparsestudy.training.tasks import TASKS
from sparsestudy.trial import TrialConfig

CHUNK = 256
"""Examples a forward pass; of no influence on the score but for rounding."""


def pack(model: nn.Module) -> bytes:
    """Parameters and buffers of a network as the content of a safetensors file."""
    # Clones, because the format refuses tensors that share memory.
    return save({name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()})


def restore(config: TrialConfig, content: bytes) -> nn.Module:
    """The network of a configuration with trained weights, in evaluation mode on the CPU.

    What its methods put into the network for good, such as batch norm, is there; what acts in training only is not.

    Args:
        config: What was trained; its data is loaded to learn the shape of the inputs.
        content: Of a safetensors file, as `pack` writes it. Nothing in it is executed.

    Raises:
        RuntimeError: The weights belong to another network.
    """
    dataset = data.load(config.data)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.seed, "weights"))
        model = models.build(config.model, dataset.input_shape, dataset.outputs)
    layers = find_layers(model, dataset.train.inputs[:2])
    for method in config.methods:
        for handle in regularizers.get(**method).install(model, layers):
            handle.remove()
    dtype = torch.float64 if config.training.precision == "float64" else torch.float32
    model.to(dtype=dtype)
    model.load_state_dict(load(content))
    return model.eval()


def load_winner(folder: str | Path) -> tuple[nn.Module, list[Regularizer]]:
    """The network that `sparsestudy.select` chose, with its trained weights, and the methods it was trained with.

    Args:
        folder: With ``config.json`` and ``weights.safetensors``: ``results/STUDY/winner``.

    Raises:
        FileNotFoundError: One of them is missing.
    """
    config = TrialConfig.model_validate_json((Path(folder) / "config.json").read_text(encoding="utf-8"))
    model = restore(config, (Path(folder) / "weights.safetensors").read_bytes())
    return model, [regularizers.get(**method) for method in config.methods]


@torch.no_grad()
def score(model: nn.Module, split: Split, task: str) -> dict[str, float]:
    """Loss and accuracy (R² where numbers are predicted) of a network in evaluation mode.

    Args:
        model: On the CPU.
        split: At least one example.
        task: ``classification`` or ``regression``.
    """
    dtype = next(model.parameters()).dtype
    labels = split.labels.to(dtype) if split.labels.is_floating_point() else split.labels
    pairs = zip(split.inputs.to(dtype).split(CHUNK), labels.split(CHUNK), strict=True)
    kind = TASKS[task]  # type: ignore[index]
    sums = torch.stack([kind.sums(model(inputs), answers) for inputs, answers in pairs]).sum(0)
    loss, accuracy = kind.results(sums)
    return {"loss": loss.item(), "accuracy": accuracy.item()}
