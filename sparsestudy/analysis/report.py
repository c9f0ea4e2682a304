"""The outcome page of a study: one HTML file that opens offline and says the answer first.

What a page is made of, and why nothing on it can run or be fetched, is `sparsestudy.analysis.page`'s.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType

import yaml

from sparsestudy.analysis.findings import Findings
from sparsestudy.analysis.findings.card import verdict_section
from sparsestudy.analysis.findings.section import relation_sections
from sparsestudy.analysis.findings.trials import (
    Runs,
    excluded_section,
    recorded_section,
    trials_section,
    versions_section,
)
from sparsestudy.analysis.front_figure import front_section
from sparsestudy.analysis.inside.section import inside_section
from sparsestudy.analysis.page import Sheet
from sparsestudy.analysis.plots import (
    arms_figure,
    heatmap_figure,
    loss_figure,
    sparsity_figure,
    value_figures,
)
from sparsestudy.analysis.standing import arms_table, best_tables, failures_table
from sparsestudy.analysis.standing import requested_target as requested_target
from sparsestudy.analysis.summary import counted, described
from sparsestudy.analysis.summary import summary as summary
from sparsestudy.analysis.table import best_by_arm, layers_of, ranking
from sparsestudy.snapshot import Snapshot
from sparsestudy.study import StudySpec
from sparsestudy.trial import Measurement, Trial, TrialState, trial_label
from sparsestudy.words import called, task_of

ARMS_DRAWN, VALUES_DRAWN = 8, 24
_NO_RUNS: Runs = MappingProxyType({})
Trajectories = Mapping[int, Sequence[Measurement]]


def write_report(
    path: Path,
    spec: StudySpec,
    trials: Sequence[Trial],
    trajectories: Trajectories,
    *,
    commands: Mapping[str, str],
    inside: Snapshot | None = None,
    findings: Findings | None = None,
    runs: Runs = _NO_RUNS,
) -> None:
    """Write the outcome page, one file of about 5 MB that needs no network; an existing one is replaced at once.

    Args:
        path: Where; folders are made.
        spec: The study.
        trials: All its trials in any state.
        trajectories: Measurements by trial number. Only the best trial of each arm and the worst complete trial are
            drawn; what is missing is said on the page.
        commands: What a person may want to do next -> the command that does it.
        inside: Snapshot of the best trial, the first of `ranking`, if there is one that can be read.
        findings: How sparsity goes with overfitting, if it has been fitted.
        runs: (study, trial) -> address of the trial's MLflow run, or its id where no server is known.

    Raises:
        OSError: The file cannot be written.
    """
    sheet = Sheet()
    arms = list(dict.fromkeys([*(a.name for a in spec.regularizers), *(t.config.arm for t in trials)]))
    body = [
        _head(spec, trials),
        verdict_section(findings.relation) if findings else "",
        arms_table(spec, trials),
        best_tables(spec, trials),
        _figure_sections(spec, trials, trajectories, sheet),
        _inside_section(spec, trials, inside, sheet),
        relation_sections(findings, arms, sheet) if findings else _not_fitted(spec),
        recorded_section(spec, trials, runs, sheet),
        failures_table(trials),
        excluded_section(findings) if findings else "",
        _commands_section(commands),
        versions_section(),
        _spec_section(spec),
    ]
    sheet.write(path, spec.name, "\n".join(filter(None, body)))


def _not_fitted(spec: StudySpec) -> str:
    command = f"<code>sparsestudy analyze {escape(shlex.quote(spec.name))}</code>"
    title = "<h2>How sparsity goes with overfitting</h2>"
    return f"{title}<p>This has not been fitted yet: {command} does, and adds it here.</p>"


def write_relation_page(
    path: Path,
    findings: Findings,
    *,
    title: str,
    commands: Mapping[str, str],
    runs: Runs = _NO_RUNS,
) -> None:
    """Write what the relation says on a page of its own, for several studies or runs of somebody else's training.

    Args:
        path: Where; folders are made, an existing file is replaced at once.
        findings: What is known.
        title: Of the page.
        commands: What a person may want to do next -> the command that does it.
        runs: (study, trial) -> address of the trial's MLflow run, or its id where no server is known.

    Raises:
        OSError: The file cannot be written.
    """
    sheet, relation = Sheet(), findings.relation
    question = f'<p class="question">{escape(relation.question)}</p>' if relation.question else ""
    body = [
        f"<h1>{escape(title)}</h1>{question}{_relation_head(findings)}",
        verdict_section(relation),
        relation_sections(findings, relation.arms, sheet),
        trials_section(findings, runs, sheet),
        excluded_section(findings),
        _commands_section(commands),
        versions_section(),
    ]
    sheet.write(path, title, "\n".join(body))


def _relation_head(findings: Findings) -> str:
    relation = findings.relation
    decided = [v for v in relation.verdicts if v.status != "undecided"]
    if not relation.trials:
        first = "No trial can be used, so nothing can be said of sparsity and overfitting."
    elif not decided:
        first = f"Nothing is settled: all {len(relation.verdicts)} claims are undecided."
    else:
        first = " ".join(f"{v.status.capitalize()}: {v.claim}" for v in decided)
    studies = ", ".join(relation.studies) or "no study"
    return (
        f'<section class="answer"><p class="first">{escape(first)}</p><p>Studies: {escape(studies)}.'
        f" {counted(relation.trials, 'trial')} of {counted(relation.configurations, 'configuration')} in"
        f" {counted(len(relation.arms), 'arm')}; {len(relation.excluded)} left out.</p></section>"
    )


def _head(spec: StudySpec, trials: Sequence[Trial]) -> str:
    first, *rest = summary(spec, trials).split("\n")
    states = Counter(trial.state for trial in trials)
    counts = "".join(f"<li><b>{states[state]}</b> {state.value}</li>" for state in TrialState)
    lines = "".join(f"<p{_mark(line)}>{escape(line)}</p>" for line in rest)
    question = f'<p class="question">{escape(spec.question)}</p>' if spec.question else ""
    return (
        f'<h1>{escape(spec.name)}</h1>{question}\n<section class="answer"><p class="first">{escape(first)}</p>'
        f'{lines}</section>\n<ul class="counts" aria-label="Trials by state">{counts}</ul>'
    )


def _mark(line: str) -> str:
    return ' class="caution"' if line.startswith("Caution") else ""


def _figure_sections(spec: StudySpec, trials: Sequence[Trial], trajectories: Trajectories, sheet: Sheet) -> str:
    ranked, best = ranking(spec, trials), best_by_arm(spec, trials)
    if not ranked:
        return ""
    drawn = {arm: t for arm, t in list(best.items())[:ARMS_DRAWN] if trajectories.get(t.number)}
    parts = [front_section(spec, trials, sheet.figure)]
    parts += ["<h2>Arms compared</h2>", sheet.figure("arms", arms_figure(spec, trials))]
    parts.append("<h2>Loss of the best trial of each arm</h2><p>Solid: validation. Dotted: train.</p>")
    if drawn:
        parts.append(sheet.figure("loss", loss_figure(spec, drawn, trajectories)))
    else:
        parts.append("<p>The epochs of these trials are not at hand, so no curves can be drawn.</p>")
    parts.append(_sparsity_sections(spec, ranked, drawn, trajectories, sheet))
    values = value_figures(spec, trials)
    if values:
        shown = list(values.values())[:VALUES_DRAWN]
        more = f"<p>{len(values) - VALUES_DRAWN} more are not drawn.</p>" * (len(values) > VALUES_DRAWN)
        metric = called(spec.search.objectives[0].metric, task_of(trials))
        note = f"<p>Each complete trial by {escape(described(spec, metric))}.</p>"
        panels = "".join(sheet.figure(f"value{i}", figure) for i, figure in enumerate(shown))
        parts.append(f'<h2>Searched values</h2>{note}<div class="small">{panels}</div>{more}')
    return "\n".join(parts)


def _sparsity_sections(
    spec: StudySpec, ranked: Sequence[Trial], drawn: Mapping[str, Trial], trajectories: Trajectories, sheet: Sheet
) -> str:
    layered = {arm: t for arm, t in drawn.items() if layers_of(trajectories[t.number])}
    panels = "".join(
        sheet.figure(f"layers{t.number}", sparsity_figure(spec, t, trajectories[t.number]), _caption(arm, t))
        for arm, t in layered.items()
    )
    ends = {"Best": ranked[0], "Worst complete": ranked[-1]} if len(ranked) > 1 else {"Only complete": ranked[0]}
    maps = "".join(
        sheet.figure(f"map{t.number}", heatmap_figure(spec, trajectories[t.number]), _caption(f"{name} trial", t))
        for name, t in ends.items()
        if layers_of(trajectories.get(t.number, ()))
    )
    absent = "<p>No layer statistics were recorded, so nothing can be said about sparsity.</p>"
    return (
        "<h2>Sparsity and loss over epochs</h2><p>Best trial of each arm; the dashed line is its lowest validation"
        f' loss. Layers run from dark (first) to light (last).</p><div class="wide">{panels or absent}</div>'
        "<h2>Layer by epoch</h2><p>Grey cells are undefined; the dashed line is the lowest validation loss.</p>"
        f'<div class="wide">{maps or absent}</div>'
    )


def _inside_section(spec: StudySpec, trials: Sequence[Trial], snapshot: Snapshot | None, sheet: Sheet) -> str:
    ranked = ranking(spec, trials)
    if not ranked or spec.measures.snapshots == "none":
        return ""
    return inside_section(ranked[0], snapshot, sheet.figure)


def _caption(what: str, trial: Trial) -> str:
    return f"{what}: trial {trial.number}, {trial_label(trial.config)}"


def _commands_section(commands: Mapping[str, str]) -> str:
    if not commands:
        return ""
    rows = "".join(f"<dt>{escape(what)}</dt><dd><pre>{escape(line)}</pre></dd>" for what, line in commands.items())
    return f"<h2>Reproduce</h2><dl>{rows}</dl>"


def _spec_section(spec: StudySpec) -> str:
    text = yaml.safe_dump(spec.to_dict(), sort_keys=False, allow_unicode=True)
    note = f"<p>Digest {spec.digest}; defaults are left out.</p>"
    return f"<h2>Study file</h2>{note}<details><summary>Show</summary><pre>{escape(text)}</pre></details>"
