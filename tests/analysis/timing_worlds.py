"""Simulated studies in which it is known when sparsity rises, when overfitting begins, and what one has to do with it.

Each ``*_run(seed)`` simulates one study, analyses it and says what came out, so that shares over many seeds are rates
of false alarms and coverages of intervals. Keys are ``WORLD: WHAT: KIND``; None stands where there was no answer.
"""

from __future__ import annotations

import numpy as np

from sparsestudy.analysis.alarms import rise_alarm
from sparsestudy.analysis.hazard import hazard_of_level, hazard_of_rise
from sparsestudy.analysis.lead import lead_time
from sparsestudy.analysis.onset import Onsets
from sparsestudy.analysis.timing import adjusted

EPOCHS = 60
LAYERS = ("conv1", "conv2", "dense")
ARMS = 3


def study(configurations=30, replicates=2):
    """Configuration and arm of every trial."""
    configuration = np.repeat(np.arange(configurations), replicates)
    return configuration, configuration % ARMS


def noise(random, shape, phi=0.4, spread=0.01):
    """Stationary AR(1) series."""
    series = random.standard_normal(shape)
    series[..., 1:] *= np.sqrt(1 - phi**2)
    for t in range(1, shape[-1]):
        series[..., t] += phi * series[..., t - 1]
    return spread * series


def sparsity(random, rises):
    """Sparsity that falls, climbs from epoch ``rises`` (never if it is after the end), and stays; ``[n, E]``."""
    epoch = np.arange(EPOCHS)
    climb = 0.25 * np.clip((epoch - rises[:, None]) / 12, 0, 1)
    return 0.5 + 0.1 * np.exp(-epoch / 4) + climb + noise(random, (len(rises), EPOCHS))


def normal_onsets(random, configuration, mean=25.0, between=8.0, within=5.0):
    """Epochs that replicates of one configuration share in part."""
    shared = random.normal(0, between, configuration.max() + 1)[configuration]
    return np.rint(mean + shared + random.normal(0, within, len(configuration)))


def seen(epoch, last=EPOCHS - 1):
    """Onsets as far as runs whose last epoch is ``last`` show them; what began before them began at 0."""
    epoch = np.maximum(epoch, 0)
    return Onsets(epoch=np.minimum(epoch, last).astype(np.int64), censored=epoch >= last)


def begins(random, hazard):
    """First epoch in which something of that hazard happens in continuous time, ``[n]``; E if it never does."""
    happened = random.random(hazard.shape) < 1 - np.exp(-hazard)
    return np.where(happened.any(axis=1), happened.argmax(axis=1), hazard.shape[1])


def null_run(seed, **shape):
    """Onsets of 30 configurations × 2 that come from one distribution and have nothing to do with each other."""
    random = np.random.default_rng(seed)
    configuration, arm = study(**shape)
    late = seen(normal_onsets(random, configuration, 45))
    early = {layer: normal_onsets(random, configuration, 45) for layer in LAYERS}
    series = {layer: sparsity(random, rises) for layer, rises in early.items()}
    found = {
        "sparsity first": {layer: lead_time(late, seen(early[layer]), configuration, draws=20) for layer in LAYERS},
        "hazard ratio after a rise": {
            layer: hazard_of_rise(late, rise_alarm(series[layer]), configuration, arm) for layer in LAYERS
        },
        "hazard ratio by level": {layer: hazard_of_level(late, series[layer], configuration, arm) for layer in LAYERS},
    }
    return {
        f"unrelated onsets: {claim}, any of three layers: false positive": any(
            r.p_adjusted is not None and r.p_adjusted < 0.05 for r in adjusted(results).values()
        )
        for claim, results in found.items()
    }


def censored_run(seed, ratio=3.0, base=0.003, **shape):
    """Overfitting begins ``ratio`` times as often once the alarm of a rise was given; 60 % of the runs never see it."""
    random = np.random.default_rng(seed)
    configuration, arm = study(**shape)
    rises = np.where(random.random(len(arm)) < 0.25, EPOCHS, normal_onsets(random, configuration, 20))
    alarm = rise_alarm(sparsity(random, rises))
    epoch = np.arange(EPOCHS)
    risen = ~alarm.censored[:, None] & (epoch > alarm.epoch[:, None])
    hazard = base * np.array([0.7, 1.0, 1.4])[arm][:, None] * (1 + epoch / EPOCHS) * np.where(risen, ratio, 1.0)
    late = seen(begins(random, hazard))
    return _told(
        "alarms and hazard: hazard ratio after a rise", hazard_of_rise(late, alarm, configuration, arm), ratio, late
    )


def level_run(seed, ratio=2.0, base=0.00067, **shape):
    """Overfitting begins ``ratio`` times as often for every 0.1 of sparsity in the epoch before."""
    random = np.random.default_rng(seed)
    configuration, arm = study(**shape)
    series = sparsity(random, normal_onsets(random, configuration, 25))
    hazard = np.zeros(series.shape)
    hazard[:, 1:] = base * np.array([0.7, 1.0, 1.4])[arm][:, None] * ratio ** ((series[:, :-1] - 0.3) / 0.1)
    late = seen(begins(random, hazard))
    return _told(
        "level and hazard: hazard ratio by level", hazard_of_level(late, series, configuration, arm), ratio, late
    )


def _told(what, found, ratio, late):
    checked = found.proportional_p
    return {
        f"{what}: covers": None if found.low is None else found.low <= ratio <= found.high,
        f"{what}: error of its logarithm": None if found.low is None else float(np.log(found.ratio / ratio)),
        f"{what}, whether it changes: false positive": None if checked is None else checked < 0.05,
        f"{what}: share censored": float(late.censored.mean()),
    }


def lead_run(seed, lead=6.0, draws=400, **shape):
    """Overfitting begins ``lead`` epochs after the rise, give or take; a third of the runs end before."""
    random = np.random.default_rng(seed)
    configuration, _ = study(**shape)
    rises = normal_onsets(random, configuration, 25)
    late = rises + normal_onsets(random, configuration, lead, 2.5, 3.0)
    last = random.integers(18, EPOCHS, len(rises))
    # Some rises are not seen either: the layer was not measured after that epoch.
    unseen = random.random(len(rises)) < 0.1
    onset = seen(late, last)
    found = lead_time(onset, seen(rises, np.where(unseen, last // 2, last)), configuration, draws=draws)
    what = "planted lead: median lead"
    return {
        # An end that lies beyond all that was watched covers on its side.
        f"{what}: covers": (found.low is None or found.low <= lead) and (found.high is None or lead <= found.high),
        f"{what}: error in epochs": None if found.median is None else found.median - lead,
        f"{what}: bounded": found.low is not None and found.high is not None,
        f"{what}: share censored": float(onset.censored.mean()),
    }
