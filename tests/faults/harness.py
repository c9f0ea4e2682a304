"""One tiny study and what may happen to it: its processes, the moments of harm, and what was trained when.

A run owns a folder. It starts drivers with the command line of a user, waits for a moment, does harm, and starts the
same command again until the study is done. The network of the study writes down every training step, so that what was
trained twice, and when training went on, is counted where it happens and not where it is recorded.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml

from sparsestudy.tracking.ledger import Ledger
from tests.faults import clock, counted, processes

NAME, TRIALS, EPOCHS, STEPS, EVERY = "shaken", 8, 6, 3, 2
"""Of the study: name, trials, epochs of each, steps of an epoch, and epochs from checkpoint to checkpoint."""
SPEC: Mapping[str, Any] = {
    "name": NAME,
    "data": {"name": "digits", "train_size": 60, "splits": {"search": 50, "selection": 50, "test": 50}},
    "model": {"name": "tests.faults.counted:counted"},
    "training": {"epochs": EPOCHS, "batch_size": 20},
    "regularizers": [{"name": "none"}, {"name": "perplexity", "strength": {"log_uniform": [0.1, 1]}}],
    "search": {
        "sampler": "random",
        "arms": "balanced",
        "trials": TRIALS,
        "parameters": {"model.arguments.salt": {"uniform": [0, 1]}},
    },
    "checkpoints": {"seconds": None, "epochs": EVERY},
}
DATABASE = "SPARSESTUDY_DATABASE_URL"
LIMIT = 240.0
"""Seconds after which a launch counts as hanging."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When harm is done, told so that it does not depend on how busy the machine is.

    Attributes:
        epochs: After so many epochs have been begun by all trials together; 0: in the start, before the first.
        delay: So many seconds later; in the start, so many seconds of the driver's processor time after its birth.
    """

    epochs: int
    delay: float

    @classmethod
    def draw(cls, random: Random, begun: int = 0) -> Moment:
        """Anywhere: one in four in the start, one in eight in the end, when all epochs are trained.

        Args:
            random: The draw.
            begun: How many epochs have been; only what comes after them is drawn from.
        """
        total = TRIALS * EPOCHS
        phase = random.random()
        if phase < 1 / 4 and not begun:
            return cls(epochs=0, delay=random.uniform(0, 8))
        if phase > 7 / 8 or begun >= total:
            return cls(epochs=max(begun, total), delay=random.uniform(0, 1.5))
        return cls.amid(random, begun)

    @classmethod
    def amid(cls, random: Random, begun: int = 0) -> Moment:
        """While trials are being trained."""
        last = TRIALS * EPOCHS
        return cls(epochs=random.randrange(min(begun, last - 1), last) + 1, delay=random.uniform(0, 0.2))


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step: of which trial, known by its salt, in which process, and when (seconds, monotonic)."""

    trial: str
    pid: int
    at: float


@dataclass(frozen=True, kw_only=True)
class Strike:
    """Harm: when (seconds, monotonic), and which processes it ended."""

    at: float
    victims: frozenset[int]


@dataclass(kw_only=True)
class Run:
    """A study in a folder of its own.

    Attributes:
        folder: Where everything of the run is.
        environment: Of its processes, besides that of this one.
        command: Of the driver, before the arguments.
        strikes: Harm done so far.
        allowed: How many epochs of one trial may be trained twice.
        launches: Drivers started.
        around: Closed when the run has been checked: servers, file systems.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ("-m", "sparsestudy")
    strikes: list[Strike] = field(default_factory=list)
    allowed: int = 0
    launches: list[subprocess.Popen[bytes]] = field(default_factory=list)
    around: ExitStack = field(default_factory=ExitStack)

    @property
    def home(self) -> Path:
        """Of the studies."""
        return self.folder / "results"

    @property
    def study(self) -> Path:
        """The folder of the study."""
        return self.home / NAME

    @property
    def steps_folder(self) -> Path:
        """Where the network writes."""
        return self.folder / "steps"

    @property
    def uri(self) -> str:
        """Of the MLflow store."""
        return self.environment.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.study / 'mlflow.db'}"

    def drive(self) -> subprocess.Popen[bytes]:
        """Start a driver; what it says goes to a file."""
        self.steps_folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "shaken.yaml"
        file.write_text(yaml.safe_dump(dict(SPEC)), encoding="utf-8")
        with (self.folder / f"{len(self.launches)}.said").open("wb") as said:
            driver = subprocess.Popen(
                [sys.executable, *self.command, "run", str(file)],
                env={**os.environ, **self.own_environment()},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        processes.awaited(driver.pid)
        self.launches.append(driver)
        return driver

    def own_environment(self) -> dict[str, str]:
        """What processes of this run find in their environment."""
        ours = {
            "SPARSESTUDY_HOME": str(self.home),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "OMP_NUM_THREADS": "1",
            counted.LOG: str(self.steps_folder),
        }
        return {**ours, **self.environment}

    def said(self, launch: int = -1) -> str:
        """Everything that a driver has printed."""
        return (self.folder / f"{range(len(self.launches))[launch]}.said").read_text(errors="replace")

    def wait_for(self, moment: Moment) -> bool:
        """Wait; returns whether the last driver is still there."""
        driver = self.launches[-1]
        reached = self._started(moment) if not moment.epochs else self._trained(moment)
        assert processes.until(lambda: driver.poll() is not None or reached(), LIMIT), f"{moment}:\n{self.said()}"
        if moment.epochs:
            processes.until(lambda: driver.poll() is not None, moment.delay)
        return driver.poll() is None

    def _started(self, moment: Moment) -> Callable[[], bool]:
        pid = self.launches[-1].pid
        return lambda: bool(self.steps()) or processes.processor_seconds(pid) >= moment.delay

    def _trained(self, moment: Moment) -> Callable[[], bool]:
        return lambda: len(self.steps()) > STEPS * (moment.epochs - 1)

    def strike(self, *pids: int, number: signal.Signals = signal.SIGKILL, with_workers: bool = False) -> None:
        """Send a signal to processes, and note when.

        Args:
            pids: To whom.
            number: Which.
            with_workers: Whether all workers so far die of it too.
        """
        victims = {*pids, *({step.pid for step in self.steps()} if with_workers else ())}
        self.strikes.append(Strike(at=time.monotonic(), victims=frozenset(victims)))
        for pid in pids:
            processes.kill(pid, number)

    def finish(self, launches: int = 4) -> None:
        """Start the study again, unless it runs, until it is done and MLflow has everything."""
        for _ in range(launches):
            driver = self.launches[-1] if self.launches[-1].poll() is None else self.drive()
            code = driver.wait(LIMIT)
            if code == 0 and "MLflow lacks part of this study" not in self.said():
                return
        raise AssertionError(f"not done after {launches} more launches; exit code {code}:\n{self.said()}")

    def steps(self) -> list[Step]:
        """Training steps so far, in order."""
        return sorted(self._steps(), key=lambda step: step.at)

    def _steps(self) -> Iterator[Step]:
        for path in self.steps_folder.glob("*.steps"):
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith("\n"):  # the last one may not be whole yet
                    pid, at = line.split()
                    yield Step(trial=path.stem, pid=int(pid), at=int(at) / 1e9)

    def working(self) -> list[int]:
        """Workers that have trained something and are there, the latest first."""
        alive = processes.descendants()
        return [pid for pid in dict.fromkeys(step.pid for step in reversed(self.steps())) if pid in alive]

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Its ledger."""
        url = self.environment.get(DATABASE)
        ledger = Ledger(url) if url else Ledger.in_folder(self.study)
        try:
            yield ledger
        finally:
            ledger.close()

    def wrong_clock(self) -> Path:
        """Have the processes of this run follow the clock of a file, which is right until it is written."""
        self.environment[clock.FILE] = str(self.folder / "clock")
        self.command = ("-m", "tests.faults.clock")
        return self.folder / "clock"
