"""The model card: what the winner is, how it was chosen, what it is worth, and how to get it back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsestudy.study import StudySpec
from sparsestudy.trial import Trial, trial_label
from sparsestudy.words import called


def model_card(spec: StudySpec, winner: Trial, record: Mapping[str, Any], folder: Path) -> str:
    """The card as Markdown.

    Args:
        spec: The searched study.
        winner: The trial of the search whose configuration won.
        record: What ``selection.json`` holds.
        folder: Where the winner is kept, relative to where its user works.
    """
    test, metric = record["test"], called(record["metric"], winner.config.task)
    rows = [
        f"| {f['trial']} | {f['search']:.4g} | {f['mean']:.4g} | {_shown(f['bound'])} |"
        f" {_shown(f['probability_best'], '.0%')} |"
        for f in record["finalists"]
    ]
    lines = [
        f"# {trial_label(winner.config)}",
        "",
        f"Chosen from study `{record['study']}`. {spec.question}".rstrip(),
        "",
        f"**{metric.capitalize()} on the test split: {test['mean']:.4g}**, the mean of {len(test['scores'])} fresh"
        f" seeds ({', '.join(f'{v:.4g}' for v in test['scores'])}); the weights here:"
        f" {test['shipped'][record['metric']]:.4g}.",
        f"The search had promised {record['finalists'][0]['search']:.4g}; the optimism of that was"
        f" {record['optimism']:+.4g}. The test split has been looked at {_times(test['looks'])}.",
        "",
        f"Data `{spec.data.name}`, network `{spec.model.name}`. Finalists, by {record['rule']} on the selection split:",
        "",
        f"| trial | {metric} in the search | mean on the selection split | 95 % bound | probability of being best |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "```python",
        "from sparsestudy import load_winner",
        f"model, regularizers = load_winner({str(folder)!r})",
        "logits = model(inputs)  # inputs as the study's data prepares them",
        "```",
        "",
        f"`sparsestudy run {folder / 'best.yaml'}` trains it again.",
    ]
    return "\n".join(lines) + "\n"


def _shown(value: float | None, form: str = ".4g") -> str:
    return "–" if value is None else format(value, form)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
