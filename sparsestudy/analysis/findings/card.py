"""The verdict card: each claim with its status, its effect and interval, and what would settle it."""

from __future__ import annotations

from html import escape

from sparsestudy.analysis.findings.marks import number
from sparsestudy.analysis.relation import Relation
from sparsestudy.analysis.summary import counted
from sparsestudy.analysis.verdict import Verdict

SIGNS = {"supported": "✔", "refuted": "✘", "undecided": "?"}
INK = {"supported": "#009e73", "refuted": "#d55e00", "undecided": "#808080"}
TOO_MANY = 1000
ARMS_TOLD = 4


def verdict_section(relation: Relation) -> str:
    """All claims, those that are decided first."""
    order = {"supported": 0, "refuted": 1, "undecided": 2}
    verdicts = sorted(relation.verdicts, key=lambda v: order[v.status])
    told = ", ".join(f"{sum(v.status == s for v in verdicts)} {s}" for s in order)
    cards = "".join(_card(v) for v in verdicts)
    return (
        f'<h2 id="verdicts">What the study says of each claim</h2><p>{escape(_basis(relation))} {told}.</p>'
        '<p class="how"><b>How to read this:</b> the line is the 95 % interval of the effect, the dot its estimate,'
        " the upright zero; to the right the claim holds. <b>Supported</b>: the whole interval lies on the claim's side"
        " of zero. <b>Refuted</b>: the whole interval lies short of the smallest effect worth having."
        " <b>Undecided</b>: neither, so the study was too small to tell. Each claim is judged by itself.</p>"
        f'<div class="verdicts">{cards}</div>'
    )


def _basis(relation: Relation) -> str:
    return (
        f"From {counted(relation.trials, 'trial')} of {counted(relation.configurations, 'configuration')} in"
        f" {counted(len(relation.arms), 'arm')}:"
    )


def _card(verdict: Verdict) -> str:
    rest = f"<p><b>What would settle it:</b> {escape(_settled_by(verdict))}</p>" * (verdict.status == "undecided")
    status = verdict.status
    return (
        f'<article class="verdict {status}"><span class="status">{SIGNS[status]} {status}</span>'
        f"<h3>{escape(verdict.claim)}</h3>{_picture(verdict)}<p>{_effect(verdict)}</p>"
        f"<p>{escape(verdict.said)}</p>{rest}</article>"
    )


def _effect(verdict: Verdict) -> str:
    if verdict.effect is None:
        return "No effect can be given."
    unit = escape(verdict.unit)
    if verdict.low is None or verdict.high is None:
        return f"Effect <b>{number(verdict.effect)}</b> {unit}, without an interval."
    return f"Effect <b>{number(verdict.effect)}</b> ({number(verdict.low)} to {number(verdict.high)}) {unit}"


def _picture(verdict: Verdict) -> str:
    """The interval as a line on a scale with zero in it; nothing without an interval."""
    effect, low, high = verdict.effect, verdict.low, verdict.high
    if effect is None or low is None or high is None:
        return ""
    left, right = min(low, 0.0), max(high, 0.0)
    pad = 0.08 * (right - left) or 1.0
    left, right = left - pad, right + pad

    def at(value: float) -> float:
        return round(300 * (value - left) / (right - left), 1)

    colour, dash = INK[verdict.status], ' stroke-dasharray="5 4"' * (verdict.status == "undecided")
    return (
        '<svg viewBox="0 0 300 34" preserveAspectRatio="none" role="img" '
        f'aria-label="interval from {number(low)} to {number(high)}">'
        f'<line x1="{at(0)}" x2="{at(0)}" y1="2" y2="32" stroke="#808080" stroke-width="1.5"/>'
        f'<line x1="{at(low)}" x2="{at(high)}" y1="17" y2="17" stroke="{colour}" stroke-width="4"{dash}/>'
        f'<line x1="{at(effect)}" x2="{at(effect)}" y1="9" y2="25" stroke="{colour}" stroke-width="6"/></svg>'
    )


def _settled_by(verdict: Verdict) -> str:
    if not verdict.further:
        if verdict.low is None:
            return "trials that the claim can be judged by; there are too few, or none."
        return "more configurations; how many cannot be said."
    if max(verdict.further.values()) > TOO_MANY:
        return (
            f"more than {TOO_MANY:,} further configurations of an arm. If there is a difference, it is too small for"
            " a study of this size."
        )
    told = list(verdict.further.items())
    more = f" and as many of {len(told) - ARMS_TOLD} more arms" * (len(told) > ARMS_TOLD)
    counts = ", ".join(f"{count} of {arm}" for arm, count in told[:ARMS_TOLD])
    return f"about this many further configurations: {counts}{more}."
