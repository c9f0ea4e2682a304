"""The section of the outcome page that looks inside the best network."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from sparsestudy.analysis.inside.figures import correlation_figure, histogram_figure, maps_figure
from sparsestudy.analysis.inside.views import (
    correlation_caption,
    drawn,
    histogram_caption,
    layer_names,
    maps_caption,
    matrix_note,
)
from sparsestudy.snapshot import Snapshot
from sparsestudy.trial import Trial, trial_label

Draw = Callable[[str, Any, str], str]
"""(name, figure, caption) -> the HTML of its place on the page."""


def inside_section(trial: Trial, snapshot: Snapshot | None, draw: Draw) -> str:
    """The three views of a trial's network, or a sentence that they cannot be shown.

    Args:
        trial: The trial, COMPLETE.
        snapshot: Its snapshot, None if there is none that can be read.
        draw: Puts a figure on the page.
    """
    title = "<h2>Inside the best network</h2>"
    whose = f"Trial {trial.number}, {escape(trial_label(trial.config))}, after its last epoch"
    if snapshot is None or not snapshot.layers:
        return (
            f"{title}<p>{whose}: there is no snapshot of it that can be read, so its inside cannot be shown. Snapshots"
            f" are taken when a trial completes, unless measures.snapshots is none.</p>"
        )
    layers, short = drawn(snapshot), layer_names(snapshot)
    matrices = "".join(
        draw(f"correlation{i}", correlation_figure(v), f"{short[v.name]}: {', '.join(filter(None, matrix_note(v)))}")
        for i, v in enumerate(layers)
    )
    maps = "".join(
        draw(f"maps{i}", maps_figure(snapshot, v), short[v.name])
        for i, v in enumerate(layers)
        if v.sparsest.filters.size
    )
    return (
        f"{title}<p>{whose}.</p><h3>Sparsity of each example</h3><p>{histogram_caption(snapshot)}</p>"
        f"{draw('images', histogram_figure(snapshot), '')}"
        f'<h3>Correlation of filters</h3><p>{correlation_caption(snapshot)}</p><div class="tiny">{matrices}</div>'
        f"<h3>Feature maps</h3><p>{maps_caption(snapshot)}</p>"
        f'<div class="wide">{maps or "<p>No layer has feature maps that respond.</p>"}</div>'
    )
