"""Every measure against the gap: does the measure that targets are in go with it more than others do?"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from plotly import graph_objects as go

from sparsestudy.analysis.findings import Findings
from sparsestudy.analysis.findings.marks import (
    ORANGE,
    bar_of,
    cannot,
    confidence,
    forest,
    how,
    left_out,
    number,
    shortened,
    telling,
    with_interval,
)
from sparsestudy.analysis.heatmap import GREY, cut
from sparsestudy.analysis.inside.section import Draw
from sparsestudy.analysis.page import table
from sparsestudy.analysis.plots import blank, inert, plain
from sparsestudy.analysis.ranks import RankCorrelation
from sparsestudy.analysis.summary import counted

PANELS, MEASURES, MAP_ROWS, MAP_COLUMNS = 6, 12, 30, 40
MAIN = "the study's main measure"


def measures_section(findings: Findings, place: Draw) -> str:
    """A map of all measures by layer, and for the most telling layers each measure with its interval."""
    title = "<h3>All measures compared</h3>"
    rows = [r for r in findings.relation.ranks if r.at == "last"]
    known = [r for r in rows if r.kendall.estimate is not None]
    if not any(_bounded(r) for r in known):
        return title + cannot(_why_none(rows))
    found = [r for r in findings.relation.ranks if r.discovered]
    told = (
        f"<p>{len(found)} of {counted(len(findings.relation.ranks), 'correlation')} (each signal at the last"
        f" and at the best epoch) {'stands' if len(found) == 1 else 'stand'} out from chance, if 5 % of such finds may"
        " be false (Benjamini and Hochberg). Nothing is held fixed: arms and hyperparameters may bring both about.</p>"
    )
    reading = how(
        "Kendall's rank correlation τ: +1 if of any two trials the one with more of the measure always has the larger"
        " gap, −1 if always the smaller, 0 if it tells nothing. Here filled marks and dots are those that stand out"
        " from chance when all are looked at together."
    )
    return (
        f"{title}{told}{reading}{_map(known, findings.evidence.main, place)}{_panels(findings, known, place)}"
        f"{_fixed(findings)}"
    )


def _why_none(rows: Sequence[RankCorrelation]) -> str:
    if not rows:
        return "No measure was recorded, so none can be compared."
    return f"No measure can be ranked against the gap: {rows[0].kendall.reason or 'too few trials'}."


def _bounded(row: RankCorrelation) -> bool:
    """Whether it has an interval; without one even +1 or −1 may be chance, as two trials always agree or disagree."""
    return row.kendall.low is not None


def _map(known: Sequence[RankCorrelation], main: str, place: Draw) -> str:
    """Measures by layer; nothing where a single row or column would be left."""
    cells = {(r.measure, r.layer): r for r in known if r.kind == "activations" and _bounded(r)}
    measures = list(dict.fromkeys([main, *(m for m, _ in cells)]))
    measures = [m for m in measures if any(m == known_ for known_, _ in cells)]
    layers = list(dict.fromkeys(layer for _, layer in cells))
    if len(measures) < 2 or len(layers) < 2:
        return ""
    strongest = {m: max(_strength(r) for (n, _), r in cells.items() if n == m) for m in measures}
    shown = telling(measures, lambda m: 2.0 if m == main else strongest[m], MAP_ROWS)
    columns = telling(layers, lambda c: max(_strength(r) for (_, n), r in cells.items() if n == c), MAP_COLUMNS)
    short, figure = shortened(layers), blank(height=130 + 24 * len(shown))
    correlations = [[cells[m, c].kendall.estimate if (m, c) in cells else None for c in columns] for m in shown]
    marks = [["•" if (m, c) in cells and cells[m, c].discovered else "" for c in columns] for m in shown]
    figure.add_heatmap(
        x=[inert(cut(short[c], 20)) for c in columns], y=[inert(m) for m in shown],
        z=[[plain(v) for v in row] for row in correlations], text=marks, texttemplate="%{text}", zmin=-1, zmax=1,
        colorscale="RdBu", reversescale=True, hoverongaps=False, xgap=1, ygap=1,
        colorbar={"thickness": 10, "outlinewidth": 0, "dtick": 0.5},
        hovertemplate="%{y}, %{x}: τ = %{z:.2f}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(plot_bgcolor=GREY)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticklabelstandoff=4)
    text = "Red: more of it, larger gap. Blue: more of it, smaller gap. Dot: stands out from chance. Grey: no interval."
    return place("ranks", figure, text) + left_out(len(shown), len(measures), "measures")


def _strength(row: RankCorrelation) -> float:
    return abs(row.kendall.estimate or 0.0)


def _panels(findings: Findings, known: Sequence[RankCorrelation], place: Draw) -> str:
    groups: dict[tuple[str, str], list[RankCorrelation]] = {}
    for row in known:
        groups.setdefault((row.kind if row.kind != "activations" else "", row.layer), []).append(row)
    names = {key: _called(*key) for key in groups}
    keys = list(groups)
    best = {names[k]: max(confidence(r.kendall) for r in groups[k]) for k in keys}
    chosen = telling([names[k] for k in keys], lambda n: best[n], PANELS)
    short, panels = shortened([k[1] for k in keys if not k[0]]), ""
    for i, key in enumerate(k for k in keys if names[k] in chosen):
        rows = groups[key]
        figure, caption = _panel(rows, findings.evidence.main)
        panels += place(f"tau{i}", figure, f"{short.get(key[1], names[key]) if not key[0] else names[key]}{caption}")
    return f'<div class="wide">{panels}</div>{left_out(len(chosen), len(keys), "layers and weights")}'


def _called(kind: str, layer: str) -> str:
    return {"": layer, "network": f"network {layer}".rstrip()}.get(kind, f"{kind} of {layer}")


def _panel(rows: Sequence[RankCorrelation], main: str) -> tuple[go.Figure, str]:
    """Measures of one layer, strongest first; the main one is always among them."""
    ordered = sorted(rows, key=_strength, reverse=True)
    kept = [r for r in ordered if r.measure == main] + [r for r in ordered if r.measure != main]
    kept = sorted(kept[:MEASURES], key=_strength, reverse=True)
    bars = [
        bar_of(
            r.measure,
            r.kendall,
            note=counted(r.trials, "trial"),
            colour=ORANGE if r.measure == main else "",
            decided=r.discovered,
        )
        for r in kept
    ]
    figure, _ = forest(bars, title="τ with the gap", within=(-1.05, 1.05))
    more = f"; {len(rows) - len(kept)} weaker ones are not shown" * (len(rows) > len(kept))
    has_main = any(r.measure == main for r in kept)
    return figure, (f" (orange: {main}, {MAIN}{more})" if has_main else more)


def _soft(reason: str) -> str:
    return f' <span class="message target">{escape(reason)}</span>' if reason else ""


def _fixed(findings: Findings) -> str:
    """The main measure once more, with hyperparameters held fixed and in the worst environment."""
    main = findings.evidence.main
    held = {(g.kind, g.layer): g for g in findings.relation.granulated if g.measure == main and g.at == "last"}
    errors = {(e.kind, e.layer): e for e in findings.relation.sign_errors if e.measure == main and e.at == "last"}
    if not held:
        return ""
    short = shortened(k[1] for k in held)
    keys = telling(list(short), lambda n: max(confidence(held[k].kendall) for k in held if k[1] == n), 12)
    lines = []
    for key in (k for k in held if k[1] in keys):
        error = errors.get(key)
        worst = number(None) if error is None or error.worst is None else f"{error.worst:.0%}"
        where = f" ({escape(cut(error.worst_environment, 60))})" if error and error.worst_environment else ""
        reason = held[key].kendall.reason
        told = with_interval(bar_of("", held[key].kendall))
        lines.append(
            [
                escape(short[key[1]]),
                f"{told}{_soft(reason)}",
                with_interval(bar_of("", error.mean if error else None)),
                f"{worst}{where}{_soft(error.reason if error else '')}",
            ]
        )
    return (
        f"<h4>{escape(main)} with something held fixed</h4><p>Ψ compares only trials that differ in one hyperparameter,"
        " averaged over hyperparameters. The sign error is the share of pairs of trials that the measure puts in the"
        " wrong order: one half is a coin flip, and the worst environment shows where it fails.</p>"
        + table(["Layer", "Ψ, −1 to 1", "Sign error, mean", "Sign error, worst"], lines)
        + left_out(len(keys), len(held), "layers")
    )
