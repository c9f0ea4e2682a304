"""What a running study looks like from outside: numbers for a display, and nothing that draws."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from sparsestudy.study import ObjectiveSpec
from sparsestudy.trial import Trial, TrialState, trial_label
from sparsestudy.words import called


@dataclass(kw_only=True)
class Progress:
    """Kept up to date by the executor, read by whoever displays it.

    Attributes:
        study: Name of the study.
        total: Trials of the whole study.
        epochs: Epochs of a full trial.
        objective: The first objective.
        running: Number of each running trial -> (label, epochs done).
        states: Finished trials by state, those of earlier launches included.
        best: The best COMPLETE trial so far.
        slots: Trials that may run at once.
        phase: What is going on, in a word or two.
    """

    study: str
    total: int
    epochs: int
    objective: ObjectiveSpec
    running: dict[int, tuple[str, int]] = field(default_factory=dict)
    states: Counter[TrialState] = field(default_factory=Counter)
    best: Trial | None = None
    slots: int = 0
    phase: str = "starting"
    started: float = field(default_factory=time.monotonic)
    _finished_here: int = 0
    _epochs_here: int = 0

    @property
    def finished(self) -> int:
        """Trials that are over, in this launch or before."""
        return sum(self.states.values())

    @property
    def elapsed(self) -> float:
        """Seconds since this launch."""
        return time.monotonic() - self.started

    @property
    def epochs_per_second(self) -> float:
        """Throughput of this launch."""
        return self._epochs_here / self.elapsed if self.elapsed else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time left, None before the first trial of this launch is over."""
        if not self._finished_here:
            return None
        partial = sum(done / self.epochs for _, done in self.running.values())
        return max(0.0, self.total - self.finished - partial) * self.elapsed / (self._finished_here + partial)

    def on_recorded(self, trial: Trial) -> None:
        """Count a trial that an earlier launch finished."""
        self.states[trial.state] += 1
        self._consider(trial)

    def on_start(self, number: int, label: str) -> None:
        """A trial starts."""
        self.running[number] = (label, 0)
        self.phase = "running"

    def on_epochs(self, number: int, done: int, trained: int) -> None:
        """A trial has done this many epochs, so many of them since it last said so."""
        label, _ = self.running[number]
        self.running[number] = (label, done)
        self._epochs_here += trained

    def on_retry(self, number: int) -> None:
        """A trial's attempt failed, and it will start again."""
        self.running.pop(number, None)

    def on_finish(self, trial: Trial) -> None:
        """A trial is over."""
        self.running.pop(trial.number, None)
        self._finished_here += 1
        self.on_recorded(trial)

    def _consider(self, trial: Trial) -> None:
        if trial.state is not TrialState.COMPLETE:
            return
        sign = 1 if self.objective.direction == "maximize" else -1
        if self.best is None or sign * trial.values[0] > sign * self.best.values[0]:
            self.best = trial

    def describe_best(self) -> str:
        """The best trial in words, empty before there is one."""
        if self.best is None:
            return ""
        label, metric = trial_label(self.best.config), called(self.objective.metric, self.best.config.task)
        return f"{metric} {self.best.values[0]:.4g}  trial {self.best.number}  {label}"
