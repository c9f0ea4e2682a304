"""What a tracker holds of many trials at once, as arrays: the common form of all that can be read at scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
Place: TypeAlias = tuple[str, str, str]
"""Kind (``activations``, ``weights`` or ``network``), layer and measure of a series."""


@dataclass(frozen=True, kw_only=True)
class RecordedTrial:
    """A trial of which at least one epoch can be used.

    Attributes:
        study: Its study.
        number: Its number there.
        arm: Its arm.
        state: COMPLETE or PRUNED.
        epochs: How many it trained.
        seconds: Wall clock from start to finish, None if unknown.
        parameters: Searched values by name, without the arm and without seeds.
        targets: Requested sparsity by layer or layer pattern.
        configuration: Equal for trials that differ in nothing but their seeds.
        run: Its run in MLflow, if it was read from there; empty otherwise.
    """

    study: str
    number: int
    arm: str
    state: str
    epochs: int
    seconds: float | None
    parameters: Mapping[str, Any]
    targets: Mapping[str, float]
    configuration: str
    run: str = ""


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A trial that cannot be used, and why."""

    study: str
    number: int
    arm: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Recordings:
    """Trials of one study or experiment.

    Attributes:
        trials: The usable ones, ``n``.
        curves: ``train/loss``, ``train/accuracy``, ``validation/loss``, ``validation/accuracy``: float64 ``[n, E]``.
        places: What `values` holds, ``S``, in the order first recorded.
        values: float32 ``[n, E, S]``. NaN where undefined, not measured, or beyond what float32 holds.
        excluded: The others.
        main: The measure that targets are in.
    """

    trials: tuple[RecordedTrial, ...]
    curves: Mapping[str, Array]
    places: tuple[Place, ...]
    values: Array
    excluded: tuple[Excluded, ...]
    main: str


def single(values: Array) -> Array:
    """As float32, NaN in place of what it cannot hold."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    found[~np.isfinite(found)] = np.nan
    return found
