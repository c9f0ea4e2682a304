"""Feature maps of a layer laid out as one picture, pixel by pixel, and what stands beside its rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from sparsestudy.analysis.heatmap import GREY
from sparsestudy.snapshot import LayerSnapshot, Snapshot

SLOTS = 4
"""Places for filters at either end of the order of sparsity."""
GAP = 2
"""Pixels between two maps; four times as many between groups of them."""


def mosaic(snapshot: Snapshot, layer: LayerSnapshot, side: int) -> NDArray[Any]:
    """Maps of one layer: a row an example image, which stands first, then its most and its least sparse maps.

    Each filter is scaled by its own range over the examples: black is zero, or its lowest activation if that is
    negative. Grey is not finite.

    Args:
        snapshot: Where the images are.
        layer: Where the maps are.
        side: Pixels of one map, at least 1.

    Returns:
        RGBA, uint8 [height, width, 4], transparent between the maps and in places without one.
    """
    starts = columns(snapshot, side)
    canvas = np.zeros((max(1, len(snapshot.examples) * (side + GAP) - GAP), starts[-1] + side, 4), dtype=np.uint8)
    filled: list[Any] = [_opaque(np.moveaxis(snapshot.images, 1, -1))] if len(snapshot.images) else []
    for maps in (layer.sparsest, layer.densest):
        of_group = [_coloured(maps.maps[:, i]) for i in range(len(maps.filters))][:SLOTS]
        filled += of_group + [()] * (SLOTS - len(of_group))
    for left, tiles in zip(starts, filled, strict=True):
        for row, tile in enumerate(tiles):
            sized, top = _sized(tile, side), row * (side + GAP)
            canvas[top : top + sized.shape[0], left : left + sized.shape[1]] = sized
    return canvas


def columns(snapshot: Snapshot, side: int) -> list[int]:
    """Pixels at which the columns of a `mosaic` begin: the images, if there are any, and both groups of maps."""
    groups = [1] * (len(snapshot.images) > 0) + [SLOTS, SLOTS]
    gaps = [GAP if place else 4 * GAP for size in groups for place in range(size)]
    return [int(at) for at in np.cumsum(gaps) - gaps[0] + side * np.arange(len(gaps))]


def heads(snapshot: Snapshot, layer: LayerSnapshot) -> list[tuple[str, str]]:
    """Two lines above each column of a `mosaic`: number and sparsity of the filter, empty above a free place."""
    found = [("input", "")] * (len(snapshot.images) > 0)
    for maps in (layer.sparsest, layer.densest):
        of_group = [(f"#{f}", f"{s:.2f}") for f, s in zip(maps.filters, maps.sparsity, strict=True)][:SLOTS]
        found += of_group + [("", "")] * (SLOTS - len(of_group))
    return found


def answers(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Two lines beside each row of a `mosaic`: the true class, and the network's answer if it is another."""
    if not len(snapshot.labels):
        return [(f"example {place}", "") for place in snapshot.examples]
    pairs = zip(snapshot.labels, snapshot.predictions, strict=True)
    return [(f"class {label}", "" if label == said else f"taken for {said}") for label, said in pairs]


def _opaque(images: NDArray[Any]) -> NDArray[Any]:
    """Grey or colour ``[..., 1 or 3]`` as RGBA."""
    colour = np.broadcast_to(images, (*images.shape[:-1], 3))
    return np.concatenate([colour, np.full_like(colour[..., :1], 255)], axis=-1)


def _coloured(maps: NDArray[Any]) -> NDArray[Any]:
    """Maps of one filter ``[examples, height, width]`` as RGBA."""
    finite = maps[np.isfinite(maps)]
    low, high = (min(0.0, float(finite.min())), float(finite.max())) if len(finite) else (0.0, 0.0)
    shares = (maps.astype(float) - low) / (high - low if high > low else 1)
    scale = colormaps["magma"].with_extremes(bad=GREY)
    return np.asarray(scale(np.ma.masked_invalid(shares), bytes=True))


def _sized(tile: NDArray[Any], side: int) -> NDArray[Any]:
    """Stretch ``[height, width, 4]`` to fit a square, without blurring; a line of values becomes a bar."""
    longest = max(tile.shape[:2])
    height, width = (max(round(side * n / longest), side // 4, 1) for n in tile.shape[:2])
    down, across = np.arange(height) * tile.shape[0] // height, np.arange(width) * tile.shape[1] // width
    return np.asarray(tile[np.ix_(down, across)])
