"""The gap over sparsity, layer by layer: what was seen, the slope within arms, and the slope by assigned targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from plotly import graph_objects as go

from sparsestudy.analysis.cause import LayerCause
from sparsestudy.analysis.clustered import Floats
from sparsestudy.analysis.findings import Findings
from sparsestudy.analysis.findings.marks import (
    BLUE,
    ORANGE,
    SOFT,
    Bar,
    bar_of,
    cannot,
    clipped,
    confidence,
    forest,
    how,
    left_out,
    looks,
    number,
    shortened,
    telling,
    with_interval,
)
from sparsestudy.analysis.inside.section import Draw
from sparsestudy.analysis.level import LayerLevel
from sparsestudy.analysis.page import table
from sparsestudy.analysis.plots import blank, inert, plain
from sparsestudy.analysis.sample import POOLED, STEP, Sample, draw, full_length, pooled, sparsities
from sparsestudy.analysis.summary import counted

PANELS, ROWS, POINTS, ARMS, LEGENDS = 5, 16, 400, 7, 3
ASSOCIATION, ASSIGNED = "all trials, within arms", "by assigned targets (two-stage)"


def gap_section(findings: Findings, arms: Sequence[str], place: Draw) -> str:
    """Scatter plots of the gap over sparsity for the mean of layers and the most telling layers.

    Args:
        findings: What is known.
        arms: All arms in the order of their colours.
        place: Puts a figure on the page.
    """
    title = "<h3>The gap over sparsity</h3>"
    samples = _samples(findings)
    usable = {name: s for name, s in samples.items() if len(s) > 1 and float(np.ptp(s.sparsity)) > 0}
    if not usable:
        return title + cannot(_why_none(findings, samples))
    fitted = {**findings.relation.level.layers, POOLED: findings.relation.level.pooled}
    layers = [name for name in usable if name != POOLED]
    chosen = telling(layers, lambda n: confidence(fitted[n].within), PANELS if POOLED in usable else PANELS + 1)
    names, colours = shortened(samples), _coloured(usable, arms)
    panels = ""
    for i, name in enumerate([POOLED] * (POOLED in usable and len(layers) != 1) + chosen):
        figure, beyond = _scatter(usable[name], fitted[name], colours)
        figure.update_layout(showlegend=i == 0 or len(colours) <= LEGENDS)
        panels += place(f"gap{i}", figure, _caption(names[name], usable[name], fitted[name], beyond))
    some = f" Points are coloured by arm; of {len(arms)} arms those with the smallest and the largest gaps are." * (
        len(colours) < len(arms)
    )
    some += " The first picture names the colours." * (len(colours) > LEGENDS)
    reading = how(
        "each point is a trial at its last epoch. The line is how the gap changes with sparsity <i>within</i> an arm,"
        " drawn through the average trial; it may cut across the clouds of different arms. The band holds it with 95 %"
        " at each place: if a level line fits into the band, sparsity and the gap may have nothing to do with each"
        f" other.{escape(some)}"
    )
    return f'{title}{reading}<div class="wide">{panels}</div>{left_out(len(chosen), len(layers), "layers")}'


def _samples(findings: Findings) -> dict[str, Sample]:
    evidence, by_layer = findings.evidence, sparsities(findings.evidence)
    gap, kept = np.asarray(evidence.gap(), dtype=np.float64), full_length(evidence)
    means = {POOLED: pooled(by_layer)} if by_layer else {}
    return {name: draw(evidence, gap, values, kept) for name, values in (means | by_layer).items()}


def _why_none(findings: Findings, samples: Mapping[str, Sample]) -> str:
    if not samples:
        return f"No layer's {findings.evidence.main} was recorded, so the gap cannot be drawn over sparsity."
    usable = max(len(s) for s in samples.values())
    if usable < 2:
        return (
            f"{counted(usable, 'trial')} trained to the end with both a gap and a defined sparsity; it takes two to"
            " compare."
        )
    return "All trials end with the same sparsity, so nothing can be said of how the gap goes with it."


def _coloured(samples: Mapping[str, Sample], arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Looks of the arms that are told apart: all, or of many those with the smallest and the largest mean gaps."""
    known = looks(arms)
    if len(arms) <= ARMS + 1:
        return known
    sample = next(iter(samples.values()))
    mean = np.bincount(sample.arms, sample.gap) / np.bincount(sample.arms)
    order = [sample.names[i].rpartition("/")[2] for i in np.argsort(mean)]
    chosen = dict.fromkeys([*order[: ARMS // 2 + 1], *order[-(ARMS // 2) :]])
    return {arm: known[arm] for arm in chosen if arm in known}


def _scatter(sample: Sample, fitted: LayerLevel, colours: Mapping[str, tuple[str, str]]) -> tuple[go.Figure, int]:
    """The figure, and how many points lie beyond its window."""
    figure = blank(height=330)
    low, high = window(sample.gap)
    shown = _thinned(len(sample))
    for number_, name in enumerate(sample.names):
        arm = name if name in colours else name.rpartition("/")[2]
        own = shown[sample.arms[shown] == number_]
        colour, symbol = colours.get(arm, (SOFT, "circle-open"))
        figure.add_scatter(
            x=[plain(v) for v in sample.sparsity[own]], y=[plain(v) for v in sample.gap[own]], mode="markers",
            name=inert(name), showlegend=arm in colours and len(colours) <= ARMS + 1,
            marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.7 if arm in colours else 0.35},
            hovertemplate=f"{inert(name)}<br>sparsity %{{x:.3f}}, gap %{{y:.3g}}<extra></extra>",
        )  # fmt: skip
    curve = _curve(sample, fitted)
    if curve:
        x, middle, lower, upper = ([plain(v) for v in part] for part in zip(*curve, strict=True))
        figure.add_scatter(
            x=[*x, *reversed(x)], y=[*upper, *reversed(lower)], fill="toself", fillcolor="rgba(128,128,128,0.28)",
            line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False,
        )  # fmt: skip
        figure.add_scatter(x=x, y=middle, mode="lines", line={"color": SOFT, "width": 3}, hoverinfo="skip",
                           showlegend=False)  # fmt: skip
    figure.update_layout(xaxis_title="sparsity at the last epoch", yaxis_title="gap")
    figure.update_yaxes(range=[low, high])
    return figure, int(((sample.gap < low) | (sample.gap > high)).sum())


def window(values: Floats) -> tuple[float, float]:
    """Range of an axis that a few runaway values do not flatten: 95 % of them, with as much again on either side."""
    low, high = np.quantile(values, [0.025, 0.975])
    reach = float(high - low) or 1e-3 + 0.1 * abs(float(high))
    return max(float(values.min()) - 0.08 * reach, float(low) - reach), min(
        float(values.max()) + 0.08 * reach, float(high) + reach
    )


def _thinned(count: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(np.intp))


def _curve(sample: Sample, fitted: LayerLevel) -> list[tuple[float, float, float, float]]:
    """Points (sparsity, gap, low, high): the spline, or a line with its fan where there is none; [] without either."""
    level = float(sample.gap.mean())
    if fitted.shape.curve:
        return [(x, level + d, level + lo, level + hi) for x, d, lo, hi in fitted.shape.curve]
    bar = bar_of("", fitted.within)
    if bar.value is None or bar.low is None or bar.high is None:
        return []
    middle = float(sample.sparsity.mean())
    ends = np.unique(np.append(np.linspace(sample.sparsity.min(), sample.sparsity.max(), 11), middle))
    found = []
    for x in ends:
        steps = (float(x) - middle) / STEP
        low, high = sorted((steps * bar.low, steps * bar.high))
        found.append((float(x), level + steps * bar.value, level + low, level + high))
    return found


def _caption(name: str, sample: Sample, fitted: LayerLevel, beyond: int) -> str:
    text = f"{name}: {counted(len(sample), 'trial')} of {counted(sample.configuration_count, 'configuration')}"
    if len(sample) > POINTS:
        text += f", {POINTS} of them drawn"
    if beyond:
        text += f"; {counted(beyond, 'trial')} beyond the picture"
    if not _curve(sample, fitted):
        text += f". No line: {fitted.within.reason or 'nothing to fit one to'}"
    if fitted.reversal:
        text += ". All trials as one heap would say the opposite of what holds within arms"
    return f"{text}."


def slope_section(findings: Findings, place: Draw) -> str:
    """Forest plot of the slopes per 0.1 sparsity, and a table of what is behind them."""
    title = "<h3>How much the gap changes for 0.1 more sparsity</h3>"
    level, cause = findings.relation.level, findings.relation.cause
    layers = list(dict.fromkeys([*level.layers, *cause.layers]))
    if not layers:
        return title + cannot(f"No layer's {findings.evidence.main} was recorded, so there are no slopes.")
    effects = {**cause.layers, POOLED: cause.pooled}
    slopes = {**level.layers, POOLED: level.pooled}
    chosen = telling(layers, lambda n: max(_trust(slopes.get(n)), _trust(effects.get(n))), ROWS)
    rows = [POOLED] * (len(layers) > 1) + chosen
    names = shortened([POOLED, *layers])
    bars = [b for row in rows for b in _bars(row, names[row], slopes.get(row), effects.get(row))]
    if all(b.value is None for b in bars):
        reason = level.pooled.within.reason or "sparsity does not vary"
        return title + cannot(f"No slope can be given: {reason}.")
    targets = any(b.series == ASSIGNED and b.value is not None for b in bars)
    series = {ASSOCIATION: ORANGE, ASSIGNED: BLUE} if targets else {ASSOCIATION: ORANGE}
    figure, beyond = forest(
        [b for b in bars if b.series in series], title="change of the gap per 0.1 sparsity", colours=series
    )
    reading = how(f"right of zero, sparser trials overfit more. {_two_kinds(targets)}{clipped(beyond)}")
    parts = [
        title,
        reading,
        place("slopes", figure, ""),
        _why_no_targets(findings, targets),
        _table(rows, names, slopes, effects),
        left_out(len(chosen), len(layers), "layers"),
        _caveats(findings, targets),
    ]
    return "".join(parts)


def _trust(part: LayerLevel | LayerCause | None) -> float:
    if part is None:
        return -1.0
    return confidence(part.within if isinstance(part, LayerLevel) else part.effect)


def _two_kinds(targets: bool) -> str:
    text = f"<b>{ASSOCIATION}</b> is an association: what makes a trial sparse may widen its gap by itself."
    if targets:
        text += (
            f" <b>{ASSIGNED}</b> uses only differences that the drawn targets brought about, as an experiment that"
            " draws lots does: it tells what sparsity <i>does</i>, if targets act through it alone. F says how strongly"
            " targets moved sparsity; below 10 only the wider Anderson-Rubin interval holds, and that one is drawn."
        )
    return text


def _why_no_targets(findings: Findings, targets: bool) -> str:
    if targets:
        return ""
    reason = findings.relation.cause.pooled.reason or "no layer has a target"
    return cannot(f"Cause and company cannot be told apart here: {reason}. It takes arms with searched targets.")


def _bars(row: str, name: str, slope: LayerLevel | None, effect: LayerCause | None) -> list[Bar]:
    strength = f"\nF = {effect.f:.3g}{', weak' if effect.weak else ''}" if effect and effect.f is not None else ""
    text = f"{name}{strength}"
    bars = []
    if slope is not None:
        note = f"{counted(slope.trials, 'trial')} of {counted(slope.configurations, 'configuration')}"
        bars.append(bar_of(text, slope.within, series=ASSOCIATION, note=note))
    if effect is not None and effect.effect.estimate is not None:
        bars.append(two_stage(text, effect))
    return bars


def two_stage(row: str, effect: LayerCause) -> Bar:
    """The estimate with the interval that can be trusted: Anderson and Rubin's where the targets are weak."""
    bar = bar_of(row, effect.effect, series=ASSIGNED)
    if not effect.weak:
        return bar
    region = effect.anderson_rubin
    return Bar(row=row, value=bar.value, low=region.low, high=region.high, series=ASSIGNED,
               note=f"Anderson-Rubin: {region.words}")  # fmt: skip


def _table(
    rows: Sequence[str], names: Mapping[str, str], slopes: Mapping[str, LayerLevel], effects: Mapping[str, LayerCause]
) -> str:
    head = ["Layer", "All trials, within arms", "Trials with a target, naive", "Two-stage", "F", "Anderson-Rubin 95 %"]
    lines = []
    for row in rows:
        slope, effect = slopes.get(row), effects.get(row)
        known = effect is not None and effect.effect.estimate is not None
        lines.append(
            [
                escape(names[row]),
                with_interval(bar_of("", slope.within if slope else None)),
                with_interval(bar_of("", effect.naive if effect else None)),
                with_interval(bar_of("", effect.effect)) if effect and known else escape(_reason(effect)),
                f"{number(effect.f)}{' (weak)' if effect.weak else ''}" if effect and known else number(None),
                escape(effect.anderson_rubin.words) if effect and known else number(None),
            ]
        )
    return table(head, lines)


def _reason(effect: LayerCause | None) -> str:
    return "no target" if effect is None else effect.reason or effect.effect.reason or "no target"


def _caveats(findings: Findings, targets: bool) -> str:
    said = [*findings.relation.level.caveats, *([findings.relation.cause.identifies] if targets else [])]
    said += findings.relation.cause.caveats if targets else ()
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in said)}</ul>"
