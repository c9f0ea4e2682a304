"""Domains, and the conditional search space they form.

A *domain* is a set a value is searched in, written in a study file as a mapping with one of the keys ``uniform``,
``log_uniform``, ``int`` or ``choice``. A *template* is any nesting of mappings and sequences whose leaves are values
or domains; a search space is an ordered set of named domains collected from one template per arm plus those that
every arm shares. Only the parameters of the chosen arm exist in a trial.

Nothing here knows a search library; `sparsestudy.scheduling.distributions` translates both ways.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from sparsestudy.errors import NotFoundError, listing, shown, suggest

Scalar: TypeAlias = bool | int | float | str | None

ARM = "arm"
"""Name of the one categorical parameter that every other regulariser parameter hangs under."""


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """A real number in ``[low, high]``, on a linear or a logarithmic scale, or on the lattice ``low + k * step``."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        kind = "log_uniform" if self.log else "uniform"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"{kind} needs two finite numbers, got {shown([self.low, self.high])}")
        if not self.low < self.high:
            raise ValueError(f"{kind} needs low < high, got {shown([self.low, self.high])}")
        if self.log and self.low <= 0:
            raise ValueError(f"log_uniform needs low > 0, got {shown(self.low)}")
        if self.step is not None and self.log:
            raise ValueError("step cannot be combined with log_uniform; give a choice of values instead")
        if self.step is not None:
            _check_step(self.low, self.high, self.step)

    def grid(self) -> list[Scalar] | None:
        """The lattice as a list, or None for a continuum."""
        if self.step is None:
            return None
        low, high, step = (_as_written(number) for number in (self.low, self.high, self.step))
        return [float(low + k * step) for k in range((high - low) // step + 1)]

    def corners(self) -> list[Scalar]:
        """Values at which a check of the whole domain suffices: both ends."""
        return [self.low, self.high]

    def contains(self, value: object) -> bool:
        """Whether ``value`` is a number in the interval (the lattice is not enforced)."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def to_yaml(self) -> dict[str, Any]:
        """The mapping that `parse_domain` reads back."""
        spelled: dict[str, Any] = {"log_uniform" if self.log else "uniform": [self.low, self.high]}
        return spelled if self.step is None else {**spelled, "step": self.step}


@dataclass(frozen=True, kw_only=True)
class Integer:
    """A whole number in ``[low, high]``, both included, every ``step``."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"int needs low < high, got [{self.low}, {self.high}]")
        _check_step(self.low, self.high, self.step)

    def grid(self) -> list[Scalar]:
        """All values in order."""
        return list(range(self.low, self.high + 1, self.step))

    def corners(self) -> list[Scalar]:
        """Both ends."""
        return [self.low, self.high]

    def contains(self, value: object) -> bool:
        """Whether ``value`` is a whole number in the range."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def to_yaml(self) -> dict[str, Any]:
        """The mapping that `parse_domain` reads back."""
        spelled: dict[str, Any] = {"int": [self.low, self.high]}
        return spelled if self.step == 1 else {**spelled, "step": self.step}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a list of values, without order."""

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("choice needs at least one value, got an empty list")
        for index, value in enumerate(self.values):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"choice needs finite numbers, got {shown(value)}")
            # 1, 1.0 and true compare equal; a search over two of them would silently merge them.
            if value in self.values[:index]:
                first = self.values[self.values.index(value)]
                same = "twice" if shown(first) == shown(value) else f"and {shown(value)}, which are equal"
                raise ValueError(f"choice names {shown(first)} {same}; every value may stand once")

    def grid(self) -> list[Scalar]:
        """The values in order."""
        return list(self.values)

    def corners(self) -> list[Scalar]:
        """Every value: nothing is known of the ones between."""
        return list(self.values)

    def contains(self, value: object) -> bool:
        """Whether ``value`` is one of the values."""
        return value in self.values

    def to_yaml(self) -> dict[str, Any]:
        """The mapping that `parse_domain` reads back."""
        return {"choice": list(self.values)}


def _check_step(low: float, high: float, step: float) -> None:
    span = _as_written(high) - _as_written(low)
    if not math.isfinite(step) or not 0 < _as_written(step) <= span:
        raise ValueError(f"step must be above 0 and at most high - low = {shown(float(span))}, got {shown(step)}")
    if rest := span % _as_written(step):
        last = shown(float(_as_written(high) - rest))
        raise ValueError(
            f"step {shown(step)} does not lead from {shown(low)} to {shown(high)}; the last value before is {last}"
        )


def _as_written(number: float) -> Fraction:
    """Exactly the decimal number that was written: 0.1 is a tenth, and three of them are 0.3."""
    return Fraction(str(number))


Domain: TypeAlias = Uniform | Integer | Choice
DOMAIN_KEYS = ("uniform", "log_uniform", "int", "choice")


def looks_like_domain(value: object) -> bool:
    """Whether a mapping is spelled as a domain, right or wrong, rather than as a table of layer patterns."""
    if not isinstance(value, Mapping):
        return False
    others = [item for key, item in value.items() if key != "step"]
    return any(key in value for key in DOMAIN_KEYS) or (len(others) == 1 and isinstance(others[0], list))


def parse_domain(value: Mapping[str, Any]) -> Domain:
    """Read a domain as a study file spells it.

    Raises:
        ValueError: With a sentence that says what is wrong and what is allowed.

    Example:
        >>> parse_domain({"log_uniform": [1e-3, 1]})
        Uniform(low=0.001, high=1.0, log=True, step=None)
        >>> parse_domain({"int": [1, 9], "step": 2}).grid()
        [1, 3, 5, 7, 9]
    """
    kinds = [key for key in value if key in DOMAIN_KEYS]
    if len(kinds) != 1:
        unknown = next((key for key in value if key not in (*DOMAIN_KEYS, "step")), "")
        found = f"got {listing(value)}" if value else "got an empty mapping"
        raise ValueError(
            f"a domain has exactly one of the keys {listing(DOMAIN_KEYS)}; {found}{suggest(str(unknown), DOMAIN_KEYS)}"
        )
    kind = kinds[0]
    extra = [key for key in value if key not in (kind, "step")]
    if extra:
        raise ValueError(
            f"unknown key {extra[0]!r} in a {kind} domain; allowed: {kind}, step{suggest(str(extra[0]), ['step'])}"
        )
    bounds = value[kind]
    step = value.get("step")
    if kind == "choice":
        if step is not None:
            raise ValueError("step belongs to uniform and int; a choice lists its values")
        if not isinstance(bounds, list):
            raise ValueError(f"choice needs a list of values, got {shown(bounds)}")
        wrong = [v for v in bounds if not isinstance(v, bool | int | float | str | None)]
        if wrong:
            raise ValueError(f"choice values are numbers, words, true, false or null, got {shown(wrong[0])}")
        return Choice(values=tuple(bounds))
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(_is_number(n) for n in bounds):
        raise ValueError(f"{kind} needs two numbers [low, high], got {shown(bounds)}")
    if step is not None and not _is_number(step):
        raise ValueError(f"step must be a number, got {shown(step)}")
    if kind == "int":
        if not all(isinstance(n, int) for n in bounds):
            raise ValueError(f"int needs two whole numbers, got {shown(bounds)}")
        if not isinstance(step, int | None):
            raise ValueError(f"step of an int must be a whole number, got {shown(step)}")
        return Integer(low=bounds[0], high=bounds[1], step=1 if step is None else step)
    return Uniform(
        low=float(bounds[0]),
        high=float(bounds[1]),
        log=kind == "log_uniform",
        step=None if step is None else float(step),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def leaves(template: object, path: str = "") -> Iterator[tuple[str, Domain]]:
    """Yield ``(path, domain)`` for every domain in a template, depth first, in the order written.

    Path components are joined by ``/``, so that layer names may keep their dots.

    Example:
        >>> list(leaves({"strength": Choice(values=(1, 2)), "axis": "layer"}, "l1"))
        [('l1/strength', Choice(values=(1, 2)))]
    """
    if isinstance(template, Uniform | Integer | Choice):
        yield path, template
    elif isinstance(template, Mapping):
        for key, value in template.items():
            yield from leaves(value, f"{path}/{key}" if path else str(key))
    elif isinstance(template, list | tuple):
        for index, value in enumerate(template):
            yield from leaves(value, f"{path}/{index}" if path else str(index))


def fill(template: Any, values: Mapping[str, Scalar], path: str = "") -> Any:
    """Return the template with every domain replaced by ``values[path of the domain]``.

    Example:
        >>> fill({"strength": Choice(values=(1, 2)), "axis": "layer"}, {"l1/strength": 2}, "l1")
        {'strength': 2, 'axis': 'layer'}
    """
    if isinstance(template, Uniform | Integer | Choice):
        return values[path]
    if isinstance(template, Mapping):
        return {key: fill(value, values, f"{path}/{key}" if path else str(key)) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [fill(value, values, f"{path}/{i}" if path else str(i)) for i, value in enumerate(template)]
    return template


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A named domain; ``arm`` is the arm it belongs to, None if every trial has it."""

    name: str
    domain: Domain
    arm: str | None = None


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The conditional space: an arm, the parameters every arm shares, and the parameters of each arm.

    Attributes:
        arms: Labels of the arms in the order of the study file; at least one.
        parameters: All parameters, shared ones first, each name once.
    """

    arms: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    def active(self, arm: str) -> tuple[Parameter, ...]:
        """Parameters that exist in a trial of ``arm``.

        Raises:
            NotFoundError: There is no such arm.
        """
        if arm not in self.arms:
            raise NotFoundError(f"no arm named {arm!r}; arms: {listing(self.arms)}{suggest(arm, self.arms)}")
        return tuple(p for p in self.parameters if p.arm in (None, arm))

    def suggest(self, ask: Callable[[str, Domain], Scalar]) -> dict[str, Scalar]:
        """Walk the space once, asking for a value of each parameter that exists, the arm first.

        Args:
            ask: Returns a value of the given domain for the given parameter name.
        """
        arm = str(ask(ARM, Choice(values=self.arms))) if len(self.arms) > 1 else self.arms[0]
        return {ARM: arm, **{p.name: ask(p.name, p.domain) for p in self.active(arm)}}

    def grid(self) -> list[dict[str, Scalar]]:
        """Every point once, arm by arm, the last parameter varying fastest.

        Raises:
            ValueError: A parameter is a continuum; its name is in the message.
        """
        points: list[dict[str, Scalar]] = []
        for arm in self.arms:
            active = self.active(arm)
            axes = [self._axis(p) for p in active]
            names = [p.name for p in active]
            points += [{ARM: arm, **dict(zip(names, p, strict=True))} for p in itertools.product(*axes)]
        return points

    @staticmethod
    def _axis(parameter: Parameter) -> list[Scalar]:
        values = parameter.domain.grid()
        if values is None:
            raise ValueError(f"{parameter.name} is continuous; a grid needs a step or a choice of values")
        return values
