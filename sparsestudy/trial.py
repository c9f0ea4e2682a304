"""A trial: what it trains, how it stands, what its epochs yield, and how that is summed up.

`TrialConfig` is one point of a study's space with everything a training loop needs. `Measurement` is what one epoch of
a trial yields; a list of them is a trajectory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import (
    Field,
)

from sparsestudy.space import Scalar
from sparsestudy.study import NETWORK_METRICS, DataSpec, MeasuresSpec, ModelSpec, Section, TaskName, TrainingSpec


class TrialConfig(Section):
    """One point of a study's space plus a seed: all that a training loop needs, and nothing of the machinery."""

    study: str
    number: int = Field(ge=0)
    arm: str
    parameters: dict[str, Any] = Field(description="Searched values by parameter name, the arm included.")
    methods: tuple[dict[str, Any], ...] = Field(description="Keyword arguments of each regulariser, `method` included.")
    data: DataSpec
    model: ModelSpec
    training: TrainingSpec
    measures: MeasuresSpec
    seed: int = Field(ge=0, description="Seed of this trial's weights, shuffles and noise.")
    threads: int = Field(1, gt=0, description="Threads of one process; part of what makes numbers repeatable.")
    workers: int = Field(1, gt=0, description="Processes that train it together; rounding, and draws, depend on it.")
    device: Literal["cpu", "cuda"] = "cpu"
    keep: Literal["none", "best", "final"] = Field(
        "none", description="Which weights to keep: of the epoch of lowest validation loss, or of the last one."
    )
    task: TaskName = Field("classification", description="How its metrics are to be called; training asks the data.")


SEED = "training.seed"
"""The parameter that a study searches to train every configuration on several seeds."""


def without_seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    """What trials have in common that train the same configuration, of a `TrialConfig` as plain data."""
    kept = {key: value for key, value in config.items() if key not in ("number", "seed", "study")}
    kept["parameters"] = {key: value for key, value in config["parameters"].items() if key != SEED}
    kept["training"] = {key: value for key, value in config["training"].items() if key != "seed"}
    return kept


class TrialState(StrEnum):
    """Where a trial is in its life; the words are Optuna's."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to the trial."""
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a trial failed: the class of the error, its message, and the traceback of the worker."""

    kind: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial as recorded.

    Attributes:
        number: Counted from 0 within the study, in the order of suggestion.
        config: What it trains.
        state: Where it is in its life.
        values: Objective values in the order of the study's objectives; empty unless COMPLETE or PRUNED.
        epochs: How many epochs have been recorded.
        headlines: ``best/…`` and ``final/…`` values, for any trial with at least one epoch.
        failure: Set if the state is FAIL.
        attempts: How many times it was started.
        order: Position among finished trials, the order in which the search learnt of them.
        started, finished: Seconds since the epoch.
        run_id: Its MLflow run, once there is one.
        version: Of the study's spec, which it was suggested from.
    """

    number: int
    config: TrialConfig
    state: TrialState
    values: tuple[float, ...] = ()
    epochs: int = 0
    headlines: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    attempts: int = 0
    order: int | None = None
    started: float | None = None
    finished: float | None = None
    run_id: str | None = None
    version: int = 1


Statistics = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Split -> layer -> measure -> value; None where the measure is undefined.

Under ``train`` and ``validation`` stand the measures of layers on the probe set of that name. Measures of weights stand
under ``weights``, by the name of the weight without its ``.weight``. Those of outputs and of the network as a whole
stand under ``network``, by ``train`` or ``validation`` in the place of a layer.
"""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one epoch of a trial yields.

    Attributes:
        epoch: Counted from 0.
        train_loss, validation_loss: Network in evaluation mode, after the epoch. Classification: mean cross-entropy in
            nats. Regression: mean squared error, in units of the training targets' variance.
        train_accuracy, validation_accuracy: Classification: share of correct answers in [0, 1]. Regression: R², the
            coefficient of determination on the same examples: 1 is perfect, 0 is their mean as every answer, below 0
            is worse than that.
        penalty: Mean over the epoch's steps of what the regularisers added to the loss.
        learning_rate: At the last step of the epoch.
        seconds: Wall clock of the epoch, evaluation included.
        timestamp: When it was taken, milliseconds since 1970.
        statistics: All other measures, empty in epochs without measurement.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    penalty: float
    learning_rate: float
    seconds: float
    timestamp: int
    statistics: Statistics = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """The scalar metrics by the names users see; `SCALARS` lists them.

        The gap is validation loss minus train loss, and train accuracy minus validation accuracy: larger is worse.
        """
        return {
            "train/loss": self.train_loss,
            "train/accuracy": self.train_accuracy,
            "validation/loss": self.validation_loss,
            "validation/accuracy": self.validation_accuracy,
            "gap/loss": self.validation_loss - self.train_loss,
            "gap/accuracy": self.train_accuracy - self.validation_accuracy,
            "penalty": self.penalty,
        }

    def series(self, measure: str, split: str = "validation") -> dict[str, float]:
        """One measure by layer on one probe set, undefined values left out."""
        layers = self.statistics.get(split, {})
        return {layer: v for layer, values in layers.items() if (v := values.get(measure)) is not None}

    def value(self, metric: str, measure: str) -> float | None:
        """A metric that `objective_names` lists; None where it is undefined or was not measured.

        Args:
            metric: Without ``best/`` or ``final/``.
            measure: Of layers, whose mean is ``sparsity/mean``.
        """
        if metric == SPARSITY:
            layers = self.series(measure)
            return sum(layers.values()) / len(layers) if layers else None
        if metric in NETWORK_METRICS:
            return self.statistics.get("network", {}).get("validation", {}).get(NETWORK_METRICS[metric])
        return self.scalars()[metric]

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """The inverse of `to_dict`."""
        return cls(**data)


SCALARS = (
    "train/loss",
    "train/accuracy",
    "validation/loss",
    "validation/accuracy",
    "gap/loss",
    "gap/accuracy",
    "penalty",
)
SPARSITY = "sparsity/mean"
"""Mean over layers of the main measure on the validation probe set."""
MEASURED = (SPARSITY, *NETWORK_METRICS)
"""Metrics of measured epochs only."""


def objective_names() -> list[str]:
    """Every metric an objective may name."""
    return [f"{when}/{name}" for when in ("best", "final") for name in (*SCALARS, *MEASURED)]


def headlines(trajectory: Sequence[Measurement], measure: str) -> dict[str, float]:
    """Summarise a trajectory: ``best/…`` at the epoch of lowest validation loss, ``final/…`` at the last one.

    Args:
        trajectory: At least one measurement, in order of epochs.
        measure: The main measure; its value per layer appears under ``best/sparsity/LAYER``.

    Returns:
        Metric name to value; layers whose measure is undefined are left out.
    """
    best = min(trajectory, key=lambda m: (m.validation_loss, m.epoch))
    found: dict[str, float] = {"best/epoch": float(best.epoch), "final/epoch": float(trajectory[-1].epoch)}
    for when, at in (("best", best), ("final", trajectory[-1])):
        found |= {f"{when}/{name}": value for name, value in at.scalars().items()}
        measured = _measured_at_or_before(trajectory, at.epoch)
        found |= {f"{when}/sparsity/{layer}": value for layer, value in measured.series(measure).items()}
        known = {f"{when}/{name}": measured.value(name, measure) for name in MEASURED}
        found |= {name: value for name, value in known.items() if value is not None}
    return found


def _measured_at_or_before(trajectory: Sequence[Measurement], epoch: int) -> Measurement:
    measured = [m for m in trajectory if m.statistics]
    earlier = [m for m in measured if m.epoch <= epoch]
    return earlier[-1] if earlier else (measured or trajectory)[0]


def short_names(layers: Iterable[str]) -> dict[str, str]:
    """Shortest unambiguous name of each layer: as few trailing components as tell them apart.

    Example:
        >>> short_names(["features.conv1", "features.conv2"])
        {'features.conv1': 'conv1', 'features.conv2': 'conv2'}
        >>> short_names(["a.0.relu", "a.1.relu"])
        {'a.0.relu': '0.relu', 'a.1.relu': '1.relu'}
    """
    names = list(layers)
    depth = max((name.count(".") for name in names), default=0) + 1
    for parts in range(1, depth + 1):
        short = [".".join(name.split(".")[-parts:]) for name in names]
        if len(set(short)) == len(names):
            return dict(zip(names, short, strict=True))
    return {name: name for name in names}


def trial_label(config: TrialConfig) -> str:
    """A name a person recognises a trial by, such as ``perplexity·λ0.12·conv2 τ0.35``, and whose λ it is."""
    parts = [config.arm]
    for method in config.methods:
        owner = f"{method['method']} " if len(config.methods) > 1 else ""
        strength = method.get("strength")
        if isinstance(strength, Mapping):
            parts.append(f"{owner}λ" + "/".join(f"{v:.3g}" for v in strength.values()))
        elif strength is not None:
            parts.append(f"{owner}λ{strength:.3g}")
        targets = method.get("targets") or {}
        parts += [f"{short} τ{targets[layer]:.2g}" for layer, short in short_names(targets).items()]
    parts += [f"{k.rpartition('.')[2]} {_brief(v)}" for k, v in config.parameters.items() if "." in k and "/" not in k]
    own = {k: v for k, v in config.parameters.items() if "/" in k and not {"strength", "targets"} & {*k.split("/")}}
    parts += [f"{k.rpartition('/')[2]} {_brief(v)}" for k, v in own.items()]
    return "·".join(parts)


def _brief(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
