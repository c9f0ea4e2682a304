"""Does the driver keep up with a large study? What one suggestion, one end and one launch cost with 10,000 trials.

A ledger is written first with trials of a search by TPE over two arms of 20 parameters each; every suggestion therefore
draws 22 values. Then the search is launched on it and goes on. Goals are of processor time in one thread, which is the
wall clock on a free core; the wall clock stands beside it.

``reporters`` counts: 100 threads, each with a trial and a connection of its own, write measurements into one ledger on
a PostgreSQL server at once.

Usage: ``python -m tests.benchmarks.load [asks|reporters]``
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import create_engine, insert

from sparsestudy.scheduling.search import StudySearch
from sparsestudy.space import ARM, Parameter, Scalar, SearchSpace, Uniform
from sparsestudy.study import StudySpec
from sparsestudy.tracking.leases import Lease
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.tracking.tables import TRIALS
from sparsestudy.trial import Measurement, TrialConfig, TrialState
from tests.servers import postgres

SIZES = (100, 1_000, 5_000, 10_000)
GOAL_MILLISECONDS, GOAL_LAUNCH_SECONDS = 150.0, 20.0
OBJECTIVES = [{"metric": "final/validation/accuracy", "direction": "maximize"}]
SPEC = StudySpec.from_dict(
    {
        "name": "load",
        "regularizers": [{"name": "none"}],
        "search": {"sampler": "tpe", "trials": 20_000, "objectives": OBJECTIVES},
    }
)
ARMS = ("perplexity", "dropout")
SPACE = SearchSpace(
    arms=ARMS,
    parameters=(
        Parameter(name="training.optimizer.lr", domain=Uniform(low=0.001, high=0.1, log=True)),
        *(
            Parameter(name=f"{arm}/targets/conv{i}", domain=Uniform(low=0.0, high=1.0), arm=arm)
            for arm in ARMS
            for i in range(20)
        ),
    ),
)


def configure(number: int, parameters: Mapping[str, Scalar], seed: int) -> TrialConfig:
    """What a trial trains; nobody trains it."""
    return TrialConfig(
        study=SPEC.name,
        number=number,
        arm=str(parameters[ARM]),
        parameters=dict(parameters),
        methods=(),
        data=SPEC.data,
        model=SPEC.model,
        training=SPEC.training,
        measures=SPEC.measures,
        seed=seed,
    )


def worth(parameters: Mapping[str, Scalar], random: np.random.Generator) -> float:
    """A made-up accuracy."""
    own = [float(str(v)) for name, v in parameters.items() if "targets" in name]
    return float(1 - sum((x - 0.5) ** 2 for x in own) / 10 + 0.05 * random.standard_normal())


def measurement(epoch: int, accuracy: float) -> Measurement:
    """An epoch with the statistics of 20 layers."""
    layers = {f"conv{i}": {"perplexity": 0.5, "zero_fraction": 0.25} for i in range(20)}
    losses = {"train_loss": 1.0, "validation_loss": 1.0, "train_accuracy": 1.0, "validation_accuracy": accuracy}
    rest = {"penalty": 0.0, "learning_rate": 0.1, "seconds": 0.1, "timestamp": epoch}
    return Measurement.from_dict({"epoch": epoch, **losses, **rest, "statistics": {"validation": layers}})


def write(ledger: Ledger, trials: int) -> Lease:
    """A study with so many complete trials."""
    lease = ledger.lease(ledger.create_study(SPEC.name, SPEC))
    random = np.random.default_rng(0)
    rows = []
    for number in range(trials):
        arm = ARMS[number % 2]
        point = {ARM: arm, **{p.name: float(random.uniform(0.001, 0.1)) for p in SPACE.active(arm)}}
        point |= {name: 10 * value for name, value in point.items() if "targets" in name}
        config = configure(number, point, number).model_dump(mode="json")
        rows.append(
            {
                "study_id": lease.study_id,
                "number": number,
                "config": config,
                "state": "COMPLETE",
                "values": [worth(point, random)],
                "epochs": 50,
                "headlines": {},
                "order": number,
                "delivered": True,
            }
        )
    engine = create_engine(ledger.url)
    with engine.begin() as connection:
        connection.execute(insert(TRIALS), rows)
    engine.dispose()
    return lease


def timed(action: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returned, its processor seconds and its seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = action()
    return result, time.process_time() - processor, time.perf_counter() - wall


def asks(folder: Path, size: int, count: int) -> tuple[str, bool]:
    """A line of the table, and whether the goals are met: launch on a ledger, then ask and tell so many times."""
    with closing(Ledger.in_folder(folder)) as ledger:
        lease = write(ledger, size)
        search, launch, launch_wall = timed(lambda: StudySearch(SPEC, SPACE, configure, lease))
        random, seconds = np.random.default_rng(1), []
        for _ in range(count):
            (config, _), ask, ask_wall = timed(search.ask)
            parcel = [measurement(e, worth(config.parameters, random)) for e in range(2)]
            _, record, _ = timed(lambda: search.record(config.number, parcel))  # noqa: B023
            _, tell, tell_wall = timed(lambda: search.finish(config.number, TrialState.COMPLETE))  # noqa: B023
            seconds.append((ask, tell, record, ask + tell, ask_wall + tell_wall))
        ready = []
        for _ in range(count):
            search.prepare(1)
            (config, _), prepared, _ = timed(search.ask)
            ready.append(1000 * prepared)
            search.finish(config.number, TrialState.FAIL)
    milliseconds = 1000 * np.array(seconds)
    ask, tell, record, both, wall = np.median(milliseconds, axis=0)
    slow, slow_wall = np.quantile(milliseconds[:, 3], 0.95), np.quantile(milliseconds[:, 4], 0.95)
    cells = f"{launch:.1f} | {launch_wall:.1f} | {ask:.0f} | {tell:.1f} | {record:.1f} | {both:.0f} | {slow:.0f}"
    line = f"| {size} | {cells} | {wall:.0f} | {slow_wall:.0f} | {np.median(ready):.1f} |"
    return line, bool(slow <= GOAL_MILLISECONDS and launch <= GOAL_LAUNCH_SECONDS)


def run_asks(sizes: Sequence[int], count: int) -> None:
    """The table of all sizes."""
    say(
        "| recorded trials | launch, s of a processor | s | ask, ms of a processor, median | tell | record 2 epochs "
        "| ask + tell | p95 | ask + tell, ms, median | p95 | ask, prepared |\n" + "| --- " * 11 + "|"
    )
    met = True
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="load-") as folder:
            line, fine = asks(Path(folder), size, count)
        say(line)
        met = met and fine
    say(f"\ngoals ({GOAL_MILLISECONDS:.0f} ms at p95, {GOAL_LAUNCH_SECONDS:.0f} s) {'met' if met else 'missed'}")


def run_reporters(reporters: int, parcels: int, epochs: int) -> None:
    """All write at once; then count."""
    with postgres() as server:
        url = server.database()
        with closing(Ledger(url)) as ledger:
            lease = ledger.lease(ledger.create_study(SPEC.name, SPEC))
            ledger.add_trials(lease, [configure(n, {ARM: ARMS[0]}, n) for n in range(reporters)])
            attempts = [ledger.start(lease, n) for n in range(reporters)]

        def report(number: int) -> list[float]:
            waited = []
            with closing(Ledger(url)) as own:
                mine = Lease(ledger=own, study_id=lease.study_id, study=lease.study, fence=lease.fence)
                for first in range(0, parcels * epochs, epochs):
                    parcel = [measurement(e, number / 1000) for e in range(first, first + epochs)]
                    started = time.perf_counter()
                    own.record(mine, number, attempts[number], parcel)
                    waited.append(time.perf_counter() - started)
            return waited

        started = time.perf_counter()
        with ThreadPoolExecutor(reporters) as pool:
            waited = np.array([*pool.map(report, range(reporters))]).ravel()
        seconds = time.perf_counter() - started
        with closing(Ledger(url)) as ledger:
            found = [ledger.trajectory(lease.study_id, number) for number in range(reporters)]
    wanted = [[measurement(e, n / 1000) for e in range(parcels * epochs)] for n in range(reporters)]
    written = sum(len(trajectory) for trajectory in found)
    say(
        f"{reporters} reporters, each {parcels} parcels of {epochs} epochs: {written} of "
        f"{reporters * parcels * epochs} measurements recorded, {'all' if found == wanted else '**not all**'} as "
        f"they were reported; {seconds:.1f} s, {len(waited) / seconds:.0f} parcels a second, a parcel "
        f"{1000 * np.median(waited):.0f} ms in the median, {1000 * np.quantile(waited, 0.95):.0f} ms at p95"
    )
    assert found == wanted


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run one part, or both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["asks", "reporters"], nargs="?")
    parser.add_argument("--count", type=int, default=40, help="suggestions at each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="recorded trials")
    given = parser.parse_args()
    if given.part != "reporters":
        run_asks(given.sizes, given.count)
    if given.part != "asks":
        run_reporters(reporters=100, parcels=10, epochs=2)


if __name__ == "__main__":
    main()
