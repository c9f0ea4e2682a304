"""Simulated studies of which the truth is known: what the analysis has to find, and what it must not find.

Every world draws what a study records in the order in which it comes about: configurations with their arms, targets and
hyperparameters; the sparsity that each layer reaches; the gap that follows from it; the moments at which sparsity and
the validation loss begin to rise; and curves that end, turn and rise accordingly.

=============== ===================================================================================================
world           what holds in it
=============== ===================================================================================================
causal          A layer's sparsity raises the gap by its slope. Layers are independent of each other, arms alike, so
                that the slopes of one layer alone, of all together, within arms and across them are the same number.
null            Nothing in the networks has to do with the gap, nor onsets of sparsity with onsets of overfitting;
                configurations differ in both, so that their replicates are no independent trials.
simpson         As causal within each arm, but arms with sparser layers have the smaller gaps: the pooled sign is wrong.
confounded      A hidden draw of the trial raises sparsity and gap, while sparsity itself lowers the gap: the naive sign
                is wrong. Targets are assigned at random, so that they tell cause from company.
heteroscedastic As causal, with noise that grows with sparsity.
censored        60 % of the overfitting onsets lie beyond the trial's end: trials run out or are pruned at random. Once
                sparsity has begun to rise, the hazard of overfitting is `HAZARD_RATIO` times as high.
=============== ===================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsestudy.analysis.evidence import TRIAL_COLUMNS, Array, Evidence, Signal
from tests.analysis import shapes
from tests.analysis.shapes import HAZARD_RATIO, Generator, Whole

World: TypeAlias = Literal["causal", "null", "simpson", "confounded", "heteroscedastic", "censored"]
WORLDS: tuple[World, ...] = get_args(World)

LEAD = 6
"""Median of the epochs from the rise of sparsity to that of the loss, where the one follows the other."""
NEVER = 10**6
"""Onset of what does not happen."""
_CALM = 0.2  # share of trials that never overfit
_ARMS = {
    "causal": ("perplexity", "both"),
    "heteroscedastic": ("perplexity", "both"),
    "null": ("none", "perplexity", "dropout", "perplexity"),
    "simpson": ("none", "perplexity", "dropout", "perplexity"),
    "confounded": ("none", "perplexity", "dropout", "perplexity"),
    "censored": ("none", "perplexity", "dropout", "perplexity"),
}
_TARGETED = ("perplexity", "both")
_DROPPING = ("dropout", "both")
_SHIFTS = {"none": -0.15, "perplexity": 0.05, "dropout": 0.15}  # of sparsity, by arm, in simpson


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What is true of a simulated study of ``n`` trials with ``L`` layers.

    Attributes:
        world: Where it is from.
        betas: By layer, the change of the gap per unit of sparsity; None where trials end at different times.
        pooled: The change of the gap per unit of mean sparsity over layers.
        within_sign: Sign of the effect of sparsity on the gap; 0 for none.
        naive_sign: Sign of the slope over all trials, arms and hidden causes ignored.
        hazard_ratio: Of overfitting after the rise of sparsity; None where overfitting only ever follows one.
        lead: Median over all overfitting trials of overfitting onset minus sparsity onset, the same for each layer.
        overfitting: Epoch of lowest validation loss without noise, ``[n]``; may lie beyond the trial's end.
        overfitting_censored: Whether it does, i.e. is not before the last epoch, ``[n]``.
        rise: Epoch at which the sparsity of a layer begins to rise, ``[n, L]``, and whether that is censored.
        rise_censored: As above.
        hidden: The hidden cause, ``[n]``; zero where there is none.
        related: Signals that go with the gap in the population of all trials.
    """

    world: World
    betas: tuple[float, ...] | None
    pooled: float | None
    within_sign: int
    naive_sign: int
    hazard_ratio: float | None
    lead: float
    overfitting: Whole
    overfitting_censored: NDArray[np.bool_]
    rise: Whole
    rise_censored: NDArray[np.bool_]
    hidden: Array
    related: frozenset[Signal]


def simulate(
    world: World, seed: int, *, configurations: int = 20, replicates: int = 3, epochs: int = 40, layers: int = 3
) -> tuple[Evidence, Truth]:
    """One study of a world; the same seed gives the same study.

    Args:
        world: One of `WORLDS`.
        seed: Of everything random.
        configurations: Points of the search space, arms in turn.
        replicates: Trials of each.
        epochs: Of a trial; at least 20.
        layers: Called ``conv1`` …

    Returns:
        The evidence, with two measures a layer (``perplexity`` and a noisy relative of it, ``zero_fraction``) and one
        of the network that has nothing to do with anything (``sharpness``); and the truth.
    """
    random = np.random.default_rng([WORLDS.index(world), seed])
    n, names = configurations * replicates, [f"conv{i + 1}" for i in range(layers)]
    of = np.repeat(np.arange(configurations), replicates)
    arms = np.resize(np.array(_ARMS[world], dtype=object), configurations)[of]
    parameters = _parameters(random, arms[::replicates], layers)
    targets, strength = parameters["targets"][of], parameters["strength"][of]
    hidden = random.standard_normal(n) if world == "confounded" else np.zeros(n)

    final = _sparsity(random, world, of, arms, targets, strength, hidden)
    overfitting, rise = _onsets(random, world, of, epochs, layers)
    perplexity = shapes.rising(random, final, rise, epochs)
    betas = _betas(world, layers)
    gap = _gap(random, world, of, arms, perplexity[:, -1], np.asarray(betas), hidden)
    curves = shapes.curves(random, gap, overfitting, epochs)
    ends = _ends(random, world, n, epochs)
    values = np.concatenate(
        [perplexity, shapes.relative(random, perplexity), shapes.unrelated(random, of, epochs)], axis=2
    )
    _cut(curves, values, ends)

    signals = [
        Signal(kind="activations", layer=name, measure=m) for m in ("perplexity", "zero_fraction") for name in names
    ]
    evidence = Evidence(
        trials=_trials(arms, of, replicates, ends, epochs, parameters, names),
        curves=curves,
        signals=(*signals, Signal(kind="network", layer="", measure="sharpness")),
        values=values,
        targets={name: targets[:, i] for i, name in enumerate(names)},
    )
    flat = world in ("null", "censored")
    truth = Truth(
        world=world,
        betas=None if world == "censored" else betas,
        pooled=None if world == "censored" else sum(betas),
        within_sign=int(np.sign(sum(betas))),
        naive_sign=0 if flat else 1 if world in ("causal", "heteroscedastic", "confounded") else -1,
        hazard_ratio={"null": 1.0, "censored": HAZARD_RATIO}.get(world),
        lead=shapes.median_lead(epochs) if world == "censored" else 0.0 if world == "null" else float(LEAD),
        overfitting=overfitting,
        overfitting_censored=overfitting >= ends - 1,
        rise=rise,
        rise_censored=rise >= (ends - 1)[:, None],
        hidden=hidden,
        related=frozenset()
        if flat
        else frozenset(s for s in signals if _goes_with_gap(world, betas, names.index(s.layer))),
    )
    return evidence, truth


def _goes_with_gap(world: World, betas: tuple[float, ...], layer: int) -> bool:
    # Arms and hidden causes bring every layer along.
    return betas[layer] != 0 or world in ("simpson", "confounded")


def _betas(world: World, layers: int) -> tuple[float, ...]:
    """Slopes by layer: falling to zero at the last layer in most worlds; the same for all, and negative, in one."""
    if world in ("null", "censored"):
        return (0.0,) * layers
    if world == "confounded":
        return (-0.6,) * layers
    return tuple(float(b) for b in (np.linspace(1.2, 0.0, layers) if layers > 1 else [1.2]))


def _parameters(random: Generator, arms: NDArray[Any], layers: int) -> dict[str, Array]:
    """What a random search draws for each configuration; NaN where the arm has no such parameter."""
    count = len(arms)
    targeted, dropping = np.isin(arms, _TARGETED), np.isin(arms, _DROPPING)
    return {
        "lr": 10 ** random.uniform(-2, -1, count),
        "batch_size": random.choice([32, 64, 128], count),
        "strength": np.where(targeted, 10 ** random.uniform(-1, 1, count), np.nan),
        "dropout": np.where(dropping, random.uniform(0.1, 0.6, count), np.nan),
        "targets": np.where(targeted[:, None], random.uniform(0.2, 0.8, (count, layers)), np.nan),
    }


def _sparsity(
    random: Generator, world: World, of: Whole, arms: NDArray[Any], targets: Array, strength: Array, hidden: Array
) -> Array:
    """Sparsity reached at the end, ``[n, L]``: a natural level, and what the penalty takes off it.

    The penalty is silent below its target and goes part of the way above it. In the world made for instruments the
    part grows with the strength; elsewhere it does not, because a common strength would tie the layers together.
    """
    shape = (int(of.max()) + 1, targets.shape[1])
    natural = 0.6 + 0.06 * random.standard_normal(shape)[of] + 0.04 * random.standard_normal(targets.shape)
    natural += 0.1 * hidden[:, None]
    if world == "simpson":
        natural += np.array([_SHIFTS[a] for a in arms])[:, None]
    compliance = 0.4 + 0.5 * strength / (1 + strength) if world == "confounded" else np.full(len(of), 0.7)
    excess = np.maximum(natural - np.where(np.isnan(targets), 1.0, targets), 0.0)
    return np.clip(natural - np.nan_to_num(compliance)[:, None] * excess, 0.02, 0.98)


def _onsets(random: Generator, world: World, of: Whole, epochs: int, layers: int) -> tuple[Whole, Whole]:
    """Epochs at which the validation loss ``[n]`` and the sparsity of each layer ``[n, L]`` begin to rise."""
    n = len(of)
    if world == "censored":
        rise, overfitting = shapes.hazards(random, n, epochs)
        return overfitting, np.tile(rise[:, None], layers)
    if world == "null":
        drawn = np.stack([shapes.moments(random, of, epochs, 0.15, 0.85) for _ in range(layers + 1)], axis=1)
        drawn[random.random(drawn.shape) < _CALM] = NEVER
        return drawn[:, 0], drawn[:, 1:]
    rise = shapes.moments(random, of, epochs, 0.15, 0.5)
    overfitting = rise + np.maximum(1, LEAD + np.rint(2 * random.standard_normal(n)).astype(np.int64))
    calm = random.random(n) < _CALM
    overfitting, rise = np.where(calm, NEVER, overfitting), np.where(calm, NEVER, rise)
    return overfitting, np.tile(rise[:, None], layers)


def _ends(random: Generator, world: World, n: int, epochs: int) -> Whole:
    """Number of epochs of each trial; four in five are pruned at random in the censored world."""
    ends = np.full(n, epochs)
    if world == "censored":
        pruned = random.random(n) < 0.8
        ends[pruned] = random.integers(round(0.2 * epochs), round(0.6 * epochs), int(pruned.sum()))
    return ends


def _gap(
    random: Generator, world: World, of: Whole, arms: NDArray[Any], sparsity: Array, betas: Array, hidden: Array
) -> Array:
    """Validation minus train loss at the end, ``[n]``: what sparsity as recorded, arms and hidden causes make of it."""
    noise = 0.08 * (random.standard_normal(int(of.max()) + 1)[of] + random.standard_normal(len(of)))
    if world == "heteroscedastic":
        noise *= np.maximum(0.1, 1 + 8 * (sparsity.mean(axis=1) - 0.5))
    gap = 1.6 + (sparsity - 0.5) @ betas + 0.35 * hidden + noise
    if world == "simpson":
        gap -= 2.5 * betas.sum() * np.array([_SHIFTS[a] for a in arms])
    return np.maximum(gap, 0.05)


def _cut(curves: dict[str, Array], values: Array, ends: Whole) -> None:
    after = np.arange(values.shape[1])[None, :] >= ends[:, None]
    values[after] = np.nan
    for curve in curves.values():
        curve[after] = np.nan


def _trials(
    arms: NDArray[Any],
    of: Whole,
    replicates: int,
    ends: Whole,
    epochs: int,
    parameters: dict[str, Array],
    names: list[str],
) -> pd.DataFrame:
    n = len(of)
    columns: dict[str, Any] = {
        "study": np.full(n, "simulated", dtype=object),
        "trial": np.arange(n),
        "arm": arms,
        "configuration": of,
        "replicate": np.arange(n) % replicates,
        "epochs": ends,
        "state": np.where(ends < epochs, "PRUNED", "COMPLETE").astype(object),
        "seconds": 0.5 * ends,
        "parameter/training.optimizer.lr": parameters["lr"][of],
        "parameter/training.batch_size": parameters["batch_size"][of],
        "parameter/perplexity/strength": parameters["strength"][of],
        "parameter/dropout/strength": parameters["dropout"][of],
    }
    columns |= {f"parameter/perplexity/targets/{name}": parameters["targets"][of, i] for i, name in enumerate(names)}
    return pd.DataFrame(columns).astype(TRIAL_COLUMNS)
