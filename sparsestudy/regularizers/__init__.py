"""Methods against overfitting, one file each; the folder is the registry.

Example:
    >>> perplexity = get("perplexity", strength=0.1, targets={"features.*": 0.4})
    >>> perplexity.targets
    {'features.*': 0.4}
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from sparsestudy._registry import lookup, modules
from sparsestudy.errors import Problem, SpecError, listing, suggest
from sparsestudy.regularizers._regularizer import LayerRegularizer, Regularizer, WeightRegularizer
from sparsestudy.regularizers._step import (
    Layer,
    Network,
    Step,
    Weight,
    evaluating,
    match,
    nth_use,
    survey,
    trained_weights,
)
from sparsestudy.specfile import describe

__all__ = [
    "Layer",
    "LayerRegularizer",
    "Network",
    "Regularizer",
    "Step",
    "Weight",
    "WeightRegularizer",
    "evaluating",
    "get",
    "kind",
    "match",
    "names",
    "nth_use",
    "survey",
    "trained_weights",
]


def names() -> list[str]:
    """Names of all methods."""
    return modules(__name__)


def kind(method: str) -> type[Regularizer]:
    """The class of a method.

    Raises:
        NotFoundError: There is none of that name.
    """
    return lookup(__name__, method, Regularizer, "regularizer")


def get(method: str, **parameters: Any) -> Regularizer:
    """Build a regulariser from exactly what a study file, and ``best.yaml``, spell out.

    Args:
        method: Name of the method; see `names`.
        **parameters: Its fields, such as ``strength``, ``targets`` or ``layers``.

    Raises:
        NotFoundError: No such method.
        SpecError: Parameters it does not have or values it does not take, all at once.
    """
    found = kind(method)
    try:
        return found(**parameters)
    except ValidationError as error:
        problems = [
            Problem(".".join(str(part) for part in e["loc"]), _explain(found, method, e))
            for e in error.errors(include_url=False)
        ]
        raise SpecError(f"regularizer {method!r}", problems) from None


def _explain(found: type[Regularizer], method: str, error: Any) -> str:
    fields = list(found.model_fields)
    if error["type"] == "extra_forbidden":
        key = str(error["loc"][0])
        if key == "targets":
            return f"{method} has no sparsity targets; its parameters: {listing(fields)}"
        return f"{method} has no parameter {key!r}; its parameters: {listing(fields)}{suggest(key, fields)}"
    return describe(error)
