"""In which shape the gap goes with sparsity within arms, and how well it foretells configurations not seen.

Three models of a configuration's mean gap, each with a level of its own for every arm: a straight line, a natural cubic
spline (`patsy.cr`, knots at quantiles) and a monotone step function (isotonic regression, fitted in turn with the
arms' levels). They are compared by Akaike's criterion and by R² on held-out configurations. Replicates are averaged
first: Akaike's criterion counts independent observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import patsy
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GroupKFold

from sparsestudy.analysis.clustered import Codes, Design, Floats, contrast_effect, indicators
from sparsestudy.analysis.sample import Sample

Predict: TypeAlias = Callable[[Floats, Codes], Floats]
Kind: TypeAlias = Literal["linear", "spline", "monotone"]
KINDS: tuple[Kind, ...] = ("linear", "spline", "monotone")
FREEDOM, FOLDS, FEWEST, MOST, POINTS = 4, 5, 12, 500, 21


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Comparison of the three models.

    Attributes:
        configurations: Configurations compared, of arms with at least three, at most `MOST`.
        r2: Of each model, on configurations held out (`FOLDS` folds): share of the variance within arms that sparsity
            foretells; at most 1, below 0 where it foretells worse than the arm's mean.
        aic: Of line and spline; smaller is better, and a difference below 2 says little.
        best: Model with the largest held-out R²; None if none is above 0.
        direction: Whether the monotone model ``rises`` or ``falls``.
        curve: The spline as points ``(sparsity, difference, low, high)``: the gap's difference from that at the mean
            sparsity, with the 95 % interval of that point.
        reason: Why there is no comparison; empty otherwise.
    """

    configurations: int
    r2: dict[str, float | None]
    aic: dict[str, float | None]
    best: str | None = None
    direction: Literal["rises", "falls"] | None = None
    curve: tuple[tuple[float, float, float, float], ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Means:
    """Mean gap and sparsity of each configuration, and its arm."""

    gap: Floats
    sparsity: Floats
    arms: Codes


def shape_of(sample: Sample) -> Shape:
    """Fit and compare the models; seeded, so that the same trials give the same numbers."""
    means = _means(sample)
    if len(means.gap) > MOST:  # drawn once and for all: more would take long and tell no more
        means = _part(means, np.random.default_rng(0).permutation(len(means.gap))[:MOST])
    count = len(means.gap)
    if count < FEWEST:
        return no_shape(
            f"{count} configurations in arms with at least three; it takes {FEWEST} to tell shapes apart", count
        )
    if float(np.ptp(means.gap)) == 0 or len(np.unique(means.sparsity)) < 2 * FREEDOM:
        return no_shape("gap or sparsity hardly take different values", count)
    r2: dict[str, float | None] = {kind: _held_out(means, kind) for kind in KINDS}
    found = {kind: value for kind, value in r2.items() if value is not None and value > 0}
    curve = _curve(means)
    return Shape(
        configurations=count,
        r2=r2,
        aic={"linear": _aic(means, _line(means)), "spline": _aic(means, _spline(means)[0])},
        best=max(found, key=lambda kind: found[kind]) if found else None,
        direction="rises" if _rises(means) else "falls",
        curve=curve,
        reason="" if curve else "the spline leaves nothing over, so there is no noise to judge its curve by",
    )


def no_shape(reason: str, count: int = 0) -> Shape:
    """No comparison, and why."""
    return Shape(configurations=count, r2=dict.fromkeys(KINDS), aic=dict.fromkeys(("linear", "spline")), reason=reason)


def _means(sample: Sample) -> _Means:
    codes = np.unique(sample.configurations, return_inverse=True)[1]
    if not len(codes):
        return _Means(gap=np.zeros(0), sparsity=np.zeros(0), arms=np.zeros(0, dtype=np.intp))
    count = np.bincount(codes)
    gap, sparsity = (np.bincount(codes, values) / count for values in (sample.gap, sample.sparsity))
    arms = np.zeros(len(count), dtype=np.intp)
    arms[codes] = sample.cells
    kept = np.bincount(arms)[arms] >= 3
    return _Means(gap=gap[kept], sparsity=sparsity[kept], arms=arms[kept])


def _part(means: _Means, rows: Codes) -> _Means:
    return _Means(gap=means.gap[rows], sparsity=means.sparsity[rows], arms=means.arms[rows])


def _line(means: _Means) -> Floats:
    return np.column_stack([means.sparsity, indicators(means.arms)])


def _spline(means: _Means) -> tuple[Floats, Any]:
    basis = patsy.dmatrix(f"cr(x, df={FREEDOM}) - 1", {"x": means.sparsity})
    return np.column_stack([np.asarray(basis), indicators(means.arms)]), basis.design_info


def _aic(means: _Means, columns: Floats) -> float | None:
    """Akaike's criterion of least squares, up to a constant that models share."""
    design = Design.of(columns, np.arange(len(columns)))
    left = float((design.residuals(means.gap) ** 2).sum())
    count, rank = len(columns), design.basis.shape[1]
    return float(count * np.log(left / count) + 2 * (rank + 1)) if left > 0 and rank < count else None


def _held_out(means: _Means, kind: Kind) -> float | None:
    """R² over all held-out configurations, against the mean of their arm in the others."""
    folds = GroupKFold(n_splits=FOLDS, shuffle=True, random_state=0)
    left = total = 0.0
    for seen, unseen in folds.split(means.gap, groups=np.arange(len(means.gap))):
        train, test = _part(means, seen), _part(means, unseen)
        test = _part(test, np.flatnonzero(np.isin(test.arms, train.arms)))
        if len(np.unique(train.sparsity)) <= FREEDOM:
            return None
        left += float(((test.gap - _fitted(train, kind)(test.sparsity, test.arms)) ** 2).sum())
        total += float(((test.gap - _arm_levels(train, train.gap)[test.arms]) ** 2).sum())
    return 1 - left / total if total > 0 else None


def _fitted(train: _Means, kind: Kind) -> Predict:
    """A model fitted to some configurations, as a function of sparsity and arm."""
    if kind == "monotone":
        curve, levels = _monotone(train)
        return lambda sparsity, arms: np.asarray(curve.predict(sparsity) + levels[arms])
    names = np.unique(train.arms)
    if kind == "linear":
        columns, info = _line(train), None
    else:
        columns, info = _spline(train)
    values = Design.of(columns, np.arange(len(columns))).coefficients(train.gap)

    def predict(sparsity: Floats, arms: Codes) -> Floats:
        basis = (
            sparsity[:, None] if info is None else np.asarray(patsy.build_design_matrices([info], {"x": sparsity})[0])
        )
        return np.asarray(np.column_stack([basis, (arms[:, None] == names).astype(np.float64)]) @ values)

    return predict


def _arm_levels(means: _Means, values: Floats) -> Floats:
    count = np.bincount(means.arms)
    return np.asarray(np.bincount(means.arms, values) / np.maximum(count, 1))


def _rises(means: _Means) -> bool:
    """Sign of the slope within arms; in cross-validation it is that of the configurations seen."""
    centred = means.sparsity - _arm_levels(means, means.sparsity)[means.arms]
    return float(centred @ means.gap) >= 0


def _monotone(train: _Means) -> tuple[Any, Floats]:
    """Isotonic curve and arms' levels, each fitted to what the other leaves until they settle (backfitting)."""
    curve = IsotonicRegression(increasing=_rises(train), out_of_bounds="clip")
    levels = _arm_levels(train, train.gap)
    for _ in range(20):
        curve.fit(train.sparsity, train.gap - levels[train.arms])
        before, levels = levels, _arm_levels(train, train.gap - curve.predict(train.sparsity))
        if np.abs(levels - before).max() < 1e-3 * float(train.gap.std()):
            break
    return curve, levels


def _curve(means: _Means) -> tuple[tuple[float, float, float, float], ...]:
    columns, info = _spline(means)
    design = Design.of(columns, np.arange(len(columns)))
    grid = np.append(np.linspace(means.sparsity.min(), means.sparsity.max(), POINTS), means.sparsity.mean())
    basis = np.asarray(patsy.build_design_matrices([info], {"x": grid})[0])
    found = []
    for sparsity, row in zip(grid[:-1], basis[:-1] - basis[-1], strict=True):
        effect = contrast_effect(design, means.gap, np.append(row, np.zeros(columns.shape[1] - len(row))))
        if effect.estimate is not None and effect.low is not None and effect.high is not None:
            found.append((float(sparsity), effect.estimate, effect.low, effect.high))
    return tuple(found)
