"""How often the analysis is right about studies whose truth is known: coverage, false positives, wrong signs.

Every claim of `CLAIMS` is a function from a seed to what came of one simulated study of each of its worlds: a dict from
``WORLD: WHAT: KIND`` to a truth value, to a number, or to None where the analysis gave no answer. Kinds and their goals
stand in `coverage_page.GOALS`. Two processes go through the seeds. What came of each seed is kept in a folder, so that
a run that was stopped goes on, and a part that was not run again keeps its place on the page.

Usage: ``python -m tests.benchmarks.coverage [--studies N] [--only PART] [--outcomes FOLDER] [--output FILE]``
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

from scipy import stats
from threadpoolctl import threadpool_limits

from tests.benchmarks.coverage_page import Row, page, read

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
HERE = Path(__file__).resolve().parent
PROCESSES = 2
FIRST = 10_000
"""First seed: methods are chosen and tested on lower ones, so that no figure here is one that a choice was made by."""


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


def version() -> str:
    """Of the code that figures depend on: what another version found is not gone on with."""
    root = HERE.parent.parent
    sources = [*(root / "sparsestudy" / "analysis").glob("*.py"), *(root / "tests" / "analysis").glob("*.py")]
    code = b"".join(path.read_bytes() for path in sorted(sources) if not path.name.startswith("test_"))
    return hashlib.sha256(code).hexdigest()[:12]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="worlds", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--studies", type=int, default=400, help="simulated studies of each world (default: %(default)s)"
    )
    parser.add_argument("--only", default="", help="run only claims with this in their name; tell all that are known")
    parser.add_argument("--outcomes", type=Path, help="folder of what is known (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=HERE / "coverage.md", help="page to write")
    arguments = parser.parse_args()
    folder = arguments.outcomes or Path(tempfile.gettempdir()) / f"sparsestudy-coverage-{version()}"
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
