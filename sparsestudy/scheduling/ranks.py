"""Processes that train one trial after another together, and end with the process that started them.

They are started with the first trial, which takes seconds, and kept for the next ones. Between two epochs they wait to
be asked for the next, so that nothing trains on while the study decides. What goes wrong in one of them ends all of
them and is reported once, as what it was: the others only ever notice that somebody is missing.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from sparsestudy.errors import CheckpointError, TrialFailedError
from sparsestudy.scheduling.rank import Report
from sparsestudy.scheduling.retries import FailureClass
from sparsestudy.snapshot import Snapshot
from sparsestudy.trial import Failure, Measurement, TrialConfig

PATIENCE_SECONDS = 600.0
"""A trial in which no process goes on for so long has stalled."""
GRACE_SECONDS = 2.0
"""What is waited for further reports when something has gone wrong, to tell the cause from what follows from it."""


class RankFailedError(TrialFailedError):
    """One of the processes of a trial failed.

    Attributes:
        failure: What went wrong there.
        kind: Its class.
    """

    def __init__(self, failure: Failure, kind: FailureClass) -> None:
        super().__init__(failure.message)
        self.failure, self.kind = failure, kind


class Ranks(ABC):
    """The processes, as the one that starts them sees them.

    Args:
        size: How many.
        device: ``cpu``, or ``cuda``: each has a GPU of its own.
        patience: Seconds after which a trial in which nothing goes on is given up.
    """

    def __init__(self, size: int, device: str = "cpu", patience: float = PATIENCE_SECONDS) -> None:
        self.size, self.device, self.patience = size, device, patience
        self._running = False

    def start(self, config: TrialConfig, **options: Any) -> JointTrainer:
        """Begin a trial; what was trained before is given up.

        Args:
            config: What to train.
            **options: Further arguments of every rank's `sparsestudy.training.loop.Trainer`.

        Raises:
            CheckpointError, RankFailedError: See `ask`.
        """
        if not self._running:
            self._spawn()
            self._running = True
        return JointTrainer(self, *self.ask("start", config.model_dump_json(), options))

    def ask(self, request: str, *arguments: Any) -> Any:
        """Have every rank do something, a method of `sparsestudy.scheduling.rank.Seat`; returns what the first answers.

        Raises:
            CheckpointError: The checkpoint that they were to go on from cannot be used. All have been ended.
            RankFailedError: One of them failed. All have been ended.
        """
        self._send(request, arguments)
        reports: dict[int, Report] = {}
        # Imports and data come before the first thing that they could wait for each other with.
        watch = _Watch(max(self.patience, PATIENCE_SECONDS) if request == "start" else self.patience)
        while len(reports) < self.size and not _failed(reports):
            reports |= self._receive(1.0)
            if len(reports) < self.size and (stalled := watch.stalled(self._beats())):
                self._fail(Report(failure=stalled, kind=FailureClass.INFRASTRUCTURE))
        if _failed(reports):
            deadline = time.monotonic() + GRACE_SECONDS
            while len(reports) < self.size and (left := deadline - time.monotonic()) > 0:
                reports |= self._receive(left)
            # The earliest, from which the others follow.
            self._fail(min(_failed(reports), key=lambda report: report.at))
        return reports[0].answer

    def stop(self) -> None:
        """End the processes; they have nothing to save."""
        self._kill()
        self._running = False

    def _fail(self, report: Report) -> NoReturn:
        self.stop()
        assert report.failure is not None
        if report.failure.kind == CheckpointError.__name__:
            raise CheckpointError(report.failure.message)
        raise RankFailedError(report.failure, report.kind)

    @abstractmethod
    def _spawn(self) -> None:
        """Start the processes."""

    @abstractmethod
    def _send(self, request: str, arguments: tuple[Any, ...]) -> None:
        """Ask all ranks."""

    @abstractmethod
    def _receive(self, seconds: float) -> dict[int, Report]:
        """What ranks that have not reported yet report within that time, by rank; a death is a report."""

    @abstractmethod
    def _beats(self) -> list[int]:
        """How often each rank has gone on so far."""

    @abstractmethod
    def _kill(self) -> None:
        """End the processes, if they run."""


def death(rank: int, size: int, how: str, at: float = 0.0) -> Report:
    """The report of a process that ended without one."""
    text = f"process {rank + 1} of {size} {how}; out of memory, killed, or crashed in native code"
    return Report(failure=Failure(kind="WorkerDied", message=text), kind=FailureClass.INFRASTRUCTURE, at=at)


class JointTrainer:
    """A trial that ranks train together; used as `sparsestudy.training.loop.Trainer` is, whose words these are.

    Args:
        ranks: They have been told to start.
        epochs: That were trained before.
        notes: Of the checkpoint they go on from.

    Attributes:
        done: Whether the latest measurement is the last one.
        epochs: How many have been trained, those before the checkpoint included.
        between_epochs: Whether an epoch has been trained, and no other one has begun.
        weights: Those that the configuration asks to keep, as a safetensors file, when it is done; empty if none.
    """

    def __init__(self, ranks: Ranks, epochs: int, notes: Mapping[str, Any]) -> None:
        self._ranks, self.epochs, self.notes = ranks, epochs, notes
        self.done = self.between_epochs = False
        self.weights = b""

    def __iter__(self) -> Iterator[Measurement]:
        while not self.done:
            self.between_epochs = False
            measurement, self.done, self.weights = self._ranks.ask("measure")
            self.between_epochs = True
            self.epochs = measurement.epoch + 1
            yield measurement

    def checkpoint(self, notes: Mapping[str, Any] | None = None) -> bytes:
        """What it takes to go on from here."""
        return bytes(self._call("checkpoint", notes))

    def snapshot(self) -> Snapshot:
        """What the network does with the probe sets."""
        found = self._call("snapshot")
        assert isinstance(found, Snapshot)
        return found

    def _call(self, name: str, *arguments: Any) -> Any:
        # If this ends the ranks, there is nothing to go on with.
        between, self.between_epochs = self.between_epochs, False
        answer = self._ranks.ask("call", name, *arguments)
        self.between_epochs = between
        return answer


class _Watch:
    """Notices that no process goes on. Each counts what it has come to; whoever lags behind is waited for."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seen: list[int] = []
        self._since = time.monotonic()

    def stalled(self, beats: list[int]) -> Failure | None:
        """What to say of it, None while they go on."""
        if beats != self._seen:
            self._seen, self._since = beats, time.monotonic()
        if time.monotonic() - self._since < self._patience:
            return None
        behind = [str(rank + 1) for rank, count in enumerate(beats) if count == min(beats)]
        text = f"nothing happened for {self._patience:g} s"
        if len(behind) < len(beats):
            text = f"{text}: process {', '.join(behind)} of {len(beats)} does not go on, and the others wait for it"
        return Failure(kind="WorkerStalled", message=text)


def _failed(reports: dict[int, Report]) -> list[Report]:
    return [report for report in reports.values() if report.failure is not None]
