"""What the analysis reasons about: curves, statistics inside the networks and assigned targets of all trials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
CURVES = ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
TRIAL_COLUMNS: dict[str, Any] = {
    "study": "object",
    "trial": "int64",
    "arm": "object",
    "configuration": "int64",
    "replicate": "int64",
    "epochs": "int64",
    "state": "object",
    "seconds": "float64",
}


@dataclass(frozen=True, kw_only=True, order=True)
class Signal:
    """One series that a trial records beside its losses.

    Attributes:
        kind: ``activations`` of a layer on the validation probe set, ``weights`` of a parameter, or the ``network``.
        layer: Full name of the layer or parameter; empty for the network.
        measure: Such as ``perplexity``.
    """

    kind: Literal["activations", "weights", "network"]
    layer: str
    measure: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """All usable trials of one or several studies, as arrays over trials ``n``, epochs ``E`` and signals ``S``.

    Attributes:
        trials: One row a trial, index 0 … n - 1: the columns of `TRIAL_COLUMNS` and one ``parameter/NAME`` for every
            searched parameter (NaN or None in arms without it); ``run``, its run, if it was read from MLflow.
            ``configuration`` numbers what is equal but for the seed; ``replicate`` counts the trials of one
            configuration from 0.
        curves: Each of `CURVES` as float64 ``[n, E]``, NaN after a trial's last epoch.
        signals: What `values` holds, in order; layers in the order of the network.
        values: float32 or float64 ``[n, E, S]``, NaN where undefined or not measured.
        targets: Requested sparsity by layer, float64 ``[n]``, NaN in trials without a target for it.
        main: The measure the targets are in.
        excluded: Trials that are left out: ``study``, ``trial``, ``arm``, ``reason``.
    """

    trials: pd.DataFrame
    curves: dict[str, Array]
    signals: tuple[Signal, ...]
    values: Array
    targets: dict[str, Array] = field(default_factory=dict)
    main: str = "perplexity"
    excluded: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["study", "trial", "arm", "reason"]))

    def __len__(self) -> int:
        return len(self.trials)

    @property
    def layers(self) -> list[str]:
        """Layers whose activations were measured, in the order of the network."""
        return list(dict.fromkeys(s.layer for s in self.signals if s.kind == "activations"))

    def series(self, signal: Signal) -> Array:
        """Values of one signal, ``[n, E]``.

        Raises:
            KeyError: It was not recorded.
        """
        if signal not in self.signals:
            raise KeyError(f"{signal} was not recorded")
        return self.values[:, :, self.signals.index(signal)]

    def last(self, series: Array) -> Array:
        """Value of each trial at its last epoch, ``[n]``; NaN where that epoch has none."""
        ends: NDArray[np.int64] = self.trials["epochs"].to_numpy() - 1
        return series[np.arange(len(self)), ends]

    def gap(self, of: Literal["loss", "accuracy"] = "loss") -> Array:
        """Gap at each trial's last epoch: validation minus train loss, or train minus validation accuracy."""
        sign = 1.0 if of == "loss" else -1.0
        return sign * (self.last(self.curves[f"validation/{of}"]) - self.last(self.curves[f"train/{of}"]))
