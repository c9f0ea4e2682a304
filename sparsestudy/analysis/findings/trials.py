"""All trials in a table, what was left out, and what made the page."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.findings import Findings
from sparsestudy.analysis.findings.marks import number
from sparsestudy.analysis.findings.search import short_parameter
from sparsestudy.analysis.page import Cell, Column, Sheet
from sparsestudy.analysis.sample import pooled, sparsities
from sparsestudy.analysis.summary import counted
from sparsestudy.study import StudySpec
from sparsestudy.trial import SPARSITY, Trial, trial_label
from sparsestudy.words import called, task_of

PACKAGES = ("sparsestudy", "torch", "ray", "optuna", "mlflow", "numpy", "scipy", "statsmodels", "linearmodels")
REASONS = 8
Runs = Mapping[tuple[str, int], str]
"""(study, trial) -> address of its MLflow run, or the run's id where no server is known."""


def trials_section(findings: Findings, runs: Runs, sheet: Sheet) -> str:
    """Every trial of the evidence, the excluded ones below."""
    evidence = findings.evidence
    several = evidence.trials["study"].nunique() > 1 or evidence.excluded["study"].nunique() > 1
    rows = [*_used(evidence, runs), *_excluded(evidence, runs)]
    columns = [
        Column(title="Study"),
        Column(title="Trial", kind="number"),
        Column(title="Arm"),
        Column(title="State"),
        Column(title="Configuration"),
        Column(title="Epochs", kind="number"),
        Column(title=f"Validation {findings.score}", kind="number" if findings.score == "R²" else "share"),
        Column(title="Validation loss", kind="number"),
        Column(title="Gap in loss", kind="number"),
        Column(title=f"Mean {evidence.main}", kind="number"),
        Column(title="Run", kind="link"),
    ]
    if not several:
        columns, rows = columns[1:], [row[1:] for row in rows]
    return f"<h2>All trials</h2>{_note('the last epoch')}{_table(sheet, columns, rows)}"


def recorded_section(spec: StudySpec, trials: Sequence[Trial], runs: Runs, sheet: Sheet) -> str:
    """Every trial of a study's records, in any state."""
    if not trials:
        return ""
    when, _, name = called(spec.search.objectives[0].metric, task_of(trials)).partition("/")
    score = Column(
        title=f"{when} {name.replace('/', ' ')}".capitalize(), kind="share" if name.endswith("accuracy") else "number"
    )
    shown = {"final/validation/loss": "Final validation loss", "final/gap/loss": "Final gap in loss",
             f"final/{SPARSITY}": f"Final mean {spec.measures.main}"}  # fmt: skip
    columns = [
        Column(title="Trial", kind="number"), Column(title="Arm"), Column(title="State"), Column(title="Configuration"),
        Column(title="Epochs", kind="number"), score,
        *(Column(title=title, kind="number") for title in shown.values()),
        Column(title="Run", kind="link"),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            t.number, t.config.arm, t.state.value, trial_label(t.config), t.epochs,
            _finite(t.values[0] if t.values else None), *(_finite(t.headlines.get(key)) for key in shown),
            runs.get((spec.name, t.number)) or t.run_id,
        ]
        for t in trials
    ]  # fmt: skip
    note = _note("the last epoch (final) or the epoch of lowest validation loss (best)")
    return f"<h2>All trials</h2>{note}{_table(sheet, columns, rows)}"


def _note(when: str) -> str:
    return f"<p>Values are those of {when}. A click on a head sorts; – is undefined or not reached.</p>"


def _table(sheet: Sheet, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    return sheet.long_table("trials", columns, rows) if rows else "<p>There are no trials.</p>"


def _used(evidence: Evidence, runs: Runs) -> list[list[Cell]]:
    by_layer = sparsities(evidence)
    nothing = np.full(len(evidence), np.nan)
    numbers = zip(
        evidence.last(evidence.curves["validation/accuracy"]),
        evidence.last(evidence.curves["validation/loss"]),
        np.asarray(evidence.gap(), dtype=np.float64),
        pooled(by_layer) if by_layer else nothing,
        strict=True,
    )
    searched = [str(name) for name in evidence.trials.columns if str(name).startswith("parameter/")]
    return [
        [
            row["study"], int(row["trial"]), row["arm"], row["state"], _configuration(row, searched),
            int(row["epochs"]), *(_finite(v) for v in values), runs.get((row["study"], int(row["trial"]))),
        ]
        for row, values in zip(evidence.trials.to_dict("records"), numbers, strict=True)
    ]  # fmt: skip


def _excluded(evidence: Evidence, runs: Runs) -> list[list[Cell]]:
    return [
        [str(row["study"]), int(row["trial"]), str(row["arm"]), f"left out: {row['reason']}", None, None, None, None,
         None, None, runs.get((str(row["study"]), int(row["trial"])))]
        for row in evidence.excluded.to_dict("records")
    ]  # fmt: skip


def _configuration(row: Mapping[Any, Any], searched: Sequence[str]) -> str:
    known = {name: row[name] for name in searched if row[name] is not None and row[name] == row[name]}
    short = {name: short_parameter(name, str(row["arm"])) for name in known}
    return ", ".join(f"{_symbol(short[n])} {number(v) if isinstance(v, float) else v}" for n, v in known.items())


def _symbol(parameter: str) -> str:
    """Strength and targets by the letters that trials are labelled with."""
    return re.sub(r"(^|/)strength$", r"\1λ", re.sub(r"(^|/)targets/", r"\1τ ", parameter))


def _finite(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and np.isfinite(value) else None


def excluded_section(findings: Findings) -> str:
    """How many trials were left out, and why."""
    excluded = findings.evidence.excluded
    if not len(excluded):
        return "<h2>Left out</h2><p>No trial was left out of the analysis.</p>"
    reasons = Counter(str(reason) for reason in excluded["reason"])
    lines = [f"{escape(reason)}: {count}" for reason, count in reasons.most_common(REASONS)]
    if len(reasons) > REASONS:
        lines.append(f"{len(reasons) - REASONS} further reasons: the table of trials has them")
    return (
        f"<h2>Left out</h2><p>{counted(len(excluded), 'trial')} of {len(excluded) + len(findings.evidence)} cannot be"
        f" used; the table of trials lists each.</p><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"
    )


def versions_section() -> str:
    """Versions of what fitted and wrote this."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    text = ", ".join(f"{escape(name)} {escape(number_)}" for name, number_ in found.items())
    return f"<h3>Versions</h3><p>This page was written with {text}.</p>"
