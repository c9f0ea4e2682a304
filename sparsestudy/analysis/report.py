"""The outcome page of a study: one HTML file that opens offline and says the answer first.

Everything a person wrote (names, questions, messages of errors) is escaped; the page's policy lets only its own
scripts run, by their hashes, and nothing be fetched. The figures are data, drawn by Plotly, which stands in the file
once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import yaml
from plotly.offline import get_plotlyjs

from sparsestudy.analysis.front import front_lines
from sparsestudy.analysis.front_figure import front_section
from sparsestudy.analysis.inside.section import inside_section
from sparsestudy.analysis.plots import (
    arm_colours,
    arms_figure,
    heatmap_figure,
    loss_figure,
    sparsity_figure,
    value_figures,
)
from sparsestudy.analysis.table import best_by_arm, layers_of, pareto_front, ranking, sparsity_at_best
from sparsestudy.snapshot import Snapshot
from sparsestudy.study import StudySpec
from sparsestudy.trial import SPARSITY, Measurement, Trial, TrialState, short_names, trial_label
from sparsestudy.words import UNITS, called, task_of

BEST_SHOWN, LAYERS_SHOWN_OF, ARMS_DRAWN, VALUES_DRAWN, FAILURES_SHOWN = 10, 5, 8, 24, 50
ABSENT = "–"
Trajectories = Mapping[int, Sequence[Measurement]]


COMPARED = 6
"""With more arms only the best of them, and the control, are compared in words."""


def summary(spec: StudySpec, trials: Sequence[Trial]) -> str:
    """What the study says so far, the answer first, one plain sentence or two a line.

    Compares the best trial with the best and the median of every other arm by the first objective, and says what the
    comparison cannot bear. The same text opens the page and ends a run in the terminal.

    Example:
        >>> summary(StudySpec(name="s", regularizers=({"name": "none"},)), [])
        'No trial has been recorded yet, so there is no answer yet.'
    """
    if not trials:
        return "No trial has been recorded yet, so there is no answer yet."
    best = best_by_arm(spec, trials)
    ended = _ended(trials)
    if not best:
        return "\n".join(["No trial is complete yet, so no arm can be called best.", *ended])
    told = [_answer(spec, best, trials), *front_lines(spec, trials), *_comparison(spec, best, trials)]
    return "\n".join([*told, *ended, _caution(trials)])


def _answer(spec: StudySpec, best: Mapping[str, Trial], trials: Sequence[Trial]) -> str:
    arm, trial = next(iter(best.items()))
    objective = spec.search.objectives[0]
    metric = called(objective.metric, task_of(trials))
    open_ = any(not t.state.finished for t in trials)
    higher = "higher" if objective.direction == "maximize" else "lower"
    text = (
        f"Best {'so far ' if open_ else ''}on the search split: trial {trial.number} of arm {arm}"
        f" ({trial_label(trial.config)}), with {_what(spec, metric)}"
        f" {_value(metric, _first(trial))} ({higher} is better)."
    )
    others = len(spec.search.objectives) - 1
    if others:
        count = len(pareto_front(spec, trials))
        text += (
            f" This is by the first of {others + 1} objectives; {count} complete"
            f" {'trial is' if count == 1 else 'trials are'} on the Pareto front, where no trial beats another in all."
        )
    return text


def _comparison(spec: StudySpec, best: Mapping[str, Trial], trials: Sequence[Trial]) -> list[str]:
    (_, winner), *others = best.items()
    metric = called(spec.search.objectives[0].metric, task_of(trials))
    lines = []
    told = others[:COMPARED] + [(arm, trial) for arm, trial in others[COMPARED:] if _is_control(spec, arm)]
    for arm, trial in told:
        values = _values(trials, arm)
        lines.append(
            f"Against arm {arm}: {_ahead(metric, winner, _first(trial))} its best trial"
            f" ({_value(metric, _first(trial))}), {_ahead(metric, winner, _median(values))} its median"
            f" ({_value(metric, _median(values))} over {_count(len(values), 'complete trial')})."
        )
    if len(others) > len(told):
        lines.append(f"The best trial of each of {len(others) - len(told)} further arms is worse; the page lists them.")
    missing = [arm.name for arm in spec.regularizers if arm.name not in best]
    if missing:
        lines.append(f"No complete trial of {', '.join(missing)}, so nothing can be said of {_it(missing)}.")
    if not others:
        lines.append("Only one arm has complete trials, so arms cannot be compared.")
    return lines


def _is_control(spec: StudySpec, arm: str) -> bool:
    return any(a.name == arm and [m.method for m in a.methods] == ["none"] for a in spec.regularizers)


def _ahead(metric: str, winner: Trial, value: float) -> str:
    difference = abs(_first(winner) - value)
    if not math.isfinite(difference):
        return "not comparable with"
    if difference == 0:
        return "level with"
    points = metric.endswith("accuracy")
    return f"better by {f'{100 * difference:.2f} percentage points' if points else f'{difference:.3g}'} than"


def _ended(trials: Sequence[Trial]) -> list[str]:
    states = Counter(trial.state for trial in trials)
    left = states[TrialState.WAITING] + states[TrialState.RUNNING]
    lines = []
    if left:
        lines.append(f"Still waiting or running: {_count(left, 'trial')}, so this may change.")
    if states[TrialState.PRUNED]:
        lines.append(f"Stopped early, and not compared: {_count(states[TrialState.PRUNED], 'trial')}.")
    if states[TrialState.FAIL]:
        kinds = Counter(t.failure.kind if t.failure else "unknown" for t in trials if t.state is TrialState.FAIL)
        lines.append(
            f"Failed: {_count(states[TrialState.FAIL], 'trial')}"
            f" ({', '.join(f'{count} × {kind}' for kind, count in kinds.most_common(3))})."
        )
    return lines


def _caution(trials: Sequence[Trial]) -> str:
    counts = Counter(t.config.arm for t in trials if t.state is TrialState.COMPLETE)
    total = counts.total()
    if total == 1:
        text = "Caution: one complete trial with one seed says nothing about chance."
    else:
        text = f"Caution: this is the best of {total} complete trials on the split the search itself looked at, so it"
        text += " is optimistic: the luckiest of many tries looks better than it is."
    if len(set(counts.values())) > 1:
        text += " The arms had unequal numbers of trials, and more tries make a higher best."
    return f"{text} No test split has been touched; confirm the choice on fresh seeds and the selection split."


def write_report(
    path: Path,
    spec: StudySpec,
    trials: Sequence[Trial],
    trajectories: Trajectories,
    *,
    commands: Mapping[str, str],
    inside: Snapshot | None = None,
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

    Raises:
        OSError: The file cannot be written.
    """
    figures: dict[str, Any] = {}
    body = "\n".join(
        [
            _head(spec, trials),
            _arms_section(spec, trials),
            _best_section(spec, trials),
            _figure_sections(spec, trials, trajectories, figures),
            _inside_section(spec, trials, inside, figures),
            _failures_section(trials),
            _commands_section(commands),
            _spec_section(spec),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.part")
    # What a worker printed may hold halves of characters, which no file can.
    draft.write_text(_page(spec.name, body, figures), encoding="utf-8", errors="replace")
    draft.replace(path)


def _page(title: str, body: str, figures: Mapping[str, Any]) -> str:
    scripts = [get_plotlyjs(), _SCRIPT] if figures else []
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = f"default-src 'none'; script-src {hashes or chr(39) + 'none' + chr(39)}; "
    policy += "style-src 'unsafe-inline'; img-src data: blob:; form-action 'none'; base-uri 'none'"
    # A closing tag inside the data would end it early; JSON may spell any character by its number.
    data = json.dumps(figures, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>",
            f'<script type="application/json" id="figures">{data}</script>' if figures else "",
            *(f"<script>{script}</script>" for script in scripts),
            "</body>\n</html>\n",
        ]
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


def _arms_section(spec: StudySpec, trials: Sequence[Trial]) -> str:
    colours, metric = arm_colours(spec), called(spec.search.objectives[0].metric, task_of(trials))
    best = best_by_arm(spec, trials)
    rows = []
    for arm in dict.fromkeys([*best, *(a.name for a in spec.regularizers)]):
        states = Counter(t.state for t in trials if t.config.arm == arm)
        values = _values(trials, arm)
        colour = colours.get(arm, "#7f7f7f")
        kinds = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        rows.append(
            [
                f'<span class="arm" style="border-color:{colour}">{escape(arm)}</span>',
                *(str(n) for n in (states.total(), *(states[kind] for kind in kinds))),
                _value(metric, _first(best[arm])) if arm in best else ABSENT,
                _value(metric, _median(values)),
            ]
        )
    head = ["Arm", "Trials", "Complete", "Pruned", "Failed", "Best", "Median"]
    note = f"<p>Best and median of {escape(_what(spec, metric))}, over complete trials on the search split.</p>"
    return f"<h2>Arms</h2>{note}{_table(head, rows)}"


def _best_section(spec: StudySpec, trials: Sequence[Trial]) -> str:
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
                _value(called(m, task), v)
                for m, v in zip(metrics, [*trial.values, *[None] * len(metrics)], strict=False)
            ),
            *(_value(called(m, task), trial.headlines.get(m)) for m in extra),
            _whole(trial.headlines.get("best/epoch")),
        ]
        for trial in ranked[:BEST_SHOWN]
    ]
    more = f"<p>{len(ranked) - BEST_SHOWN} more complete trials are not listed.</p>" * (len(ranked) > BEST_SHOWN)
    names = [escape(called(m, task)).replace("/", "/<wbr>") for m in [*metrics, *extra]]
    table = _table(["Trial", "Configuration", *names, "Best epoch"], rows)
    units = f"<p>{escape(UNITS[task])}</p>" if UNITS[task] else ""
    return f"<h2>Best trials</h2>{units}{table}{more}{_layers_table(spec, ranked[:LAYERS_SHOWN_OF])}"


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
    return f"{title}{note}{_table(['Layer', *head], rows)}"


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


def _figure_sections(
    spec: StudySpec, trials: Sequence[Trial], trajectories: Trajectories, figures: dict[str, Any]
) -> str:
    ranked, best = ranking(spec, trials), best_by_arm(spec, trials)
    if not ranked:
        return ""
    drawn = {arm: t for arm, t in list(best.items())[:ARMS_DRAWN] if trajectories.get(t.number)}
    parts = [front_section(spec, trials, partial(_figure, figures))]
    parts += ["<h2>Arms compared</h2>", _figure(figures, "arms", arms_figure(spec, trials))]
    parts.append("<h2>Loss of the best trial of each arm</h2><p>Solid: validation. Dotted: train.</p>")
    if drawn:
        parts.append(_figure(figures, "loss", loss_figure(spec, drawn, trajectories)))
    else:
        parts.append("<p>The epochs of these trials are not at hand, so no curves can be drawn.</p>")
    parts.append(_sparsity_sections(spec, ranked, drawn, trajectories, figures))
    values = value_figures(spec, trials)
    if values:
        shown = list(values.values())[:VALUES_DRAWN]
        more = f"<p>{len(values) - VALUES_DRAWN} more are not drawn.</p>" * (len(values) > VALUES_DRAWN)
        metric = called(spec.search.objectives[0].metric, task_of(trials))
        note = f"<p>Each complete trial by {escape(_what(spec, metric))}.</p>"
        panels = "".join(_figure(figures, f"value{i}", figure) for i, figure in enumerate(shown))
        parts.append(f'<h2>Searched values</h2>{note}<div class="small">{panels}</div>{more}')
    return "\n".join(parts)


def _sparsity_sections(
    spec: StudySpec, ranked: Sequence[Trial], drawn: Mapping[str, Trial], trajectories: Trajectories, figures: Any
) -> str:
    layered = {arm: t for arm, t in drawn.items() if layers_of(trajectories[t.number])}
    panels = "".join(
        _figure(figures, f"layers{t.number}", sparsity_figure(spec, t, trajectories[t.number]), _caption(arm, t))
        for arm, t in layered.items()
    )
    ends = {"Best": ranked[0], "Worst complete": ranked[-1]} if len(ranked) > 1 else {"Only complete": ranked[0]}
    maps = "".join(
        _figure(figures, f"map{t.number}", heatmap_figure(spec, trajectories[t.number]), _caption(f"{name} trial", t))
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


def _inside_section(
    spec: StudySpec, trials: Sequence[Trial], snapshot: Snapshot | None, figures: dict[str, Any]
) -> str:
    ranked = ranking(spec, trials)
    if not ranked or spec.measures.snapshots == "none":
        return ""
    return inside_section(ranked[0], snapshot, partial(_figure, figures))


def _caption(what: str, trial: Trial) -> str:
    return f"{what}: trial {trial.number}, {trial_label(trial.config)}"


def _figure(figures: dict[str, Any], name: str, figure: Any, caption: str = "") -> str:
    figures[name] = json.loads(figure.to_json())
    height = figures[name]["layout"]["height"]
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure>{text}<div class="plot" id="plot-{name}" style="height:{height}px"></div></figure>'


def _failures_section(trials: Sequence[Trial]) -> str:
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
    return f"<h2>Failed trials</h2>{_table(head, rows)}{more}"


def _commands_section(commands: Mapping[str, str]) -> str:
    if not commands:
        return ""
    rows = "".join(f"<dt>{escape(what)}</dt><dd><pre>{escape(line)}</pre></dd>" for what, line in commands.items())
    return f"<h2>Reproduce</h2><dl>{rows}</dl>"


def _spec_section(spec: StudySpec) -> str:
    text = yaml.safe_dump(spec.to_dict(), sort_keys=False, allow_unicode=True)
    note = f"<p>Digest {spec.digest}; defaults are left out.</p>"
    return f"<h2>Study file</h2>{note}<details><summary>Show</summary><pre>{escape(text)}</pre></details>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already; the wrapper scrolls sideways on a narrow screen."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _what(spec: StudySpec, metric: str) -> str:
    """A metric in words, such as ``validation accuracy at its epoch of lowest validation loss``."""
    when, _, name = metric.partition("/")
    words = f"mean {spec.measures.main} over layers" if name == SPARSITY else name.replace("/", " ")
    return f"{words} at its {'epoch of lowest validation loss' if when == 'best' else 'last epoch'}"


def _value(metric: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{100 * value:.2f} %" if metric.endswith("accuracy") else f"{value:.4g}"


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else ABSENT


def _whole(value: float | None) -> str:
    return f"{value:.0f}" if value is not None and math.isfinite(value) else ABSENT


def _first(trial: Trial) -> float:
    return trial.values[0] if trial.values else math.nan


def _values(trials: Sequence[Trial], arm: str) -> list[float]:
    complete = [t for t in trials if t.state is TrialState.COMPLETE and t.config.arm == arm]
    return [_first(t) for t in complete if math.isfinite(_first(t))]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--paper:#fff;--tint:#f3f5f7;--line:#d5dae0;--mark:#0072b2}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--soft:#a0a9b3;--paper:#15181c;--tint:#1f242a;--line:#39414a;
--mark:#56b4e9}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px 20px 64px}
h1{margin:0 0 4px;font-size:1.8rem;overflow-wrap:anywhere}
h2{margin:40px 0 8px;font-size:1.25rem}
h3{margin:28px 0 8px;font-size:1.05rem}
p{margin:0 0 10px;max-width:80ch;overflow-wrap:anywhere}
.question{color:var(--soft);font-size:1.1rem}
.answer{background:var(--tint);border-left:4px solid var(--mark);padding:14px 18px 6px;margin:16px 0}
.answer .first{font-size:1.15rem;font-weight:600}
.answer .caution{border-top:1px solid var(--line);padding-top:10px}
.counts{display:flex;flex-wrap:wrap;gap:8px 24px;list-style:none;padding:0;margin:12px 0;color:var(--soft)}
.counts b{color:var(--ink)}
.scroll{overflow-x:auto;margin:8px 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:5px 14px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}
.arm{white-space:nowrap;border-left:10px solid;padding-left:6px}
td{min-width:3.5rem}
.target{color:var(--soft);white-space:nowrap}
.message{overflow-wrap:anywhere;display:block;min-width:16rem}
figure{margin:8px 0;min-width:0}
figcaption{font-size:.9rem;color:var(--soft);overflow-wrap:anywhere}
.wide,.small,.tiny{display:grid;gap:12px 24px;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr))}
.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr))}
.tiny{grid-template-columns:repeat(auto-fill,minmax(min(100%,230px),1fr))}
pre{background:var(--tint);padding:10px 12px;overflow-x:auto;font-size:.85rem;margin:4px 0 12px}
dt{font-weight:600}dd{margin:0}
summary{cursor:pointer;color:var(--mark)}
@media(max-width:600px){main{padding:16px 12px 48px}h1{font-size:1.4rem}}
"""

_SCRIPT = """
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const ink = () => getComputedStyle(document.body).color;
const mouse = matchMedia("(hover: hover)").matches;
const names = Object.keys(figures);
for (const name of names) {
  const {data, layout} = figures[name];
  layout.font = {...layout.font, color: ink()};
  layout.dragmode = mouse ? "zoom" : false;  // A finger on a figure scrolls the page.
  Plotly.newPlot("plot-" + name, data, layout, {responsive: true, displayModeBar: false});
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const name of names) Plotly.relayout("plot-" + name, {"font.color": ink()});
});
"""
