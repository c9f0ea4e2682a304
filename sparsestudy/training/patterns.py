"""Patterns of layer names, as study files have them, resolved into one entry per layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsestudy.errors import NotFoundError, listing
from sparsestudy.regularizers import match


def expand(patterns: Mapping[str, Any], layers: list[str], noun: str = "layer") -> dict[str, Any]:
    """Resolve layer patterns: one entry per layer, in the order of the network.

    An exact name wins over a shell pattern.

    Args:
        patterns: Pattern to value.
        layers: Names of the layers there are.
        noun: What to call a layer in messages.

    Raises:
        NotFoundError: A pattern matches no layer.
        ValueError: Two shell patterns claim the same layer.

    Example:
        >>> expand({"conv*": 0.3, "conv2": 0.5}, ["conv1", "conv2", "dense1"])
        {'conv1': 0.3, 'conv2': 0.5}
    """
    for pattern in patterns:
        if not any(match((pattern,), layer) for layer in layers):
            raise NotFoundError(f"{pattern!r} matches no {noun} of this model; {noun}s: {listing(layers)}")
    found = {}
    for layer in layers:
        claims = [layer] if layer in patterns else [p for p in patterns if match((p,), layer)]
        if len(claims) > 1:
            raise ValueError(f"{noun} {layer!r} is claimed by {claims[0]!r} and by {claims[1]!r}; keep one")
        if claims:
            found[layer] = patterns[claims[0]]
    return found
