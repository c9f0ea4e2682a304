"""Tables with a number to predict, one real, one made by a published formula; and where scikit-learn keeps its own."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sparsestudy.errors import Problem
from sparsestudy.training.imports import is_count, refuse_all
from sparsestudy.training.pool import Pool

_COLUMNS = 1.0
"""`Pool.white` of a table."""


def installed_table(name: str) -> Path | None:
    """A table that scikit-learn ships, or None if this version keeps it elsewhere.

    Scikit-learn's own loaders import most of scikit-learn and scipy, three seconds for every process that trains; the
    files they read take a tenth of one.
    """
    package = find_spec("sklearn")
    folders = package.submodule_search_locations if package is not None else None
    return next((f for folder in folders or [] if (f := Path(folder, "datasets/data", name)).exists()), None)


def diabetes() -> Pool:
    """Progression of diabetes within a year, 25 to 346, of 442 patients by ten columns: age, sex, body, blood.

    Source: Efron, Hastie, Johnstone and Tibshirani 2004, Least Angle Regression, as scikit-learn ships it, raw.
    """
    inputs, labels = _read_diabetes()
    return Pool(inputs=torch.from_numpy(inputs), labels=torch.from_numpy(labels), white=_COLUMNS)


def _read_diabetes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    tables = [installed_table(f"diabetes_{part}.csv.gz") for part in ("data_raw", "target")]
    if None in tables:
        from sklearn.datasets import load_diabetes

        found: tuple[NDArray[np.float64], NDArray[np.float64]] = load_diabetes(return_X_y=True, scaled=False)
        return found
    inputs, labels = (np.loadtxt(str(table)) for table in tables)
    return inputs, labels


def friedman1(examples: int = 1000, features: int = 10, noise: float = 1.0, seed: int = 0) -> Pool:
    """Uniform inputs in [0, 1), of which five matter: a product under a sine, a parabola, two straight lines.

    ``10 sin(π x1 x2) + 20 (x3 - 0.5)² + 10 x4 + 5 x5 + noise * N(0, 1)``, of variance about 24 without the noise.

    Source: Friedman 1991, Multivariate Adaptive Regression Splines; VERBATIM in the documentation of scikit-learn's
    ``make_friedman1``. Ours draws from numpy's default generator.
    """
    real = isinstance(noise, int | float) and not isinstance(noise, bool) and 0 <= noise < math.inf
    checks = {
        "examples": (is_count(examples), "an integer from 1 up", examples),
        "features": (is_count(features, 5), "an integer from 5 up, since five matter", features),
        "noise": (real, "a number from 0 up", noise),
        "seed": (is_count(seed, 0), "an integer from 0 up", seed),
    }
    wrong = {key: f"needs {needs}; got {got!r}" for key, (right, needs, got) in checks.items() if not right}
    refuse_all([Problem(f"data.arguments.{key}", message) for key, message in wrong.items()])

    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(examples, features))
    signal = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    labels = signal + noise * rng.standard_normal(examples)
    return Pool(inputs=torch.from_numpy(x), labels=torch.from_numpy(labels), white=_COLUMNS)
