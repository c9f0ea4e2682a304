"""How often the analysis is right about studies whose truth is known: coverage, false positives, wrong signs.

Every claim of `CLAIMS` is a function from a seed to what came of one simulated study of each of its worlds: a dict from
``WORLD: WHAT: KIND`` to a truth value, to a number, or to None where the analysis gave no answer. Kinds and their goals
stand in `GOALS`. Two processes go through the seeds.

Usage: ``python -m tests.benchmarks.coverage [--studies N] [--only PART] [--output FILE]``
"""

from __future__ import annotations

import argparse
import math
import os
import sys
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
    "tests.analysis.rank_claims:controlled_run",
    "tests.analysis.onset_claims:alarms_run",
    "tests.analysis.onset_claims:located_run",
    "tests.analysis.level_claims:level_run",
    "tests.analysis.level_claims:cause_run",
    "tests.analysis.level_claims:weak_run",
    "tests.analysis.level_claims:learner_run",
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
}
"""By kind, where its share or mean has to lie. Other kinds are told without a goal."""
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


def page(parts: Sequence[tuple[str, Sequence[Row], float]]) -> str:
    """The table of every claim as Markdown."""
    goals = "; ".join(f"{kind} {low:.0%} to {high:.0%}" for kind, (low, high) in GOALS.items())
    lines = [
        "# Simulated worlds",
        "",
        "Written by `python -m tests.benchmarks.coverage`: what the analysis says of simulated studies whose truth is",
        "known (`tests/analysis/worlds.py`), over many seeds. In brackets the 95 % interval of so many studies.",
        f"Goals: {goals}. *Within chance*: missed, but the interval reaches the goal.",
    ]
    for title, rows, seconds in parts:
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
        lines += ["", f"{seconds:.0f} s."]
    return "\n".join(lines) + "\n"


def run(name: str, seeds: Sequence[int]) -> list[Outcome]:
    """Outcomes of one claim over the seeds, in two processes."""
    with ProcessPoolExecutor(PROCESSES, initializer=_modest) as pool:
        return list(pool.map(_one, [name] * len(seeds), seeds, chunksize=max(1, len(seeds) // 40)))


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
    parser.add_argument("--only", default="", help="run only claims with this in their name")
    parser.add_argument("--output", type=Path, help="page to write (default: coverage.md, nothing if --only)")
    arguments = parser.parse_args()
    parts = []
    for name in (claim for claim in CLAIMS if arguments.only in claim):
        start = time.perf_counter()
        rows = summarise(run(name, range(FIRST, FIRST + arguments.studies)))
        title = (_claim(name).__doc__ or name).partition("\n")[0]
        parts.append((title, rows, time.perf_counter() - start))
        sys.stderr.write(f"{name}: {parts[-1][2]:.0f} s\n")
    text = page(parts)
    sys.stdout.write(text)
    output = arguments.output or (None if arguments.only else HERE / "coverage.md")
    if output is not None:
        output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
