"""The sections of the page that say what the relation says, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sparsestudy.analysis.findings import Findings
from sparsestudy.analysis.findings.marks import READING, number
from sparsestudy.analysis.findings.measures import measures_section
from sparsestudy.analysis.findings.order import order_section
from sparsestudy.analysis.findings.rules import arms_section, rules_section
from sparsestudy.analysis.findings.search import importance_section, parallel_section
from sparsestudy.analysis.findings.slopes import gap_section, slope_section
from sparsestudy.analysis.page import Sheet
from sparsestudy.analysis.summary import counted


def relation_sections(findings: Findings, arms: Sequence[str], sheet: Sheet) -> str:
    """Everything between the verdict card and the tables.

    Args:
        findings: What is known.
        arms: All arms in the order of their colours.
        sheet: The page.
    """
    place = sheet.figure
    return "\n".join(
        [
            '<h2 id="relation">How sparsity goes with overfitting</h2>',
            _terms(findings),
            f'<p class="how">{READING}</p>',
            gap_section(findings, arms, place),
            slope_section(findings, place),
            arms_section(findings, place),
            measures_section(findings, place),
            '<h2 id="order">What comes first</h2>',
            order_section(findings, arms, place),
            rules_section(findings, place),
            '<h2 id="search">What the search tried</h2>',
            importance_section(findings, place),
            parallel_section(findings, place),
        ]
    )


def _terms(findings: Findings) -> str:
    sample = findings.relation.sample
    worth = f"The {counted(sample.trials, 'trial')} with a gap"
    if sample.correlation is None:
        worth += f" count one each ({escape(sample.reason)})." if sample.reason else " count one each."
    else:
        worth += (
            f" are worth {number(sample.effective)} independent ones, because trials of one configuration, which differ"
            " in the seed only, resemble each other."
        )
    return (
        "<p><b>Gap</b> is the validation loss minus the train loss at a trial's last epoch, in the unit of the loss:"
        " the larger, the more the network overfits. <b>Sparsity</b> is"
        f" {escape(findings.evidence.main)} on the validation probe set, from 0 (all units busy) to 1. {worth}</p>"
    )
