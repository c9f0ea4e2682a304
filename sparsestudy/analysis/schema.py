"""The published form of ``relation.json``: JSON Schema 2020-12, made from the dataclasses that it is written from."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter

from sparsestudy.analysis.relation import FORMAT, Relation


def relation_schema() -> dict[str, Any]:
    """Schema of what `sparsestudy.analysis.relation.to_json` yields; every field is always there."""
    schema = TypeAdapter(Relation).json_schema(mode="serialization")
    kinds = _dataclasses(Relation, {})
    for name, part in {Relation.__name__: schema, **schema.get("$defs", {})}.items():
        _describe(part, kinds[name])
    stamp = {
        "format": {"const": FORMAT, "description": "Of this file; another number has other fields."},
        "sparsestudy": {"type": "string", "description": "Version of sparsestudy that wrote it."},
    }
    return {
        **schema,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sparsestudy relation",
        "properties": {**stamp, **schema["properties"]},
        "required": [*stamp, *schema["required"]],
    }


def _describe(part: dict[str, Any], kind: type) -> None:
    """Say what a dataclass and its fields are, in the words of its docstring."""
    told = inspect.getdoc(kind) or ""
    part["description"] = told.split("\n\n")[0].replace("\n", " ")
    # What was fitted and found not to be there is null or empty, not absent.
    part["required"] = list(part["properties"])
    part["additionalProperties"] = False
    for name, description in _attributes(told).items():
        if name in part["properties"]:
            part["properties"][name]["description"] = description
    for described in part["properties"].values():
        described.pop("default", None)


def _attributes(told: str) -> dict[str, str]:
    r"""Descriptions in the section ``Attributes`` of a docstring; names that share one are told apart by commas.

    Example:
        >>> _attributes("What.\n\nAttributes:\n    a, b: Numbers,\n        finite.\n    c: Text.")
        {'a': 'Numbers, finite.', 'b': 'Numbers, finite.', 'c': 'Text.'}
    """
    section = re.search(r"^Attributes:\n((?: {4}.*\n?|\n)*)", told, re.MULTILINE)
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", section[1].rstrip() if section else ""):
        names, _, words = entry.strip().partition(":")
        found |= {name.strip(): " ".join(words.split()) for name in names.split(",") if words}
    return found


def _dataclasses(kind: Any, found: dict[str, type]) -> dict[str, type]:
    """The dataclasses that one is made of, itself included, by the key each has in the schema."""
    if is_dataclass(kind) and isinstance(kind, type):
        if kind in found.values():
            return found
        # Where two share a name, the schema has their modules before it.
        found[kind.__name__] = found[f"{kind.__module__}.{kind.__name__}".replace(".", "__")] = kind
        hints = get_type_hints(kind)
        for field in fields(kind):
            _dataclasses(hints[field.name], found)
    for part in get_args(kind):
        _dataclasses(part, found)
    return found
