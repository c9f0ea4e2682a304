"""Which rule tells in real time that a run begins to overfit: false alarms, misses, lead and what stopping costs.

The figures are those of papers on detecting changes (Tartakovsky, Nikiforov and Basseville 2014, Sequential Analysis):
false alarms among runs in which nothing happens, missed changes, and the delay, which is minus the lead. What nothing
happens in is a run that was trained to its end and never began to overfit; a run that was stopped early and had not is
neither a control nor a miss and is left out. A lead alone rewards a rule that always cries at once; the excess loss
does not.

The onset itself is read off the validation loss, so that patience on it, and the excess loss that it keeps, are at an
advantage over rules that never see it. And one rule needs no watching at all, the best constant epoch: what does not
beat it has learnt no more than when runs usually overfit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsestudy.analysis.alarms import PATIENCE, constant_alarm, patience_alarm
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import Evidence, Signal
from sparsestudy.analysis.means import mean_of, share_of
from sparsestudy.analysis.onset import Onsets

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
DISPARITY = Signal(kind="network", layer="", measure="gradient_disparity")


@dataclass(frozen=True, kw_only=True)
class Detector:
    """How a rule did on recorded runs.

    Attributes:
        name: In words.
        overfitting: Trials in which overfitting began.
        controls: Trials that were trained to their end in which it did not.
        false_alarms: Share of controls with an alarm.
        misses: Share of overfitting trials without an alarm.
        before: Share of overfitting trials with an alarm before the onset or in its epoch.
        lead: Mean epochs from alarm to onset, of overfitting trials with an alarm; negative where it is late.
        excess: Mean validation loss at the alarm, or at the last epoch without one, above the lowest of the run.
        kept: The same if the best weights so far are kept, which needs the validation loss at every epoch.
        spent: Mean share of its epochs that a run is trained before it is stopped.
        against_constant: Mean difference of ``excess`` to that of the best constant epoch; negative is better.
        reason: Why there is nothing to say; empty otherwise.
    """

    name: str
    overfitting: int = 0
    controls: int = 0
    false_alarms: Estimate | None = None
    misses: Estimate | None = None
    before: Estimate | None = None
    lead: Estimate | None = None
    excess: Estimate | None = None
    kept: Estimate | None = None
    spent: Estimate | None = None
    against_constant: Estimate | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Runs:
    """The trials that count: facts ``[n]``, and excess loss by epoch of stopping ``[n, E]``."""

    overfits: Mask
    onset: Whole
    last: Whole
    group: Whole
    excess: Floats
    kept: Floats
    constant: Onsets | None


def detectors(evidence: Evidence, overfitting: Onsets, rises: Mapping[str, Onsets]) -> tuple[Detector, ...]:
    """Replay all rules.

    Args:
        evidence: With the validation loss.
        overfitting: Onsets of overfitting, ``[n]``.
        rises: By name, alarms of rising sparsity ``[n]``, as of `sparsestudy.analysis.alarms.rise_alarm`.

    Returns:
        One row for each of ``rises``, then patience, gradient disparity and the constant epoch.
    """
    loss = evidence.curves["validation/loss"].astype(np.float64)
    complete = evidence.trials["state"].to_numpy() == "COMPLETE"
    counted = (overfitting.epoch >= 0) & np.isfinite(loss).any(axis=1) & (complete | ~overfitting.censored)
    runs = _runs(evidence, loss, overfitting, counted)
    rules: dict[str, Onsets | str] = {f"sparsity rises, {name}": alarm for name, alarm in rises.items()}
    rules[f"validation loss, patience {PATIENCE}"] = patience_alarm(loss)
    # Forouzesh and Thiran (2021, arXiv 2107.06665); their rule for when it has risen is not public to us: ASSUMED.
    rules[f"gradient disparity, patience {PATIENCE}"] = (
        patience_alarm(evidence.series(DISPARITY).astype(np.float64))
        if DISPARITY in evidence.signals
        else "gradient disparity was not recorded"
    )
    found = [
        Detector(name=name, reason=alarm) if isinstance(alarm, str) else _judged(name, _only(alarm, counted), runs)
        for name, alarm in rules.items()
    ]
    name = "constant epoch, the best of the other configurations"
    if runs.constant is None:
        return (*found, Detector(name=name, reason="there are no other configurations to choose it from"))
    return (*found, _judged(name, runs.constant, runs))


def _only(onsets: Onsets, mask: Mask) -> Onsets:
    return Onsets(epoch=onsets.epoch[mask], censored=onsets.censored[mask])


def _runs(evidence: Evidence, loss: Floats, overfitting: Onsets, counted: Mask) -> _Runs:
    """What stopping each run at each epoch costs; an unmeasured epoch costs what the one before it did."""
    loss, group = loss[counted], evidence.trials["configuration"].to_numpy()[counted]
    at, measured = np.arange(loss.shape[1]), np.isfinite(loss)
    filled = np.where(measured, loss, np.inf)
    place = np.maximum.accumulate(np.where(measured, at, -1), axis=1)
    # Before the first value stands that value.
    place = np.where(place >= 0, place, measured.argmax(axis=1)[:, None])
    held = np.take_along_axis(filled, place, axis=1)
    lowest = filled.min(axis=1, keepdims=True)
    last = np.where(measured, at, -1).max(axis=1, initial=-1).astype(np.int64)
    excess = held - lowest
    return _Runs(
        overfits=~overfitting.censored[counted], onset=overfitting.epoch[counted], last=last, group=group,
        excess=excess, kept=np.minimum.accumulate(held, axis=1) - lowest, constant=constant_alarm(excess, last, group),
    )  # fmt: skip


def _judged(name: str, alarm: Onsets, runs: _Runs) -> Detector:
    """One row of the table; ``alarm`` is of the runs that count."""
    if not len(runs.last):
        return Detector(name=name, reason="no trial is long enough to be judged")
    rows, event = np.arange(len(runs.last)), runs.overfits
    fired = ~alarm.censored
    stop = np.where(fired, np.minimum(alarm.epoch, runs.last), runs.last)
    lead = (runs.onset - stop).astype(np.float64)
    caught = event & fired
    excess = runs.excess[rows, stop]
    constant = runs.constant
    return Detector(
        name=name, overfitting=int(event.sum()), controls=int((~event).sum()),
        false_alarms=share_of(fired[~event], runs.group[~event]),
        misses=share_of(~fired[event], runs.group[event]),
        before=share_of((fired & (lead >= 0))[event], runs.group[event]),
        lead=mean_of(lead[caught], runs.group[caught]),
        excess=mean_of(excess, runs.group),
        kept=mean_of(runs.kept[rows, stop], runs.group),
        spent=mean_of((stop + 1) / (runs.last + 1), runs.group),
        against_constant=None if constant is None
        else mean_of(excess - runs.excess[rows, np.where(constant.censored, runs.last, constant.epoch)], runs.group),
    )  # fmt: skip
