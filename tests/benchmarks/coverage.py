"""How often the analysis is right about studies whose truth is known: coverage, false positives, wrong signs.

Every claim of `CLAIMS` is a function from a seed to what came of one simulated study of each of its worlds: a dict from
``WORLD: WHAT: KIND`` to a truth value, to a number, or to None where the analysis gave no answer. Kinds and their goals
stand in `GOALS`. Two processes go through the seeds. What came of each seed is kept in a folder, so that a run that was
stopped goes on, and a part that was not run again keeps its place on the page.

Usage: ``python -m tests.benchmarks.coverage [--studies N] [--only PART] [--outcomes FOLDER] [--output FILE]``
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from scipy import stats
from threadpoolctl import threadpool_limits

Outcome = dict[str, bool | float | None]
CLAIMS = (
    "tests.analysis.rank_claims:correlations_run",
    "tests.analysis.rank_claims:stopped_run",
    "tests.analysis.rank_claims:controlled_run",
    "tests.analysis.onset_claims:alarms_run",
    "tests.analysis.onset_claims:located_run",
    "tests.analysis.level_claims:level_run",
    "tests.analysis.level_claims:cause_run",
    "tests.analysis.level_claims:weak_run",
    "tests.analysis.level_claims:learner_run",
    "tests.analysis.card_claims:card_run",
    "tests.analysis.card_claims:onsets_run",
    "tests.analysis.card_claims:hazards_run",
    "tests.analysis.timing_worlds:null_run",
    "tests.analysis.timing_worlds:censored_run",
    "tests.analysis.timing_worlds:level_run",
    "tests.analysis.timing_worlds:lead_run",
)
"""Functions by module, each with a docstring that says what its studies are."""
GOALS: dict[str, tuple[float, float]] = {
    "covers": (0.93, 0.97),
    "false positive": (0.0, 0.05),
    "false discoveries": (0.0, 0.05),
    "wrong sign": (0.0, 0.05),
    "wrong verdict": (0.0, 0.05),
}
"""By kind, where its share or mean has to lie. Other kinds are told without a goal."""
EXPLAINED = {
    "median lead, onsets located": "onsets are estimates, and the sparsity onset lies two to three epochs early where a"
    " rise slows down (here it goes with the power 0.7 of time), which moves the lead of all runs alike. No interval"
    " over configurations knows of that; a local or a curved fit would halve it, and lose more where noise is large."
    " The order and its test are free of it, for strangers are located by the same rules.",
    "share of sparsity first, held": "the interval is exact for a given share of strangers (Clopper and Pearson), so"
    " that it is wide for a few votes, and takes no notice that the strangers have the same onsets. It errs on the"
    " safe side.",
    "Anderson-Rubin: covers": "an unbounded region holds every effect.",
    "two stages: covers": "with weak targets this interval is not to be trusted; the card then shows the other.",
}
"""Why a goal is missed, by a part of the claim's name."""
HERE = Path(__file__).resolve().parent
PROCESSES = 2
FIRST = 10_000
"""First seed: methods are chosen and tested on lower ones, so that no figure here is one that a choice was made by."""


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


def summarise(outcomes: Sequence[Outcome]) -> list[Row]:
    """One row per claim, in the order of first appearance.

    Example:
        >>> row = summarise([{"null: a test: false positive": i < 9} for i in range(100)])[0]
        >>> row.world, row.kind, row.share, row.verdict  # 9 of 100 have the interval 0.042 to 0.164
        ('null', 'false positive', 0.09, 'within chance')
    """
    rows = []
    for key in dict.fromkeys(key for outcome in outcomes for key in outcome):
        world, what, kind = key.split(": ", 2) if key.count(": ") == 2 else (key, "", "")
        answers = [outcome[key] for outcome in outcomes if outcome.get(key) is not None]
        low, high = interval([a for a in answers if a is not None])
        share = sum(float(a) for a in answers if a is not None) / len(answers) if answers else None
        rows.append(
            Row(
                world=world,
                what=what,
                kind=kind,
                answered=len(answers),
                studies=len(outcomes),
                share=share,
                low=low,
                high=high,
            )
        )
    return rows


def interval(answers: Sequence[bool | float]) -> tuple[float | None, float | None]:
    """95 % interval of a share or of a mean; None without answers."""
    if not answers:
        return None, None
    if all(isinstance(a, bool) for a in answers):
        found = stats.binomtest(sum(answers), len(answers)).proportion_ci(0.95)
        return float(found.low), float(found.high)
    count, mean = len(answers), sum(answers) / len(answers)
    if count == 1:
        return None, None
    error = math.sqrt(sum((a - mean) ** 2 for a in answers) / (count - 1) / count)
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return mean - reach, mean + reach


def page(parts: Sequence[tuple[str, Sequence[Row]]], command: str) -> str:
    """The tables of all claims as Markdown: what is missed first, then a count, then every row."""
    goals = "; ".join(f"{kind} {low:.0%} to {high:.0%}" for kind, (low, high) in GOALS.items())
    lines = [
        "# Simulated worlds",
        "",
        f"Written by `{command}`: what the analysis says of simulated studies whose truth is known",
        "(`tests/analysis/worlds.py`), over many seeds. In brackets the 95 % interval of so many studies.",
        f"Goals: {goals}. *Within chance*: missed, but the interval reaches the goal.",
        "",
        *_overview([row for _, rows in parts for row in rows]),
    ]
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
    """How many goals are met, by kind; and every one that is missed, with the reason."""
    verdicts = ("met", "within chance", "**missed**")
    lines = ["| goal | met | within chance | missed |", "|---|---|---|---|"]
    for kind in GOALS:
        counts = [sum(row.kind == kind and row.verdict == verdict for row in rows) for verdict in verdicts]
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    missed = [row for row in rows if row.verdict == "**missed**"]
    if missed:
        lines += ["", "Missed, and why:", ""]
    for row in missed:
        why = next(
            (text for part, text in EXPLAINED.items() if part in f"{row.what}: {row.kind}"), "not explained yet."
        )
        lines.append(f"- {row.world}: {row.what}: {row.kind} {row.share:.3f}: {why}")
    return lines


def run(name: str, seeds: Sequence[int], folder: Path) -> list[Outcome]:
    """Outcomes of one claim over the seeds, in two processes; those a file of the folder has are not drawn again."""
    path = folder / f"{name.replace(':', '.')}.jsonl"
    done = stored(path)
    wanted = [seed for seed in seeds if seed not in done]
    if wanted:
        with ProcessPoolExecutor(PROCESSES, initializer=_modest) as pool, path.open("a", encoding="utf-8") as file:
            for seed, outcome in zip(wanted, pool.map(_one, [name] * len(wanted), wanted), strict=True):
                done[seed] = outcome
                file.write(json.dumps([seed, outcome]) + "\n")
                file.flush()
    return [done[seed] for seed in seeds if seed in done]


def stored(path: Path) -> dict[int, Outcome]:
    """What a file holds, by seed; the last line may have been cut off."""
    found: dict[int, Outcome] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if line.endswith("]"):
            seed, outcome = json.loads(line)
            found[seed] = outcome
    return found


def _modest() -> None:
    os.nice(10)
    # Each process has one core; more threads than cores would only wait for each other.
    threadpool_limits(1)


def _one(name: str, seed: int) -> Outcome:
    return _claim(name)(seed)


def _claim(name: str) -> Callable[[int], Outcome]:
    module, _, function = name.partition(":")
    found: Callable[[int], Outcome] = getattr(import_module(module), function)
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="worlds", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--studies", type=int, default=400, help="simulated studies of each world (default: %(default)s)"
    )
    parser.add_argument("--only", default="", help="run only claims with this in their name; tell all that are known")
    parser.add_argument("--outcomes", type=Path, help="folder of what is known (default: one below the system's own)")
    parser.add_argument("--output", type=Path, default=HERE / "coverage.md", help="page to write")
    arguments = parser.parse_args()
    folder = arguments.outcomes or Path(tempfile.gettempdir()) / "sparsestudy-coverage"
    folder.mkdir(parents=True, exist_ok=True)
    seeds, parts = range(FIRST, FIRST + arguments.studies), []
    written = read(arguments.output)
    for name in CLAIMS:
        start = time.perf_counter()
        if arguments.only in name:
            outcomes = run(name, seeds, folder)
            sys.stderr.write(f"{name}: {time.perf_counter() - start:.0f} s\n")
        else:
            known = stored(folder / f"{name.replace(':', '.')}.jsonl")
            outcomes = [known[seed] for seed in seeds if seed in known]
        title = (_claim(name).__doc__ or name).partition("\n")[0]
        rows = summarise(outcomes) if outcomes else written.get(title, [])
        if rows:
            parts.append((title, rows))
    command = f"python -m tests.benchmarks.coverage --studies {arguments.studies}"
    arguments.output.write_text(page(parts, command), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
