"""What the throughput benchmark measured, and how its figures follow; `DEFINITIONS` defines every one of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median

SIDES = {"ours": "ours", "stock": "(a) stock", "bare": "(b) bare", "pair": "(b2) bare, two at once"}
PACKAGES = ("torch", "ray", "optuna", "mlflow", "numpy", "sparsestudy")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One side in one round.

    Attributes:
        seconds: Wall clock from process start to process end.
        running: Wall clock of the part in which trials run.
        trials: Trial number -> final validation accuracy and loss.
        epochs: Sum of the epochs' own seconds over all trials, where it is known.
        waited: What the first trial of each slot spent before its first epoch, in all; ours only.
    """

    seconds: float
    running: float
    trials: Mapping[int, tuple[float, float]]
    epochs: float | None = None
    waited: float = 0.0

    @property
    def rate(self) -> float:
        """Trials per minute."""
        return 60 * len(self.trials) / self.seconds

    @property
    def running_rate(self) -> float:
        """Trials per minute of the time in which trials run."""
        return 60 * len(self.trials) / self.running

    def overhead(self, slots: int, waited: float = 0.0) -> float:
        """Seconds a trial that the slots did not spend in epochs."""
        assert self.epochs is not None
        return (self.running * slots - waited - self.epochs) / len(self.trials)


Round = Mapping[str, Run]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of throughputs, and what it should reach."""

    name: str
    value: Callable[[Round], float]
    goal: float | None = None

    def row(self, rounds: Sequence[Round]) -> str:
        """Its line of the table; the median is held against the goal."""
        values = [self.value(one) for one in rounds]
        goal = "" if self.goal is None else f"at least {self.goal}: {self.verdict(median(values))}"
        return f"| {self.name} | {median(values):.2f} | {min(values):.2f} | {max(values):.2f} | {goal} |"

    def verdict(self, value: float) -> str:
        """Whether the goal is met, to the two digits that are shown."""
        assert self.goal is not None
        return "met" if round(value, 2) >= self.goal else "**missed**"


RATIOS = (
    Ratio(name="ours / (a)", value=lambda r: r["ours"].rate / r["stock"].rate, goal=1.5),
    Ratio(name="ours / (2 × (b))", value=lambda r: r["ours"].rate / (2 * r["bare"].rate), goal=0.8),
    Ratio(name="ours / (b2)", value=lambda r: r["ours"].rate / r["pair"].rate, goal=0.8),
    Ratio(name="ours / (a), trials running", value=lambda r: r["ours"].running_rate / r["stock"].running_rate),
    Ratio(name="ours / (b2), trials running", value=lambda r: r["ours"].running_rate / r["pair"].running_rate),
)

DEFINITIONS = """\
- **ours**: `sparsestudy run`, complete: Ray's start, ledger, MLflow delivery, outcome page, shutdown. Trials run from
  the first start to the last end in the ledger, which includes the start of the workers.
- **(a) stock**: what one would write with the same engines as they are (`stock.py`): Ray Tune with a function trainable
  that reports every epoch, OptunaSearch, MLflowLoggerCallback on SQLite, {slots} trials at once, defaults for the rest,
  except that it has no dashboard and samples at random, as ours. Trials run while `Tuner.fit` does. It trains the
  first {stock} of the trials only: its callback is so slow that all of them would take most of an hour a round.
- **(b) bare**: one process that trains the trials one after another, and records nothing (`bare.py`). Trials run while
  its loop does.
- **(b2) bare, two at once**: two such processes side by side, even trials and odd trials: all that two cores can do.
  Trials run from the first loop's start to the last one's end.
- **seconds**: wall clock from process start to process end. **trials per minute**: 60 × trials / seconds.
- **ours / (a)**: trials per minute of ours divided by those of (a), round by round; **ours / (2 × (b))** and
  **ours / (b2)** likewise, by twice those of (b) and by those of (b2). *Trials running*: the same from the seconds in
  which trials run. A goal is held against the median; a goal is a goal, and missing it fails nothing.
- **overhead a trial**: (seconds in which trials run × slots − sum of the epochs' own seconds) / trials. A slot that has
  run out of trials while another still trains counts as overhead. *Workers ready*: less what the first trial of each
  slot waited until its first epoch began. For (b), with one slot, it is the building of
  data and network, the first reading of the data included.
- Every side finds its modules compiled and on hand: an untimed small round goes before the first one.
"""


def report(rounds: Sequence[Round], *, epochs: int, slots: int, load: float) -> str:
    """The Markdown page.

    Args:
        rounds: What was measured.
        epochs: Epochs of a trial.
        slots: Trials at once, of ours and of stock.
        load: Load average of the machine before all this.
    """
    trials = len(rounds[0]["ours"].trials)
    measured = (
        "| side | seconds | of them trials running | trials per minute |\n| --- | --- | --- | --- |\n"
        + "\n".join(
            f"| {title} | {spread([r[side].seconds for r in rounds])} | {spread([r[side].running for r in rounds])} "
            f"| {spread([r[side].rate for r in rounds])} |"
            for side, title in SIDES.items()
        )
    )
    ratios = (
        "| ratio of trials per minute | median | min | max | goal |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(ratio.row(rounds) for ratio in RATIOS)
    )
    return "\n\n".join(
        [
            "# Throughput",
            "Written by `make bench`; to be read with its definitions below.",
            f"{trials} trials of {epochs} epochs, drawn once from `studies/quickstart.yaml` by its random sampler; "
            f"rounds: {len(rounds)}, interleaved, each side afresh in each. Median (minimum–maximum) over rounds.",
            measured,
            ratios,
            overheads(rounds, slots),
            f"All sides did the same work: the final validation accuracy and loss of each of the {trials} trials were "
            f"identical to the last bit on all sides that trained it, in all rounds, and the MLflow stores of ours and "
            f"(a) had the same number of points of every metric of an epoch.",
            machine(load),
            "## Definitions\n\n" + DEFINITIONS.format(slots=slots, stock=len(rounds[0]["stock"].trials)),
        ]
    )


def overheads(rounds: Sequence[Round], slots: int) -> str:
    """The table of what a trial costs beside its epochs."""
    ours = [r["ours"] for r in rounds]
    rows = {
        "ours": [run.overhead(slots) for run in ours],
        "ours, workers ready": [run.overhead(slots, run.waited) for run in ours],
        "(b) bare": [r["bare"].overhead(1) for r in rounds],
    }
    lines = [f"| {name} | {spread(values, 2)} |" for name, values in rows.items()]
    return "\n".join(["| overhead a trial | seconds |", "| --- | --- |", *lines])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        '2.0 (1.0–3.0)'
    """
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def machine(load: float) -> str:
    """What it was measured on, and when."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} cores ({platform.system()} {platform.machine()}), "
        f"load average {load:.1f} beforehand; Python {platform.python_version()}, {packages}."
    )
