"""What the onsets claim, as functions of a seed: one simulated study each, for the table of simulated worlds.

Keys are ``WORLD: WHAT: KIND``; values a share of the study's series, a number of epochs, or None without an answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsestudy.analysis.onset import overfitting_onset, sparsity_onset
from sparsestudy.analysis.rise import rises, unit

Floats = NDArray[np.float64]
Outcome = dict[str, bool | float | None]
EPOCHS, SERIES = 50, 50
TIME = np.arange(EPOCHS) / EPOCHS
PHIS = (0.0, 0.3, 0.6, 0.9)
FALLING = {
    "constant": np.zeros(EPOCHS),
    "falling line": -4 * TIME,
    "falling exponential": 30 * np.exp(-8 * TIME),
    "falling parabola": 100 * (1 - TIME) ** 2,
}
"""Means that never rise, in standard deviations of the noise."""
RISES = (4.0, 8.0, 16.0)
"""Heights of the rises, in standard deviations of the noise."""


def alarms_run(seed: int) -> Outcome:
    """False alarms of the test for a rise: 50 series of 50 epochs that never rise, at a level of 5 %."""
    found: Outcome = {}
    for phi in PHIS:
        random = np.random.default_rng([seed, int(10 * phi)])
        for name, mean in FALLING.items():
            alarm, _, _ = rises(unit(mean + correlated(random, phi)))
            found[f"noise with φ = {phi}: {name}: false positive"] = float(alarm.mean())
    return found


def located_run(seed: int) -> Outcome:
    """Where planted onsets are found: 50 series of 50 epochs that begin to climb anywhere in their middle third.

    Of a rise that is found, the error is the located epoch minus the planted one.
    """
    found: Outcome = {}
    for phi in PHIS:
        random = np.random.default_rng([seed, int(10 * phi)])
        onset = random.integers(EPOCHS // 3, 2 * EPOCHS // 3, size=SERIES)
        since = np.maximum(np.arange(EPOCHS) - onset[:, None], 0) / (EPOCHS - 1 - onset)[:, None]
        before = np.maximum(onset[:, None] - np.arange(EPOCHS), 0) / onset[:, None]
        noise = correlated(random, phi)
        for height in RISES:
            turns = {"flat, then climbs": height * since, "falls, then climbs": height * (since + before)}
            for name, mean in turns.items():
                world = f"{name} by {height:g} σ, φ = {phi}"
                onsets = sparsity_onset(mean + noise, least=0.0)
                found |= told(world, "sparsity onset", onsets.epoch - onset, onsets.censored)
            onsets = overfitting_onset(height * (since + before) + noise)
            found |= told(f"falls, then climbs by {height:g} σ, φ = {phi}", "overfitting onset",
                          onsets.epoch - onset, onsets.censored)  # fmt: skip
    return found


def correlated(random: np.random.Generator, phi: float) -> Floats:
    """AR(1) of variance 1 from its stationary start, ``[SERIES, EPOCHS]``."""
    noise = random.standard_normal((SERIES, EPOCHS))
    for t in range(1, EPOCHS):
        noise[:, t] = phi * noise[:, t - 1] + np.sqrt(1 - phi**2) * noise[:, t]
    return noise


def told(world: str, what: str, error: NDArray[np.int64], censored: NDArray[np.bool_]) -> Outcome:
    """Share found, and the middle and the spread of the errors of those."""
    own = error[~censored]
    return {
        f"{world}: {what}: found": float((~censored).mean()),
        f"{world}: {what}: median error, epochs": float(np.median(own)) if len(own) else None,
        f"{world}: {what}: mean absolute error, epochs": float(np.abs(own).mean()) if len(own) else None,
    }
