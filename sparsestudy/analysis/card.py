"""The model card: what the winner is, how it was chosen, what it is worth, and how to get it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsestudy.analysis.front import reasons
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
        *(line for reason in reasons(record) for line in (reason, "")),
        f"Data `{spec.data.name}`, network `{spec.model.name}`. Finalists, by {record['rule']} on the selection split:",
        "",
        *_finalists(record, metric),
        "",
        *_front(record),
        "```python",
        "from sparsestudy import load_winner",
        f"model, regularizers = load_winner({str(folder)!r})",
        "logits = model(inputs)  # inputs as the study's data prepares them",
        "```",
        "",
        f"`sparsestudy run {folder / 'best.yaml'}` trains it again.",
    ]
    return "\n".join(lines) + "\n"


def _finalists(record: Mapping[str, Any], metric: str) -> list[str]:
    several = bool(record.get("front"))
    head = [f"{metric} in the search", "mean on the selection split", "95 % bound", "probability of being best"]
    rows = [
        [
            str(f["trial"]), f"{f['search']:.4g}", f"{f['mean']:.4g}", _shown(f["bound"]),
            _shown(f["probability_best"], ".0%"), *([f"{f['distance']:.4g}"] if several else []),
        ]
        for f in record["finalists"]
    ]  # fmt: skip
    failed = [f"trial {f['trial']} on {f['failed']}" for f in record["finalists"] if f.get("failed")]
    behind = ["", f"Failed on fresh seeds, and so behind all that did not: {', '.join(failed)}."] if failed else []
    return [*_table(["trial", *head, *(["distance"] if several else [])], rows), *behind]


def _front(record: Mapping[str, Any]) -> list[str]:
    """The front of the search, the nearest to ideal first; nothing of a single objective."""
    if not record.get("front"):
        return []
    metrics = [objective["metric"] for objective in record["front"]["objectives"]]
    rows = [
        [str(p["trial"]), *(f"{p['values'][metric]:.4g}" for metric in metrics), f"{p['distance']:.4g}"]
        for p in record["front"]["points"]
    ]
    return ["The Pareto front of the search:", "", *_table(["trial", *metrics, "distance"], rows), ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _shown(value: float | None, form: str = ".4g") -> str:
    return "–" if value is None else format(value, form)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
