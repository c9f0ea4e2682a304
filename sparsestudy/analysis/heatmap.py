"""One picture a trial: its losses over the epochs, and below them every layer's measure, as a PNG.

Text that came from a person is never parsed as mathematics by matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from sparsestudy.analysis.table import layers_of
from sparsestudy.study import TaskName
from sparsestudy.trial import Measurement, short_names
from sparsestudy.words import LOSS

GREY = "#b8b8b8"
"""Undefined cells."""


def heatmap_png(
    trajectory: Sequence[Measurement], measure: str, *, title: str, task: TaskName = "classification"
) -> bytes:
    """Loss over epochs above a layer-by-epoch heat map of one measure, as an 800 by 500 pixel PNG.

    The upper panel has train and validation loss and a vertical line at the epoch of lowest validation loss; the lower
    one the measure on the validation probe set, in [0, 1], a row a layer, the first layer on top. Cells where the
    measure is undefined or was not taken are grey and hatched. Uses no global state of matplotlib, so it may be called
    from any thread.

    Args:
        trajectory: Measurements in order of epochs; may be empty, and may lack statistics.
        measure: Name of the measure, as it stands in the statistics.
        title: One line above the picture; shortened if it is too long.
        task: What is predicted, which says what the loss is.
    """
    layers = layers_of(trajectory)
    short = [cut(name, 18) for name in short_names(layers).values()]
    left = max(0.09, 0.035 + 0.0088 * max(map(len, short), default=0))
    figure = Figure(figsize=(8, 5), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.955, drawable(cut(title, 95)), fontsize=10, parse_math=False)
    below = figure.add_axes((left, 0.1, 0.89 - left, 0.47))
    above = figure.add_axes((left, 0.6, 0.89 - left, 0.29), sharex=below)
    _draw_losses(above, trajectory)
    above.set_ylabel(LOSS[task], fontsize=8)
    _draw_cells(figure, below, trajectory, measure, short)
    low, high = (trajectory[0].epoch, trajectory[-1].epoch) if trajectory else (0, 0)
    below.set_xlim(low - 0.5, high + 0.5)
    below.set_xticks(range(low, high + 1, max(1, _round_step((high - low) / 8))))
    below.set_xlabel("epoch (counted from 0)", fontsize=8)
    out = BytesIO()
    figure.savefig(out, format="png", dpi=100)
    return out.getvalue()


def _draw_losses(axes: Axes, trajectory: Sequence[Measurement]) -> None:
    epochs = [m.epoch for m in trajectory]
    marker = "o" if len(epochs) < 3 else ""
    for name, colour, losses in (
        ("train", "#7f7f7f", [m.train_loss for m in trajectory]),
        ("validation", "#0072b2", [m.validation_loss for m in trajectory]),
    ):
        axes.plot(epochs, [_finite(v) for v in losses], color=colour, lw=1.5, marker=marker, ms=4, label=name)
    best = best_epoch(trajectory)
    if best is not None:
        axes.axvline(best, color="#d55e00", lw=1, ls="--", label=f"lowest validation loss: epoch {best}")
    axes.tick_params(labelsize=8, labelbottom=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower right", ncols=3, borderaxespad=0, bbox_to_anchor=(1, 1))
    axes.margins(y=0.08)
    axes.locator_params(axis="y", nbins=5)


def _draw_cells(
    figure: Figure, axes: Axes, trajectory: Sequence[Measurement], measure: str, names: Sequence[str]
) -> None:
    axes.tick_params(labelsize=8)
    epochs, cells = layer_cells(trajectory, measure)
    if not names:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no layer statistics were recorded", ha="center", transform=axes.transAxes, fontsize=9)
        return
    axes.patch.set(facecolor=GREY, hatch="////", edgecolor="#8f8f8f", linewidth=0)
    edges = np.concatenate([[epochs[0] - 0.5], (epochs[1:] + epochs[:-1]) / 2, [epochs[-1] + 0.5]])
    rows = np.arange(len(names) + 1) - 0.5
    image = axes.pcolorfast(edges, rows, np.ma.masked_invalid(cells), cmap="viridis", vmin=0, vmax=1)
    axes.set_ylim(len(names) - 0.5, -0.5)
    best = best_epoch(trajectory)
    if best is not None:
        axes.axvline(best, color="white", lw=1, ls="--")
    step = math.ceil(len(names) / 22)
    axes.set_yticks(range(0, len(names), step), [drawable(n) for n in names[::step]], fontsize=8, parse_math=False)
    place = axes.get_position()
    bar = figure.colorbar(image, cax=figure.add_axes((0.905, place.y0, 0.018, place.height)))
    bar.ax.tick_params(labelsize=8)
    bar.set_label(drawable(cut(measure, 36)), fontsize=8, parse_math=False)


def _round_step(step: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, … that is at least ``step``."""
    power = 10 ** max(0, math.floor(math.log10(step))) if step > 1 else 1
    return next(int(power * factor) for factor in (1, 2, 5, 10) if power * factor >= step)


def layer_cells(trajectory: Sequence[Measurement], measure: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Epochs with statistics, and the measure as ``[layers, epochs]``, NaN where it is undefined."""
    layers = layers_of(trajectory)
    measured = [m for m in trajectory if m.statistics]
    series = [m.series(measure) for m in measured]
    values = [[_finite(at.get(layer, math.nan)) for at in series] for layer in layers]
    return np.array([m.epoch for m in measured], dtype=float), np.array(values, dtype=float)


def best_epoch(trajectory: Sequence[Measurement]) -> int | None:
    """Epoch of the lowest finite validation loss, the earliest of equals; None if there is none."""
    finite = [m for m in trajectory if math.isfinite(m.validation_loss)]
    return min(finite, key=lambda m: (m.validation_loss, m.epoch)).epoch if finite else None


def _finite(value: float) -> float:
    """NaN for what cannot be drawn: the largest numbers there are stand for losses beyond all numbers."""
    return value if abs(value) < 1e300 else math.nan


def cut(text: str, length: int) -> str:
    """One line of at most ``length`` characters, with an ellipsis where something was cut off."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def drawable(text: str) -> str:
    """Replace what the font lacks: matplotlib warns once for each such glyph, and warnings may be errors."""
    known = _glyphs()
    return "".join(c if ord(c) in known else "?" for c in text)


@lru_cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())
