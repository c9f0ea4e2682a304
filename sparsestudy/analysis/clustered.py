"""Least squares whose intervals can be trusted when errors come in few clusters of unequal variance.

Replicates of a configuration share what the configuration does to them, and noise grows where networks overfit, so the
textbook interval is too short. Used here: the bias-reduced sandwich ("CR2") of Bell & McCaffrey 2002 (Survey
Methodology 28, 169) with Student's t and their Satterthwaite degrees of freedom, in the form that Pustejovsky & Tipton
2018 (J. Bus. Econ. Stat. 36, 672) give for fixed effects and for any working covariance; Imbens & Kolesár 2016 (Rev.
Econ. Stat. 98, 701) show that it covers in small samples. DERIVED from those papers' definitions. statsmodels has the
older CR1, and CR3, which is singular where an arm has a single configuration.

The working covariance is the identity: whiten response and design first where another is wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sparsestudy.analysis.estimate import Estimate

Floats: TypeAlias = NDArray[np.float64]
Codes: TypeAlias = NDArray[np.intp]
LEVEL = 0.95
_RANK, _FULL = 1e-8, 1e-8


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """What a contrast of least-squares coefficients takes from each observation.

    Attributes:
        weights: ``[n]``; the estimate is ``weights @ response``.
        adjusted: ``[n]``, the weights after the CR2 adjustment.
        clusters: ``[n]``, numbers from 0.
        freedom: Satterthwaite's, of the variance estimate.
    """

    weights: Floats
    adjusted: Floats
    clusters: Codes
    freedom: float

    def scores(self, residuals: Floats) -> Floats:
        """What each cluster adds to the estimate's error, ``[clusters]``; their squares sum to its variance."""
        return np.bincount(self.clusters, self.adjusted * residuals).astype(np.float64)

    @property
    def quantile(self) -> float:
        """Of Student's t, two-sided 95 %."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.freedom))


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """A design matrix ``[n, k]`` of any rank, decomposed once for any number of contrasts and responses.

    Attributes:
        basis: Orthonormal basis of its column space, ``[n, rank]``.
        back: Coefficients are ``back @ basis.T @ response``, ``[k, rank]``.
        clusters: ``[n]``, numbers from 0.
    """

    basis: Floats
    back: Floats
    clusters: Codes
    _row_space: Floats
    _scale: Floats

    @classmethod
    def of(cls, columns: ArrayLike, clusters: ArrayLike) -> Design:
        """Decompose ``columns [n, k]``, n > 0; ``clusters [n]`` may be labels of any kind."""
        matrix = np.asarray(columns, dtype=np.float64)
        norms = np.sqrt((matrix**2).sum(axis=0))
        scale = np.where(norms > 0, norms, 1.0)
        left, singular, right = np.linalg.svd(matrix / scale, full_matrices=False)
        kept = singular > _RANK * max(float(singular.max(initial=0.0)), _RANK)
        rows = right[kept].T
        return cls(
            basis=left[:, kept],
            back=rows / singular[kept] / scale[:, None],
            clusters=np.unique(np.asarray(clusters), return_inverse=True)[1].astype(np.intp),
            _row_space=rows,
            _scale=scale,
        )

    def coefficients(self, response: Floats) -> Floats:
        """Least-squares coefficients ``[k]``, the shortest (by columns of unit length) if there are many."""
        return np.asarray(self.back @ (self.basis.T @ response))

    def residuals(self, response: Floats) -> Floats:
        """What the columns leave of a response (or of several, ``[n, m]``)."""
        return np.asarray(response - self.basis @ (self.basis.T @ response))

    def project(self, contrast: ArrayLike) -> Projection | str:
        """How ``contrast [k]`` of the coefficients is estimated, or why it cannot be."""
        wanted = np.asarray(contrast, dtype=np.float64) / self._scale
        unseen = wanted - self._row_space @ (self._row_space.T @ wanted)
        if not np.abs(wanted).max(initial=0.0) or np.abs(unseen).max() > 1e-4 * np.abs(wanted).max():
            return "it does not vary apart from what is held constant"
        weights = self.basis @ (self.back.T @ np.asarray(contrast, dtype=np.float64))
        adjusted = self._adjusted(weights)
        freedom = self._freedom(adjusted, float(weights @ weights))
        if freedom is None:
            return "too few configurations vary for an interval"
        return Projection(weights=weights, adjusted=adjusted, clusters=self.clusters, freedom=freedom)

    def _adjusted(self, weights: Floats) -> Floats:
        """``(I - H_gg)^(-1/2) weights_g`` cluster by cluster, clusters of one size at once.

        With the thin SVD ``basis_g = U s V'`` the root is ``I + U (1 / sqrt(1 - s^2) - 1) U'``; directions a cluster
        fits by itself (s = 1) are left out, which is the pseudo-inverse Pustejovsky & Tipton prescribe.
        """
        order = np.argsort(self.clusters, kind="stable")
        sizes = np.bincount(self.clusters)
        starts = np.cumsum(sizes) - sizes
        result = np.empty_like(weights)
        for size in np.unique(sizes):
            rows = order[starts[sizes == size][:, None] + np.arange(size)]
            left, singular, _ = np.linalg.svd(self.basis[rows], full_matrices=False)
            room = 1 - np.minimum(singular, 1.0) ** 2
            factor = np.where(room > _FULL, 1 / np.sqrt(np.maximum(room, _FULL)), 0.0) - 1
            own = weights[rows]
            along = np.einsum("gir,gi->gr", left, own)
            result[rows] = own + np.einsum("gir,gr->gi", left, factor * along)
        return result

    def _freedom(self, adjusted: Floats, size: float) -> float | None:
        """Squared trace over trace of the square of what turns errors into the variance, without a G by G matrix."""
        own = np.bincount(self.clusters, adjusted**2)
        shared = np.stack([np.bincount(self.clusters, adjusted * column) for column in self.basis.T], axis=1)
        lengths = (shared**2).sum(axis=1)
        trace = float(own.sum() - lengths.sum())
        square = float((own**2).sum() - 2 * (own * lengths).sum() + ((shared.T @ shared) ** 2).sum())
        if trace <= 1e-10 * size or square <= 0:
            return None
        return trace**2 / square


def contrast_effect(design: Design, response: Floats, contrast: ArrayLike, *, scale: float = 1.0) -> Estimate:
    """Estimate of one contrast of the coefficients, times ``scale``.

    Example:
        >>> x = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
        >>> two = Design.of(np.column_stack([x, np.ones(5)]), range(5))
        >>> found = contrast_effect(two, np.array([1.0, 3.0, 4.0, 5.0, 9.0]), [1, 0])
        >>> round(found.estimate, 6), round(found.freedom, 4)  # difference of the means; see the tests for the freedom
        (4.0, 2.2727)
    """
    projection = design.project(contrast)
    if isinstance(projection, str):
        return Estimate(reason=projection)
    return effect_of(projection, response, design.residuals(response), scale=scale)


def effect_of(projection: Projection, response: Floats, residuals: Floats, *, scale: float = 1.0) -> Estimate:
    """Estimate with interval and p-value of a projection, given what the fit leaves of the response."""
    estimate = float(projection.weights @ response)
    error = math.sqrt(float((projection.scores(residuals) ** 2).sum()))
    spread = float(np.abs(response - response.mean()).max(initial=0.0))
    if not math.isfinite(estimate) or not math.isfinite(error):
        return Estimate(reason="numbers too large to be added up")
    if error <= 1e-12 * spread * float(np.abs(projection.weights).max(initial=0.0)) or spread == 0:
        return Estimate(reason="the fit leaves nothing over, so there is no noise to judge it by")
    margin = projection.quantile * error
    return Estimate(
        estimate=scale * estimate,
        low=min(scale * (estimate - margin), scale * (estimate + margin)),
        high=max(scale * (estimate - margin), scale * (estimate + margin)),
        p=float(2 * stats.t.sf(abs(estimate) / error, projection.freedom)),
        freedom=projection.freedom,
    )


def indicators(codes: Codes) -> Floats:
    """One column of zeros and ones for each distinct code, ``[n, codes]``."""
    return np.asarray(codes[:, None] == np.unique(codes), dtype=np.float64)
