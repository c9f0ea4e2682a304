"""How the ledger writes a measurement: scalars as JSON, statistics as a row of numbers whose names are kept once.

The statistics of one epoch are hundreds of numbers, and their names are longer than they are. A measurement that has
been packed holds in their place ``{"shape": ID, "values": TEXT}``: the numbers in order as little-endian float64 in
base64, NaN where undefined; the names in that order are the *shape* of that ID, which a study's epochs share. A large
study's ledger is a quarter as large and read several times as fast. What was written before, names and all, is read as
ever.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsestudy.study import digest

Places: TypeAlias = tuple[tuple[str, str, str], ...]
"""Split, layer and measure of each number, in order."""


def pack(data: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, Places] | None]:
    """Pack a measurement.

    Args:
        data: A measurement as plain data.

    Returns:
        What to write, and the identifier and the places of its shape. Without a shape nothing was packed: there are no
        statistics, or such as would not come back equal.

    Example:
        >>> pack({"epoch": 0, "statistics": {"validation": {"a": {"gini": 0.5, "hoyer": None}}}})
        ... # doctest: +NORMALIZE_WHITESPACE
        ({'epoch': 0, 'statistics': {'shape': '322750fad4509c12', 'values': 'AAAAAAAA4D8AAAAAAAD4fw=='}},
         ('322750fad4509c12', (('validation', 'a', 'gini'), ('validation', 'a', 'hoyer'))))
    """
    statistics = data["statistics"]
    places, values = [], []
    for split, layers in statistics.items():
        for layer, measures in layers.items():
            for measure, value in measures.items():
                places.append((split, layer, measure))
                values.append(value)
    empty = not all(layers and all(layers.values()) for layers in statistics.values())
    if not places or empty or not all(_packable(value) for value in values):
        return dict(data), None
    numbers = np.array([math.nan if value is None else value for value in values], dtype="<f8")
    shape = tuple(places)
    text = b64encode(numbers.tobytes()).decode()
    return {**data, "statistics": {"shape": _identifier(shape), "values": text}}, (_identifier(shape), shape)


def unpack(data: Mapping[str, Any], shapes: Mapping[str, Places]) -> dict[str, Any]:
    """The inverse of `pack`, given the shapes of the study by identifier; what was never packed stays as it is."""
    identifier = shape_of(data["statistics"])
    if identifier is None:
        return dict(data)
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for (split, layer, measure), value in zip(shapes[identifier], numbers(data["statistics"]).tolist(), strict=True):
        of_layer = found.setdefault(split, {}).setdefault(layer, {})
        of_layer[measure] = None if math.isnan(value) else value
    return {**data, "statistics": found}


def shape_of(statistics: Mapping[str, Any]) -> str | None:
    """Identifier of the shape of packed statistics, None of others."""
    identifier = statistics.get("shape")
    return identifier if isinstance(identifier, str) else None


def numbers(statistics: Mapping[str, Any]) -> NDArray[np.float64]:
    """Of packed statistics, in the order of their shape."""
    return np.frombuffer(b64decode(statistics["values"]), dtype="<f8").astype(np.float64, copy=False)


def places_of(written: Sequence[Sequence[str]]) -> Places:
    """A shape as the ledger's JSON has it."""
    return tuple((split, layer, measure) for split, layer, measure in written)


def _packable(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isnan(value))


@lru_cache(maxsize=256)
def _identifier(shape: Places) -> str:
    return digest(shape)
