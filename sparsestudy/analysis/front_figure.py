"""The figure of a study with several objectives: its Pareto front, and what lies behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plotly import graph_objects as go

from sparsestudy.analysis.front import knee
from sparsestudy.analysis.plots import arm_look, blank, inert, plain
from sparsestudy.analysis.table import pareto_front, ranking
from sparsestudy.study import StudySpec
from sparsestudy.trial import Trial, trial_label
from sparsestudy.words import called, task_of


def front_figures(spec: StudySpec, trials: Sequence[Trial]) -> list[go.Figure]:
    """The first objective against each other one; none for a single objective or without a COMPLETE trial.

    Every COMPLETE trial is a point in the colour of its arm, those on the front large, with a line around them; a star
    is the best compromise. With three objectives and more, a trial may stand on the front and look as if another beat
    it: it is better in an objective that the panel does not show.
    """
    front = pareto_front(spec, trials) if len(spec.search.objectives) > 1 else []
    if not front:
        return []
    best = front[knee(spec, front)[0]]
    return [_panel(spec, ranking(spec, trials), front, best, place) for place in range(1, len(spec.search.objectives))]


def front_section(spec: StudySpec, trials: Sequence[Trial], figure: Callable[[str, go.Figure], str]) -> str:
    """The part of the page about the front, as HTML; empty if there is none.

    Args:
        spec: The study.
        trials: Its trials.
        figure: Puts a figure on the page under a name, and returns the HTML of its place.
    """
    figures = front_figures(spec, trials)
    if not figures:
        return ""
    note = (
        "<p>Large points are on the front: no trial beats them in all objectives. The star is the best compromise.</p>"
    )
    panels = "".join(figure(f"front{i}", panel) for i, panel in enumerate(figures))
    return f'<h2>Pareto front</h2>{note}<div class="small">{panels}</div>'


def _panel(spec: StudySpec, ranked: Sequence[Trial], front: Sequence[Trial], best: Trial, place: int) -> go.Figure:
    figure, numbers = blank(height=340), {trial.number for trial in front}
    for arm in dict.fromkeys([*(a.name for a in spec.regularizers), *(t.config.arm for t in ranked)]):
        of_arm = [t for t in ranked if t.config.arm == arm]
        colour, symbol = arm_look(spec, arm)
        on = [t.number in numbers for t in of_arm]
        figure.add_scatter(
            x=[plain(t.values[0]) for t in of_arm], y=[plain(t.values[place]) for t in of_arm],
            mode="markers", name=inert(arm), text=[_hover(t, t.number in numbers) for t in of_arm],
            marker={
                "color": colour,
                "symbol": ["star" if t.number == best.number else symbol for t in of_arm],
                "size": [16 if t.number == best.number else 11 if t.number in numbers else 7 for t in of_arm],
                "opacity": [1.0 if is_on else 0.45 for is_on in on],
                "line": {"color": "#222222", "width": [1.5 if is_on else 0 for is_on in on]},
            },
            hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        )  # fmt: skip
    names = [called(spec.search.objectives[i].metric, task_of(ranked)) for i in (0, place)]
    aims = [spec.search.objectives[i].direction for i in (0, place)]
    titles = [inert(f"{name} ({aim})") for name, aim in zip(names, aims, strict=True)]
    figure.update_layout(xaxis_title=titles[0], yaxis_title=titles[1])
    return figure


def _hover(trial: Trial, on_front: bool) -> str:
    return inert(f"trial {trial.number}: {trial_label(trial.config)}{', on the front' if on_front else ''}")
