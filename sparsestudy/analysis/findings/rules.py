"""Which rule would have told in time, and whether one arm carries the result."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sparsestudy.analysis.detectors import Detector
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.findings import Findings
from sparsestudy.analysis.findings.marks import (
    BLUE,
    ORANGE,
    Bar,
    bar_of,
    cannot,
    clipped,
    forest,
    how,
    left_out,
    number,
    telling,
    with_interval,
)
from sparsestudy.analysis.inside.section import Draw
from sparsestudy.analysis.page import table
from sparsestudy.analysis.timing import POOLED
from sparsestudy.trial import short_names

RULES, ARMS = 8, 14
RISES = "sparsity rises, "


def rules_section(findings: Findings, place: Draw) -> str:
    """Detectors: false alarms, misses, lead, and what stopping by them would cost."""
    title = "<h3>Could one have stopped in time?</h3>"
    found = findings.relation.timing.detectors
    judged = [d for d in found if not d.reason]
    if not judged:
        reasons = sorted({d.reason for d in found if d.reason})
        return title + cannot(f"No rule can be judged: {'; '.join(reasons) or 'no onsets were looked for'}.")
    chosen, names = _chosen(judged), _names(judged)
    absent = "".join(f"<li>{escape(d.name)}: {escape(d.reason)}</li>" for d in found if d.reason)
    shares = [
        bar_of(names[d.name], part, series=series)
        for d in chosen
        for series, part in (("false alarms", d.false_alarms), ("missed", d.misses))
    ]
    figures = ""
    if any(b.value is not None for b in shares):
        figure, _ = forest(shares, title="share of trials", reference=None, within=(-0.03, 1.03),
                           colours={"false alarms": ORANGE, "missed": BLUE})  # fmt: skip
        figure.update_xaxes(tickformat=".0%")
        figures += place("alarms", figure, "False alarms and misses: the further left, the better.")
    leads = [bar_of(names[d.name], d.lead) for d in chosen if d.lead is not None and d.lead.estimate is not None]
    if leads:
        figure, beyond = forest(leads, title="mean lead of the alarm, epochs")
        figures += place(
            "alarmlead", figure, f"Right of zero the alarm came before overfitting began.{clipped(beyond)}"
        )
    first = judged[0]
    reading = how(
        "each rule watches a trial as it trains and raises an alarm. A <b>false alarm</b> is one in a trial that never"
        " overfitted, a <b>miss</b> an overfitting trial without one. Lines are 95 % intervals. A rule worth having"
        " loses less than stopping every trial at one fixed epoch does: see the last column, below zero is better."
    )
    counts = f"<p>{first.overfitting} trials overfitted, {first.controls} trained to the end and did not.</p>"
    return (
        f'{title}{counts}{reading}<div class="wide">{figures}</div>{_table(chosen, names)}'
        f"{f'<ul>{absent}</ul>' if absent else ''}{left_out(len(chosen), len(judged), 'rules')}"
    )


def _chosen(judged: Sequence[Detector]) -> list[Detector]:
    """All rules that are not of a single layer, and those of the layers that lose least."""
    common = [d for d in judged if not d.name.startswith(RISES) or d.name == RISES + POOLED]
    layers = {d.name: d for d in judged if d not in common}

    def strength(name: str) -> float:
        excess = layers[name].excess
        return -1e9 if excess is None or excess.estimate is None else -excess.estimate

    kept = telling(list(layers), strength, max(1, RULES - len(common)))
    return [d for d in judged if d in common or d.name in kept]


def _names(judged: Sequence[Detector]) -> dict[str, str]:
    layers = [d.name.removeprefix(RISES) for d in judged if d.name.startswith(RISES) and d.name != RISES + POOLED]
    short = short_names(layers) | {POOLED: POOLED}
    names = {d.name: d.name for d in judged if not d.name.startswith(RISES)}
    names |= {RISES + layer: f"{layer_name}\nits sparsity rises" for layer, layer_name in short.items()}
    return {name: text.replace(", ", "\n", 1) for name, text in names.items()}


def _table(chosen: Sequence[Detector], names: dict[str, str]) -> str:
    head = ["Rule", "False alarms", "Missed", "Lead, epochs", "Excess loss where it stops", "Against a fixed epoch"]
    rows = [
        [
            escape(names[d.name].replace("\n", ", ")),
            *(_share(part) for part in (d.false_alarms, d.misses)),
            *(with_interval(bar_of("", part)) for part in (d.lead, d.excess, d.against_constant)),
        ]
        for d in chosen
    ]
    return table(head, rows)


def _share(estimate: Estimate | None) -> str:
    bar = bar_of("", estimate)
    if bar.value is None:
        return number(None)
    if bar.low is None or bar.high is None:
        return f"{bar.value:.0%}"
    return f'{bar.value:.0%} <span class="target">({bar.low:.0%} to {bar.high:.0%})</span>'


def arms_section(findings: Findings, place: Draw) -> str:
    """The pooled slope without each arm."""
    title = "<h3>Does one arm carry the result?</h3>"
    found = findings.relation.sensitivity
    known = {arm: v for arm, v in found.without.items() if v is not None}
    if found.estimate is None or not known:
        reason = found.reason or "there is no slope to begin with"
        return title + cannot(f"The slope without each arm cannot be given: {reason}.")
    whole = found.estimate
    chosen = telling(list(known), lambda arm: abs(known[arm] - whole), ARMS)
    kept = [("no arm left out", whole), *((arm, known[arm]) for arm in chosen)]
    bars = [Bar(row=row, value=value, decided=True) for row, value in kept]
    figure, _ = forest(bars, title="change of the gap per 0.1 sparsity without this arm")
    figure.add_vline(x=whole, line={"color": ORANGE, "width": 1.5})
    words = {
        True: "The sign is the same whichever arm is left out.",
        False: "The sign turns when an arm is left out, so the result hangs on single arms.",
        None: f"Whether the sign holds cannot be said: {found.reason or 'one of the slopes is unknown'}.",
    }[found.sign_holds]
    reading = how(
        "each mark is the slope of the gap on the mean sparsity of layers without the arm it stands beside; the orange"
        " line is the slope with all arms. Marks that stay together, on one side of the dashed line, say that no single"
        " arm carries the result. How sure the slope itself is stands in the plots above: these marks have no"
        " intervals."
    )
    drawn = place("sensitivity", figure, "")
    return f"{title}<p>{escape(words)}</p>{reading}{drawn}{left_out(len(chosen), len(known), 'arms')}"
