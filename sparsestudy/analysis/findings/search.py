"""What the search tried: which parameters matter, and how configurations ended."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from plotly import graph_objects as go

from sparsestudy.analysis.clustered import Floats
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.findings import Findings
from sparsestudy.analysis.findings.marks import BLUE, cannot, how, label, left_out, number, telling
from sparsestudy.analysis.heatmap import cut
from sparsestudy.analysis.inside.section import Draw
from sparsestudy.analysis.plots import blank, inert
from sparsestudy.analysis.sample import pooled, sparsities
from sparsestudy.analysis.summary import counted

PARAMETERS, IMPORTANT_ARMS, PARALLEL_ARMS, LINES, AXES = 10, 6, 4, 120, 9
SHADES = 6
FEWEST = 5


def importance_section(findings: Findings, place: Draw) -> str:
    """Bars of the importance of parameters, for all trials and by arm."""
    title = "<h3>Which searched values matter</h3>"
    known = {arm: dict(shares) for arm, shares in findings.importance.items() if any(v > 0 for v in shares.values())}
    if not known:
        return title + cannot(
            "The importance of the searched values is not known: it takes about ten complete trials and a value that is"
            " searched."
        )
    reading = how(
        "PED-ANOVA compares how a value is spread among the best trials with how it is spread among all of them: a long"
        " bar is a value that good trials agree on. It looks at one value at a time, does not say in which direction,"
        " and has no interval; with few trials small bars are noise. Values that belong to one arm are compared in that"
        " arm only. Shares of a picture add up to 100 %."
    )
    arms = [arm for arm in known if arm != "all"]
    chosen = telling(arms, lambda arm: max(known[arm].values()), IMPORTANT_ARMS)
    panels = ""
    for i, arm in enumerate([*(["all"] * ("all" in known)), *chosen]):
        caption = "All trials" if arm == "all" else f"Arm {arm}"
        more = len(known[arm]) - PARAMETERS
        panels += place(f"importance{i}", _bars(arm, known[arm]), caption + f"; {more} more are smaller" * (more > 0))
    rest = left_out(len(chosen), len(arms), "arms", "the rest is left out")
    return f'{title}{reading}<div class="wide">{panels}</div>{rest}'


def _bars(arm: str, shares: Mapping[str, float]) -> go.Figure:
    total = sum(v for v in shares.values() if v > 0)
    ranked = sorted(shares.items(), key=lambda item: -item[1])[:PARAMETERS]
    figure = blank(height=85 + 26 * len(ranked))
    figure.add_bar(
        x=[round(max(v, 0.0) / total, 4) for _, v in ranked], y=list(range(len(ranked))), orientation="h", width=0.6,
        marker={"color": BLUE}, text=[f"{max(v, 0.0) / total:.0%}" for _, v in ranked], textposition="auto",
        hoverinfo="skip",
    )  # fmt: skip
    figure.update_xaxes(range=[0, 1], tickformat=".0%", title="share of the importance")
    names = [label(short_parameter(name, arm)) for name, _ in ranked]
    figure.update_yaxes(tickvals=list(range(len(ranked))), ticktext=names, range=[len(ranked) - 0.4, -0.6],
                        showgrid=False, ticklabelstandoff=6)  # fmt: skip
    return figure


def short_parameter(name: str, arm: str) -> str:
    """A parameter without the arm it belongs to and without ``training.``.

    Example:
        >>> short_parameter("l1/strength", "l1"), short_parameter("training.optimizer.lr", "l1")
        ('strength', 'optimizer.lr')
    """
    return name.removeprefix("parameter/").removeprefix(f"{arm}/").removeprefix("training.")


def parallel_section(findings: Findings, place: Draw) -> str:
    """Parallel coordinates of configurations, an arm a figure.

    Plain lines rather than Plotly's ``parcoords``, which draws with WebGL and code made at run time: the page's policy
    forbids the one, and many machines lack the other.
    """
    title = "<h3>Configurations and how they ended</h3>"
    evidence = findings.evidence
    gap = np.asarray(evidence.gap(), dtype=np.float64)
    arms = [str(a) for a in dict.fromkeys(evidence.trials["arm"])]
    axes = {arm: _axes(evidence, arm, gap, findings.score) for arm in arms}
    usable = [arm for arm in arms if axes[arm] is not None]
    if not usable:
        return title + cannot(
            f"No arm has {FEWEST} trials and a searched value that varies, so there is nothing to lay out."
        )
    chosen = telling(usable, lambda arm: float((evidence.trials["arm"] == arm).sum()), PARALLEL_ARMS)
    reading = how(
        "each line is a trial, from what was set (left) to how it ended (right), each axis from its lowest value at the"
        " bottom to its highest at the top. Yellow lines ended with the smallest gaps, dark ones with the largest."
        " Where the yellow lines gather, configurations overfit least; where colours mix, that value decides little."
    )
    panels = ""
    for i, arm in enumerate(chosen):
        found = axes[arm]
        assert found is not None
        rows, columns = found
        figure = _parallel(rows, columns, gap, evidence.trials["trial"].to_numpy())
        drawn = f", {LINES} of them drawn" * (len(rows) > LINES)
        place_ = place(f"parallel{i}", figure, f"Arm {arm}: {counted(len(rows), 'trial')}{drawn}")
        panels += f'<div class="scroll broad" style="--least:{90 * len(columns)}px">{place_}</div>'
    return f"{title}{reading}{panels}{left_out(len(chosen), len(usable), 'arms', 'the table of trials has the others')}"


def _axes(evidence: Evidence, arm: str, gap: Floats, score: str) -> tuple[Any, dict[str, pd.Series[Any]]] | None:
    """Rows of an arm with a gap, and its axes: values that vary, then mean sparsity, score and gap."""
    trials = evidence.trials
    rows = np.flatnonzero((trials["arm"] == arm).to_numpy() & np.isfinite(gap))
    if len(rows) < FEWEST:
        return None
    columns = {
        short_parameter(name, arm): trials[name].iloc[rows]
        for name in trials.columns
        if str(name).startswith("parameter/") and trials[name].iloc[rows].astype(str).nunique() > 1
    }
    if not columns:
        return None
    by_layer = sparsities(evidence)
    ends = {"validation " + score: evidence.last(evidence.curves["validation/accuracy"]), "gap in loss": gap}
    if by_layer:
        ends = {f"mean {evidence.main}": pooled(by_layer), **ends}
    kept = dict(list(columns.items())[: AXES - len(ends)])
    return rows, kept | {n: pd.Series(v[rows]) for n, v in ends.items() if np.isfinite(v[rows]).any()}


def _parallel(rows: Any, columns: Mapping[str, pd.Series[Any]], gap: Floats, trials: Any) -> go.Figure:
    order = np.argsort(gap[rows])[::-1]  # the smallest gaps are drawn last, on top
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), LINES)).round().astype(int))]
    figure = blank(height=360)
    heights, ends = zip(*(_height(column) for column in columns.values()), strict=True)
    table, places = np.array(heights), list(range(len(columns)))
    for shade in range(SHADES):
        part = [int(i) for at, i in enumerate(shown) if at * SHADES // len(shown) == shade]
        if not part:
            continue
        red, green, blue = (round(255 * c) for c in colormaps["viridis"](shade / (SHADES - 1))[:3])
        figure.add_scatter(
            x=[v for _ in part for v in (*places, None)],
            y=[v for i in part for v in (*(None if math.isnan(h) else round(float(h), 4) for h in table[:, i]), None)],
            text=[v for i in part for v in (*(f"trial {trials[rows[i]]}, gap {gap[rows[i]]:.3g}" for _ in places), "")],
            mode="lines+markers", line={"color": f"rgba({red},{green},{blue},0.75)", "width": 1.6}, marker={"size": 4},
            showlegend=False, hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    for at, (low, high) in enumerate(ends):
        figure.add_vline(x=at, line={"color": "#808080", "width": 1})
        for y, text, anchor in ((-0.03, low, "top"), (1.03, high, "bottom")):
            figure.add_annotation(x=at, y=y, text=inert(cut(text, 14)), showarrow=False, yanchor=anchor, font_size=11)
    parts = [re.split(r"/(?=[^/]*$)| ", name, maxsplit=1) for name in columns]
    names = ["<br>".join(inert(cut(part, 16)) for part in lines) for lines in parts]
    figure.update_xaxes(
        tickvals=places, ticktext=names, range=[-0.45, len(columns) - 0.55], showgrid=False, tickangle=0
    )
    figure.update_yaxes(range=[-0.14, 1.14], visible=False)
    figure.update_layout(margin={"l": 10, "r": 10, "t": 10, "b": 55})
    return figure


def _height(column: pd.Series[Any]) -> tuple[Floats, tuple[str, str]]:
    """Heights in [0, 1] along an axis and what stands at its ends; NaN where there is no value."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(values).any():
        texts = column.astype(str)
        kinds = sorted(set(texts))
        codes = texts.map({kind: i for i, kind in enumerate(kinds)}).to_numpy(dtype=np.float64)
        return codes / max(1, len(kinds) - 1), (kinds[0], kinds[-1])
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    ends = (number(low), number(high))
    if low > 0 and high > 20 * low:
        values, low, high = (
            np.log(values, where=values > 0, out=np.full(len(values), np.nan)),
            math.log(low),
            math.log(high),
        )
    if high <= low:
        return np.where(np.isfinite(values), 0.5, np.nan), ends
    return np.asarray((np.where(np.isfinite(values), values, np.nan) - low) / (high - low)), ends
