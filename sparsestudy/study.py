"""The study file, parsed and frozen: what a study asks for.

`StudySpec` knows how it is spelled and what identifies it, not how a study is scheduled, recorded or trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from sparsestudy.values import Arguments, DomainValue, Name, Patterns, Strength, Target, Value

TaskName = Literal["classification", "regression"]
"""What labels ask of a network: the class of an example, or a number. It follows from their type, not a setting."""


NETWORK_METRICS = {"compute/skipped": "skipped_compute"}
"""Metrics that a measure of the whole network stands behind, on the validation probe set: metric -> its output.

It is measured where ``measures.names``, an objective or a constraint asks for it, and costs nothing elsewhere.
"""


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

    name: str = Field(
        "digits",
        description="Built-in name, or package.module:function returning (inputs, labels); integer labels are classes, "
        "floating-point ones numbers to predict.",
    )
    arguments: Arguments = Field({}, description="Keyword arguments of the loader, such as root or resize.")
    train_size: int | None = Field(None, gt=0, description="Training examples; null: all that the splits leave.")
    label_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of training labels replaced by a wrong class, or by another example's number.",
    )
    splits: SplitSpec = Field(
        SplitSpec(), description="Sizes of the evaluation splits, stratified by class where labels are classes."
    )
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
        description="best/… (value at the epoch of lowest validation loss) or final/… and a scalar metric; accuracy is "
        "the share of right answers, or R² where numbers are predicted.",
    )
    direction: Literal["minimize", "maximize"] = Field("maximize", description="minimize or maximize.")

    @property
    def epoch(self) -> Literal["best", "final"]:
        """Which epoch it speaks of: that of lowest validation loss, or the last one."""
        return "best" if self.metric.startswith("best/") else "final"

    @property
    def per_epoch(self) -> str:
        """The metric an epoch reports, without ``best/`` or ``final/``."""
        return self.metric.partition("/")[2]


class SearchSpec(Section):
    """How the space is searched."""

    sampler: Literal["tpe", "random", "grid", "qmc", "cmaes", "gp"] = Field("tpe", description="Search algorithm.")
    trials: int | None = Field(None, gt=0, description="Number of trials; a grid has as many as it has points.")
    seeds: int = Field(1, gt=0, description="Trials of each configuration, on that many seeds; trials counts them all.")
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

    cpus: int = Field(1, gt=0, description="CPU cores, and threads, of one process of a trial.")
    gpus: float = Field(0, ge=0, description="GPUs of one trial, one for each worker; fractions share a GPU.")
    workers: int = Field(1, gt=0, description="Processes of one trial, which share every batch between them.")
    placement: Literal["node", "cluster"] = Field(
        "node", description="Where the workers of a trial are: on one machine, or on any of the cluster."
    )
    concurrent: int | None = Field(None, gt=0, description="Most trials at once; default: as many as fit.")


class MeasuresSpec(Section):
    """What is measured inside the network, where, and how often."""

    names: Patterns = Field(
        ("perplexity", "zero_fraction", "dead_fraction"),
        description="Statistics of layers, weights, outputs, the network.",
    )
    main: str = Field("perplexity", description="The statistic shown as one series per layer.")
    layers: Patterns = Field(("*",), description="Layer patterns.")
    every: int = Field(1, gt=0, description="Epochs between measurements; the last epoch is always measured.")
    probe_size: int = Field(256, gt=1, description="Fixed examples of each probe set (training, validation).")
    snapshots: Literal["none", "best", "all"] = Field(
        "best",
        description="Pictures of the inside of trained networks: none, those of the best trial of each arm when the "
        "study is done, or of all complete trials. Changes no result.",
    )


class ConstraintSpec(Section):
    """What a configuration must fulfil to be selected."""

    metric: str = Field(description="best/… or final/… and a scalar metric, as in an objective.")
    at_most: float | None = Field(None, description="Largest value allowed.")
    at_least: float | None = Field(None, description="Smallest value allowed.")

    @model_validator(mode="after")
    def _some_bound(self) -> ConstraintSpec:
        if self.at_most is None and self.at_least is None:
            raise ValueError("needs at_most, at_least or both")
        if self.at_most is not None and self.at_least is not None and self.at_most < self.at_least:
            raise ValueError(f"at_most lies below at_least, got {self.at_most:g} and {self.at_least:g}")
        return self

    def holds(self, value: float) -> bool:
        """Whether a value is allowed."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


class SelectionSpec(Section):
    """How the configuration to ship is chosen; read by the selection step, changes no trial."""

    finalists: int = Field(3, gt=0, description="Configurations re-run on fresh seeds.")
    seeds: int = Field(3, gt=0, description="Fresh seeds per finalist.")
    rule: Literal["mean", "lower_bound", "probability_best"] = Field(
        "mean",
        description="mean, lower_bound (95 % bound on the bad side) or probability_best, of the score on the selection "
        "split or, with several objectives, of the distance from ideal; of equals the one with fewer methods, then the "
        "lower number.",
    )
    constraints: tuple[ConstraintSpec, ...] = Field((), description="Such as metric: final/gap/loss, at_most: 0.1.")
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="Several objectives: weight of each in the distance from ideal, by metric; default 1."
    )


class BudgetSpec(Section):
    """How much may be spent; changes no trial."""

    minutes: float | None = Field(None, gt=0, description="Wall clock of one launch after which no trial is started.")
    retries: int = Field(5, ge=0, description="How often a trial is started again whose worker or machine died.")


class CheckpointsSpec(Section):
    """How often a running trial is kept, so that it can go on where it was; changes no result. Both null: never."""

    seconds: float | None = Field(
        10.0,
        gt=0,
        description="Seconds from one checkpoint to the next; more where writing one takes over 3 % of that.",
    )
    epochs: int | None = Field(None, gt=0, description="Epochs from one checkpoint to the next, if that is sooner.")


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
    checkpoints: CheckpointsSpec = Field(CheckpointsSpec(), description="How often running trials are kept.")

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain data, defaults left out; `from_dict` reads it back to an equal spec."""
        return json.loads(self.model_dump_json(exclude_defaults=True))  # type: ignore[no-any-return]

    def identity(self) -> dict[str, Any]:
        """The part that changes results: no names, machines, budget, checkpoints, choice of a winner, pictures."""
        pictured = self.measures.model_copy(update={"snapshots": MeasuresSpec().snapshots})
        plain = self.model_copy(update={"measures": pictured}).to_dict()
        return {k: v for k, v in plain.items() if k not in UNIDENTIFYING}

    @property
    def measured(self) -> MeasuresSpec:
        """What a trial measures: `measures`, and what an objective or a constraint is about."""
        metrics = {o.metric for o in self.search.objectives} | {c.metric for c in self.selection.constraints}
        per_epoch = {metric.partition("/")[2] for metric in metrics}
        asked = [output for metric, output in NETWORK_METRICS.items() if metric in per_epoch]
        names = tuple(dict.fromkeys((*self.measures.names, *asked)))
        return self.measures.model_copy(update={"names": names})

    @property
    def digest(self) -> str:
        """Hash of `identity`: 16 hexadecimal digits, the same for any spelling of the same study."""
        return digest(self.identity())


UNIDENTIFYING = ("name", "question", "resources", "budget", "selection", "checkpoints")


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
