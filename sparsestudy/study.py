"""The vocabulary: what a study asks for, what a trial is, and what an epoch yields.

`StudySpec` is the study file, parsed and frozen. `TrialConfig` is one point of its search space with everything a
training loop needs. `Measurement` is what one epoch of a trial yields; a list of them is a trajectory. None of these
know how a study is scheduled, recorded or trained.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
)

from sparsestudy.errors import listing, shown, suggest
from sparsestudy.space import DOMAIN_KEYS, Choice, Domain, Integer, Scalar, Uniform, looks_like_domain, parse_domain

AUTO = "auto"
"""Spelled in place of a value: search the range the method itself recommends."""

_NUMBER_PAIR = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
DOMAIN_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A domain to search: uniform, log_uniform, int or choice.",
    "properties": {
        "uniform": _NUMBER_PAIR,
        "log_uniform": _NUMBER_PAIR,
        "int": {**_NUMBER_PAIR, "items": {"type": "integer"}},
        "choice": {"type": "array", "minItems": 1},
        "step": {"type": "number", "exclusiveMinimum": 0},
    },
    "oneOf": [{"required": [key]} for key in DOMAIN_KEYS],
    "additionalProperties": False,
}
_AUTO_SCHEMA = {"const": AUTO, "description": "The range the method itself recommends."}


def _to_yaml(value: Any) -> Any:
    if isinstance(value, Uniform | Integer | Choice):
        return value.to_yaml()
    if isinstance(value, Mapping):
        return {key: _to_yaml(item) for key, item in value.items()}
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _value(value: Any) -> Any:
    if isinstance(value, Uniform | Integer | Choice):
        return value
    return parse_domain(value) if looks_like_domain(value) else _finite(value)


def _finite(value: Any) -> Any:
    """Refuse .inf and .nan at any depth: JSON, and with it every record of a study, has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"needs finite numbers, got {shown(value)}")
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _finite(item)
    return value


def _domain(value: Any) -> Domain:
    if isinstance(value, Uniform | Integer | Choice):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"needs a domain ({listing(DOMAIN_KEYS)}), got {shown(value)}")
    return parse_domain(value)


def _number_or_domain(value: Any) -> Any:
    parsed = _value(value)
    if isinstance(parsed, Choice):
        wrong = [v for v in parsed.values if not _is_number(v)]
        if wrong:
            raise ValueError(f"every choice must be a number here, got {shown(wrong[0])}")
        return parsed
    if isinstance(parsed, Uniform | Integer) or parsed == AUTO or _is_number(parsed):
        return parsed
    hint = suggest(parsed, [AUTO]) if isinstance(parsed, str) else ""
    raise ValueError(f"needs a number, a domain ({listing(DOMAIN_KEYS)}) or auto, got {shown(parsed)}{hint}")


def _strength(value: Any) -> Any:
    if isinstance(value, Mapping) and not looks_like_domain(value):
        if not value:
            raise ValueError("an empty table of layer patterns; give a number, a domain, or pattern: value pairs")
        found, wrong = {}, []
        for pattern, item in value.items():
            try:
                found[str(pattern)] = _number_or_domain(item)
            except ValueError as error:
                wrong.append(f"{str(pattern)!r} {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return found
    return _number_or_domain(value)


def _target(value: Any) -> Any:
    parsed = _number_or_domain(value)
    corners: list[Any] = parsed.corners() if isinstance(parsed, Uniform | Integer | Choice) else [parsed]
    wrong = [corner for corner in corners if _is_number(corner) and not 0 <= corner < 1]
    if wrong:
        raise ValueError(f"a sparsity target lies in [0, 1), got {shown(wrong[0])}")
    return parsed


_NUMBER_OR_DOMAIN_SCHEMA = {"anyOf": [{"type": "number"}, _AUTO_SCHEMA, DOMAIN_SCHEMA]}
_TARGET_SCHEMA = {"anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1}, _AUTO_SCHEMA, DOMAIN_SCHEMA]}
_PER_LAYER_SCHEMA = {
    "type": "object",
    "description": "Layer pattern: a number, a domain or auto.",
    "minProperties": 1,
    "propertyNames": {"not": {"enum": [*DOMAIN_KEYS]}},
    "additionalProperties": _NUMBER_OR_DOMAIN_SCHEMA,
}
_SERIALIZE = PlainSerializer(_to_yaml)
Value = Annotated[Any, BeforeValidator(_value), _SERIALIZE, WithJsonSchema({"anyOf": [{}, DOMAIN_SCHEMA]})]
DomainValue = Annotated[Any, BeforeValidator(_domain), _SERIALIZE, WithJsonSchema(DOMAIN_SCHEMA)]
Strength = Annotated[
    Any,
    BeforeValidator(_strength),
    _SERIALIZE,
    WithJsonSchema({"anyOf": [*_NUMBER_OR_DOMAIN_SCHEMA["anyOf"], _PER_LAYER_SCHEMA]}),
]
Target = Annotated[Any, BeforeValidator(_target), _SERIALIZE, WithJsonSchema(_TARGET_SCHEMA)]


Arguments = Annotated[dict[str, Any], AfterValidator(_finite)]


def _one_or_many(value: Any) -> Any:
    # A list stands for a tuple in JSON, but not once a validator has looked at it.
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _no_duplicates(value: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for i, name in enumerate(value) if name in value[:i]]
    if twice:
        raise ValueError(f"{twice[0]!r} stands twice; keep one")
    return value


Patterns = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_many),
    AfterValidator(_no_duplicates),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Section(BaseModel):
    """Base of every part of a study file: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read plain data, as a study file or a record has it: lists stand for tuples, all else is strict."""
        return cls.model_validate_json(json.dumps(data))


class SplitSpec(Section):
    """How many examples each evaluation split holds: a count (``400``) or a fraction of the pool (``0.2``)."""

    search: float = Field(0.2, gt=0, description="Split the search looks at, called validation in every metric.")
    selection: float = Field(0.2, gt=0, description="Split that chooses between finalists.")
    test: float = Field(0.2, gt=0, description="Split reported once; data sets with an official test set use that.")


class DataSpec(Section):
    """Which data, how much of it, and how much of it is wrong."""

    name: str = Field("digits", description="Built-in name, or package.module:function returning (inputs, labels).")
    arguments: Arguments = Field({}, description="Keyword arguments of the loader, such as root or resize.")
    train_size: int | None = Field(None, gt=0, description="Training examples; null: all that the splits leave.")
    label_noise: float = Field(0.0, ge=0, lt=1, description="Share of training labels replaced by a wrong class.")
    splits: SplitSpec = Field(SplitSpec(), description="Sizes of the evaluation splits, all stratified by class.")
    seed: int = Field(0, ge=0, description="Seed of splits and label noise; the same for every trial.")


class ModelSpec(Section):
    """Which network."""

    name: str = Field("convnet", description="mlp, convnet, torchvision:NAME, or package.module:function.")
    arguments: Arguments = Field({}, description="Keyword arguments of the model.")


class OptimizerSpec(Section):
    """How weights move. Weight decay is a regulariser here, not an option of the optimiser."""

    name: Literal["sgd", "adam"] = Field("sgd", description="sgd or adam.")
    lr: float = Field(0.05, gt=0, description="Learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd, beta1 of adam.")
    nesterov: bool = Field(False, description="Nesterov momentum (sgd only).")


class ScheduleSpec(Section):
    """How the learning rate changes; a factor on `OptimizerSpec.lr`, updated every step."""

    name: Literal["constant", "cosine", "step"] = Field("constant", description="constant, cosine (to zero) or step.")
    warmup_epochs: int = Field(0, ge=0, description="Epochs of linear warm-up from zero.")
    every: int = Field(30, gt=0, description="Epochs between drops (step only).")
    factor: float = Field(0.1, gt=0, lt=1, description="Factor of one drop (step only).")


class TrainingSpec(Section):
    """How a trial trains."""

    epochs: int = Field(50, gt=0, description="Epochs of a full trial.")
    batch_size: int = Field(64, gt=0, description="Examples a step; the last, smaller batch of an epoch is kept.")
    optimizer: OptimizerSpec = Field(OptimizerSpec(), description="Optimiser and its learning rate.")
    schedule: ScheduleSpec = Field(ScheduleSpec(), description="Learning-rate schedule.")
    precision: Literal["float32", "bfloat16", "float64"] = Field("float32", description="bfloat16 means autocast.")
    seed: int = Field(0, ge=0, description="The study seed; every trial's own seed is derived from it.")


class MethodSpec(Section):
    """One regularisation method. Further keys are the method's own parameters, each a value or a domain."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Value]

    method: str = Field("", description="Name of the method; an arm's name stands in for it.")
    strength: Strength = Field(None, description="A number, a domain, auto, or layer pattern: one of these.")
    targets: dict[str, Target] = Field({}, description="Layer pattern -> sparsity target in [0, 1), or a domain.")
    layers: Patterns | None = Field(None, description="Layer patterns the method acts on; default: all.")

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's own parameters as written."""
        return dict(self.model_extra or {})

    def template(self) -> dict[str, Any]:
        """Everything but the method's name, as written, absent keys left out."""
        given: dict[str, Any] = {} if self.strength is None else {"strength": self.strength}
        if self.targets:
            given["targets"] = dict(self.targets)
        if self.layers is not None:
            given["layers"] = self.layers
        return {**given, **self.parameters}


class ArmSpec(MethodSpec):
    """One arm of the study: a method, or several combined."""

    name: str = Field(min_length=1, max_length=80, description="Label of the arm; its method unless that is given.")
    combine: tuple[MethodSpec, ...] = Field((), description="Several methods used together in this arm.")

    @field_validator("name")
    @classmethod
    def _no_slash(cls, name: str) -> str:
        if "/" in name:
            raise ValueError(f"a label has no '/', got {name!r}")
        return name

    @property
    def methods(self) -> tuple[MethodSpec, ...]:
        """The methods of this arm, one or several."""
        if self.combine:
            return self.combine
        return (MethodSpec(method=self.method or self.name, **self.template()),)

    def templates(self) -> dict[str, dict[str, Any]]:
        """Template of each method by the prefix of its parameters: ``arm``, or ``arm/method`` in a combination."""
        if not self.combine:
            return {self.name: self.template()}
        return {f"{self.name}/{method.method}": method.template() for method in self.combine}


class ObjectiveSpec(Section):
    """What the search optimises: a headline value of a trial."""

    metric: str = Field(
        "best/validation/accuracy",
        description="best/… (value at the epoch of lowest validation loss) or final/… and a scalar metric.",
    )
    direction: Literal["minimize", "maximize"] = Field("maximize", description="minimize or maximize.")

    @property
    def per_epoch(self) -> str:
        """The metric an epoch reports, without ``best/`` or ``final/``."""
        return self.metric.partition("/")[2]


class SearchSpec(Section):
    """How the space is searched."""

    sampler: Literal["tpe", "random", "grid", "qmc", "cmaes", "gp"] = Field("tpe", description="Search algorithm.")
    trials: int | None = Field(None, gt=0, description="Number of trials; a grid has as many as it has points.")
    arms: Literal["searched", "balanced"] = Field(
        "searched", description="searched: the sampler picks the arm; balanced: arms take turns."
    )
    objectives: tuple[ObjectiveSpec, ...] = Field(
        (ObjectiveSpec(),), min_length=1, description="One or several objectives; several give a Pareto front."
    )
    parameters: dict[str, DomainValue] = Field(
        {}, description="Further hyperparameters: dotted path below training, model.arguments or data -> domain."
    )


class StoppingSpec(Section):
    """When a trial is stopped before its last epoch."""

    rule: Literal["none", "asha"] = Field("none", description="none, or asha (asynchronous successive halving).")
    grace_epochs: int = Field(5, gt=0, description="No trial is stopped before this many epochs.")
    reduction_factor: int = Field(3, gt=1, description="One in this many trials survives each rung.")


class ResourcesSpec(Section):
    """What one trial occupies."""

    cpus: int = Field(1, gt=0, description="CPU cores, and threads, of one trial.")
    gpus: float = Field(0, ge=0, description="GPUs of one trial; fractions share a GPU.")
    workers: int = Field(1, gt=0, description="Processes of one trial.")
    concurrent: int | None = Field(None, gt=0, description="Most trials at once; default: as many as fit.")


class MeasuresSpec(Section):
    """What is measured inside the network, where, and how often."""

    names: Patterns = Field(("perplexity", "zero_fraction", "dead_fraction"), description="Statistics of a layer.")
    main: str = Field("perplexity", description="The statistic shown as one series per layer.")
    layers: Patterns = Field(("*",), description="Layer patterns.")
    every: int = Field(1, gt=0, description="Epochs between measurements; the last epoch is always measured.")
    probe_size: int = Field(256, gt=1, description="Fixed images of each probe set (training, validation).")


class SelectionSpec(Section):
    """How the configuration to ship is chosen; read by the selection step, changes no trial."""

    finalists: int = Field(3, gt=0, description="Configurations re-run on fresh seeds.")
    seeds: int = Field(3, gt=0, description="Fresh seeds per finalist.")
    rule: Literal["mean", "lower_bound", "probability_best"] = Field("mean", description="What decides.")


class BudgetSpec(Section):
    """How much may be spent; changes no trial."""

    minutes: float | None = Field(None, gt=0, description="Wall clock of one launch after which no trial is started.")


class StudySpec(Section):
    """A study: one question, one search space, one budget. Equal files have equal `digest`."""

    name: Name = Field(description="Name of the study: letters, digits, '.', '_', '-'.")
    question: str = Field("", description="What the study is to find out, in one sentence.")
    data: DataSpec = Field(DataSpec(), description="Data.")
    model: ModelSpec = Field(ModelSpec(), description="Network.")
    training: TrainingSpec = Field(TrainingSpec(), description="Training.")
    regularizers: tuple[ArmSpec, ...] = Field(min_length=1, description="The arms of the study.")
    search: SearchSpec = Field(SearchSpec(), description="Search.")
    stopping: StoppingSpec = Field(StoppingSpec(), description="Early stopping of trials.")
    measures: MeasuresSpec = Field(MeasuresSpec(), description="What is measured inside the network.")
    selection: SelectionSpec = Field(SelectionSpec(), description="Choice of the winner.")
    resources: ResourcesSpec = Field(ResourcesSpec(), description="What one trial occupies.")
    budget: BudgetSpec = Field(BudgetSpec(), description="What may be spent.")

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain data, defaults left out; `from_dict` reads it back to an equal spec."""
        return json.loads(self.model_dump_json(exclude_defaults=True))  # type: ignore[no-any-return]

    def identity(self) -> dict[str, Any]:
        """The part that changes results: names, machines, budget and the choice of a winner are left out."""
        return {k: v for k, v in self.to_dict().items() if k not in UNIDENTIFYING}

    @property
    def digest(self) -> str:
        """Hash of `identity`: 16 hexadecimal digits, the same for any spelling of the same study."""
        return digest(self.identity())


UNIDENTIFYING = ("name", "question", "resources", "budget", "selection")


def digest(value: Any) -> str:
    """Hash plain data: 16 hexadecimal digits that depend neither on the order of keys nor on 1 being written 1.0."""
    text = json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**31) that depends on all parts and on nothing else.

    Example:
        >>> derive_seed(0, "trial", 3) == derive_seed(0, "trial", 3) != derive_seed(0, "trial", 4)
        True
    """
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


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
    device: Literal["cpu", "cuda"] = "cpu"


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


Statistics = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Probe set (``train`` or ``validation``) -> layer -> measure -> value; None where the measure is undefined."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one epoch of a trial yields.

    Attributes:
        epoch: Counted from 0.
        train_loss, validation_loss: Mean cross-entropy in nats, network in evaluation mode, after the epoch.
        train_accuracy, validation_accuracy: Share of correct answers in [0, 1].
        penalty: Mean over the epoch's steps of what the regularisers added to the loss.
        learning_rate: At the last step of the epoch.
        seconds: Wall clock of the epoch, evaluation included.
        timestamp: When it was taken, milliseconds since 1970.
        statistics: Per-layer measures, empty in epochs without measurement.
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
        """A scalar metric, or ``sparsity/mean`` of a measure; None where that is undefined or was not measured."""
        if metric == SPARSITY:
            layers = self.series(measure)
            return sum(layers.values()) / len(layers) if layers else None
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


def objective_names() -> list[str]:
    """Every metric an objective may name."""
    return [f"{when}/{name}" for when in ("best", "final") for name in (*SCALARS, SPARSITY)]


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
        mean = measured.value(SPARSITY, measure)
        if mean is not None:
            found[f"{when}/{SPARSITY}"] = mean
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
    """A name a person recognises a trial by, such as ``perplexity·λ0.12·conv2 τ0.35``."""
    parts = [config.arm]
    for method in config.methods:
        strength = method.get("strength")
        if isinstance(strength, Mapping):
            parts.append("λ" + "/".join(f"{v:.3g}" for v in strength.values()))
        elif strength is not None:
            parts.append(f"λ{strength:.3g}")
        targets = method.get("targets") or {}
        parts += [f"{short} τ{targets[layer]:.2g}" for layer, short in short_names(targets).items()]
    parts += [f"{k.rpartition('.')[2]} {_brief(v)}" for k, v in config.parameters.items() if "." in k and "/" not in k]
    return "·".join(parts)


def _brief(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
