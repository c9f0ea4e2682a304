"""Kill studies at drawn moments, and write down what it cost: ``tests/faults/table.md``.

``python -m tests.faults.table [--runs N] [--stock N] [--only FAULT] [--folder FOLDER]``. What was measured is kept in a
file of the folder, run by run, and the page is written anew after each, so that it can be stopped and gone on with.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from tests.faults import injuries, invariants, processes, stock_runs
from tests.faults.harness import EPOCHS, EVERY, NAME, TRIALS, Run

PAGE = Path(__file__).with_name("table.md")
SHARES = {"driver killed": 3, "worker killed": 2, "MLflow server killed": 2}
"""Turns of a fault in each round, where it is not one."""
Plan = Sequence[tuple[str, int]]
MEASURED = "measured.jsonl"
HEAD = (
    "| fault | runs | broke an invariant | trials lost | doubled | epochs of a trial repeated, median (most) "
    "| s to go on, median (most) |"
)
RULE = "| --- | --- | --- | --- | --- | --- | --- |"


def planned(runs: int) -> Plan:
    """Which fault with which seed, in order: round after round, each fault once before any comes twice."""
    order: list[str] = []
    turn = 0
    while len(order) < runs:
        order += [name for name in injuries.ALL if turn < SHARES.get(name, 1)]
        turn = (turn + 1) % max(SHARES.values())
    return [(name, order[:at].count(name)) for at, name in enumerate(order[:runs])]


def calm(folder: Path) -> invariants.Outcome:
    """The study left alone, which has to keep every invariant too; it is run if the folder does not have it yet."""
    run = Run(folder=folder)
    if not run.study.exists():
        run.drive()
        run.finish(launches=1)
    found = invariants.outcome(run)
    assert invariants.check(run, found).repeated == 0
    return found


def injured(name: str, seed: int, folder: Path, reference: invariants.Outcome) -> invariants.Account:
    """One run with one fault, checked."""
    run = Run(folder=folder)
    with run.around:
        injuries.ALL[name](run, Random(f"{name} {seed}"))
        return invariants.check(run, reference)


def configurations(folder: Path) -> str:
    """The trials of the study that was left alone, as JSON."""
    with Run(folder=folder).ledger() as ledger:
        trials = ledger.trials(ledger.study(NAME).id)
    return json.dumps([trial.config.model_dump(mode="json") for trial in trials])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40, help="Of sparsestudy, over all faults.")
    parser.add_argument("--stock", type=int, default=0, help="Of the stock stack, for each of its three faults.")
    parser.add_argument("--only", choices=[*injuries.ALL])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "sparsestudy-faults"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    # A shell that starts this in the background has it ignore Ctrl-C, and so would the drivers.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with processes.adopting() as known:
        reference = calm(given.folder / "calm")
        plan = [("ours", *turn) for turn in planned(given.runs)]
        plan += [("stock", fault, seed) for seed in range(given.stock) for fault in stock_runs.FAULTS]
        for side, name, seed in plan:
            if given.only in (None, name) and not _has(given.folder, side, name, seed):
                _one(given.folder, side, name, seed, reference)
        invariants.check_no_orphans(known)


def _one(folder: Path, side: str, name: str, seed: int, reference: invariants.Outcome) -> None:
    """One run: measured, kept, and the page written anew. The folder of one that broke an invariant stays."""
    own = folder / f"{side} {name} {seed}".replace(" ", "-")
    shutil.rmtree(own, ignore_errors=True)
    began = time.monotonic()
    row: dict[str, Any] = {"side": side, "fault": name, "seed": seed, "broken": ""}
    try:
        if side == "ours":
            account = injured(name, seed, own, reference)
        else:
            account, row["broken"] = stock_runs.injured(name, seed, own, configurations(folder / "calm"))
        row |= asdict(account)
    except Exception as error:
        row["broken"] = "".join(traceback.format_exception(error))[-4000:]
    row["seconds"] = time.monotonic() - began
    if not row["broken"]:
        shutil.rmtree(own, ignore_errors=True)
    with (folder / MEASURED).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    PAGE.write_text(page(_rows(folder)), encoding="utf-8")


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The table, and how to read it."""
    head = [
        "# What faults cost",
        "",
        "Written by `python -m tests.faults.table`. Each run is a study of "
        f"{TRIALS} trials of {EPOCHS} epochs with a checkpoint every {EVERY}",
        "epochs, harmed at a moment drawn from the seed, and brought to its end by the same command again. Then every",
        "invariant is checked: each planned trial complete, once, with one MLflow run whose steps are there once each;",
        "ledger, MLflow and Parquet equal; no process, lease, checkpoint or draft of a file left; all results equal",
        "to the undisturbed study's, bit for bit.",
        "",
        HEAD,
        RULE,
    ]
    return "\n".join([*head, *_lines(rows, "ours"), *_foot(rows), *_stock(rows), ""])


def _lines(rows: Sequence[dict[str, Any]], side: str) -> list[str]:
    of = {name: [row for row in rows if (row["side"], row["fault"]) == (side, name)] for name in injuries.ALL}
    return [_line(name, found) for name, found in of.items() if found]


def _line(name: str, rows: Sequence[dict[str, Any]]) -> str:
    known = [row for row in rows if "lost" in row]
    repeated = _spread([row["repeated"] for row in known])
    recovery = _spread([seconds for row in known for seconds in row["recovery"]])
    lost, doubled = (sum(row[key] for row in known) for key in ("lost", "doubled"))
    broken = sum(bool(row["broken"]) for row in rows)
    return f"| {name} | {len(rows)} | {broken} | {lost} | {doubled} | {repeated} | {recovery} |"


def _foot(rows: Sequence[dict[str, Any]]) -> list[str]:
    ours = [row for row in rows if row["side"] == "ours"]
    broken = sum(bool(row["broken"]) for row in ours)
    return [
        "",
        f"Runs: {len(ours)}; with a broken invariant: {broken}. Time to go on is from the harm until every trial it",
        "stopped trains its next epoch, or any trial if it stopped none; most of it is the start of Python, Ray and",
        "torch, on two cores that others use as well. Of a trial, the epochs since its last checkpoint and the one",
        f"under way may be trained again for each death of its worker, {EVERY} + 1 here, and an interval more where",
        "the last checkpoint is damaged. The clock is not the machine's: `time.time` is replaced in driver and",
        "workers. The lost node is the second of two raylets on one machine.",
    ]


def _stock(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = _lines(rows, "stock")
    if not lines:
        return []
    text = [
        "",
        "## The same trials without sparsestudy",
        "",
        "Ray Tune with `OptunaSearch`, `MLflowLoggerCallback`, a checkpoint as often, three failures allowed a trial,",
        "and `Tuner.restore` when the same command runs again; harmed at moments drawn from the same seeds. A trial is",
        "lost if no one run in MLflow has its epochs, once each; a run beyond one for a trial is doubled. A study that",
        "was not done after four more launches did not end.",
        "",
        HEAD.replace("broke an invariant", "did not end"),
        RULE,
    ]
    return [*text, *lines]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({max(values):.1f})" if values else "–"


def _rows(folder: Path) -> list[dict[str, Any]]:
    measured = folder / MEASURED
    return [json.loads(line) for line in measured.read_text(encoding="utf-8").splitlines()] if measured.exists() else []


def _has(folder: Path, *run: object) -> bool:
    return any((row["side"], row["fault"], row["seed"]) == run for row in _rows(folder))


if __name__ == "__main__":
    main()
