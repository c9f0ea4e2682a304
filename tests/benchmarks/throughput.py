"""How many trials a minute: ours against the same engines uncombined, and against training with nothing around it.

A service that schedules, records and tracks trials costs time beside their training. Whether that is worth it depends
on two questions. What would one otherwise write, with Ray Tune, Optuna and MLflow as they are, and how fast is that
(a)? And how much of what the cores could do at best arrives (b, b2)? `figures.DEFINITIONS` says what each side is.

All sides train the very same trials. Ours draws them, by its random sampler from the space of the quickstart study;
they are read from its ledger and given to the others. Trials are reproducible to the last bit, so their final
accuracies and losses must be identical on all sides, or the comparison is void and the benchmark fails. Sides take
turns within each round, each in fresh processes, so that a noisy neighbour hits all of them.

Usage: ``python -m tests.benchmarks.throughput [--trials N] [--rounds R] [--epochs E] [--output FILE]``
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

from sparsestudy.tracking.ledger import Ledger
from tests.benchmarks.figures import SIDES, Round, Run, report
from tests.benchmarks.sandbox import Sandbox

HERE = Path(__file__).resolve().parent
STUDY = HERE.parents[1] / "studies" / "quickstart.yaml"
SLOTS = 2
"""Trials at once; (b2) is two processes for the same reason."""
RUN = "from sparsestudy.cli import entry; entry()"


class Workload:
    """The same trials for every side.

    Args:
        sandbox: Where to run.
        trials: How many.
        epochs: Epochs of each, None for those of the study file.
        stock_trials: How many of them (a) trains, the first ones: it takes so long that a round of all would take most
            of an hour, and its trials per minute hardly depend on their number.
    """

    def __init__(self, sandbox: Sandbox, trials: int, epochs: int | None, stock_trials: int) -> None:
        self._sandbox, self._trials, self._stock_trials = sandbox, trials, min(trials, stock_trials)
        self._overrides = [f"search.trials={trials}", "search.sampler=random", f"resources.concurrent={SLOTS}"]
        self._overrides += [f"training.epochs={epochs}"] if epochs else []
        self._configurations: list[dict[str, Any]] = []
        self.epochs = 0

    def round(self, label: str) -> Round:
        """Run every side once."""
        sides: dict[str, Callable[[Path], Run]] = dict(
            zip(SIDES, (self._ours, self._stock, self._bare, self._pair), strict=True)
        )
        done = {}
        for side, run in sides.items():
            done[side] = run(self._sandbox.folder(side))
            sys.stderr.write(f"{label}, {SIDES[side]}: {done[side].seconds:.1f} s\n")
        _same_outcomes(done)
        _same_metrics(self._sandbox.root, self._stock_trials)
        return done

    def _ours(self, folder: Path) -> Run:
        settings = [part for override in self._overrides for part in ("--set", override)]
        seconds = self._sandbox.run(folder, [sys.executable, "-c", RUN, "run", STUDY, *settings])
        with closing(Ledger.in_folder(folder / "results" / "quickstart")) as ledger:
            study = ledger.study("quickstart")
            trials = ledger.trials(study.id)
            trajectories = [ledger.trajectory(study.id, trial.number) for trial in trials]
        configurations = [trial.config.model_dump(mode="json") for trial in trials]
        if self._configurations not in ([], configurations):
            raise SystemExit("ours drew other trials than in the round before; the comparison is void")
        self._configurations, self.epochs = configurations, trials[0].config.training.epochs
        began = [epochs[0].timestamp / 1000 - epochs[0].seconds for epochs in trajectories]
        started, finished = ([getattr(trial, edge) for trial in trials] for edge in ("started", "finished"))
        ends = [(t.headlines["final/validation/accuracy"], t.headlines["final/validation/loss"]) for t in trials]
        return Run(
            seconds=seconds,
            running=max(finished) - min(started),
            trials=dict(enumerate(ends)),
            epochs=sum(epoch.seconds for epochs in trajectories for epoch in epochs),
            waited=sum(begin - start for begin, start in zip(began[:SLOTS], started, strict=False)),
        )

    def _stock(self, folder: Path) -> Run:
        return self._script(folder, ["stock.py", SLOTS], trials=self._stock_trials)

    def _bare(self, folder: Path) -> Run:
        return self._script(folder, ["bare.py", 0, 1])

    def _pair(self, folder: Path) -> Run:
        return self._script(folder, ["bare.py", 0, 2], ["bare.py", 1, 2])

    def _script(self, folder: Path, *scripts: Sequence[Any], trials: int | None = None) -> Run:
        configurations = folder / "configurations.json"
        configurations.write_text(json.dumps(self._configurations[:trials]), encoding="utf-8")
        outcomes = [folder / f"outcome{i}.json" for i in range(len(scripts))]
        commands = [
            [sys.executable, HERE / name, configurations, outcome, *map(str, arguments)]
            for (name, *arguments), outcome in zip(scripts, outcomes, strict=True)
        ]
        seconds = self._sandbox.run(folder, *commands)
        found = [json.loads(outcome.read_text(encoding="utf-8")) for outcome in outcomes]
        return Run(
            seconds=seconds,
            running=max(f["finished"] for f in found) - min(f["started"] for f in found),
            trials={int(n): (end[0], end[1]) for f in found for n, end in f["trials"].items()},
            epochs=sum(f["epochs"] for f in found) if "epochs" in found[0] else None,
        )


def _same_outcomes(done: Round) -> None:
    """Fail unless every trial ended with the same accuracy and the same loss on every side, to the last bit."""
    for number, expected in done["ours"].trials.items():
        found = {s: run.trials.get(number) for s, run in done.items() if number < len(run.trials) or s != "stock"}
        if set(found.values()) != {expected}:
            raise SystemExit(f"trial {number} did not end alike everywhere, the comparison is void: {found}")


def _same_metrics(root: Path, trials: int) -> None:
    """Fail unless ours and stock delivered the same number of points of every metric of these trials' epochs."""
    which = "JOIN tags USING (run_uuid) WHERE tags.key = 'sparsestudy.trial' AND CAST(tags.value AS INTEGER) < ?"
    ours = _points(root / "ours" / "results" / "quickstart", which, trials)
    stock = _points(root / "stock")
    epochs = {key: points for key, points in ours.items() if not key.startswith(("best/", "final/", "trials/"))}
    found = {key: stock.get(key, 0) for key in epochs}
    if not epochs or found != epochs:
        raise SystemExit(f"MLflow got other metrics from ours, {epochs}, than from stock, {found}")


def _points(folder: Path, which: str = "", *values: int) -> dict[str, int]:
    query = f"SELECT metrics.key, count(*) FROM metrics {which} GROUP BY metrics.key"
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return dict(store.execute(query, values).fetchall())


def measure(trials: int, rounds: int, epochs: int | None, stock_trials: int) -> str:
    """Run everything; returns the page."""
    load = os.getloadavg()[0]
    with Sandbox() as sandbox:
        Workload(sandbox, trials=SLOTS, epochs=2, stock_trials=SLOTS).round("warming up")
        workload = Workload(sandbox, trials, epochs, stock_trials)
        done = [workload.round(f"round {i + 1} of {rounds}") for i in range(rounds)]
        return report(done, epochs=workload.epochs, slots=SLOTS, load=load)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="throughput", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=60, help="trials of each side (default: %(default)s)")
    parser.add_argument("--stock-trials", type=int, default=12, help="of them for (a) (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="epochs of a trial, for a quick look (default: the study file's)")
    parser.add_argument("--output", type=Path, help="page to write (default: throughput.md, nothing if --epochs)")
    arguments = parser.parse_args()
    few = min(arguments.trials, arguments.stock_trials) < SLOTS
    if few or min(arguments.rounds, arguments.epochs or 1) < 1:
        parser.error(f"at least one round of {SLOTS} trials of one epoch is needed")
    if (os.cpu_count() or 1) < SLOTS:
        parser.error(f"{SLOTS} trials at once need as many cores")
    if arguments.output is None and arguments.epochs is None:
        arguments.output = HERE / "throughput.md"
    return arguments


def main() -> int:
    """The command line."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        page = measure(arguments.trials, arguments.rounds, arguments.epochs, arguments.stock_trials)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    sys.stdout.write(page)
    if arguments.output:
        arguments.output.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
