"""The trials a question about level can use, as arrays: gap, sparsity at the end, arm and configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsestudy.analysis.clustered import Codes, Floats
from sparsestudy.analysis.conditions import conditions, crossed
from sparsestudy.analysis.evidence import Evidence, Signal

Gap: TypeAlias = Literal["loss", "accuracy"]
Mask: TypeAlias = NDArray[np.bool_]
POOLED = "mean of layers"
STEP = 0.1
"""Effects are per this much sparsity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Trials with a finite gap and sparsity.

    Attributes:
        rows: Where they stand in the evidence, ``[m]``.
        gap: At the last epoch, ``[m]``.
        sparsity: At the last epoch, ``[m]``, in [0, 1).
        arms: Number of each trial's arm, ``[m]``.
        names: Name of each arm, by number.
        configurations: Number of each trial's configuration, ``[m]``.
        cells: What trials are compared within: number of each trial's arm and, where the study searches its data and
            has two configurations to a cell or more, of the data too, ``[m]``.
        held: The searched parameters of the data that cells tell apart.
    """

    rows: Codes
    gap: Floats
    sparsity: Floats
    arms: Codes
    names: tuple[str, ...]
    configurations: Codes
    cells: Codes
    held: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def configuration_count(self) -> int:
        """Number of distinct configurations."""
        return len(np.unique(self.configurations))

    def within(self, values: Floats) -> Floats:
        """Values minus the mean of their cell."""
        count = np.bincount(self.cells)
        return np.asarray(values - (np.bincount(self.cells, values) / np.maximum(count, 1))[self.cells])


def sparsities(evidence: Evidence) -> dict[str, Floats]:
    """Sparsity (the study's main measure) of each layer at each trial's last epoch, ``[n]``; NaN where undefined."""
    wanted = [Signal(kind="activations", layer=layer, measure=evidence.main) for layer in evidence.layers]
    found = {s.layer: evidence.last(evidence.series(s)) for s in wanted if s in evidence.signals}
    return {layer: np.asarray(values, dtype=np.float64) for layer, values in found.items()}


def pooled(by_layer: dict[str, Floats]) -> Floats:
    """Mean over the layers that at least half of the trials have, NaN where one of those is undefined, ``[n]``.

    Averaging whatever happens to be defined would compare different layers with one another.
    """
    usual = [v for v in by_layer.values() if len(v) and np.isfinite(v).mean() >= 0.5]
    return np.mean(usual, axis=0) if usual else np.full(len(next(iter(by_layer.values()), ())), np.nan)


def full_length(evidence: Evidence) -> Mask:
    """Trials that were not stopped early, ``[n]``; gap and sparsity grow with training, so the others mislead."""
    return np.asarray(evidence.trials["state"].astype(str) != "PRUNED", dtype=bool)


def draw(evidence: Evidence, gap: Floats, sparsity: Floats, among: Mask) -> Sample:
    """The trials among those chosen that have both numbers; a gap whose square is no number is none."""
    rows = np.flatnonzero(among & (np.abs(gap) < 1e100) & np.isfinite(sparsity))
    trials = evidence.trials.iloc[rows]
    names, arms = np.unique(trials["arm"].to_numpy(dtype=object).astype(str), return_inverse=True)
    numbers = np.unique(trials["configuration"].to_numpy(), return_inverse=True)[1]
    data = conditions(evidence)
    cells = crossed(arms.astype(np.intp), data.codes[rows])
    enough = len(rows) > 0 and len(np.unique(numbers)) >= 2 * len(np.unique(cells))
    return Sample(
        rows=rows,
        gap=gap[rows],
        sparsity=sparsity[rows],
        arms=arms.astype(np.intp),
        names=tuple(str(name) for name in names),
        configurations=numbers.astype(np.intp),
        cells=cells if enough else arms.astype(np.intp),
        held=data.names if enough else (),
    )
