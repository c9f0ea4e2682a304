"""What can be asked of a recorded study from outside: to stop, and to try failed trials again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsestudy.errors import ConflictError
from sparsestudy.launching import leased
from sparsestudy.recorded import open_study

STOP_SECONDS = 120.0
"""How long a driver may take to stop: it hears of it within seconds, and then delivers to MLflow what is left."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """What became of asking a study's driver to stop.

    Attributes:
        drivers: ``host:pid`` of whoever ran the study, or its finals; empty if nobody did.
        stopped: They have given it up.
        finished: Trials of the study that are finished.
        trials: All its trials.
    """

    drivers: Sequence[str]
    stopped: bool
    finished: int
    trials: int


def stop(name: str, *, wait: float = STOP_SECONDS, asked: Callable[[Sequence[str]], None] | None = None) -> Stop:
    """Ask whoever runs a study, on any machine, to stop in good order, and wait until it has.

    Args:
        name: A recorded study; its finals are stopped too.
        wait: Seconds to wait; 0 only asks.
        asked: Called with the drivers once they have been asked.

    Raises:
        NotFoundError: No such study.
    """
    with open_study(name) as study:
        family = [r.name for r in study.ledger.studies() if study.record.id in (r.id, r.parent)]
        found = {own: study.ledger.ask_to_stop(study.ledger.study(own)) for own in family}
        drivers = {own: driver for own, driver in found.items() if driver is not None}
        if drivers and asked:
            asked([*drivers.values()])
        deadline = time.monotonic() + wait

        def driven() -> bool:
            records = [study.ledger.study(own) for own in drivers]
            # Whoever takes it over from now on has not been asked.
            return any(record.stopping and record.driver == drivers[record.name] for record in records)

        while (going := driven()) and time.monotonic() < deadline:
            time.sleep(0.3)
        states = study.states()
        finished = sum(count for state, count in states.items() if state.finished)
        return Stop(drivers=[*drivers.values()], stopped=not going, finished=finished, trials=states.total())


def retry(name: str, numbers: Sequence[int] = (), *, failed: bool = False) -> list[int]:
    """Let failed trials wait for the next launch, with the same parameters and seed.

    Args:
        name: A recorded study.
        numbers: Of the trials.
        failed: All failed trials instead.

    Returns:
        Numbers of the trials that wait now and had failed.

    Raises:
        NotFoundError: No such study or trial.
        ConflictError: One of them has not failed, there is nothing to try again, or somebody is running the study.
    """
    if failed == bool(numbers):
        raise ConflictError("name the trials to try again by number, or say --failed for all that failed")
    with open_study(name) as study, leased(study) as lease:
        return study.ledger.retry(lease, None if failed else numbers)
