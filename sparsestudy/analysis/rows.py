"""Two tables of all that the evidence holds, for anybody's own tools: one row a trial; one a trial, layer and epoch.

Names follow those of `sparsestudy.analysis.table`: ``final/…`` is at a trial's last epoch, ``best/…`` at its epoch of
lowest validation loss; LAYER stands for every layer whose activations were measured, and its sparsity is the main
measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsestudy.analysis.evidence import CURVES, Array, Evidence, Signal
from sparsestudy.analysis.onset import Onsets, overfitting_onset, sparsity_onset
from sparsestudy.analysis.rise import Floats, Mask, Whole
from sparsestudy.analysis.table import TEXT, write_parquet

LATE = 0.25
"""Share of a trial's epochs that its late slopes are over."""
_PARCEL = 400_000


def trial_rows(evidence: Evidence, alpha: float = 0.05) -> pd.DataFrame:
    """One row a trial.

    Args:
        evidence: The trials; a PRUNED one stands with its state, and its ``final/…`` are those of the epoch it reached.
        alpha: Of the tests for onsets: share of false alarms, at most.

    Returns:
        ``study``, ``arm``, ``state`` (text), ``trial``, ``configuration``, ``replicate``, ``epochs`` (int64),
        ``seconds``; ``parameter/NAME`` (float64 or text); ``strength``, the searched one of the trial's arm, NaN where
        there is none or several; and, float64 unless said otherwise and NaN where undefined:

        - ``final/gap/loss`` (validation minus train) and ``final/gap/accuracy`` (train minus validation);
        - ``best/epoch``, ``best/validation/loss``, and ``final/excess/loss``: how far above it the loss ended;
        - ``onset/overfitting`` (int64) and ``onset/overfitting/censored`` (bool), as `Onsets` has them;
        - ``onset/sparsity/LAYER`` and ``onset/sparsity/LAYER/censored``, likewise;
        - ``lead/LAYER``: epochs from the sparsity onset to the overfitting onset, where neither is censored;
        - ``area/LAYER``: area under the sparsity curve divided by the epochs it spans, a mean level;
        - ``slope/LAYER``: least-squares slope of sparsity per epoch over the last `LATE` of the epochs;
        - ``final/sparsity/LAYER``, ``best/sparsity/LAYER``; ``target/LAYER``, the sparsity that was requested, and
          ``deviation/LAYER``: what was achieved at the end minus that.
    """
    overfitting = overfitting_onset(evidence.curves["validation/loss"], alpha)
    columns = _recorded(evidence) | _losses(evidence) | _onset_columns("overfitting", overfitting)
    measured: Mask = np.any(np.isfinite(evidence.values), axis=2)
    for layer in evidence.layers:
        columns |= _layer(evidence, layer, overfitting, measured, alpha)
    return pd.DataFrame(columns)


def _recorded(evidence: Evidence) -> dict[str, Any]:
    trials = evidence.trials
    texts = {name: trials[name].astype(TEXT) for name in ("study", "arm", "state")}
    numbers = {name: trials[name] for name in ("trial", "configuration", "replicate", "epochs", "seconds")}
    parameters = {
        name: trials[name] if pd.api.types.is_float_dtype(trials[name]) else trials[name].astype(TEXT)
        for name in trials.columns
        if name.startswith("parameter/")
    }
    return {**texts, **numbers, **parameters, "strength": _strength(trials)}


def _strength(trials: pd.DataFrame) -> Floats:
    found = np.full(len(trials), np.nan)
    for arm in trials["arm"].unique():
        own = [c for c in trials.columns if c.startswith(f"parameter/{arm}/") and c.endswith("/strength")]
        if len(own) == 1 and pd.api.types.is_float_dtype(trials[own[0]]):
            rows = (trials["arm"] == arm).to_numpy()
            found[rows] = trials.loc[rows, own[0]]
    return found


def _losses(evidence: Evidence) -> dict[str, Any]:
    best, lowest = best_epoch(evidence)
    return {
        "final/gap/loss": evidence.gap("loss"),
        "final/gap/accuracy": evidence.gap("accuracy"),
        "best/epoch": np.where(best < 0, np.nan, best),
        "best/validation/loss": lowest,
        "final/excess/loss": evidence.last(evidence.curves["validation/loss"]) - lowest,
    }


def best_epoch(evidence: Evidence) -> tuple[Whole, Floats]:
    """First epoch of lowest validation loss, -1 where none was recorded, and that loss or NaN."""
    loss = np.where(np.isnan(evidence.curves["validation/loss"]), np.inf, evidence.curves["validation/loss"])
    lowest = loss.min(axis=1, initial=np.inf)
    best = (loss == lowest[:, None]).argmax(axis=1) if loss.shape[1] else np.zeros(len(loss), dtype=np.int64)
    return np.where(np.isinf(lowest), -1, best), np.where(np.isinf(lowest), np.nan, lowest)


def _onset_columns(name: str, onsets: Onsets) -> dict[str, Any]:
    return {f"onset/{name}": onsets.epoch, f"onset/{name}/censored": onsets.censored}


def _layer(evidence: Evidence, layer: str, overfitting: Onsets, measured: Mask, alpha: float) -> dict[str, Any]:
    signal = Signal(kind="activations", layer=layer, measure=evidence.main)
    known = signal in evidence.signals
    series = evidence.series(signal) if known else np.full(measured.shape, np.nan)
    onsets = sparsity_onset(series, alpha)
    seen = ~(onsets.censored | overfitting.censored)
    final = evidence.last(series).astype(np.float64)
    target = evidence.targets.get(layer, np.full(len(evidence), np.nan))
    return {
        **_onset_columns(f"sparsity/{layer}", onsets),
        f"lead/{layer}": np.where(seen, overfitting.epoch - onsets.epoch, np.nan),
        f"area/{layer}": mean_level(series),
        f"slope/{layer}": late_slope(series, evidence.trials["epochs"].to_numpy()),
        f"final/sparsity/{layer}": final,
        f"best/sparsity/{layer}": _at_best(evidence, series, measured),
        f"target/{layer}": target,
        f"deviation/{layer}": final - target,
    }


def _at_best(evidence: Evidence, series: Array, measured: Mask) -> Floats:
    """Value at the last epoch with measurements up to the best one, or at the first with any; as headlines have it."""
    best, _ = best_epoch(evidence)
    at = np.arange(measured.shape[1])
    before = np.where(measured & (at <= best[:, None]), at, -1).max(axis=1, initial=-1)
    epoch = np.where(before >= 0, before, measured.argmax(axis=1) if len(at) else 0)
    found = series[np.arange(len(series)), epoch] if len(at) else np.full(len(series), np.nan)
    return np.where(best >= 0, found, np.nan).astype(np.float64)


def mean_level(series: Array) -> Floats:
    """Area under each of ``[n, E]`` series by the trapezoidal rule over its measured epochs, divided by their span.

    Example:
        >>> mean_level(np.array([[0.0, np.nan, 1.0], [np.nan, 0.5, np.nan]])).tolist()
        [0.5, 0.5]
    """
    measured, at = np.isfinite(series), np.arange(series.shape[1])
    values = np.where(measured, series, 0.0).astype(np.float64)
    latest = np.maximum.accumulate(np.where(measured, at, -1), axis=1)
    before = np.concatenate([np.full((len(series), 1), -1), latest[:, :-1]], axis=1)[:, : len(at)]
    joined = measured & (before >= 0)
    previous = np.take_along_axis(values, np.maximum(before, 0), axis=1)
    area = np.where(joined, (at - before) * (values + previous) / 2, 0.0).sum(axis=1)
    span = np.where(joined, at - before, 0).sum(axis=1)
    alone = np.where(measured.any(axis=1), values.sum(axis=1), np.nan)
    return np.where(span > 0, area / np.maximum(span, 1), alone)


def late_slope(series: Array, epochs: Whole) -> Floats:
    """Least-squares slope per epoch over the last `LATE` of each trial's epochs; NaN with fewer than 3 values there.

    Example:
        >>> late_slope(np.arange(12.0)[None] / 4, np.array([12])).tolist()
        [0.25]
    """
    at = np.arange(series.shape[1])
    within = np.isfinite(series) & (at >= np.floor((1 - LATE) * epochs)[:, None])
    count = np.maximum(within.sum(axis=1), 1)
    time = np.where(within, at - (np.where(within, at, 0).sum(axis=1) / count)[:, None], 0.0)
    products = (time * np.where(within, series, 0.0)).sum(axis=1, dtype=np.float64)
    enough = within.sum(axis=1) >= 3
    return np.where(enough, products / np.where(enough, (time**2).sum(axis=1), 1.0), np.nan)


def epoch_rows(evidence: Evidence) -> Iterator[pd.DataFrame]:
    """One row a trial, layer and epoch, in parcels of whole trials; at least one parcel, if an empty one.

    Yields:
        ``study``, ``arm``, ``kind`` and ``layer`` (categories, layers in the order of the network; ``kind`` and
        ``layer`` are those of `Signal`), ``trial``, ``epoch`` (int64), the curves (float64), and every measure (as the
        evidence has it), NaN where it is undefined or was not measured.
    """
    layers = list(dict.fromkeys((signal.kind, signal.layer) for signal in evidence.signals))
    size = max(1, _PARCEL // max(1, len(layers) * evidence.values.shape[1]))
    for start in range(0, max(1, len(evidence)), size):
        yield _parcel(evidence, slice(start, start + size), layers)


def _parcel(evidence: Evidence, rows: slice, layers: Sequence[tuple[str, str]]) -> pd.DataFrame:
    trials, values = evidence.trials.iloc[rows], evidence.values[rows]
    shape = (len(trials), len(layers), values.shape[1])
    keep = np.broadcast_to(np.arange(shape[2]) < trials["epochs"].to_numpy()[:, None, None], shape)
    trial, layer, epoch = np.nonzero(keep)
    kinds, names = [kind for kind, _ in layers], [name for _, name in layers]
    columns: dict[str, Any] = {
        "study": _category(trials["study"].tolist(), trial, evidence.trials["study"].tolist()),
        "trial": trials["trial"].to_numpy()[trial],
        "arm": _category(trials["arm"].tolist(), trial, evidence.trials["arm"].tolist()),
        "kind": _category(kinds, layer, kinds),
        "layer": _category(names, layer, names),
        "epoch": epoch,
        **{name: evidence.curves[name][rows][trial, epoch] for name in CURVES},
    }
    for measure in dict.fromkeys(signal.measure for signal in evidence.signals):
        wide = np.full(shape, np.nan, dtype=values.dtype)
        for column, signal in enumerate(evidence.signals):
            if signal.measure == measure:
                wide[:, layers.index((signal.kind, signal.layer))] = values[:, :, column]
        columns[measure] = wide[keep]
    return pd.DataFrame(columns)


def _category(names: Sequence[str], rows: Whole, known: Sequence[str]) -> pd.Categorical[Any]:
    """``names[rows]`` as a category out of ``known``, whose order it keeps."""
    codes = {name: code for code, name in enumerate(dict.fromkeys(known))}
    own = np.array([codes[name] for name in names], dtype=np.int64)
    return pd.Categorical.from_codes(own[rows], categories=pd.Index(list(codes)))


def write_rows(evidence: Evidence, folder: Path, alpha: float = 0.05) -> tuple[Path, Path]:
    """Write both tables as Parquet, ``evidence-trials.parquet`` and ``evidence-epochs.parquet``.

    Raises:
        OSError: A file cannot be written.
    """
    trials, epochs = folder / "evidence-trials.parquet", folder / "evidence-epochs.parquet"
    write_parquet(trial_rows(evidence, alpha), trials)
    write_parquet(epoch_rows(evidence), epochs)
    return trials, epochs
