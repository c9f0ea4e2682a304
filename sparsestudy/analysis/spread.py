"""What the variance of the gap is due to, sparsity apart: the arm, the configuration in it, or the seed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm

from sparsestudy.analysis.clustered import Codes, Floats
from sparsestudy.analysis.sample import Sample

MOST = 100
"""Configurations the mixed model is fitted to; it only sets weights, and its time grows with their number."""
_BOUNDARY = 1e-3


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Shares of the gap's variance that sparsity leaves, which sum to 1.

    Attributes:
        model: Which random effects were fitted.
        arm: Between arms; None where they have no random effect.
        configuration: Between configurations of an arm; None without replicates.
        seed: Between replicates, or all that arms leave where there are none.
        ratio: Variance between configurations over that between seeds; 0 weighs all trials alike.
        reason: Why it is not the full model; empty if it is.
    """

    model: str
    arm: float | None = None
    configuration: float | None = None
    seed: float | None = None
    ratio: float = 0.0
    reason: str = ""


def spread_of(sample: Sample) -> Spread:
    """Fit the largest of three models that the trials allow.

    ``arm and configuration``: linear mixed model, restricted maximum likelihood, random effects of the arm and of the
    configuration nested in it (statsmodels' `MixedLM`), on the sparsity within arms and the arms' means.
    ``configuration``: the same without the arms' effect, for fewer than three arms (which are held fixed then) or where
    their variance is at its boundary.
    ``least squares``: without replicates, or where the configurations' variance is at its boundary.
    """
    arms, configurations = len(sample.names), sample.configuration_count
    if len(sample) == configurations:
        return Spread(model="least squares", reason="no replicates: a configuration and its seed cannot be told apart")
    if configurations < arms + 2 or float(np.ptp(sample.gap)) == 0:
        return Spread(model="least squares", reason="too few configurations, or a gap that does not vary")
    frame = _standard_frame(sample, _thinned(sample))
    if arms < 3:
        found, reason = _fit(frame, random_arms=False), f"{arms} of the 3 arms that it takes to tell how arms vary"
    else:
        found, reason = _fit(frame, random_arms=True), ""
        if found is not None and found[0] < _BOUNDARY * sum(found):
            found, reason = (0.0, *found[1:]), "the variance between arms is at its boundary"
    if found is None:
        return Spread(model="least squares", reason="the mixed model could not be fitted")
    arm, configuration, seed = found
    if configuration < _BOUNDARY * (configuration + seed):
        return Spread(model="least squares", reason="the variance between configurations is at its boundary")
    total = sum(found)
    return Spread(
        model="configuration" if reason else "arm and configuration",
        arm=None if reason else arm / total,
        configuration=configuration / total,
        seed=seed / total,
        ratio=configuration / seed,
        reason=reason,
    )


def _thinned(sample: Sample) -> Codes:
    """Positions of the trials of at most `MOST` configurations, drawn with a fixed seed."""
    chosen = np.random.default_rng(0).permutation(sample.configuration_count)[:MOST]
    return np.flatnonzero(np.isin(sample.configurations, chosen))


def _standard_frame(sample: Sample, rows: Codes) -> pd.DataFrame:
    """Columns of the mixed model, each of standard deviation 1: the optimiser's tolerances are absolute."""
    within = sample.within(sample.sparsity)
    numbers = {"gap": sample.gap, "within": within, "mean": sample.sparsity - within}
    columns = {name: _standard(values[rows]) for name, values in numbers.items()}
    return pd.DataFrame(columns).assign(arm=sample.arms[rows], configuration=sample.configurations[rows])


def _standard(values: Floats) -> Floats:
    spread = float(values.std())
    centred = values - values.mean()
    return np.asarray(centred / spread if spread > 1e-9 * float(np.abs(values).max(initial=0.0)) else 0 * centred)


def _fit(frame: pd.DataFrame, *, random_arms: bool) -> tuple[float, float, float] | None:
    """Variances between arms (0 where they are fixed), configurations and seeds; None if the fit fails."""
    fixed = [name for name in ("within", "mean" if random_arms else "C(arm)") if name == "C(arm)" or frame[name].any()]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of convergence and boundaries, which the caller looks at itself
            fit = sm.MixedLM.from_formula(
                "gap ~ 1" + "".join(f" + {name}" for name in fixed),
                frame,
                groups="arm",
                re_formula="1" if random_arms else None,
                vc_formula={"configuration": "0 + C(configuration)"},
            ).fit(method="powell")  # those with gradients get stuck where a variance is zero
            arm = float(np.asarray(fit.cov_re).item()) if random_arms else 0.0
            found = (arm, float(fit.vcomp[0]), float(fit.scale))
    except (ValueError, np.linalg.LinAlgError):
        return None
    return found if np.isfinite(found).all() and found[2] > 1e-9 else None


def whitened(columns: Floats, configurations: Codes, ratio: float) -> Floats:
    """Columns ``[m, k]`` whose errors are uncorrelated if configurations vary ``ratio`` times as much as seeds.

    Quasi-demeaning: of each column ``1 - 1 / sqrt(1 + count * ratio)`` times the configuration's mean is taken off
    (Wooldridge 2010, Econometric Analysis of Cross Section and Panel Data, section 10.7.2, DERIVED).
    """
    count = np.maximum(np.bincount(configurations), 1)
    share = 1 - 1 / np.sqrt(1 + count * ratio)
    means = np.stack([np.bincount(configurations, column) / count for column in columns.T], axis=1)
    return np.asarray(columns - (share[:, None] * means)[configurations])
