"""The three views as PNGs, for where no page can be opened.

They use no global state of matplotlib, so they may be drawn from any thread, and text that came from a person is never
parsed as mathematics. Matrices and maps are set pixel for pixel.
"""

from __future__ import annotations

import math
from io import BytesIO
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparsestudy.analysis.heatmap import GREY, cut, drawable
from sparsestudy.analysis.inside.tiles import GAP, SLOTS, answers, columns, heads, mosaic
from sparsestudy.analysis.inside.views import (
    BINS,
    ROW,
    SPLITS,
    alike,
    correlation_caption,
    drawn,
    histogram_caption,
    layer_names,
    layer_note,
    maps_caption,
    matrix_note,
    means,
    shares,
)
from sparsestudy.snapshot import LayerSnapshot, Snapshot

WIDTH, HEAD = 800, 64
"""Pixels of every picture, and of its title and caption."""
SOFT, LOUD = "#5b6570", "#a04000"
"""Colours of words beside the matter and of words of warning."""


def pictures(snapshot: Snapshot, *, title: str) -> dict[str, bytes]:
    """Every view by the name of its file; ``title`` is one line above each, shortened if it is too long."""
    return {
        "inside-sparsity.png": histogram_png(snapshot, title=title),
        "inside-correlation.png": correlation_png(snapshot, title=title),
        "inside-maps.png": maps_png(snapshot, title=title),
    }


def histogram_png(snapshot: Snapshot, *, title: str) -> bytes:
    """Sparsity of the images in every layer, means and dead filters beside it; see `figures`."""
    layers, short = drawn(snapshot), layer_names(snapshot)
    rows = max(1, len(layers))
    height = HEAD + 76 + 44 * rows
    figure = _canvas(height, title, histogram_caption(snapshot))
    axes = figure.add_axes((0.17, 40 / height, 0.55, (44 * rows + 10) / height))
    for row, layer in enumerate(layers):
        _draw_row(axes, layer, row)
    axes.set(xlim=(0, 1), ylim=(0.8 - rows, 1.03))
    axes.set_xlabel("perplexity sparsity", fontsize=8)
    named = [drawable(cut(short[layer.name], 18)) for layer in layers]
    axes.set_yticks([-row for row in range(len(layers))], named, fontsize=8, parse_math=False, va="bottom")
    axes.tick_params(labelsize=8, left=False)
    axes.grid(axis="y", color="#d5dae0", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if layers:
        axes.legend(fontsize=8, frameon=False, loc="lower left", ncols=2, bbox_to_anchor=(0, 1), borderaxespad=0)
    return _png(figure)


def _draw_row(axes: Axes, layer: LayerSnapshot, row: int) -> None:
    found, mean = shares(layer), means(layer)
    top = max(1e-9, *(of_split.max() for of_split in found.values()))
    for split, (word, colour) in SPLITS.items():
        heights, edges = ROW * found[split] / top - row, np.linspace(0, 1, BINS + 1)
        label = "_" if row else f"{word} examples"
        axes.stairs(heights, edges, baseline=-row, fill=True, color=colour, alpha=0.55, label=label)
        axes.plot(mean[split], -row, marker="^", color=colour, ms=6, mec="white", mew=0.7, clip_on=False, zorder=9)
    told = ", ".join(f"{v:.2f}" if math.isfinite(v) else "–" for v in mean.values())
    axes.text(1.03, 0.45 - row, f"mean {told}", fontsize=8, va="center")
    axes.text(1.03, 0.12 - row, layer_note(layer), fontsize=8, va="center", color=LOUD)


def correlation_png(snapshot: Snapshot, *, title: str) -> bytes:
    """A matrix a layer, four side by side; see `figures`."""
    layers, short = drawn(snapshot), layer_names(snapshot)
    side, across, down = 160, 186, 216
    height = HEAD + 8 + down * max(1, math.ceil(len(layers) / 4))
    figure = _canvas(height, title, correlation_caption(snapshot))
    scale = colormaps["RdBu_r"].with_extremes(bad=GREY)
    for place, layer in enumerate(layers):
        left, top = 10 + across * (place % 4), HEAD + down * (place // 4)
        _write(figure, left, top + 12, cut(short[layer.name], 24), fontsize=9)
        for line, (text, colour) in enumerate(zip(matrix_note(layer), (SOFT, LOUD), strict=True)):
            _write(figure, left, top + 25 + 13 * line, text, color=colour)
        _, matrix = alike(layer.correlation)
        at = np.arange(side) * len(matrix) // side
        shades = np.ma.masked_invalid((matrix[np.ix_(at, at)] + 1) / 2)
        _set(figure, np.asarray(scale(shades, bytes=True)), left, top + 44)
    place_of_bar = (0.94, 1 - (HEAD + 44 + side) / height, 0.012, side / height)
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), scale), cax=figure.add_axes(place_of_bar))
    bar.set_ticks([-1, 0, 1])
    bar.ax.tick_params(labelsize=8)
    return _png(figure)


def maps_png(snapshot: Snapshot, *, title: str) -> bytes:
    """Feature maps of every layer that has any, small and two abreast if there are many; see `figures`."""
    layers, short = [layer for layer in drawn(snapshot) if len(layer.sparsest.filters)], layer_names(snapshot)
    side, abreast = (64, 1) if len(layers) <= 4 else (32, 2)
    down = len(snapshot.examples) * (side + GAP) + 56
    height = HEAD + 32 + down * math.ceil(len(layers) / abreast)
    figure = _canvas(height, title, maps_caption(snapshot))
    if not layers:
        _write(figure, 10, HEAD + 12, "No layer has feature maps that respond.")
    for place, layer in enumerate(layers):
        left, top = 10 + 394 * (place % abreast), HEAD + down * (place // abreast)
        _write(figure, left, top + 12, cut(short[layer.name], 16), fontsize=9)
        _draw_maps(figure, snapshot, layer, left, top, side)
    return _png(figure)


def _draw_maps(figure: Figure, snapshot: Snapshot, layer: LayerSnapshot, left: int, top: int, side: int) -> None:
    margin = 72 if len(snapshot.images) else 80 + side
    right = [left + margin + at for at in columns(snapshot, side)]
    for group, maps, words in ((-2 * SLOTS, layer.sparsest, "most sparse"), (-SLOTS, layer.densest, "least sparse")):
        if len(maps.filters):
            _write(figure, right[group], top + 12, words, color=SOFT)
    for at, lines in zip(right, heads(snapshot, layer), strict=True):
        for line, text in enumerate(lines):
            _write(figure, at + side / 2, top + 25 + 11 * line, text, color=SOFT, fontsize=7, ha="center")
    for row, lines in enumerate(answers(snapshot)):
        for line, text in enumerate(lines):
            middle = top + 44 + row * (side + GAP) + side / 2 + 11 * (line - bool(lines[1]) / 2)
            _write(figure, left, middle, text, color=LOUD if line else SOFT, fontsize=7)
    _set(figure, mosaic(snapshot, layer, side), right[0], top + 44)


def _canvas(height: int, title: str, caption: str) -> Figure:
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    _write(figure, 10, 18, cut(title, 95), fontsize=10)
    for line, text in enumerate(wrap(caption, 135)):
        _write(figure, 10, 37 + 13 * line, text, color=SOFT)
    return figure


def _write(figure: Figure, left: float, down: float, text: str, **look: Any) -> None:
    """Text whose middle line is so many pixels from the top."""
    height = figure.get_figheight() * figure.dpi
    options = {"fontsize": 8, "va": "center", "parse_math": False, **look}
    figure.text(left / WIDTH, 1 - down / height, drawable(text), **options)


def _set(figure: Figure, pixels: NDArray[Any], left: int, top: int) -> None:
    height = round(figure.get_figheight() * figure.dpi)
    figure.figimage(pixels, left, height - top - len(pixels), origin="upper")


def _png(figure: Figure) -> bytes:
    out = BytesIO()
    figure.savefig(out, format="png", dpi=figure.dpi)
    return out.getvalue()
