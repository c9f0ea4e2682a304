"""The data that trials of one study trained on, where the study searches it: how much of it, how much of it wrong.

Fewer or wrong examples widen the gap and change what the layers do, whatever the arm. Trials on different data are
therefore compared with each other no more than trials of different arms: the data is a block of the design (Fisher
1935, The Design of Experiments, chapter 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.pairs import axes_of

Codes: TypeAlias = NDArray[np.intp]
DATA = "data."
"""How the names of parameters begin that say what data a trial trains on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """Which data each trial trained on.

    Attributes:
        codes: Number of each trial's condition, ``[n]``, from 0.
        names: Parameters that make conditions differ; empty if there is but one.
    """

    codes: Codes
    names: tuple[str, ...]


def conditions(evidence: Evidence) -> Conditions:
    """The conditions of a study: combinations of the searched parameters of its data.

    A continuous one counts by thirds; see `sparsestudy.analysis.pairs`.
    """
    axes = [axis for axis in axes_of(evidence) if axis.name.startswith(DATA)] if len(evidence) else []
    return Conditions(
        codes=crossed(np.zeros(len(evidence), dtype=np.intp), *(axis.codes.astype(np.intp) for axis in axes)),
        names=tuple(axis.name for axis in axes),
    )


def crossed(*codes: Codes) -> Codes:
    """Number of each combination of codes, ``[n]``, from 0.

    Example:
        >>> crossed(np.array([0, 0, 1, 1]), np.array([5, 7, 5, 5])).tolist()
        [0, 1, 2, 2]
    """
    _, found = np.unique(np.column_stack(codes), axis=0, return_inverse=True)
    return np.asarray(found, dtype=np.intp).reshape(-1)
