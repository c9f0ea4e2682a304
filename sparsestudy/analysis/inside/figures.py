"""The three views as Plotly figures."""

from __future__ import annotations

import base64
import math
from io import BytesIO

import numpy as np
from matplotlib.image import imsave
from plotly import graph_objects as go

from sparsestudy.analysis.heatmap import GREY, cut
from sparsestudy.analysis.inside.tiles import SLOTS, answers, columns, heads, mosaic
from sparsestudy.analysis.inside.views import BINS, ROW, SPLITS, alike, drawn, layer_names, layer_note, means, shares
from sparsestudy.analysis.plots import blank, inert, plain
from sparsestudy.snapshot import LayerSnapshot, Snapshot

TILE = 64
"""Pixels of a feature map in the figure's picture."""


def histogram_figure(snapshot: Snapshot) -> go.Figure:
    """A row of overlaid histograms for each layer, the first on top, and a triangle at each mean.

    Each row is scaled to its own highest bar.
    """
    layers, short = drawn(snapshot), layer_names(snapshot)
    figure = blank(height=110 + 50 * max(1, len(layers)))
    for split, (word, colour) in SPLITS.items():
        bars = [bar for row, layer in enumerate(layers) for bar in _bars(layer, split, row)]
        figure.add_bar(
            base=[bar[0] for bar in bars], x=[bar[1] for bar in bars], y=[bar[2] for bar in bars], width=1 / BINS,
            customdata=[[inert(short[bar[3]]), bar[4]] for bar in bars],
            marker={"color": colour, "line": {"width": 0}}, opacity=0.55, name=f"{word} examples",
            hovertemplate=f"%{{customdata[0]}}, about %{{x:.3f}}: %{{customdata[1]}} of {word} examples<extra></extra>",
        )  # fmt: skip
        known = [(row, mean) for row, layer in enumerate(layers) if math.isfinite(mean := means(layer)[split])]
        figure.add_scatter(
            x=[round(mean, 4) for _, mean in known], y=[-row for row, _ in known], mode="markers", showlegend=False,
            marker={"symbol": "triangle-up", "size": 9, "color": colour, "line": {"color": "#ffffff", "width": 1}},
            customdata=[inert(short[layers[row].name]) for row, _ in known],
            hovertemplate=f"%{{customdata}}: mean %{{x:.3f}} of {word} examples<extra></extra>",
        )  # fmt: skip
    labels = ["<br>".join([inert(cut(short[v.name], 24)), *filter(None, [layer_note(v)])]) for v in layers]
    figure.update_layout(barmode="overlay", xaxis_title="perplexity sparsity", xaxis_range=[0, 1])
    figure.update_yaxes(
        tickvals=[-row for row in range(len(layers))], ticktext=labels, range=[0.7 - max(1, len(layers)), 1.03]
    )
    return figure


def _bars(layer: LayerSnapshot, split: str, row: int) -> list[tuple[int, float, float, str, str]]:
    """Foot, middle, height, layer and share in words of every bar of one histogram in its row."""
    found = shares(layer)
    top = max(of_split.max() for of_split in found.values())
    return [
        (
            -row,
            (bar + 0.5) / BINS,
            round(float(ROW * found[split][bar] / top), 4),
            layer.name,
            f"{found[split][bar]:.1%}",
        )
        for bar in np.flatnonzero(found[split])
    ]


def correlation_figure(layer: LayerSnapshot) -> go.Figure:
    """Correlations between the filters of a layer, alike ones together: red alike, blue opposed, grey undefined."""
    filters, matrix = alike(layer.correlation)
    names = [f"filter {number}" for number in filters]
    figure = blank(height=250)
    figure.add_heatmap(
        z=[[plain(r) for r in row] for row in matrix.round(2)], x=names, y=names, zmin=-1, zmax=1,
        colorscale="RdBu", reversescale=True, hoverongaps=False,
        colorbar={"thickness": 8, "outlinewidth": 0, "dtick": 0.5},
        hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(margin={"l": 5, "r": 5, "t": 5, "b": 5}, plot_bgcolor=GREY)
    # Ranges are given, because Plotly finds none if every cell is undefined, and gives up the whole page.
    end = len(names) - 0.5
    figure.update_xaxes(type="category", categoryarray=names, range=[-0.5, end], visible=False, constrain="domain")
    figure.update_yaxes(
        type="category", categoryarray=names, range=[end, -0.5], visible=False, constrain="domain", scaleanchor="x",
        constraintoward="top",
    )  # fmt: skip
    return figure


def maps_figure(snapshot: Snapshot, layer: LayerSnapshot) -> go.Figure:
    """Feature maps of one layer, as `mosaic` lays them out, with the filters' numbers and sparsities above them."""
    pixels, starts = mosaic(snapshot, layer, TILE), columns(snapshot, TILE)
    picture = BytesIO()
    imsave(picture, pixels, format="png")
    figure = blank(height=75 + 50 * len(snapshot.examples))
    source = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    figure.add_image(source=source, hoverinfo="skip")
    columns_used = [(at, lines) for at, lines in zip(starts, heads(snapshot, layer), strict=True) if lines[0]]
    above = {at + TILE / 2: "<br>".join(lines) for at, lines in columns_used}
    for group, maps, words in ((-2 * SLOTS, layer.sparsest, "most sparse"), (-SLOTS, layer.densest, "least sparse")):
        if len(maps.filters):
            figure.add_annotation(
                text=words, x=starts[group], xanchor="left", y=1, yref="paper", yshift=42, showarrow=False
            )
    height, width, _ = pixels.shape
    rows = (np.arange(len(snapshot.examples)) + 0.5) * height / max(1, len(snapshot.examples))
    beside = ["<br>".join(filter(None, lines)) for lines in answers(snapshot)]
    figure.update_layout(margin={"l": 80, "r": 5, "t": 60, "b": 5})
    figure.update_xaxes(
        tickvals=list(above), ticktext=list(above.values()), side="top", range=[0, width], constrain="domain",
        showgrid=False, ticks="", tickfont_size=10,
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=rows.tolist(), ticktext=beside, range=[height, 0], constrain="domain", constraintoward="top",
        showgrid=False, ticks="", ticklabelstandoff=4, tickfont_size=10,
    )  # fmt: skip
    return figure
