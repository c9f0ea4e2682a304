"""Which Optuna sampler stands behind each name in a study file.

A sampler is made anew for every suggestion, seeded by the study's seed and the trial's number. What it draws then
depends on nothing but the trials it is told of, so that a study that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats.qmc import Sobol

from sparsestudy.scheduling.thinning import ThinnedTPESampler
from sparsestudy.study import derive_seed


def make(name: str, parameters: Sequence[str], seed: int, number: int, stride: int = 1) -> BaseSampler:
    """The sampler for one suggestion.

    Args:
        name: As in a study file: tpe, random, qmc, cmaes or gp; a grid needs none and gets random.
        parameters: Every parameter name of the space, in its order.
        seed: The study's seed.
        number: The trial's number.
        stride: A configuration is drawn every so many trials; a sequence takes its next point then.
    """
    fresh = derive_seed(seed, "suggest", number)
    if name == "tpe":
        return ThinnedTPESampler(seed=fresh)
    if name == "gp":
        return GPSampler(seed=fresh)
    if name == "cmaes":
        # Arms and conditional parameters are outside what CMA-ES models; they are drawn independently, by design.
        return CmaEsSampler(seed=fresh, warn_independent_sampling=False)
    if name == "qmc":
        return SobolSampler(parameters, seed=derive_seed(seed, "qmc"), stride=stride)
    return RandomSampler(seed=fresh)


class SobolSampler(BaseSampler):
    """A scrambled Sobol sequence over the whole conditional space: trial n takes point n.

    Optuna's own quasi-random sampler learns the space from the first trial, draws what that trial did not have at
    random, and keeps its position in the study. This one gives every parameter of the space a coordinate of its own,
    whether or not a trial has it, and needs no state.

    Args:
        parameters: Parameter names; the position is the coordinate. Names not listed are drawn at random.
        seed: Of the scrambling.
        stride: Trial n takes point n // stride.
    """

    def __init__(self, parameters: Sequence[str], seed: int, stride: int = 1) -> None:
        self._coordinate = {name: i for i, name in enumerate(parameters)}
        self._seed, self._stride = seed, stride

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is sampled jointly: each coordinate stands for itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `infer_relative_search_space`."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The trial's point of the sequence, in the parameter's coordinate, mapped onto its distribution."""
        if param_name not in self._coordinate:
            seed = derive_seed(self._seed, trial.number, param_name)
            return RandomSampler(seed=seed).sample_independent(study, trial, param_name, param_distribution)
        engine = Sobol(len(self._coordinate), scramble=True, rng=self._seed)
        if point := trial.number // self._stride:
            engine.fast_forward(point)
        return from_unit(float(engine.random(1)[0, self._coordinate[param_name]]), param_distribution)


def from_unit(u: float, distribution: BaseDistribution) -> Any:
    """Map ``u`` in [0, 1) onto a distribution so that equal shares of the unit interval have equal probability.

    Example:
        >>> from_unit(0.5, FloatDistribution(0.01, 1.0, log=True))
        0.1
        >>> from_unit(0.99, IntDistribution(1, 3))
        3
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(u * len(distribution.choices)), len(distribution.choices) - 1)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None and not distribution.log:
        cells = math.floor((high - low) / step + 1e-9) + 1
        value: float = low + step * min(int(u * cells), cells - 1)
    elif distribution.log:
        value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    else:
        value = low + u * (high - low)
    if isinstance(distribution, IntDistribution):
        return round(value)
    return min(max(float(f"{value:.15g}"), low), high)
