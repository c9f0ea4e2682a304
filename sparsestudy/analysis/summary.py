"""The answer in words: what opens the outcome page and ends a run in the terminal."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from sparsestudy.analysis.front import front_lines
from sparsestudy.analysis.table import best_by_arm, pareto_front
from sparsestudy.study import StudySpec
from sparsestudy.trial import SPARSITY, Trial, TrialState, trial_label
from sparsestudy.words import called, task_of

ABSENT = "–"
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
    return "\n".join([*told, *ended, _caution(spec, trials)])


def _answer(spec: StudySpec, best: Mapping[str, Trial], trials: Sequence[Trial]) -> str:
    arm, trial = next(iter(best.items()))
    objective = spec.search.objectives[0]
    metric = called(objective.metric, task_of(trials))
    open_ = any(not t.state.finished for t in trials)
    higher = "higher" if objective.direction == "maximize" else "lower"
    text = (
        f"Best {'so far ' if open_ else ''}on the search split: trial {trial.number} of arm {arm}"
        f" ({trial_label(trial.config)}), with {described(spec, metric)}"
        f" {spoken(metric, first_value(trial))} ({higher} is better)."
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
        values = values_of(trials, arm)
        lines.append(
            f"Against arm {arm}: {_ahead(metric, winner, first_value(trial))} its best trial"
            f" ({spoken(metric, first_value(trial))}), {_ahead(metric, winner, median_of(values))} its median"
            f" ({spoken(metric, median_of(values))} over {counted(len(values), 'complete trial')})."
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
    difference = abs(first_value(winner) - value)
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
        lines.append(f"Still waiting or running: {counted(left, 'trial')}, so this may change.")
    if states[TrialState.PRUNED]:
        lines.append(f"Stopped early, and not compared: {counted(states[TrialState.PRUNED], 'trial')}.")
    if states[TrialState.FAIL]:
        kinds = Counter(t.failure.kind if t.failure else "unknown" for t in trials if t.state is TrialState.FAIL)
        lines.append(
            f"Failed: {counted(states[TrialState.FAIL], 'trial')}"
            f" ({', '.join(f'{count} × {kind}' for kind, count in kinds.most_common(3))})."
        )
    return lines


def _caution(spec: StudySpec, trials: Sequence[Trial]) -> str:
    counts = Counter(t.config.arm for t in trials if t.state is TrialState.COMPLETE)
    total = counts.total()
    if total == 1:
        text = "Caution: one complete trial with one seed says nothing about chance."
    else:
        text = f"Caution: this is the best of {total} complete trials on the split the search itself looked at, so it"
        text += " is optimistic: the luckiest of many tries looks better than it is."
    if len(set(counts.values())) > 1:
        text += " The arms had unequal numbers of trials, and more tries make a higher best."
    data = [name for name in spec.search.parameters if name.startswith("data.")]
    if data:
        text += f" Trials differ in their data ({', '.join(data)}), so the best of them is one on the easiest data."
    return f"{text} The search has not touched the test split; `sparsestudy select` confirms the choice on fresh seeds."


def described(spec: StudySpec, metric: str) -> str:
    """A metric in words, such as ``validation accuracy at its epoch of lowest validation loss``."""
    when, _, name = metric.partition("/")
    words = f"mean {spec.measures.main} over layers" if name == SPARSITY else name.replace("/", " ")
    return f"{words} at its {'epoch of lowest validation loss' if when == 'best' else 'last epoch'}"


def spoken(metric: str, value: float | None) -> str:
    """A value of a metric for a reader, accuracies in per cent."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{100 * value:.2f} %" if metric.endswith("accuracy") else f"{value:.4g}"


def first_value(trial: Trial) -> float:
    """Value of the first objective, NaN without one."""
    return trial.values[0] if trial.values else math.nan


def values_of(trials: Sequence[Trial], arm: str) -> list[float]:
    """Finite first objectives of the COMPLETE trials of an arm."""
    complete = [t for t in trials if t.state is TrialState.COMPLETE and t.config.arm == arm]
    return [first_value(t) for t in complete if math.isfinite(first_value(t))]


def median_of(values: Sequence[float]) -> float:
    """Median, NaN of nothing."""
    return statistics.median(values) if values else math.nan


def counted(number: int, noun: str) -> str:
    """Such as ``1 trial`` and ``2 trials``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"
