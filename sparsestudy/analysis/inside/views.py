"""What three views of a trained network show, in numbers and in words.

The sparsity of every image in every layer, as histograms; the correlations between the filters of a layer; the feature
maps of its most and of its least sparse filters, which `tiles` lays out.

Source: perplexity sparsity and filter correlation are named by Huesmann et al. 2020 and 2021 (arXiv 2002.09237,
2104.06153), who look at them layer by layer; their pictures are not public to us, and these views are ASSUMED.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from sparsestudy.snapshot import CORRELATED, SHOWN_OF, LayerSnapshot, Snapshot
from sparsestudy.trial import short_names

SPLITS = {"train": ("training", "#7f7f7f"), "validation": ("validation", "#0072b2")}
"""Probe sets: their word and their colour, that of the losses in the heat map's picture."""
BINS = 100
"""Bars of a histogram between sparsity 0 and 1."""
ROW = 0.88
"""Height of the highest bar of a layer, as a share of its row."""
LAYERS_DRAWN = 24
"""Most layers drawn; of more, so many evenly spread ones, the first and the last among them."""


def drawn(snapshot: Snapshot) -> list[LayerSnapshot]:
    """The layers to draw, in order."""
    count = len(snapshot.layers)
    return [snapshot.layers[round(place)] for place in np.linspace(0, count - 1, min(count, LAYERS_DRAWN))]


def layer_names(snapshot: Snapshot) -> dict[str, str]:
    """Short name of every layer."""
    return short_names(layer.name for layer in snapshot.layers)


def histogram(values: NDArray[Any]) -> NDArray[Any]:
    """Share of images in each of `BINS` bars from 0 to 1; silent images (NaN) count, but stand in no bar.

    Example:
        >>> found = histogram(np.array([0.005, 0.995, 0.999, np.nan]))
        >>> float(found[0]), float(found[-1]), float(found.sum())
        (0.25, 0.5, 0.75)
    """
    counts, _ = np.histogram(values[np.isfinite(values)], bins=BINS, range=(0, 1))
    return counts / max(len(values), 1)


def shares(layer: LayerSnapshot) -> dict[str, NDArray[Any]]:
    """`histogram` of each probe set."""
    return {split: histogram(layer.sparsity.get(split, np.empty(0))) for split in SPLITS}


def means(layer: LayerSnapshot) -> dict[str, float]:
    """Mean over the images of each probe set that are not silent, the measure ``perplexity``; NaN if all are."""
    known = {split: values[np.isfinite(values)] for split, values in layer.sparsity.items()}
    return {split: float(known[split].mean()) if len(known.get(split, ())) else math.nan for split in SPLITS}


def alike(matrix: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Filters ordered so that those that behave alike stand together, constant ones last, and their matrix so ordered.

    Filters have no order of their own, and pairs that are far apart would be overlooked. Average linkage of
    ``1 - |r|``.

    Example:
        >>> matrix = [[1, np.nan, 0.1, 0.9], [np.nan] * 4, [0.1, np.nan, 1, 0], [0.9, np.nan, 0, 1]]
        >>> alike(np.array(matrix))[0].tolist()
        [2, 0, 3, 1]
    """
    varies = np.isfinite(matrix.diagonal())
    order = np.flatnonzero(varies)
    if len(order) > 2:
        distance = 1 - np.abs(matrix[np.ix_(order, order)].astype(float))
        np.fill_diagonal(distance, 0)
        order = order[leaves_list(linkage(squareform(distance, checks=False), "average"))]
    order = np.concatenate([order, np.flatnonzero(~varies)])
    return order, matrix[np.ix_(order, order)].astype(float)


def mean_correlation(matrix: NDArray[Any]) -> float:
    """Mean magnitude over pairs of filters that vary, the measure ``filter_correlation``; NaN without a pair."""
    pairs = np.abs(matrix.astype(float)[np.triu_indices(len(matrix), 1)])
    known = pairs[np.isfinite(pairs)]
    return float(known.mean()) if len(known) else math.nan


# In words


def histogram_caption(snapshot: Snapshot) -> str:
    """Which measure, on how many images of which probe sets."""
    present = [split for split in SPLITS if snapshot.images_of(split)]
    sizes = " and ".join(f"{snapshot.images_of(split)} {SPLITS[split][0]}" for split in present)
    return (
        f"Perplexity sparsity of all units of a layer on each of {sizes} examples{_of(snapshot)}. Triangles are means;"
        f" each row is scaled to its highest bar;"
        f" dead filters and silent examples are counted on the validation set."
    )


def correlation_caption(snapshot: Snapshot) -> str:
    """Which measure, on how many images of which probe set."""
    images = snapshot.images_of(SHOWN_OF)
    return (
        f"Pearson correlation r between the filters of a layer (at most its first {CORRELATED}) on {images} validation"
        f" examples{_of(snapshot)}. Filters that behave alike stand together."
    )


def maps_caption(snapshot: Snapshot) -> str:
    """Which filters, by which measure, on how many images of which probe set."""
    images = snapshot.images_of(SHOWN_OF)
    return (
        f"Feature maps of the most and of the least sparse filters, by mean perplexity sparsity within a map (intra) on"
        f" {images} validation examples; only filters that respond to one shown{_of(snapshot)}. Bright is strong."
    )


def _of(snapshot: Snapshot) -> str:
    shown, count = len(drawn(snapshot)), len(snapshot.layers)
    return f"; {shown} of {count} layers" if shown < count else ""


def layer_note(layer: LayerSnapshot) -> str:
    """What is to be known of one layer beside its histogram: dead filters and silent images, empty if there are none.

    Both are those of the validation probe set.
    """
    if math.prod(layer.shape) < 2:
        return "one unit has no sparsity"
    dead, silent = layer.dead[SHOWN_OF], int(np.isnan(layer.sparsity[SHOWN_OF]).sum())
    parts = [f"{dead} of {layer.shape[0]} dead"] * (dead > 0) + [f"{silent} silent example{'s' * (silent > 1)}"] * (
        silent > 0
    )
    return ", ".join(parts)


def matrix_note(layer: LayerSnapshot) -> tuple[str, str]:
    """Mean correlation of a layer and of how many filters; and how many are constant, so that they have none."""
    count, constant = len(layer.correlation), int(np.isnan(layer.correlation.diagonal()).sum())
    mean = mean_correlation(layer.correlation)
    filters = f"{count} of {layer.shape[0]}" if count < layer.shape[0] else f"{count}"
    words = f"mean |r| {f'{mean:.2f}' if math.isfinite(mean) else '–'}, {filters} filter{'s' * (layer.shape[0] > 1)}"
    return words, f"{constant} constant" if constant else ""
