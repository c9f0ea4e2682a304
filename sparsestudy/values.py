"""How values are spelled in a study file: numbers, domains, strengths, targets, patterns; read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from sparsestudy.errors import listing, shown, suggest
from sparsestudy.space import DOMAIN_KEYS, Choice, Domain, Integer, Uniform, looks_like_domain, parse_domain

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
