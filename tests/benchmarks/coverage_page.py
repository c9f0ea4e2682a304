"""What the page of simulated worlds shows: goals, rows with their verdicts, and why a goal is missed.

The page is also where figures are kept: a part that is not run again is read from it and written as it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GOALS: dict[str, tuple[float, float]] = {
    "covers": (0.93, 0.97),
    "false positive": (0.0, 0.05),
    "false discoveries": (0.0, 0.05),
    "wrong sign": (0.0, 0.05),
    "wrong verdict": (0.0, 0.05),
}
"""By kind, where its share or mean has to lie. Other kinds are told without a goal."""
WANTED = 400
"""Studies of each world behind a figure."""
EXPLAINED = {
    "censored: median lead, onsets located": "Where runs are stopped early, a rise shortly before the end is not yet"
    " told from noise and counts as none up to there: nearly half of the onsets of overfitting that lie before the end"
    " of these short runs. The lead is then taken for longer than it is.",
    "median lead, onsets located": "Onsets are estimates, and the sparsity onset lies two to three epochs early where a"
    " rise slows down (here it goes with the power 0.7 of time), which moves the lead of all runs alike. No interval"
    " over configurations knows of that; a local or a curved fit would halve it, and lose more where noise is large."
    " The order and its test are free of it, for strangers are located by the same rules.",
    "share of sparsity first, held": "The interval is exact for a given share of strangers (Clopper and Pearson), so"
    " that it is wide for a few votes, and takes no notice that the strangers have the same onsets. It errs on the"
    " safe side.",
    "hazard ratio after a rise: covers": "The interval is wider than it need be, on the safe side; why is not known.",
    "Anderson-Rubin: covers": "An unbounded region holds every effect.",
    "two stages: covers": "With weak targets this interval is not to be trusted; the card then shows the other.",
}
"""Why a goal is missed, by a part of the claim's name."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim over all studies.

    Attributes:
        world, what, kind: As the claim names itself.
        answered: Studies in which there was an answer.
        studies: All of them.
        share: Share or mean over the answers; None without any.
        low, high: Its 95 % interval: of Clopper and Pearson for shares, of Student's t for means.
    """

    world: str
    what: str
    kind: str
    answered: int
    studies: int
    share: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """Whether the goal is met, missed by no more than chance, or missed."""
        if self.kind not in GOALS or self.share is None or self.low is None or self.high is None:
            return ""
        least, most = GOALS[self.kind]
        if least <= self.share <= most:
            return "met"
        return "within chance" if self.low <= most and self.high >= least else "**missed**"


def page(parts: Sequence[tuple[str, Sequence[Row]]], command: str) -> str:
    """The tables of all claims as Markdown: what is missed first, then a count, then every row."""
    goals = "; ".join(f"{kind} {low:.0%} to {high:.0%}" for kind, (low, high) in GOALS.items())
    lines = [
        "# Simulated worlds",
        "",
        f"Written by `{command}` (`--only PART` runs a part):",
        "what the analysis says of simulated studies whose truth is known (`tests/analysis/worlds.py`), over many",
        "seeds. Beside each share stand the studies that it is of, and in brackets the 95 % interval of so many.",
        "",
        f"Goals: {goals}.",
        "*Within chance*: missed, but the interval reaches the goal. A verdict is wrong that supports what is not so,",
        "or refutes an effect as large as one worth having.",
        "",
        *_overview([row for _, rows in parts for row in rows]),
    ]
    few = [f"{title.rstrip('.')} ({rows[0].studies})" for title, rows in parts if rows[0].studies < WANTED]
    if few:
        lines += ["", f"Fewer than {WANTED} studies so far, so that a miss may not show: {'; '.join(few)}."]
    for title, rows in parts:
        lines += [
            "",
            f"## {title}",
            "",
            "| world | what | kind | answered | share | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            spread = "" if row.low is None else f" ({row.low:.3f}–{row.high:.3f})"
            share = "" if row.share is None else f"{row.share:.3f}{spread}"
            lines.append(
                f"| {row.world} | {row.what} | {row.kind} | {row.answered} of {row.studies} | {share} | {row.verdict} |"
            )
    return "\n".join(lines) + "\n"


def read(path: Path) -> dict[str, list[Row]]:
    """The rows of a written page, by title."""
    found: dict[str, list[Row]] = {}
    title = ""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if line.startswith("## "):
            title = line[3:]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if title and len(cells) == 6 and " of " in cells[3]:
            answered, studies = map(int, cells[3].split(" of "))
            numbers = [float(text) for text in re.findall(r"-?[0-9.]+", cells[4])]
            share, low, high = [*numbers, None, None, None][:3]
            row = Row(
                world=cells[0], what=cells[1], kind=cells[2], answered=answered, studies=studies, share=share, low=low,
                high=high,
            )  # fmt: skip
            found.setdefault(title, []).append(row)
    return found


def _overview(rows: Sequence[Row]) -> list[str]:
    """How many goals are met, by kind; and every one that is missed, by reason."""
    verdicts = ("met", "within chance", "**missed**")
    lines = ["| goal | met | within chance | missed |", "|---|---|---|---|"]
    for kind in GOALS:
        counts = [sum(row.kind == kind and row.verdict == verdict for row in rows) for verdict in verdicts]
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.verdict == "**missed**":
            claim = f"{row.world}: {row.what}: {row.kind}"
            why = next((text for part, text in EXPLAINED.items() if part in claim), "Not explained yet.")
            reasons.setdefault(why, []).append(f"{claim} {row.share:.3f}")
    for why, missed in reasons.items():
        lines += ["", f"Missed: {'; '.join(missed)}. {why}"]
    return lines
