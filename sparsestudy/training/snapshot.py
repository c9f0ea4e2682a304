"""Taking a snapshot: one forward pass of each probe set, and what pictures of the network need of it.

Everything is reduced where the activations are, layer by layer as the forward pass reaches them, a few images at a
time: the activations of a large network on a whole probe set are kept nowhere, nor are the wide copies that sums need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from sparsestudy.measures import LayerStatistic, Sums, merge
from sparsestudy.measures.dead_fraction import DeadFraction
from sparsestudy.measures.filter_correlation import FilterCorrelation, correlation
from sparsestudy.measures.perplexity import perplexity_sparsity
from sparsestudy.regularizers import evaluating
from sparsestudy.snapshot import CORRELATED, SHOWN_OF, FilterMaps, LayerSnapshot, Snapshot
from sparsestudy.training.data import Split
from sparsestudy.training.probe import Probe

EXAMPLES, FILTERS = 3, 4
"""Example images, and filters at either end of the order of sparsity, whose maps are kept."""
MAP_SIDE, IMAGE_SIDE = 32, 64
"""Pixels; larger maps and images are averaged down to these."""
_AT_A_TIME = 2**22
"""Activations reduced at a time: the intermediate copies are several, and some in float64."""


def take(model: nn.Module, probes: Mapping[str, Split], layers: str | tuple[str, ...] = "*") -> Snapshot:
    """Look at a network, which is left as it was, the modes of its parts included.

    Args:
        model: Any module whose layers `Probe` finds.
        probes: Name of each probe set, ``validation`` among them, to its images on the network's device.
        layers: Shell patterns of layer names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> images = Split(torch.ones(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64))
        >>> [layer.shape for layer in take(net, {"validation": images}).layers]
        [(2, 2, 2)]
    """
    shown = probes[SHOWN_OF]
    examples = _examples(shown.labels)
    found: dict[str, dict[str, Any]] = {}
    outputs: dict[str, Tensor] = {}
    with evaluating(model), torch.no_grad():
        for name, probe in probes.items():
            with Probe(model, layers, partial(_keep, found, name, examples if name == SHOWN_OF else None)):
                outputs[name] = model(probe.inputs)
    labels, predictions = _answers(outputs[SHOWN_OF], shown.labels, examples)
    return Snapshot(
        layers=tuple(LayerSnapshot(name=name, **parts) for name, parts in found.items()),
        examples=_array(examples),
        images=_pictures(shown.inputs[examples]),
        labels=labels,
        predictions=predictions,
    )


def _keep(
    found: dict[str, dict[str, Any]], probe: str, examples: Tensor | None, layer: str, activations: Tensor
) -> None:
    """Add to ``found`` what a layer's activations show, maps and correlations too if there are examples."""
    chunks = activations.split(max(1, _AT_A_TIME // max(1, activations[0].numel())))
    parts = found.setdefault(layer, {"shape": tuple(activations.shape[1:]), "sparsity": {}, "dead": {}})
    parts["sparsity"][probe] = _of_images(chunks)
    parts["dead"][probe] = int((_sums(DeadFraction(), chunks)["active"] == 0).sum())
    if examples is not None:
        parts |= {"correlation": _correlation(chunks), **_maps(chunks, activations[examples])}


def _sums(statistic: LayerStatistic, chunks: Sequence[Tensor]) -> Sums:
    return reduce(merge, map(statistic.update, chunks))


def _of_images(chunks: Sequence[Tensor]) -> NDArray[Any]:
    """Perplexity sparsity of all units on each image, float32 [images]; NaN where undefined."""
    if chunks[0][0].numel() < 2:
        return np.full(sum(map(len, chunks)), np.nan, dtype=np.float32)
    pairs = [perplexity_sparsity(chunk) for chunk in chunks]
    return _array(torch.cat([torch.where(live, sparsity, torch.nan) for sparsity, live in pairs]).float())


def _correlation(chunks: Sequence[Tensor]) -> NDArray[Any]:
    matrix, varies = correlation(_sums(FilterCorrelation(), [chunk[:, :CORRELATED] for chunk in chunks]))
    known = varies[:, None] & varies[None, :]
    # Three digits are enough for a picture.
    return _array(torch.where(known, matrix, torch.nan).half())


def _maps(chunks: Sequence[Tensor], of_examples: Tensor) -> dict[str, FilterMaps]:
    """Maps of the filters at both ends of the order of sparsity within a map; no filter is in both groups.

    Only filters that respond to an example are asked: the very sparsest respond to hardly any image, and their maps of
    the examples would be empty.
    """
    sparsity = _of_filters(chunks)
    responds = _array((of_examples != 0).flatten(2).any(2).any(0)) if of_examples.dim() > 2 else np.array(False)
    live = np.flatnonzero(np.isfinite(sparsity) & responds)
    order = live[np.argsort(-sparsity[live], kind="stable")]
    most = min(FILTERS, (len(order) + 1) // 2)
    least = min(FILTERS, len(order) - most)
    groups = {"sparsest": order[:most], "densest": order[len(order) - least :]}
    return {
        name: FilterMaps(filters=filters, sparsity=sparsity[filters], maps=_drawable(of_examples[:, filters]))
        for name, filters in groups.items()
    }


def _of_filters(chunks: Sequence[Tensor]) -> NDArray[Any]:
    """Perplexity sparsity within the maps of each filter, mean over images, float32 [C]; NaN where there is none.

    There is none for a filter that responds to no image, and where a map is a single number or has more than two axes.
    """
    first = chunks[0]
    if first.dim() not in (3, 4) or first[0, 0].numel() < 2:
        return np.full(first.shape[1], np.nan, dtype=np.float32)
    pairs = [perplexity_sparsity(chunk, "intra") for chunk in chunks]  # 0 where a map is silent
    total = torch.stack([sparsity.sum(0) for sparsity, _ in pairs]).sum(0)
    images = torch.stack([live.sum(0) for _, live in pairs]).sum(0)
    return _array((total / images).float())


def _drawable(maps: Tensor) -> NDArray[Any]:
    """Maps ``[examples, F, *spatial]`` as float32 images; those along one axis only are one pixel high."""
    if not maps.shape[1]:
        return np.empty((len(maps), 0, 1, 1), dtype=np.float32)
    return _array(_shrunk((maps if maps.dim() == 4 else maps[:, :, None]).float(), MAP_SIDE))


def _shrunk(images: Tensor, side: int) -> Tensor:
    height, width = images.shape[-2:]
    return adaptive_avg_pool2d(images, (min(height, side), min(width, side)))


def _examples(labels: Tensor) -> Tensor:
    """Places of the first image of each of the first classes to come; simply the first ones if there are no classes."""
    if labels.dim() != 1 or labels.is_floating_point():
        return torch.arange(min(EXAMPLES, len(labels)), device=labels.device)
    first: dict[int, int] = {}
    for place, label in enumerate(labels.tolist()):
        first.setdefault(label, place)
    return torch.tensor([*first.values()][:EXAMPLES], device=labels.device)


def _answers(outputs: Tensor, labels: Tensor, examples: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """True and predicted classes of the examples; empty if the network does not classify."""
    if labels.dim() != 1 or labels.is_floating_point() or outputs.dim() != 2:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return _array(labels[examples]), _array(outputs[examples].argmax(1))


def _pictures(inputs: Tensor) -> NDArray[Any]:
    """Inputs as uint8 images, each stretched to its own range; anything but one or three channels becomes grey."""
    if inputs.dim() != 4:
        return np.empty((0, 1, 1, 1), dtype=np.uint8)
    images = inputs if inputs.shape[1] in (1, 3) else inputs.mean(1, keepdim=True)
    images = _shrunk(images.float(), IMAGE_SIDE)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return _array((255 * (images - low) / (high - low).clamp(min=1e-12)).round().byte())


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.cpu().numpy()
