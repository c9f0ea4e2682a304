"""What comes first: does sparsity rise before the validation loss does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from plotly import graph_objects as go

from sparsestudy.analysis.findings import Findings
from sparsestudy.analysis.findings.marks import (
    BLUE,
    SOFT,
    Bar,
    cannot,
    clipped,
    forest,
    how,
    label,
    left_out,
    looks,
    shortened,
    telling,
    wrapped,
)
from sparsestudy.analysis.hazard import Hazard
from sparsestudy.analysis.inside.section import Draw
from sparsestudy.analysis.lead import LeadTime
from sparsestudy.analysis.onset import Onsets, overfitting_onset, sparsity_onset
from sparsestudy.analysis.page import table
from sparsestudy.analysis.plots import blank, inert
from sparsestudy.analysis.summary import counted
from sparsestudy.analysis.timing import POOLED, layer_series

ROWS, POINTS, ARMS = 12, 500, 8


def order_section(findings: Findings, arms: Sequence[str], place: Draw) -> str:
    """Onsets against each other, the share of "sparsity first" against chance, and the leads."""
    title = "<h3>Does sparsity rise before overfitting begins?</h3>"
    timed = findings.relation.timing
    if not timed.leads:
        return title + cannot(f"It cannot be said: {timed.reason or 'no onsets were looked for'}.")
    layers = [name for name in timed.leads if name != POOLED]
    votes = telling(layers, lambda n: float(timed.leads[n].votes_first + timed.leads[n].votes_after), ROWS)
    rows = [POOLED] * (POOLED in timed.leads) + votes
    names = shortened([POOLED, *layers])
    leads = {names[row]: timed.leads[row] for row in rows}
    head = POOLED if POOLED in timed.leads else layers[0]
    intro = (
        "<p>Overfitting begins where the smoothed validation loss is lowest, if it rises for certain afterwards; the"
        " rise of sparsity begins at its bend. Where nothing of the kind was seen up to the last epoch, the onset is"
        " <i>open</i>: it may still have come.</p>"
    )
    seen, spread = _onsets(findings, head, names[head], arms, place), _distribution(timed.leads[head], place)
    parts = [
        _counts(leads),
        f'<div class="wide">{seen}{spread}</div>',
        _shares(leads, place),
        _medians(leads, place),
        _hazards(findings, rows, names, place),
        left_out(len(votes), len(layers), "layers"),
    ]
    return f"{title}{intro}{''.join(parts)}"


def _counts(leads: Mapping[str, LeadTime]) -> str:
    head = ["Layer", "Trials", "Sparsity first", "Same epoch", "Sparsity later", "Only sparsity rose",
            "Only overfitting", "Neither"]  # fmt: skip
    rows = [
        [escape(name), *(str(n) for n in (t.trials, t.first, t.same, t.after, t.only_sparsity, t.only_overfitting,
                                          t.neither))]
        for name, t in leads.items()
    ]  # fmt: skip
    return table(head, rows)


def _onsets(findings: Findings, head: str, name: str, arms: Sequence[str], place: Draw) -> str:
    evidence = findings.evidence
    late = overfitting_onset(evidence.curves["validation/loss"])
    early = sparsity_onset(layer_series(evidence)[head])
    told = np.flatnonzero((late.epoch >= 0) & (early.epoch >= 0) & ~(late.censored & early.censored))
    if not len(told):
        return cannot("In no trial was an onset seen, so there is nothing to draw.")
    shown = told[np.unique(np.linspace(0, len(told) - 1, min(len(told), POINTS)).round().astype(int))]
    figure = _onset_figure(late, early, shown, evidence.trials["arm"].to_numpy(), arms)
    caption = f"{name}: {counted(len(told), 'trial')}" + f", {len(shown)} of them drawn" * (len(shown) < len(told))
    reading = how(
        "each point is a trial in which an onset was seen. Above the dashed line sparsity rose first, below it"
        " overfitting began first. A hollow triangle is open: it points to where the other onset may still lie."
    )
    return f"<div>{reading}{place('onsets', figure, caption)}</div>"


def _onset_figure(late: Onsets, early: Onsets, shown: object, names: object, arms: Sequence[str]) -> go.Figure:
    rows, of = np.asarray(shown), np.asarray(names)
    figure, known = blank(height=380), looks(arms)
    end = int(max(late.epoch[rows].max(), early.epoch[rows].max())) + 1
    figure.add_shape(type="line", x0=0, y0=0, x1=end, y1=end, line={"color": SOFT, "dash": "dash", "width": 1.5})
    wiggle = np.random.default_rng(0).uniform(-0.3, 0.3, (2, len(rows)))  # epochs are whole: points would hide points
    few = len(arms) <= ARMS
    for arm in arms if few else ("",):
        own = of[rows] == arm if few else np.ones(len(rows), dtype=bool)
        if not own.any():
            continue
        open_late, open_early = late.censored[rows[own]], early.censored[rows[own]]
        late_symbol = np.where(open_late, "triangle-up-open", "circle")
        symbol = np.where(open_early, "triangle-right-open", late_symbol)
        colour = known[arm][0] if few else BLUE
        figure.add_scatter(x=[None], y=[None], mode="markers", marker={"color": colour, "size": 8}, name=inert(arm),
                           showlegend=few)  # fmt: skip
        figure.add_scatter(
            x=[round(float(v), 2) for v in early.epoch[rows[own]] + wiggle[0, own]],
            y=[round(float(v), 2) for v in late.epoch[rows[own]] + wiggle[1, own]],
            mode="markers", showlegend=False,
            marker={"symbol": symbol.tolist(), "size": 8, "color": colour, "opacity": 0.8},
            customdata=[[int(a), int(b)] for a, b in zip(early.epoch[rows[own]], late.epoch[rows[own]], strict=True)],
            hovertemplate=f"{inert(arm)} sparsity %{{customdata[0]}}, overfitting %{{customdata[1]}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="epoch in which sparsity begins to rise", range=[-1, end + 0.5])
    figure.update_yaxes(title="epoch in which overfitting begins", range=[-1, end + 0.5])
    return figure


def _distribution(lead: LeadTime, place: Draw) -> str:
    """Estimated share of trials whose lead is at most so many epochs."""
    steps = lead.distribution
    if not steps:
        return cannot(f"No distribution of leads: {lead.reason or 'no onset was seen'}.")
    figure = blank(height=380)
    x = [steps[0][0] - 1, *(s[0] for s in steps), steps[-1][0] + 1]
    y = [0.0, *(round(s[1], 4) for s in steps), round(steps[-1][1], 4)]
    figure.add_vline(x=0, line={"color": SOFT, "width": 1.5, "dash": "dash"})
    figure.add_scatter(x=x, y=y, mode="lines", line={"color": BLUE, "width": 2.5, "shape": "hv"}, showlegend=False,
                       hovertemplate="lead of at most %{x} epochs: %{y:.0%}<extra></extra>")  # fmt: skip
    figure.update_xaxes(title=wrapped("lead: epochs from the rise of sparsity to overfitting"))
    figure.update_yaxes(title="share of trials", range=[-0.02, 1.02], tickformat=".0%")
    beyond = 1 - steps[-1][1]
    open_ = f" The leads of {beyond:.0%} are longer than what was watched." * (beyond > 0.005)
    reading = how(
        "the curve climbs by the share of trials with that lead. Right of the dashed line sparsity came first. Trials"
        f" with an open onset count as what is known of them (Turnbull).{open_}"
    )
    return f"<div>{reading}{place('leads', figure, '')}</div>"


def _shares(leads: Mapping[str, LeadTime], place: Draw) -> str:
    bars = [
        Bar(
            row=f"{name}\n{t.votes_first + t.votes_after} with a vote",
            value=t.share,
            low=t.share_low,
            high=t.share_high,
            note=f"chance {usual(t):.0%}",
            reference=usual(t),
        )
        for name, t in leads.items()
        if t.share is not None
    ]
    if not bars:
        return cannot("In no configuration were both onsets seen, so there is no share in which sparsity came first.")
    figure, _ = forest(bars, title="configurations in which sparsity came first", within=(-0.03, 1.03),
                       reference=0.5)  # fmt: skip
    chance = [(i, usual(t)) for i, t in enumerate(t for t in leads.values() if t.share is not None)]
    figure.add_scatter(
        x=[round(c, 4) for _, c in chance], y=[i for i, _ in chance], mode="markers", showlegend=True,
        name="what the clock alone would give",
        marker={"symbol": "line-ns-open", "size": 18, "color": "#d55e00", "line": {"width": 3, "color": "#d55e00"}},
        hovertemplate="by the clock alone: %{x:.0%}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(tickformat=".0%")
    silent = [name for name, t in leads.items() if t.share is None]
    none = f"<p>No configuration with both onsets: {escape(', '.join(silent))}.</p>" * bool(silent)
    reading = how(
        "two things that have nothing to do with each other may still come in a fixed order; the orange"
        " upright is how often sparsity would be first by the clock alone (onsets of different configurations), one"
        " half at least. A mark is filled only if its interval leaves its orange upright out."
    )
    return f"{reading}{place('first', figure, '')}{none}"


def usual(lead: LeadTime) -> float:
    """The share of "sparsity first" that the clock alone would give, one half at least, as the verdict has it."""
    return max(0.5, lead.by_chance or 0.0)


def _medians(leads: Mapping[str, LeadTime], place: Draw) -> str:
    bars = [Bar(row=name, value=t.median, low=t.low, high=t.high, note=t.reason) for name, t in leads.items()]
    unsaid = _unsaid(leads)
    if all(b.value is None for b in bars):
        return cannot(f"No median lead can be given: {'; '.join(unsaid) or 'no onset was seen'}.")
    figure, beyond = forest([b for b in bars if b.value is not None], title="median lead, epochs")
    missing = f"<p>Without a median: {escape('; '.join(unsaid))}.</p>" * bool(unsaid)
    reading = how(f"right of zero, sparsity rose that many epochs before overfitting began.{clipped(beyond)}")
    return f"{reading}{place('medians', figure, '')}{missing}"


def _unsaid(leads: Mapping[str, LeadTime]) -> list[str]:
    """Why layers have no median, layers with the same reason together."""
    layers: dict[str, list[str]] = {}
    for name, lead in leads.items():
        if lead.median is None:
            parts = lead.reason.split("; ")
            layers.setdefault(next((p for p in parts if "median" in p), parts[0]), []).append(name)
    return [f"{', '.join(names)} ({reason})" for reason, names in layers.items()]


def _hazards(findings: Findings, rows: Sequence[str], names: Mapping[str, str], place: Draw) -> str:
    """Hazard ratios after a rise, on a logarithmic axis."""
    timed = findings.relation.timing
    bars = [_logarithm(names[r], timed.after_rise[r]) for r in rows if r in timed.after_rise]
    known = [b for b in bars if b.value is not None]
    if not known:
        reasons = sorted({h.reason for h in timed.after_rise.values() if h.reason})
        return cannot(f"No hazard ratio can be given: {'; '.join(reasons[:2]) or 'no onsets'}.")
    figure, beyond = forest(known, title="hazard of overfitting after a rise, times as high")
    ticks = [-2, -1, 0, 1, 2]
    spots = [t + p for t in ticks for p in (0.0, 0.30103, 0.69897)]
    figure.update_xaxes(tickvals=spots, ticktext=[label(f"{10**s:.3g}") for s in spots])
    reading = how(
        "how many times as often overfitting begins in an epoch in trials whose sparsity was seen to rise before,"
        " against trials of the same arm and age where it was not. 1, the dashed line, is no relation; this compares"
        f" like with like, so it is not fooled by two clocks.{clipped(beyond)}"
    )
    return f"{reading}{place('hazards', figure, '')}"


def _logarithm(row: str, hazard: Hazard) -> Bar:
    """A hazard ratio with its interval, as logarithms to base 10."""
    ratios = (hazard.ratio, hazard.low, hazard.high)
    value, low, high = (None if v is None or v <= 0 else float(np.log10(v)) for v in ratios)
    return Bar(row=row, value=value, low=low, high=high)
