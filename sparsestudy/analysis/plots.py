"""The Plotly figures of the outcome page.

Every arm keeps one colour throughout (`arm_colours`), safe for the common kinds of colour blindness; sparsity is
always Viridis from 0 to 1, and grey is where it is undefined. Text that came from a person is escaped for Plotly,
which reads labels as HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import colormaps
from plotly import graph_objects as go

from sparsestudy.analysis.heatmap import GREY, best_epoch, cut, layer_cells
from sparsestudy.analysis.table import layers_of, ranking, searched_domains
from sparsestudy.space import ARM, Choice, Domain, Uniform
from sparsestudy.study import StudySpec
from sparsestudy.trial import Measurement, Trial, TrialState, short_names, trial_label
from sparsestudy.words import LOSS, called, task_of

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
SYMBOLS = ("circle", "diamond", "square", "triangle-up")
MAX_POINTS = 200
"""Most epochs drawn of one curve on the page."""
LAYERS_IN_LEGEND = 12
"""With more layers a legend would leave no room for the curves; dark is the first layer, light the last."""
_GRID = "rgba(128,128,128,0.25)"


# --- Figures of the outcome page -------------------------------------------------------------------------------------


def arm_colours(spec: StudySpec) -> dict[str, str]:
    """Colour of each arm in the order of the study file; more than eight arms share colours, told apart by symbols.

    Example:
        >>> arm_colours(StudySpec(name="s", regularizers=({"name": "none"}, {"name": "l1"})))
        {'none': '#0072b2', 'l1': '#d55e00'}
    """
    return {arm.name: PALETTE[i % len(PALETTE)] for i, arm in enumerate(spec.regularizers)}


def arm_look(spec: StudySpec, arm: str) -> tuple[str, str]:
    """Colour and marker symbol of an arm; grey if the study file does not know it."""
    names = [a.name for a in spec.regularizers]
    place = names.index(arm) if arm in names else len(PALETTE) - 1
    return PALETTE[place % len(PALETTE)], SYMBOLS[place // len(PALETTE) % len(SYMBOLS)]


def arms_figure(spec: StudySpec, trials: Sequence[Trial]) -> go.Figure:
    """First objective by arm: a point for each COMPLETE trial, a box for the quartiles, its line for the median."""
    order = list(dict.fromkeys([*(a.name for a in spec.regularizers), *(t.config.arm for t in trials)]))
    ranked = ranking(spec, trials)
    figure = blank(height=110 + 62 * len(order))
    for arm in reversed(order):
        of_arm = [t for t in ranked if t.config.arm == arm and t.values]
        colour, symbol = arm_look(spec, arm)
        figure.add_box(
            x=[plain(t.values[0]) for t in of_arm],
            y=[inert(arm)] * len(of_arm),
            text=[inert(f"trial {t.number}: {trial_label(t.config)}") for t in of_arm],
            orientation="h", name=inert(arm), boxpoints="all", jitter=0.5, pointpos=0, hoveron="points", width=0.6,
            marker={"color": colour, "symbol": symbol, "size": 7, "opacity": 0.75},
            line={"color": colour, "width": 1.5}, fillcolor="rgba(0,0,0,0)",
            hovertemplate="%{text}<br>%{x:.4g}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(showlegend=False, xaxis_title=inert(called(spec.search.objectives[0].metric, task_of(trials))))
    figure.update_yaxes(ticklabelstandoff=6)
    return figure


def loss_figure(
    spec: StudySpec, best: Mapping[str, Trial], trajectories: Mapping[int, Sequence[Measurement]]
) -> go.Figure:
    """Validation (solid) and train (dotted) loss over epochs of the best trial of each arm.

    Args:
        spec: The study, for the colours.
        best: Trial by arm, such as `best_by_arm` yields.
        trajectories: Measurements by trial number; arms without are left out.
    """
    figure = blank(height=400)
    for arm, trial in best.items():
        points = thin(trajectories.get(trial.number, ()))
        if points:
            _add_losses(figure, points, colour=arm_look(spec, arm)[0], name=inert(arm), hover=_hover(trial))
    task = task_of(list(best.values()))
    figure.update_layout(xaxis_title="epoch (counted from 0)", yaxis_title=LOSS[task])
    return figure


def sparsity_figure(spec: StudySpec, trial: Trial, trajectory: Sequence[Measurement]) -> go.Figure:
    """Sparsity of every layer of one trial over epochs (right axis), on its losses (left), a line at the lowest one."""
    figure = blank(height=380)
    points = thin(trajectory)
    colour, _ = arm_look(spec, trial.config.arm)
    _add_losses(figure, points, colour=colour, name="loss", hover=_hover(trial))
    layers, shades = layers_of(points), _shades(len(layers_of(points)))
    measured = [m for m in points if m.statistics]
    for (layer, short), shade in zip(short_names(layers).items(), shades, strict=True):
        figure.add_scatter(
            x=[m.epoch for m in measured],
            y=[plain(m.series(spec.measures.main).get(layer)) for m in measured],
            mode=_mode(measured), name=inert(short), yaxis="y2", line={"color": shade, "width": 1.5},
            showlegend=len(layers) <= LAYERS_IN_LEGEND,
            hovertemplate=f"{inert(layer)}: %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    best = best_epoch(points)
    if best is not None:
        figure.add_vline(x=best, line={"color": "#808080", "width": 1, "dash": "dash"})
    figure.update_layout(
        xaxis_title="epoch (counted from 0)", yaxis_title=LOSS[trial.config.task], margin={"r": 55},
        yaxis2={"title": inert(spec.measures.main), "overlaying": "y", "side": "right", "range": [0, 1.02],
                "tickmode": "linear", "tick0": 0, "dtick": 0.25, "showgrid": False, "zeroline": False},
    )  # fmt: skip
    return figure


def heatmap_figure(spec: StudySpec, trajectory: Sequence[Measurement]) -> go.Figure:
    """Main measure on the validation probe set, a row a layer, a column a measured epoch; grey where undefined."""
    points = thin([m for m in trajectory if m.statistics])
    epochs, cells = layer_cells(points, spec.measures.main)
    names = [inert(cut(short, 24)) for short in short_names(layers_of(points)).values()]
    figure = blank(height=min(110 + 30 * max(len(names), 3), 800))
    figure.add_heatmap(
        x=[int(e) for e in epochs], y=list(range(len(names))), z=[[plain(v) for v in row] for row in cells],
        zmin=0, zmax=1, colorscale="Viridis", colorbar={"thickness": 12, "outlinewidth": 0, "dtick": 0.25},
        customdata=[[name] * len(epochs) for name in names], hoverongaps=False,
        hovertemplate="%{customdata}, epoch %{x}: %{z:.3f}<extra></extra>",
    )  # fmt: skip
    best = best_epoch(trajectory)
    if best is not None:
        figure.add_vline(x=best, line={"color": "#ffffff", "width": 1.5, "dash": "dash"})
    step = math.ceil(max(len(names), 1) / 25)
    ticks = list(range(0, len(names), step))
    figure.update_yaxes(autorange="reversed", tickvals=ticks, ticktext=names[::step], showgrid=False)
    figure.update_layout(plot_bgcolor=GREY, xaxis_title="epoch (counted from 0)", xaxis_showgrid=False)
    return figure


def value_figures(spec: StudySpec, trials: Sequence[Trial]) -> dict[str, go.Figure]:
    """First objective of every COMPLETE trial against each searched value, by parameter name, coloured by arm.

    The axis of a domain searched on a logarithmic scale is logarithmic; so is that of a range left to ``auto`` whose
    values are positive and span more than a factor of 20. Parameters with a single value found are left out.
    """
    complete = [t for t in trials if t.state is TrialState.COMPLETE and t.values and math.isfinite(t.values[0])]
    domains = searched_domains(spec)
    tried = dict.fromkeys(name for t in complete for name in t.config.parameters if name != ARM)
    known = [*[n for n in domains if n in tried], *[n for n in tried if n not in domains]]
    found = {n: [t for t in complete if n in t.config.parameters] for n in known}
    varied = {n: ts for n, ts in found.items() if len({str(t.config.parameters[n]) for t in ts}) > 1}
    return {name: _value_figure(spec, name, domains.get(name), ts) for name, ts in varied.items()}


def _value_figure(spec: StudySpec, name: str, domain: Domain | None, trials: Sequence[Trial]) -> go.Figure:
    figure = blank(height=270)
    values = [t.config.parameters[name] for t in trials]
    number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    for arm in dict.fromkeys(t.config.arm for t in trials):
        of_arm = [t for t in trials if t.config.arm == arm]
        colour, symbol = arm_look(spec, arm)
        figure.add_scatter(
            x=[t.config.parameters[name] if number else inert(str(t.config.parameters[name])) for t in of_arm],
            y=[plain(t.values[0]) for t in of_arm],
            mode="markers", name=inert(arm), text=[_hover(t) for t in of_arm],
            marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.75},
            hovertemplate="%{text}<br>%{x:.4g}: %{y:.4g}<extra></extra>" if number else "%{text}<br>%{x}: %{y:.4g}",
        )  # fmt: skip
    log = number and _is_log(domain, values)
    kind = "log" if log else "linear" if number else "category"
    figure.update_xaxes(type=kind, title=inert(name), dtick=_log_step(values) if log else None)
    metric = called(spec.search.objectives[0].metric, task_of(trials))
    figure.update_layout(showlegend=False, yaxis_title=inert(metric.partition("/")[2]))
    return figure


def _is_log(domain: Domain | None, values: Sequence[float]) -> bool:
    if isinstance(domain, Uniform):
        return domain.log
    return (domain is None or isinstance(domain, Choice)) and min(values) > 0 and max(values) > 20 * min(values)


def _log_step(values: Sequence[float]) -> int | None:
    return 1 if max(values) >= 10 * min(values) else None


def thin(trajectory: Sequence[Measurement], most: int = MAX_POINTS) -> list[Measurement]:
    """At most about ``most`` measurements, evenly spread; the first, the last and the best epoch are among them."""
    if len(trajectory) <= most:
        return list(trajectory)
    best = best_epoch(trajectory)
    kept = {round(i) for i in np.linspace(0, len(trajectory) - 1, most)}
    return [m for i, m in enumerate(trajectory) if i in kept or m.epoch == best]


def _add_losses(figure: go.Figure, points: Sequence[Measurement], *, colour: str, name: str, hover: str) -> None:
    losses: list[tuple[str, str, Callable[[Measurement], float]]] = [
        ("validation", "solid", lambda m: m.validation_loss),
        ("train", "dot", lambda m: m.train_loss),
    ]
    for split, dash, loss in losses:
        figure.add_scatter(
            x=[m.epoch for m in points], y=[plain(loss(m)) for m in points], mode=_mode(points),
            name=f"{name}, {split}", showlegend=split == "validation" or name == "loss",
            line={"color": colour, "dash": dash, "width": 2},
            hovertemplate=f"{hover}<br>{split} loss %{{y:.4g}} at epoch %{{x}}<extra></extra>",
        )  # fmt: skip


def blank(*, height: int) -> go.Figure:
    """A figure without curves, as all of the page begin: transparent, as wide as its place, ``height`` pixels high."""
    axis = {"gridcolor": _GRID, "zeroline": False, "automargin": True, "title": {"font": {"size": 12}}}
    return go.Figure(
        layout={
            "template": "none", "height": height, "autosize": True, "font": {"size": 12},
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 55, "r": 15, "t": 15, "b": 45}, "xaxis": axis, "yaxis": axis,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, "hoverlabel": {"namelength": -1},
        }
    )  # fmt: skip


def _mode(points: Sequence[Any]) -> str:
    return "lines+markers" if len(points) < 3 else "lines"


def _shades(count: int) -> list[str]:
    """Colours from the middle of Viridis, first layer darkest; visible on light and on dark paper."""
    stops: Iterable[float] = np.linspace(0.3, 0.82, count) if count > 1 else [0.3]
    channels = [[round(255 * c) for c in colormaps["viridis"](float(s))[:3]] for s in stops]
    return [f"rgb({r},{g},{b})" for r, g, b in channels]


def _hover(trial: Trial) -> str:
    return inert(f"trial {trial.number}: {trial_label(trial.config)}")


def plain(value: float | None) -> float | None:
    """Five significant digits, and null for what is undefined: what the page needs of a number."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def inert(text: str) -> str:
    """Inert in a Plotly label, which reads a subset of HTML, and in a hover template, which fills in ``%{…}``."""
    return escape(text).replace("%{", "% {")
