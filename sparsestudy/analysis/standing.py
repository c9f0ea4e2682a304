"""Tables of the outcome page: arms, best trials, sparsity of their layers, failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from html import escape

from sparsestudy.analysis.page import table
from sparsestudy.analysis.plots import arm_colours
from sparsestudy.analysis.summary import ABSENT, described, first_value, median_of, spoken, values_of
from sparsestudy.analysis.table import best_by_arm, ranking, sparsity_at_best
from sparsestudy.study import StudySpec
from sparsestudy.trial import SPARSITY, Trial, TrialState, short_names, trial_label
from sparsestudy.words import UNITS, called, task_of

BEST_SHOWN, LAYERS_SHOWN_OF, FAILURES_SHOWN = 10, 5, 50


def arms_table(spec: StudySpec, trials: Sequence[Trial]) -> str:
    """Trials of each arm by state, and their best and median; the best arm first."""
    colours, metric = arm_colours(spec), called(spec.search.objectives[0].metric, task_of(trials))
    best = best_by_arm(spec, trials)
    rows = []
    for arm in dict.fromkeys([*best, *(a.name for a in spec.regularizers)]):
        states = Counter(t.state for t in trials if t.config.arm == arm)
        values = values_of(trials, arm)
        colour = colours.get(arm, "#7f7f7f")
        kinds = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        rows.append(
            [
                f'<span class="arm" style="border-color:{colour}">{escape(arm)}</span>',
                *(str(n) for n in (states.total(), *(states[kind] for kind in kinds))),
                spoken(metric, first_value(best[arm])) if arm in best else ABSENT,
                spoken(metric, median_of(values)),
            ]
        )
    head = ["Arm", "Trials", "Complete", "Pruned", "Failed", "Best", "Median"]
    note = f"<p>Best and median of {escape(described(spec, metric))}, over complete trials on the search split.</p>"
    return f"<h2>Arms</h2>{note}{table(head, rows)}"


def best_tables(spec: StudySpec, trials: Sequence[Trial]) -> str:
    """The best trials, and the sparsity of their layers beside what was asked for."""
    ranked = ranking(spec, trials)
    if not ranked:
        return "<h2>Best trials</h2><p>No trial is complete, so there is nothing to rank.</p>"
    metrics = [objective.metric for objective in spec.search.objectives]
    shown = ["best/validation/accuracy", "best/validation/loss", "best/gap/loss", f"best/{SPARSITY}"]
    extra, task = [m for m in shown if m not in metrics], task_of(trials)
    rows = [
        [
            str(trial.number),
            escape(trial_label(trial.config)),
            *(
                spoken(called(m, task), v)
                for m, v in zip(metrics, [*trial.values, *[None] * len(metrics)], strict=False)
            ),
            *(spoken(called(m, task), trial.headlines.get(m)) for m in extra),
            _whole(trial.headlines.get("best/epoch")),
        ]
        for trial in ranked[:BEST_SHOWN]
    ]
    more = f"<p>{len(ranked) - BEST_SHOWN} more complete trials are not listed.</p>" * (len(ranked) > BEST_SHOWN)
    names = [escape(called(m, task)).replace("/", "/<wbr>") for m in [*metrics, *extra]]
    listed = table(["Trial", "Configuration", *names, "Best epoch"], rows)
    units = f"<p>{escape(UNITS[task])}</p>" if UNITS[task] else ""
    return f"<h2>Best trials</h2>{units}{listed}{more}{_layers_table(spec, ranked[:LAYERS_SHOWN_OF])}"


def _layers_table(spec: StudySpec, trials: Sequence[Trial]) -> str:
    layers = list(dict.fromkeys(layer for trial in trials for layer in sparsity_at_best(trial)))
    title = "<h3>Activation sparsity by layer at the best epoch</h3>"
    if not layers:
        return f"{title}<p>No layer statistics were recorded, so nothing can be said about sparsity.</p>"
    rows = [
        [escape(short), *(_achieved(trial, layer) for trial in trials)] for layer, short in short_names(layers).items()
    ]
    note = f"<p>{escape(spec.measures.main)} on the validation probe set, from 0 to 1, at each trial's epoch of lowest"
    note += " validation loss; in brackets the requested target, in the measure of the arm's own method, and the"
    note += f" difference. {ABSENT} is undefined or not measured.</p>"
    head = [f"trial {t.number}<br>{escape(t.config.arm)}" for t in trials]
    return f"{title}{note}{table(['Layer', *head], rows)}"


def _achieved(trial: Trial, layer: str) -> str:
    got = sparsity_at_best(trial).get(layer)
    target = requested_target(trial, layer)
    if target is None:
        return _number(got)
    off = f", {got - target:+.2f}" if got is not None and math.isfinite(got) else ""
    return f'{_number(got)} <span class="target">(target {target:.2f}{off})</span>'


def requested_target(trial: Trial, layer: str) -> float | None:
    """Sparsity target in [0, 1) that a trial's methods asked of a layer; the first that names it, None if none does."""
    for method in trial.config.methods:
        targets: Mapping[str, float] = method.get("targets") or {}
        for pattern, target in targets.items():
            if pattern == layer or fnmatchcase(layer, pattern):
                return float(target)
    return None


def failures_table(trials: Sequence[Trial]) -> str:
    """Failed trials with their messages; empty if none failed."""
    failed = [trial for trial in trials if trial.state is TrialState.FAIL]
    if not failed:
        return ""
    rows = [
        [
            str(t.number),
            escape(trial_label(t.config)),
            str(t.epochs),
            str(t.attempts),
            escape(t.failure.kind) if t.failure else "unknown",
            f'<span class="message">{escape(t.failure.message[:500])}</span>' if t.failure else ABSENT,
        ]
        for t in failed[:FAILURES_SHOWN]
    ]
    more = f"<p>{len(failed) - FAILURES_SHOWN} more failed.</p>" * (len(failed) > FAILURES_SHOWN)
    head = ["Trial", "Configuration", "Epochs", "Attempts", "Class", "Message"]
    return f"<h2>Failed trials</h2>{table(head, rows)}{more}"


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else ABSENT


def _whole(value: float | None) -> str:
    return f"{value:.0f}" if value is not None and math.isfinite(value) else ABSENT
