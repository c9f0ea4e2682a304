"""From a checked study file to a plan: layers found, patterns resolved, costs estimated, nothing started."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsestudy import measures
from sparsestudy.checking import Checker, Template, set_path
from sparsestudy.measures import NetworkStatistic, OutputStatistic, WeightStatistic
from sparsestudy.regularizers import Layer, match
from sparsestudy.space import ARM, Choice, Parameter, Scalar, SearchSpace, fill
from sparsestudy.specfile import Draft
from sparsestudy.study import NETWORK_METRICS, StudySpec, TaskName, derive_seed
from sparsestudy.training.inspection import filters
from sparsestudy.training.loop import Trainer
from sparsestudy.trial import SCALARS, TrialConfig

TRIAL_OVERHEAD_SECONDS = 0.3
"""What scheduling, recording and reusing a worker costs a trial beside its training; measured by ``make bench``."""
STARTUP_SECONDS = 12.0
"""What starting a local Ray and its workers costs a launch."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study that can be run.

    Attributes:
        spec: The study.
        sizes: Examples of each split.
        task: What the labels ask for.
        classes: Number of classes; 0 where numbers are predicted.
        label_mean, label_std: Of those numbers in training, in the data's own unit; 0 and 1 for classes.
        input_shape: Shape of one example.
        layers: Layers of the network in the order of a forward pass.
        weights: Number of trainable parameters of the network.
        filters: Names of its trainable weights of two or more dimensions.
        space: The search space, patterns expanded.
        templates: Arm -> parameter prefix -> keyword arguments of the method, domains in place of searched values.
    """

    spec: StudySpec
    sizes: Mapping[str, int]
    task: TaskName
    classes: int
    label_mean: float
    label_std: float
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    weights: int
    filters: tuple[str, ...]
    space: SearchSpace
    templates: Mapping[str, Mapping[str, Template]]

    @property
    def trials(self) -> int:
        """Number of trials of the whole study."""
        return self.spec.search.trials or len(self.space.grid()) * self.spec.search.seeds

    def configure(self, number: int, parameters: Mapping[str, Scalar], seed: int) -> TrialConfig:
        """What the trial at one point of the space trains."""
        spec, arm = self.spec, str(parameters[ARM])
        methods = [fill(template, parameters, prefix) for prefix, template in self.templates[arm].items()]
        sections = {name: spec.model_dump(mode="json")[name] for name in ("data", "model", "training")}
        for path in spec.search.parameters:
            set_path(sections, path.split("."), parameters[path])
        return TrialConfig.from_dict(
            {
                "study": spec.name,
                "number": number,
                "arm": arm,
                "parameters": dict(parameters),
                "methods": methods,
                **sections,
                "measures": spec.measured.model_dump(mode="json"),
                "seed": seed,
                "threads": spec.resources.cpus,
                "workers": spec.resources.workers,
                "device": "cuda" if spec.resources.gpus else "cpu",
                "task": self.task,
            }
        )

    def mlflow_rows(self) -> int:
        """Metric rows that the whole study writes to MLflow if no trial ends early and no measure is undefined."""
        main_layers = sum(any(match((p,), layer.name) for p in self.spec.measures.layers) for layer in self.layers)
        epochs = self.spec.training.epochs
        measured = len(range(0, epochs, self.spec.measures.every)) + ((epochs - 1) % self.spec.measures.every > 0)
        names = self.spec.measured.names
        known = 1 + sum(name in names for name in NETWORK_METRICS.values())
        headline = 2 * (1 + len(SCALARS) + known + main_layers)
        rows = main_layers + sum(self._rows_of(measures.get(name)) for name in names)
        return self.trials * (epochs * (len(SCALARS) + 1) + measured * rows + headline)

    def _rows_of(self, statistic: measures.Statistic) -> int:
        """Rows of one measured epoch; layers have but one series, that of the main measure."""
        if isinstance(statistic, NetworkStatistic):
            return len(statistic.splits) * len(statistic.outputs)
        places = {WeightStatistic: len(self.filters), OutputStatistic: 2}
        times = sum(number for kind, number in places.items() if isinstance(statistic, kind))
        return times * len(statistic.outputs)

    def notes(self) -> list[str]:
        """What the chosen sampler will not do as one might expect."""
        sampler, arms = self.spec.search.sampler, len(self.space.arms)
        if sampler in ("cmaes", "gp") and arms > 1:
            return [f"{sampler} models what all arms share; the arm and its own parameters are drawn independently"]
        return []

    def example(self, arm: str) -> TrialConfig:
        """A configuration of an arm with every domain at its first corner, for timing and for looking at."""
        point: dict[str, Scalar] = {ARM: arm, **{p.name: p.domain.corners()[0] for p in self.space.active(arm)}}
        return self.configure(0, point, derive_seed(self.spec.training.seed, "example"))


@dataclass(frozen=True, kw_only=True)
class Finals:
    """The plan of a study in which given configurations train again on fresh seeds.

    Attributes:
        spec: One arm a configuration.
        configs: What each arm trains, by its name.
        seeds: The fresh seeds, the same for every configuration.
    """

    spec: StudySpec
    configs: Mapping[str, TrialConfig]
    seeds: tuple[int, ...]

    @property
    def space(self) -> SearchSpace:
        """Every arm with every seed."""
        seeds = Parameter(name="training.seed", domain=Choice(values=self.seeds))
        return SearchSpace(arms=tuple(self.configs), parameters=(seeds,))

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.configs) * len(self.seeds)

    def configure(self, number: int, parameters: Mapping[str, Scalar], seed: int) -> TrialConfig:
        """The configuration of an arm on one of the seeds."""
        arm = str(parameters[ARM])
        base = self.configs[arm]
        return base.model_copy(
            update={
                "study": self.spec.name, "number": number, "arm": arm, "parameters": dict(parameters), "seed": seed,
                "training": base.training.model_copy(update={"seed": seed}),
            }
        )  # fmt: skip


def finals(spec: StudySpec, configs: Mapping[int, TrialConfig]) -> Finals:
    """Plan the finals of a study.

    Args:
        spec: The study; its ``selection`` says how many seeds, its objective which weights are kept.
        configs: Finalists by the number of their trial.
    """
    keep = spec.search.objectives[0].epoch
    kept = {f"trial-{number}": config.model_copy(update={"keep": keep}) for number, config in configs.items()}
    seeds = tuple(derive_seed(spec.training.seed, "finalist", place) for place in range(spec.selection.seeds))
    recorded = spec.to_dict()
    arms = [_arm(name, config) for name, config in kept.items()]
    search = {"sampler": "grid", "parameters": {"training.seed": {"choice": list(seeds)}}}
    search["objectives"] = recorded.get("search", {}).get("objectives", [{}])
    measures = {**recorded.get("measures", {}), "snapshots": "none"}
    changed = {"name": f"{spec.name}-finals", "regularizers": arms, "search": search, "measures": measures}
    changed["stopping"] = {}
    return Finals(spec=StudySpec.from_dict({**recorded, **changed}), configs=kept, seeds=seeds)


def _arm(name: str, config: TrialConfig) -> dict[str, Any]:
    methods = [{k: v for k, v in method.items() if v not in (None, {}, [])} for method in config.methods]
    return {"name": name, **methods[0]} if len(methods) == 1 else {"name": name, "combine": methods}


def single_point(spec: StudySpec, config: TrialConfig, name: str) -> StudySpec:
    """A study of exactly one configuration, which gives the same numbers as the trial did on the same machine."""
    arm = _arm(config.arm, config)
    recorded = spec.to_dict()
    search = {
        "sampler": "grid",
        "parameters": {"training.seed": {"choice": [config.seed]}},
        "objectives": recorded.get("search", {}).get("objectives", [{}]),
    }
    sections = {key: config.model_dump(mode="json")[key] for key in ("data", "model", "training")}
    point = {**recorded, "name": name, **sections, "regularizers": [arm], "search": search, "stopping": {}}
    return StudySpec.from_dict(point)


def resolve(draft: Draft) -> Plan:
    """Check everything that can be checked without training, and plan the study.

    Raises:
        SpecError: With every mistake of the file, those found while parsing it included.
    """
    checker = Checker(draft)
    checker.check()
    spec = draft.raise_for(checker.problems)
    assert checker.dataset is not None
    assert checker.model is not None
    return Plan(
        spec=spec,
        sizes={
            "train": len(checker.dataset.train.labels),
            "search": len(checker.dataset.search.labels),
            "selection": len(checker.dataset.selection.labels),
            "test": len(checker.dataset.test.labels),
        },
        task=checker.dataset.task,
        classes=checker.dataset.classes,
        label_mean=checker.dataset.label_mean,
        label_std=checker.dataset.label_std,
        input_shape=checker.dataset.input_shape,
        layers=tuple(checker.layers),
        weights=sum(p.numel() for p in checker.model.parameters() if p.requires_grad),
        filters=tuple(filters(checker.model)),
        space=checker.space(),
        templates=checker.templates,
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a study will take on this machine.

    Attributes:
        seconds_per_epoch: Wall clock of one epoch of each arm, training and measuring.
        concurrent: Trials at once.
        seconds: Wall clock of the whole study if no trial ends early and arms take turns.
    """

    seconds_per_epoch: Mapping[str, float]
    concurrent: int
    seconds: float


def estimate(plan: Plan) -> Estimate:
    """Time the second of two epochs of each arm, here and now, and scale it up."""
    found = {}
    for arm in plan.space.arms:
        config = plan.example(arm)
        training = config.training.model_copy(update={"epochs": 2})
        trainer = iter(Trainer(config.model_copy(update={"training": training})))
        next(trainer)
        started = time.perf_counter()
        next(trainer)
        found[arm] = time.perf_counter() - started
    resources = plan.spec.resources
    concurrent = max(1, (os.cpu_count() or 1) // (resources.cpus * resources.workers))
    concurrent = min(concurrent, resources.concurrent or concurrent, plan.trials)
    trial = plan.spec.training.epochs * sum(found.values()) / len(found) + TRIAL_OVERHEAD_SECONDS
    return Estimate(
        seconds_per_epoch=found,
        concurrent=concurrent,
        seconds=STARTUP_SECONDS + plan.trials * trial / concurrent,
    )
