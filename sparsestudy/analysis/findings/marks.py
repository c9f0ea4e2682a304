"""How intervals are drawn and told on the page, the same everywhere.

A filled mark is an estimate whose 95 % interval leaves out "no effect"; a hollow grey one is undecided; a cross has no
interval at all. So what is undecided looks undecided.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from plotly import graph_objects as go

from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.heatmap import cut
from sparsestudy.analysis.plots import PALETTE, SYMBOLS, blank, inert, plain
from sparsestudy.analysis.summary import ABSENT, counted
from sparsestudy.trial import short_names

BLUE, ORANGE, SOFT = PALETTE[0], PALETTE[1], "#808080"
ROW = 30
"""Pixels of a row of a forest plot."""
WIDEST = 6
"""An interval so many times as wide as the usual one does not widen the picture; it runs out of it."""
READING = (
    "In all plots with lines, a mark is an estimate and its line the 95 % interval: the values that the study cannot"
    " rule out. <b>Filled</b>: the interval leaves out the dashed line, which is no effect. <b>Hollow and grey</b>: it"
    " does not, so that question is undecided. A cross has no interval at all."
)
"""Said once, above the first of them."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One estimate of a forest plot.

    Attributes:
        row: Label of its row.
        value: The estimate; None draws nothing.
        low, high: Its interval; None for none.
        series: Which of several estimates in a row it is.
        note: Said when pointed at.
        reference: Where "no effect" lies for this one; None for the plot's own.
        colour: Of this one; empty for its series'.
        decided: Whether it is drawn as decided; None to go by its interval.
    """

    row: str
    value: float | None
    low: float | None = None
    high: float | None = None
    series: str = ""
    note: str = ""
    reference: float | None = None
    colour: str = ""
    decided: bool | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is an estimate with an interval around it."""
        return None not in (self.value, self.low, self.high)


def bar_of(row: str, estimate: Estimate | None, **more: Any) -> Bar:
    """The bar of an estimate; without one, a bar that draws nothing."""
    found = estimate or Estimate()
    return Bar(row=row, value=found.estimate, low=found.low, high=found.high, **more)


def forest(
    bars: Sequence[Bar],
    *,
    title: str,
    reference: float | None = 0.0,
    colours: Mapping[str, str] | None = None,
    within: tuple[float, float] | None = None,
) -> tuple[go.Figure, int]:
    """Estimates with intervals, a row each label, the first on top.

    Args:
        bars: At least one with a value.
        title: Of the axis.
        reference: Where "no effect" lies, a dashed line; None for none, and then every interval is drawn filled.
        colours: By series, in the order they are drawn in a row; default: one series, blue.
        within: The axis; default: from the estimates and usual intervals.

    Returns:
        The figure, and how many intervals reach beyond it.
    """
    rows, series = list(dict.fromkeys(b.row for b in bars)), colours or {"": BLUE}
    tall = ROW + 8 * (len(series) > 1 or any("\n" in row for row in rows))
    figure = blank(height=105 + tall * max(1, len(rows)) + 22 * (len(series) > 1))
    low, high = within or _window(bars, reference)
    if reference is not None:
        figure.add_vline(x=reference, line={"color": SOFT, "width": 1.5, "dash": "dash"})
    for place, (name, colour) in enumerate(series.items()):
        offset = 0.0 if len(series) == 1 else 0.36 * (place / (len(series) - 1) - 0.5)
        own = [b for b in bars if b.series == name and b.value is not None]
        if not own:
            continue
        figure.add_scatter(
            x=[plain(b.value) for b in own], y=[rows.index(b.row) + offset for b in own], mode="markers",
            name=inert(name), showlegend=len(series) > 1, text=[inert(_told(b)) for b in own],
            marker=_marker(own, colour, reference, SYMBOLS[place % len(SYMBOLS)]),
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        inks = {b.row: (b.colour or colour) if _decided(b, reference) else SOFT for b in own}
        for ink in dict.fromkeys(inks.values()):
            known = [b for b in own if b.bounded and inks[b.row] == ink]
            figure.add_scatter(
                x=[v for b in known for v in (plain(b.low), plain(b.high), None)],
                y=[v for b in known for v in (*[rows.index(b.row) + offset] * 2, None)],
                mode="lines", showlegend=False, hoverinfo="skip",
                line={"color": ink, "width": 1.5 if ink == SOFT else 2.5},
            )  # fmt: skip
    figure.update_xaxes(title=wrapped(title), range=[low, high])
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[label(row) for row in rows], range=[len(rows) - 0.4, -0.6],
        ticklabelstandoff=6, showgrid=False,
    )  # fmt: skip
    beyond = sum(b.bounded and (float(b.low or 0) < low or float(b.high or 0) > high) for b in bars)
    return figure, beyond


def label(row: str) -> str:
    """A row's label for Plotly: lines of at most 26 characters, what stands after a line break smaller."""
    first, _, second = row.partition("\n")
    small = f'<br><span style="font-size:10px">{inert(cut(second, 32))}</span>' if second else ""
    return f"{inert(cut(first, 26))}{small}"


def wrapped(title: str) -> str:
    """An axis title for Plotly in lines that fit on a telephone."""
    return "<br>".join(inert(line) for line in textwrap.wrap(title, 34))


def _decided(bar: Bar, reference: float | None) -> bool:
    if bar.decided is not None:
        return bar.decided
    at = reference if bar.reference is None else bar.reference
    if bar.low is None or bar.high is None:
        return False
    return at is None or not bar.low <= at <= bar.high


def _marker(bars: Sequence[Bar], colour: str, reference: float | None, symbol: str) -> dict[str, Any]:
    firm = [_decided(b, reference) for b in bars]
    own = [b.colour or colour for b in bars]
    rims = [c if f or b.colour else SOFT for b, c, f in zip(bars, own, firm, strict=True)]
    return {
        "size": 9,
        "color": [c if f else "rgba(128,128,128,0.25)" for c, f in zip(own, firm, strict=True)],
        "symbol": [symbol if b.bounded or b.decided else "x-thin" for b in bars],
        "line": {"color": rims, "width": 1.5},
    }


def _window(bars: Sequence[Bar], reference: float | None) -> tuple[float, float]:
    """What the axis spans: all estimates, and the intervals that are not far wider than the usual one."""
    values = [b.value for b in bars if b.value is not None] + ([] if reference is None else [reference])
    widths = [b.high - b.low for b in bars if b.low is not None and b.high is not None]
    usual = WIDEST * float(np.median(widths)) if widths else math.inf
    ends = [e for b in bars if b.low is not None and b.high is not None and b.high - b.low <= usual
            for e in (b.low, b.high)]  # fmt: skip
    low, high = min([*values, *ends]), max([*values, *ends])
    pad = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - pad, high + pad


def _told(bar: Bar) -> str:
    text = f"{bar.row.partition(chr(10))[0]}: {number(bar.value)}"
    if bar.bounded:
        text += f" ({number(bar.low)} to {number(bar.high)})"
    return text + (f"; {bar.note}" if bar.note else "")


def clipped(count: int) -> str:
    """What to say of intervals that run out of the picture."""
    return f" {counted(count, 'interval')} {'runs' if count == 1 else 'run'} out of the picture." * (count > 0)


def number(value: float | None) -> str:
    """Three digits, with a sign where it is below zero."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.3g}"


def with_interval(bar: Bar) -> str:
    """Such as ``0.12 (−0.1 to 0.3)``."""
    if not bar.bounded:
        return number(bar.value)
    return f'{number(bar.value)} <span class="target">({number(bar.low)} to {number(bar.high)})</span>'


def how(text: str) -> str:
    """The line that says how to read a figure; HTML."""
    return f'<p class="how"><b>How to read this:</b> {text}</p>'


def cannot(text: str) -> str:
    """What cannot be said, and why; plain text."""
    return f'<p class="cannot">{escape(text)}</p>'


def telling(names: Sequence[str], strength: Callable[[str], float], most: int) -> list[str]:
    """The ``most`` names of greatest strength, in the order given; a tie goes to the earlier."""
    order = sorted(range(len(names)), key=lambda i: (-strength(names[i]), i))[:most]
    return [names[i] for i in sorted(order)]


def confidence(estimate: Estimate) -> float:
    """How far an estimate is from zero, in half widths of its interval; below 0 without one."""
    bar = bar_of("", estimate)
    if bar.value is None or bar.low is None or bar.high is None:
        return -1.0
    return abs(bar.value) / max((bar.high - bar.low) / 2, 1e-12)


def left_out(shown: int, of: int, noun: str, where: str = "relation.json has all") -> str:
    """A sentence on what is not shown; empty if everything is."""
    if shown >= of:
        return ""
    return f"<p>Shown are the {shown} most telling of {of} {noun}; {where}.</p>"


def shortened(layers: Iterable[str]) -> dict[str, str]:
    """Short names of layers, those of pooled rows among them as they are."""
    names = list(layers)
    pooled = {name: name for name in names if " " in name}
    return short_names([n for n in names if n not in pooled]) | pooled


def looks(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and symbol of each arm by its place."""
    count = len(PALETTE)
    return {arm: (PALETTE[i % count], SYMBOLS[i // count % len(SYMBOLS)]) for i, arm in enumerate(arms)}
