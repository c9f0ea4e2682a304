"""Our domains as Optuna's distributions, and back."""

from __future__ import annotations

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sparsestudy.space import Choice, Domain, Integer, Uniform


def to_distribution(domain: Domain) -> BaseDistribution:
    """The Optuna distribution over the same set.

    Example:
        >>> to_distribution(Uniform(low=0.001, high=1.0, log=True))
        FloatDistribution(high=1.0, log=True, low=0.001, step=None)
    """
    if isinstance(domain, Uniform):
        return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    if isinstance(domain, Integer):
        return IntDistribution(domain.low, domain.high, step=domain.step)
    return CategoricalDistribution(domain.values)


def from_distribution(distribution: BaseDistribution) -> Domain:
    """The inverse of `to_distribution`.

    Raises:
        ValueError: The distribution has no counterpart here (a logarithmic integer).
    """
    if isinstance(distribution, FloatDistribution):
        return Uniform(low=distribution.low, high=distribution.high, log=distribution.log, step=distribution.step)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        return Integer(low=distribution.low, high=distribution.high, step=distribution.step)
    if isinstance(distribution, CategoricalDistribution):
        return Choice(values=tuple(distribution.choices))
    raise ValueError(f"no domain corresponds to {distribution!r}; allowed: float, int without log, categorical")


# Whatever uses Optuna has a domain to translate first, and what it does is told by our own pages.
optuna.logging.set_verbosity(optuna.logging.WARNING)
