"""What the trials of simulated studies look like over their epochs: onsets, and curves that follow them."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

from sparsestudy.analysis.evidence import Array
from sparsestudy.analysis.turnbull import quantile

Whole: TypeAlias = NDArray[np.int64]
Generator: TypeAlias = np.random.Generator

HAZARD_RATIO = 3.0
_BASE_HAZARD = 0.0137  # with 40 epochs; chosen so that 60 % of the onsets are censored


def moments(random: Generator, of: Whole, epochs: int, low: float, high: float) -> Whole:
    """Epochs uniform between two shares of the trial; half of their variance is the configuration's."""
    shared, own = random.standard_normal(int(of.max()) + 1)[of], random.standard_normal(len(of))
    level = special.ndtr((shared + own) / np.sqrt(2))
    return (epochs * (low + (high - low) * level)).astype(np.int64)


def hazards(random: Generator, n: int, epochs: int) -> tuple[Whole, Whole]:
    """Sparsity onsets, and overfitting onsets under a hazard that is constant before and, higher, after them."""
    before = _BASE_HAZARD * 40 / epochs
    rise = random.integers(round(0.08 * epochs), round(0.25 * epochs), n)
    budget = random.exponential(size=n)  # the cumulative hazard at which the event comes
    early = budget < before * rise
    moment = np.where(early, budget / before, rise + (budget - before * rise) / (HAZARD_RATIO * before))
    return rise.astype(np.int64), np.ceil(moment).astype(np.int64)


@lru_cache(maxsize=8)
def median_lead(epochs: int) -> float:
    """Median of overfitting onset minus sparsity onset under `hazards`, by simulation.

    Leads are whole epochs; their median is taken as the analysis takes it, within the epoch that holds it.
    """
    rise, overfitting = hazards(np.random.default_rng(0), 400_001, epochs)
    lead = overfitting - rise
    counts = np.bincount(lead - lead.min())
    # The first and the last place stand for everything outside.
    shares = np.concatenate([[0.0], counts / len(lead), [0.0]])
    return float(quantile(shares[None], int(lead.min()) - 1, 0.5)[0])


def noise(random: Generator, shape: tuple[int, ...], deviation: float, correlation: float) -> Array:
    """Stationary AR(1) noise along axis 1."""
    fresh = random.standard_normal(shape) * deviation
    fresh[:, 1:] *= np.sqrt(1 - correlation**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -correlation], fresh, axis=1))


def rising(random: Generator, final: Array, rise: Whole, epochs: int) -> Array:
    """Sparsity ``[n, E, L]`` that falls at first, lies low, climbs from its onset on, and ends at its final level."""
    n, layers = final.shape
    t = np.arange(epochs)[None, :, None]
    begin = np.minimum(rise, epochs - 1)[:, None, :]
    height = random.uniform(0.12, 0.2, (n, 1, layers))
    climb = np.clip(t - begin, 0, None) / np.maximum(epochs - 1 - begin, 1)
    path = height * (climb**0.7 - (rise < epochs - 1)[:, None, :]) + 0.1 * np.exp(-t / 3)
    return np.clip(final[:, None, :] + path + noise(random, path.shape, 0.006, 0.5), 0.0, 1.0)


def curves(random: Generator, gap: Array, overfitting: Whole, epochs: int) -> dict[str, Array]:
    """Losses that end with the gap; the validation loss turns at its onset, if that comes before the end."""
    n, t = len(gap), np.arange(epochs)[None, :]
    train = 0.05 + 1.8 * np.exp(-t / (0.2 * epochs)) + np.abs(noise(random, (n, epochs), 0.004, 0.3))
    turn = np.minimum(overfitting, 2 * epochs)[:, None]
    fall = 2.0 * np.clip(1 - t / turn, 0, None) ** 2
    rise = 0.4 * gap[:, None] * np.clip(t - turn, 0, None) / np.maximum(epochs - 1 - turn, 1)
    shape = fall + rise
    wobble = noise(random, (n, epochs), 0.012, 0.3)
    validation = train[:, -1:] + gap[:, None] + (shape - shape[:, -1:]) + wobble - wobble[:, -1:]
    return {
        "train/loss": train,
        "train/accuracy": np.exp(-train),
        "validation/loss": validation,
        "validation/accuracy": np.exp(-np.maximum(validation, 0.0)),
    }


def relative(random: Generator, perplexity: Array) -> Array:
    """Another measure of the same layers: it follows the first with noise of its own, trial by trial."""
    n, _, layers = perplexity.shape
    return (
        0.1
        + 0.7 * perplexity
        + 0.03 * random.standard_normal((n, 1, layers))
        + noise(random, perplexity.shape, 0.006, 0.5)
    )


def unrelated(random: Generator, of: Whole, epochs: int) -> Array:
    """A measure that goes with nothing, but is shared by the replicates of a configuration."""
    level = 1 + 0.2 * random.standard_normal(int(of.max()) + 1)[of] + 0.2 * random.standard_normal(len(of))
    return (level[:, None] + noise(random, (len(of), epochs), 0.02, 0.5))[:, :, None]
