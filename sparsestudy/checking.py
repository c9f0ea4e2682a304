"""Everything about a study file that can be checked without training, every mistake in one list.

The data and the network are built once, layer patterns are expanded into one entry per layer, and every domain is
checked at its corners against the very classes that will train.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from sparsestudy import measures, regularizers
from sparsestudy.errors import NotFoundError, Problem, SparseStudyError, SpecError, listing, suggest
from sparsestudy.regularizers import LayerRegularizer
from sparsestudy.space import Domain, Parameter, Scalar, SearchSpace, fill, leaves
from sparsestudy.specfile import Draft, Path_
from sparsestudy.study import (
    AUTO,
    SCALARS,
    SPARSITY,
    ArmSpec,
    DataSpec,
    MethodSpec,
    ModelSpec,
    StudySpec,
    objective_names,
)
from sparsestudy.training import data, models
from sparsestudy.training.probe import Layer, discover, expand

Template = dict[str, Any]
SEARCHABLE = ("training", "model.arguments", "data")


class Checker:
    """Collects the problems of one draft; every check adds to the list and none gives up."""

    def __init__(self, draft: Draft) -> None:
        self.draft, self.spec = draft, draft.spec
        self.problems: list[Problem] = []
        self.dataset: data.Dataset | None = None
        self.model: nn.Module | None = None
        self.layers: list[Layer] = []
        self.templates: dict[str, dict[str, Template]] = {}

    def add(self, path: Path_, message: str) -> None:
        """Note a problem at a path of the file."""
        self.problems.append(self.draft.problem(path, message))

    def check(self) -> None:
        """Run every check whose section could be understood."""
        if "data" not in self.draft.broken:
            self.dataset = self._load(self.spec.data)
        if self.dataset is not None and "model" not in self.draft.broken:
            self.model = self._build(self.spec.model)
        if self.model is not None:
            self.layers = self._discover(self.model)
        if "regularizers" not in self.draft.broken:
            for index, arm in zip(self.draft.arms, self.spec.regularizers, strict=True):
                self._arm(("regularizers", index), arm)
        if "measures" not in self.draft.broken:
            self._measures()
        if "search" not in self.draft.broken:
            self._parameters()
            self._search()
        self._training()
        if self.spec.resources.workers > 1:
            self.add(
                ("resources", "workers"),
                f"trials of several workers are not available yet, got {self.spec.resources.workers}; allowed: 1",
            )

    def space(self) -> SearchSpace:
        """The space of the arms and of the further parameters."""
        shared = [Parameter(name=path, domain=domain) for path, domain in self.spec.search.parameters.items()]
        own = [
            Parameter(name=name, domain=domain, arm=arm)
            for arm, methods in self.templates.items()
            for prefix, template in methods.items()
            for name, domain in leaves(template, prefix)
        ]
        return SearchSpace(arms=tuple(self.templates), parameters=(*shared, *own))

    # Data, network, layers

    def _load(self, spec: DataSpec, path: Path_ | None = None) -> data.Dataset | None:
        try:
            return data.load(spec)
        except SpecError as error:
            for problem in error.problems:
                self.add(path or tuple(problem.path.split(".")), problem.message)
        except SparseStudyError as error:
            self.add(path or ("data", "name"), str(error))
        return None

    def _build(self, spec: ModelSpec, path: Path_ | None = None) -> nn.Module | None:
        assert self.dataset is not None
        try:
            with torch.random.fork_rng():
                return models.build(spec, self.dataset.input_shape, self.dataset.classes)
        except SpecError as error:
            for problem in error.problems:
                self.add(path or tuple(problem.path.split(".")), problem.message)
        except SparseStudyError as error:
            self.add(path or ("model", "name"), str(error))
        return None

    def _discover(self, model: nn.Module) -> list[Layer]:
        assert self.dataset is not None
        try:
            return discover(model, torch.zeros(2, *self.dataset.input_shape))
        except NotFoundError as error:
            self.add(("model", "name"), str(error))
            return []

    def _expand(self, path: Path_, patterns: Mapping[str, Any]) -> dict[str, Any]:
        """Layer patterns as one entry per layer; a pattern that matches nothing is a problem of its own."""
        names = [layer.name for layer in self.layers]
        if not names:
            return {}
        good = {}
        for pattern, value in patterns.items():
            try:
                expand({pattern: value}, names)
                good[pattern] = value
            except NotFoundError as error:
                hints = [*names, *(f"{name.rpartition('.')[0]}.*" for name in names if "." in name)]
                self.add((*path, pattern), f"{error}{suggest(pattern, hints)}")
        try:
            return expand(good, names)
        except ValueError as error:
            self.add(path, str(error))
            return {}

    # Arms

    def _arm(self, path: Path_, arm: ArmSpec) -> None:
        if arm.name in self.templates:
            self.add((*path, "name"), f"another arm is already named {arm.name!r}; every arm needs its own name")
            return
        self.templates[arm.name] = {}
        if not arm.combine:
            named = (*path, "method" if arm.method else "name")
            self._method(path, named, arm.name, arm.name, arm.methods[0])
            return
        if extra := [*arm.template(), *(["method"] if arm.method else [])]:
            self.add((*path, extra[0]), "an arm has either a method of its own or combine, not both")
        seen = set()
        for index, method in enumerate(arm.combine):
            here = (*path, "combine", index)
            if not method.method:
                self.add((*here, "method"), "is missing; it must be given")
            elif method.method in seen:
                self.add((*here, "method"), f"{method.method!r} stands twice in this arm; keep one")
            else:
                self._method(here, (*here, "method"), arm.name, f"{arm.name}/{method.method}", method)
            seen.add(method.method)

    def _method(self, path: Path_, named: Path_, arm: str, prefix: str, spec: MethodSpec) -> None:
        try:
            kind = regularizers.kind(spec.method)
        except NotFoundError as error:
            self.add(named, str(error))
            return
        template: Template = {"method": spec.method}
        for key, value in spec.template().items():
            if value == AUTO and key in kind.search:
                value = kind.search[key]
            elif value == AUTO:
                self.add((*path, key), f"{spec.method} recommends no range for {key!r}; give a value or a domain")
                continue
            if key == "targets" and key in kind.model_fields:
                ranges = {p: kind.search[key] if v == AUTO else v for p, v in value.items()}
                value = self._expand((*path, key), ranges)
            elif key == "strength" and isinstance(value, Mapping):
                if not issubclass(kind, LayerRegularizer):
                    self.add((*path, key), f"{spec.method} has one strength for the whole network, not one per layer")
                    continue
                ranges = {p: kind.search[key] if v == AUTO else v for p, v in value.items()}
                value = self._expand((*path, key), ranges)
            elif key == "layers" and key in kind.model_fields:
                value = tuple(self._expand((*path, key), dict.fromkeys(value)))
            template[key] = value
        if "targets" in template and "layers" in template and template["targets"]:
            self.add((*path, "layers"), "targets already choose the layers; give one of the two")
        self._corners(path, template)
        self.templates[arm][prefix] = template

    def _corners(self, path: Path_, template: Template) -> None:
        """Build the method at every corner of its domains, one domain at a time."""
        domains = dict(leaves(template))
        first = {name: domain.corners()[0] for name, domain in domains.items()}
        seen: set[tuple[str, str]] = set()
        for point in _one_at_a_time(first, domains):
            try:
                regularizers.get(**fill(template, point))
            except SpecError as error:
                for problem in error.problems:
                    if (problem.path, problem.message) not in seen:
                        seen.add((problem.path, problem.message))
                        self.add((*path, *problem.path.split(".", 1)), problem.message)

    # Everything else

    def _measures(self) -> None:
        spec = self.spec.measures
        outputs: list[str] = []
        for index, name in enumerate(spec.names):
            try:
                outputs += measures.get(name).outputs
            except NotFoundError as error:
                self.add(("measures", "names", index), str(error))
        if outputs and spec.main not in outputs:
            self.add(
                ("measures", "main"),
                f"{spec.main!r} is not measured; allowed: {listing(outputs)}{suggest(spec.main, outputs)}",
            )
        self._expand(("measures", "layers"), dict.fromkeys(spec.layers))

    def _parameters(self) -> None:
        for path, domain in self.spec.search.parameters.items():
            here = ("search", "parameters", path)
            if not path.startswith(tuple(f"{part}." for part in SEARCHABLE)):
                hint = suggest(path, _dotted())
                self.add(here, f"not a hyperparameter; allowed: a path below {listing(SEARCHABLE)}{hint}")
                continue
            if path.startswith(("training.", "data.")) and path not in _dotted() and ".arguments." not in path:
                self.add(here, f"no such setting; allowed: {listing(_dotted())}{suggest(path, _dotted())}")
                continue
            for corner in domain.corners():
                self._corner(here, path, corner)

    def _corner(self, here: Path_, path: str, value: Scalar) -> None:
        section = path.split(".", 1)[0]
        if section in self.draft.broken:
            return
        raw = {section: self.spec.model_dump(mode="json")[section]}
        set_path(raw, path.split("."), value)
        kinds: dict[str, type[BaseModel]] = {"training": type(self.spec.training), "data": DataSpec, "model": ModelSpec}
        try:
            changed = kinds[section].model_validate_json(json.dumps(raw[section]))
        except ValidationError as error:
            self.add(here, f"{value!r} is not allowed: {error.errors()[0]['msg'].lower()}")
            return
        if isinstance(changed, DataSpec):
            self._load(changed, here)
        elif isinstance(changed, ModelSpec) and self.dataset is not None:
            model = self._build(changed, here)
            if model is not None and self.layers and _names(self._discover(model)) != _names(self.layers):
                self.add(here, f"{value!r} gives the network other layers; all trials of a study need the same layers")

    def _search(self) -> None:
        spec = self.spec.search
        allowed = objective_names()
        seen = set()
        for index, objective in enumerate(spec.objectives):
            here = ("search", "objectives", index, "metric")
            if objective.metric not in allowed:
                known = f"best/ or final/ and {listing((*SCALARS, SPARSITY))}"
                hint = suggest(objective.metric, allowed)
                self.add(here, f"no metric named {objective.metric!r}; allowed: {known}{hint}")
            elif objective.metric in seen:
                self.add(here, f"{objective.metric!r} stands twice; keep one")
            seen.add(objective.metric)
        if spec.sampler == "grid":
            self._grid()
        elif spec.trials is None:
            self.add(("search", "trials"), f"is missing; sampler {spec.sampler} needs a number of trials")
        if self.spec.stopping.rule != "none" and len(spec.objectives) > 1:
            self.add(
                ("stopping", "rule"),
                f"{self.spec.stopping.rule} needs a single objective, got {len(spec.objectives)}; allowed: none",
            )

    def _grid(self) -> None:
        space = self.space()
        continuous = [p for p in space.parameters if p.domain.grid() is None]
        for parameter in continuous:
            self.add(
                ("search", "sampler"), f"grid: {parameter.name} is continuous; give it a step or a choice of values"
            )
        trials = self.spec.search.trials
        if not continuous and space.arms and trials is not None and trials != len(space.grid()):
            self.add(
                ("search", "trials"),
                f"the grid has {len(space.grid())} points, got {trials}; leave it out, every point runs once",
            )

    def _training(self) -> None:
        training, stopping = self.spec.training, self.spec.stopping
        epochs, warmup = training.epochs, training.schedule.warmup_epochs
        if warmup >= epochs:
            here: Path_ = ("training", "schedule", "warmup_epochs")
            self.add(here, f"must be less than the {epochs} epochs of a trial, got {warmup}")
        if training.optimizer.nesterov and (training.optimizer.name != "sgd" or not training.optimizer.momentum):
            self.add(("training", "optimizer", "nesterov"), "nesterov needs optimizer sgd with a momentum above 0")
        if stopping.rule != "none" and stopping.grace_epochs >= epochs:
            here = ("stopping", "grace_epochs")
            self.add(here, f"must be less than the {epochs} epochs of a trial, got {stopping.grace_epochs}")


def _names(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def _one_at_a_time(first: dict[str, Scalar], domains: Mapping[str, Domain]) -> Iterator[dict[str, Scalar]]:
    yield first
    for name, domain in domains.items():
        for corner in domain.corners()[1:]:
            yield {**first, name: corner}


def _dotted() -> list[str]:
    """Every scalar setting below training and data that a search may vary."""

    def walk(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from walk(kind, f"{prefix}.{name}")
            elif kind in (int, float, bool, int | None) or "Literal" in str(kind):
                yield f"{prefix}.{name}"

    return [*walk(StudySpec.model_fields["training"].annotation, "training"), *walk(DataSpec, "data")]  # type: ignore[arg-type]


def set_path(raw: dict[str, Any], keys: list[str], value: Scalar) -> None:
    """Set ``raw[k1][k2]...`` in place, making mappings on the way."""
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
    raw[keys[-1]] = value
