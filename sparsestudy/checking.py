"""Everything about a study file that can be checked without training, every mistake in one list.

The data and the network are built once, layer patterns are expanded into one entry per layer, and every domain is
checked at its corners against the very classes that will train.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from sparsestudy import measures, regularizers
from sparsestudy.errors import NotFoundError, Problem, SparseStudyError, SpecError, listing, shown, suggest
from sparsestudy.measures import LayerStatistic
from sparsestudy.regularizers import Layer, LayerRegularizer, WeightRegularizer, survey
from sparsestudy.space import Domain, Parameter, Scalar, SearchSpace, Uniform, fill, leaves
from sparsestudy.specfile import Draft, Path_, describe, spell
from sparsestudy.study import (
    ArmSpec,
    DataSpec,
    MethodSpec,
    ModelSpec,
    ResourcesSpec,
    Section,
    StoppingSpec,
    StudySpec,
    TaskName,
    TrainingSpec,
)
from sparsestudy.training import data, models
from sparsestudy.training.probe import discover, expand
from sparsestudy.training.synced import obstacle_to_sharing
from sparsestudy.trial import MEASURED, SCALARS, SEED, objective_names
from sparsestudy.values import AUTO

T = TypeVar("T")
Template = dict[str, Any]
SEARCHABLE = ("training", "model.arguments", "data")
_LABELS = {"classification": "classes", "regression": "numbers to predict"}


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
            self.dataset = self._load(self.spec.data) or self._like(self.spec.data)
        if self.dataset is not None and "model" not in self.draft.broken:
            self.model = self._build(self.spec.model, self.dataset)
        if self.model is not None:
            self.layers = self._discover(self.model, self.dataset)
        if "regularizers" not in self.draft.broken:
            for index, arm in zip(self.draft.arms, self.spec.regularizers, strict=True):
                self._arm(("regularizers", index), arm)
        if "measures" not in self.draft.broken:
            self._measures()
        if "search" not in self.draft.broken:
            self._parameters()
            self._search()
        if "selection" not in self.draft.broken:
            self._selection()
        self._training()
        if "resources" not in self.draft.broken and self.spec.resources.workers > 1:
            self._workers()

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
        return self._attempt(lambda: data.load(spec), path or ("data", "name"), path)

    @staticmethod
    def _like(spec: DataSpec) -> data.Dataset | None:
        """The same data split in the default way, if that works: good enough to go on checking networks and layers."""
        try:
            return data.load(DataSpec(name=spec.name, arguments=spec.arguments))
        except SparseStudyError:
            return None  # what is wrong with it has been noted already

    def _build(self, spec: ModelSpec, dataset: data.Dataset | None, path: Path_ | None = None) -> nn.Module | None:
        assert dataset is not None
        with torch.random.fork_rng():
            build = functools.partial(models.build, spec, dataset.input_shape, dataset.outputs)
            return self._attempt(build, path or ("model", "name"), path)

    def _attempt(self, make: Callable[[], T], otherwise: Path_, path: Path_ | None) -> T | None:
        """What ``make`` returns, or None and a problem for everything that is wrong, at ``path`` if it is given."""
        try:
            return make()
        except SpecError as error:
            for problem in error.problems:
                self.add(path or tuple(problem.path.split(".")), problem.message)
        except SparseStudyError as error:
            self.add(otherwise, str(error))
        return None

    def _discover(self, model: nn.Module, dataset: data.Dataset | None) -> list[Layer]:
        assert dataset is not None
        try:
            return discover(model, torch.zeros(2, *dataset.input_shape))
        except NotFoundError as error:
            self.add(("model", "name"), str(error))
            return []

    def _expand(self, path: Path_, patterns: Mapping[str, Any], names: list[str] | None = None) -> dict[str, Any]:
        """Patterns as one entry per layer (or weight, if named); a pattern that matches nothing is a problem."""
        noun = "layer" if names is None else "weight"
        names = [layer.name for layer in self.layers] if names is None else names
        if not names:
            return {}
        good = {}
        for index, (pattern, value) in enumerate(patterns.items()):
            try:
                expand({pattern: value}, names, noun)
                good[pattern] = value
            except NotFoundError as error:
                hints = [*names, *(f"{name.rpartition('.')[0]}.*" for name in names if "." in name)]
                self.add(self._entry(path, pattern, index), f"{error}{suggest(pattern, hints)}")
        try:
            return expand(good, names, noun)
        except ValueError as error:
            self.add(path, str(error))
            return {}

    def _weights(self) -> list[str]:
        """Names of the weights, of two or more dimensions, as patterns of weights are matched against them."""
        named = self.model.named_parameters() if self.model is not None else ()
        return [name.removesuffix(".weight") for name, parameter in named if parameter.dim() >= 2]

    def _entry(self, path: Path_, key: str, index: int) -> Path_:
        """Path of an entry of a mapping, of a list, or of a single word that stands for a list."""
        found: tuple[Path_, ...] = ((*path, key), (*path, index))
        return next((p for p in found if spell(p) in self.draft.lines), path)

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
        self._task(named, spec.method, kind.tasks)
        template: Template = {"method": spec.method}
        for key, value in spec.template().items():
            if key not in kind.model_fields:
                self.add((*path, key), _no_parameter(spec.method, key, list(kind.model_fields)))
                continue
            if value == AUTO and key in kind.search:
                value = kind.search[key]
            elif value == AUTO:
                self.add((*path, key), f"{spec.method} recommends no range for {key!r}; give a value or a domain")
                continue
            if key == "targets":
                ranges = {p: kind.search[key] if v == AUTO else v for p, v in value.items()}
                value = self._expand((*path, key), ranges)
            elif key == "strength" and isinstance(value, Mapping):
                if not issubclass(kind, LayerRegularizer):
                    self.add((*path, key), f"{spec.method} has one strength for the whole network, not one per layer")
                    continue
                ranges = {p: kind.search[key] if v == AUTO else v for p, v in value.items()}
                value = self._expand((*path, key), ranges)
            elif key == "layers":
                names = self._weights() if issubclass(kind, WeightRegularizer) else None
                if not value:
                    self.add((*path, key), "an empty list of layer patterns; leave it out for all layers, or name some")
                value = tuple(self._expand((*path, key), dict.fromkeys(value), names))
                if not value:
                    continue  # what is wrong has been said; that it leaves nothing to act on would be said twice
            template[key] = value
        if "targets" in template and "layers" in template and template["targets"]:
            self.add((*path, "layers"), "targets already choose the layers; give one of the two")
        self._corners(path, template)
        self.templates[arm][prefix] = template

    def _task(self, path: Path_, name: str, tasks: Sequence[TaskName]) -> None:
        """Note it if a method or measure cannot be used for what the labels ask for."""
        if self.dataset is not None and self.dataset.task not in tasks:
            has, needs = _LABELS[self.dataset.task], _LABELS[tasks[0]]
            self.add(path, f"{name} needs {needs}; the data set {self.spec.data.name} has {has}")

    def _corners(self, path: Path_, template: Template) -> None:
        """Build the method at every corner of its domains, one domain at a time."""
        kind = regularizers.kind(template["method"])
        template = {key: value for key, value in template.items() if key != "method"}
        domains = dict(leaves(template))
        first = {name: domain.corners()[0] for name, domain in domains.items()}
        seen: set[tuple[Path_, str]] = set()
        network = survey(self.model or nn.Identity(), self.layers)
        for point in _one_at_a_time(first, domains):
            try:
                method = kind(**fill(template, point))
            except ValidationError as error:
                found = [((*path, *e["loc"]), describe(e)) for e in error.errors(include_url=False)]
            else:
                found = [(path, message) for message in method.obstacles(network)] if network.layers else []
            for problem in found:
                if problem not in seen:
                    seen.add(problem)
                    self.add(*problem)

    # Everything else

    def _measures(self) -> None:
        spec = self.spec.measures
        found: list[measures.Statistic] = []
        for index, name in enumerate(spec.names):
            here = self._entry(("measures", "names"), name, index)
            try:
                found.append(measures.get(name))
            except NotFoundError as error:
                self.add(here, str(error))
            else:
                self._task(here, name, found[-1].tasks)
        outputs = [output for measure in found if isinstance(measure, LayerStatistic) for output in measure.outputs]
        if found and spec.main not in outputs:
            others = [output for measure in found for output in measure.outputs]
            why = "is not of a layer's activations, as main must be" if spec.main in others else "is not measured"
            allowed = listing(outputs) if outputs else "none, as names has no measure of a layer's activations"
            self.add(("measures", "main"), f"{spec.main!r} {why}; allowed: {allowed}{suggest(spec.main, outputs)}")
        self._expand(("measures", "layers"), dict.fromkeys(spec.layers))

    def _parameters(self) -> None:
        for path, domain in self.spec.search.parameters.items():
            here = ("search", "parameters", path)
            if not path.startswith(tuple(f"{part}." for part in SEARCHABLE)):
                allowed = f"a path below {listing(SEARCHABLE)}"
                if path.startswith("regularizers"):
                    allowed = f"{allowed}; what a method takes is searched where it stands, below regularizers"
                self.add(here, f"not a hyperparameter; allowed: {allowed}{suggest(path, _dotted())}")
                continue
            if not path.startswith(("model.arguments.", "data.arguments.")) and path not in _dotted():
                self.add(here, f"no such setting; allowed: {listing(_dotted())}{suggest(path, _dotted())}")
                continue
            before = len(self.problems)
            for corner in domain.corners():
                self._corner(here, path, corner)
            found = list(dict.fromkeys(self.problems[before:]))
            if isinstance(domain, Uniform) and found and all(p.message.startswith(_WHOLE) for p in found):
                found = [self.draft.problem(here, "needs whole numbers; search it with int")]
            self.problems[before:] = found

    def _corner(self, here: Path_, path: str, value: Scalar) -> None:
        """Try one value of a searched setting on all that depends on it."""
        section = path.split(".", 1)[0]
        if section in self.draft.broken:
            return
        raw: dict[str, Any] = {section: self.spec.model_dump(mode="json")[section]}
        above: Any = raw
        for key in path.split(".")[:-1]:
            above = above.get(key) if isinstance(above, dict) else None
        if not isinstance(above, dict):
            self.add(here, f"{path.rpartition('.')[0]} has nothing below it; search a setting of its own")
            return
        set_path(raw, path.split("."), value)
        try:
            changed = type(getattr(self.spec, section)).from_dict(raw[section])
        except ValidationError as error:
            self.add(here, describe(error.errors(include_url=False)[0]))
        else:
            self._try(here, value, changed)

    def _try(self, here: Path_, value: Scalar, changed: Section) -> None:
        if isinstance(changed, TrainingSpec):
            others = self.spec.stopping, self.spec.resources
            known = _contradictions(self.spec.training, *others)
            for path, message in _contradictions(changed, *others):
                if path not in [p for p, _ in known]:
                    self.add(here, f"{shown(value)} does not go with {spell(path)}: {message}")
            return
        dataset, model = self.dataset, self.spec.model
        if isinstance(changed, DataSpec):
            dataset = self._load(changed, here)
        elif isinstance(changed, ModelSpec):
            model = changed
        if dataset is None or not self.layers:
            return
        if self.dataset is not None and dataset.task != self.dataset.task:
            has, had = _LABELS[dataset.task], _LABELS[self.dataset.task]
            self.add(here, f"{shown(value)} gives the data {has} instead of {had}; all trials of a study need the same")
            return
        built = self._build(model, dataset, here)
        if built is not None and _names(self._discover(built, dataset)) != _names(self.layers):
            self.add(here, f"{shown(value)} gives the network other layers; all trials of a study need the same layers")

    def _search(self) -> None:
        spec = self.spec.search
        seen = set()
        for index, objective in enumerate(spec.objectives):
            here = ("search", "objectives", index, "metric")
            if not self._metric(here, objective.metric) and objective.metric in seen:
                self.add(here, f"{objective.metric!r} stands twice; keep one")
            seen.add(objective.metric)
        if spec.seeds > 1 and SEED in spec.parameters:
            self.add(("search", "seeds"), f"{SEED} is searched already; leave one of the two out")
        if spec.sampler == "grid":
            self._grid()
        elif spec.trials is None:
            self.add(("search", "trials"), f"is missing; sampler {spec.sampler} needs a number of trials")
        if self.spec.stopping.rule != "none" and len(spec.objectives) > 1:
            self.add(
                ("stopping", "rule"),
                f"{self.spec.stopping.rule} needs a single objective, got {len(spec.objectives)}; several need none",
            )

    def _metric(self, path: Path_, name: str) -> bool:
        """Note it, and return True, if a trial has no metric of that name."""
        unknown = name not in objective_names()
        if unknown:
            known = f"best/… or final/… and one of {listing((*SCALARS, *MEASURED))}"
            self.add(path, f"no metric named {name!r}; allowed: {known}{_likely_metric(name)}")
        return unknown

    def _selection(self) -> None:
        spec = self.spec.selection
        for index, constraint in enumerate(spec.constraints):
            self._metric(("selection", "constraints", index, "metric"), constraint.metric)
        if "search" in self.draft.broken:
            return
        objectives = [objective.metric for objective in self.spec.search.objectives]
        for name in spec.weights:
            if name not in objectives:
                text = f"not an objective of this study; allowed: {listing(objectives)}{suggest(name, objectives)}"
                self.add(("selection", "weights", name), text)

    def _grid(self) -> None:
        space = self.space()
        continuous = [p for p in space.parameters if p.domain.grid() is None]
        for parameter in continuous:
            self.add(
                ("search", "sampler"), f"grid: {parameter.name} is continuous; give it a step or a choice of values"
            )
        trials = self.spec.search.trials
        mistaken = [*self.draft.problems, *self.problems]
        if any(p.path.startswith(("regularizers", "search.parameters")) for p in mistaken):
            return  # the grid is not what the file says
        seeds = self.spec.search.seeds
        if not continuous and trials is not None and trials != (points := len(space.grid())) * seeds:
            count = f"{points} point{'s' if points > 1 else ''}{f' on {seeds} seeds each' if seeds > 1 else ''}"
            self.add(("search", "trials"), f"the grid has {count}, got {trials}; leave it out, every point runs once")

    def _training(self) -> None:
        if "training" not in self.draft.broken:
            for path, message in _contradictions(self.spec.training, self.spec.stopping, self.spec.resources):
                self.add(path, message)

    def _workers(self) -> None:
        """What several workers of a trial need: examples for each, a GPU for each or for none, norms they can share."""
        workers, gpus = self.spec.resources.workers, self.spec.resources.gpus
        if gpus not in (0, workers):
            text = f"{workers} workers need a GPU each or none, so {workers} or 0 for a trial, got {shown(gpus)}"
            self.add(("resources", "gpus"), text)
        least = f"needs at least an example for each of the {workers} workers of a trial, got"
        if "measures" not in self.draft.broken and self.spec.measures.probe_size < workers:
            self.add(("measures", "probe_size"), f"{least} {self.spec.measures.probe_size}")
        if self.dataset is not None:
            for path, split in ((("data", "train_size"), "train"), (("data", "splits", "search"), "search")):
                if (examples := len(getattr(self.dataset, split))) < workers:
                    self.add(path, f"{least} {examples}")
        if self.model is not None and (obstacle := obstacle_to_sharing(self.model)):
            self.add(("resources", "workers"), obstacle)


_WHOLE = "needs a whole number"


def _contradictions(
    training: TrainingSpec, stopping: StoppingSpec, resources: ResourcesSpec
) -> list[tuple[Path_, str]]:
    """Settings of training that are allowed each, but not together."""
    found: list[tuple[Path_, str]] = []
    if training.batch_size < resources.workers:
        message = f"needs an example for each of the {resources.workers} workers of a trial, got {training.batch_size}"
        found.append((("training", "batch_size"), message))
    epochs, warmup, optimizer = training.epochs, training.schedule.warmup_epochs, training.optimizer
    less = f"must be less than the {epochs} epochs of a trial, got"
    if warmup >= epochs:
        found.append((("training", "schedule", "warmup_epochs"), f"{less} {warmup}"))
    if optimizer.nesterov and (optimizer.name != "sgd" or not optimizer.momentum):
        message = f"needs optimizer sgd with a momentum above 0, got {optimizer.name} with {shown(optimizer.momentum)}"
        found.append((("training", "optimizer", "nesterov"), message))
    if stopping.rule != "none" and stopping.grace_epochs >= epochs:
        found.append((("stopping", "grace_epochs"), f"{less} {stopping.grace_epochs}"))
    return found


def _no_parameter(method: str, key: str, known: list[str]) -> str:
    what = "sparsity targets" if key == "targets" else f"parameter {key!r}"
    takes = f"its parameters: {listing(known)}" if known else "it takes no parameters"
    return f"{method} has no {what}; {takes}{suggest(key, known)}"


def _likely_metric(found: str) -> str:
    """Words of other tools in ours, and the validation split first where none is named."""
    spelled = re.sub(r"\bval\b", "validation", re.sub(r"\bacc\b", "accuracy", found.replace("_", "/")))
    return suggest(spelled, sorted(objective_names(), key=lambda name: "validation" not in name))


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
