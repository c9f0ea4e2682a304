"""Data sets as tensors in memory: loaded, split, scaled, and wrong on purpose where the study asks for it.

Four splits: ``train`` is what the network learns from, ``search`` guides the search (every metric calls it validation),
``selection`` chooses between finalists, ``test`` is looked at once. They are disjoint and, where labels are classes,
stratified by class; where they are numbers to predict, drawn at random. A data set with an official test set keeps it
for ``test``; the other splits, and ``test`` of all other data sets, are drawn from the pool: all examples, or those of
the official training set.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsestudy.errors import Problem, listing
from sparsestudy.study import DataSpec, TaskName
from sparsestudy.training.imports import refuse, refuse_all
from sparsestudy.training.labels import class_count, corrupt, standardise, strata
from sparsestudy.training.pool import Pool
from sparsestudy.training.sources import names, read_pool, resize_images

__all__ = ["Dataset", "Split", "load", "names"]

_Positions = NDArray[np.int64]
_FEWEST_NUMBERS = 2
"""Fewest examples of a split whose labels are numbers: one alone has no spread to measure errors by."""


@dataclass(frozen=True, eq=False)
class Split:
    """Examples of one split.

    Attributes:
        inputs: float32 [examples, *input_shape]; images are [channels, height, width], standardised per channel, and
            tables [columns], standardised per column.
        labels: [examples], classes from 0 in int64, or numbers in float32, in standard deviations of the clean training
            labels from their mean.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """The four splits of a data set. Shared by all trials of a process: its tensors must not be changed in place.

    Attributes:
        train, search, selection, test: The splits.
        classes: Number of classes, at least 2; 0 where labels are numbers to predict.
        input_shape: Shape of one example.
        corrupted: bool [training examples], true where label noise replaced the label.
        label_mean, label_std: Of the clean training labels before they were standardised, in the data's own unit; 0 and
            1 where labels are classes. A loss times the square of the latter is in the square of that unit.
    """

    train: Split
    search: Split
    selection: Split
    test: Split
    classes: int
    input_shape: tuple[int, ...]
    corrupted: Tensor
    label_mean: float = 0.0
    label_std: float = 1.0

    @property
    def task(self) -> TaskName:
        """What the labels ask for, by their type."""
        return "classification" if self.classes else "regression"

    @property
    def outputs(self) -> int:
        """How many numbers a network has to return for an example."""
        return self.classes or 1


def load(spec: DataSpec) -> Dataset:
    """Load a data set, split it, scale it and apply label noise.

    The same spec gives the same tensors, and which examples evaluate depends neither on ``train_size`` nor on
    ``label_noise``. Images are scaled to [0, 1], resized, then standardised per channel by the mean and standard
    deviation of the training split, and so are columns of tables and numbers to predict. Inputs of ``synthetic`` and of
    a user's function stay as they are.

    Args:
        spec: What to load. ``root`` of torchvision data sets defaults to $SPARSESTUDY_DATA, else ``./data``.

    Raises:
        NotFoundError: No data set or function of that name, or its files are missing.
        SpecError: Wrong arguments, sizes that do not fit, or labels that cannot be split by class.

    Example:
        >>> digits = load(DataSpec(name="digits", train_size=100))
        >>> tuple(digits.train.inputs.shape), digits.classes, len(digits.search)
        ((100, 1, 8, 8), 10, 359)
    """
    root = Path(os.environ.get("SPARSESTUDY_DATA", "data")).absolute()
    return _load(spec.model_dump_json(), str(root))


# Many trials of one process ask for the same data. The key is the spec as text, since the spec holds dicts, and the
# root, which it does not hold; the answer may be shared because nobody changes it. Two, because a study may search
# over data.* too, and each entry can take gigabytes.
@functools.lru_cache(maxsize=2)
def _load(spec_json: str, root: str) -> Dataset:
    spec = DataSpec.model_validate_json(spec_json)
    pool = read_pool(spec, root)
    classes = class_count(pool)
    parts = _partition(spec, pool, classes)
    held_out = pool.test or pool
    sources = {"train": pool, "search": pool, "selection": pool, "test": held_out}
    inputs = {name: _prepare(sources[name].inputs[parts[name]], pool) for name in sources}
    if pool.white is not None:
        inputs = _standardise(inputs)
    labels = {name: sources[name].labels[parts[name]] for name in sources}
    mean, std = 0.0, 1.0
    if not classes:
        labels, mean, std = standardise(labels)
    labels["train"], corrupted = corrupt(labels["train"], spec.label_noise, classes, spec.seed)
    return Dataset(
        **{name: Split(inputs[name], labels[name]) for name in sources},
        classes=classes,
        input_shape=tuple(inputs["train"].shape[1:]),
        corrupted=corrupted,
        label_mean=mean,
        label_std=std,
    )


# Splits


def _partition(spec: DataSpec, pool: Pool, classes: int) -> dict[str, _Positions]:
    """Draw positions of every split: ``test`` in the official test set if there is one, all others in the pool.

    Evaluation splits are drawn before the training split, so that its size does not move them.
    """
    sizes = _sizes(spec, pool, classes)
    labels = strata(pool.labels)
    drawn = [name for name in sizes if name != "test" or pool.test is None]
    if classes:
        _check_classes(labels, drawn)
    rng = np.random.default_rng(spec.seed)
    parts: dict[str, _Positions] = {}
    if pool.test is not None:
        parts["test"], _ = _draw(strata(pool.test.labels), np.arange(len(pool.test.labels)), sizes["test"], rng)
    left = np.arange(len(labels))
    for name in drawn:
        parts[name], left = _draw(labels, left, sizes[name], rng)
    return parts


def _draw(
    labels: NDArray[np.int64], candidates: _Positions, size: int, rng: np.random.Generator
) -> tuple[_Positions, _Positions]:
    """Draw ``size`` candidates, shuffled, every class within one example of its share; return them and the rest.

    Not scikit-learn's stratified split: that one refuses to leave over fewer examples than there are classes.
    """
    shuffled = rng.permutation(candidates)
    counts = np.bincount(labels[candidates])
    shares = counts * size / max(len(candidates), 1)
    quota = np.floor(shares).astype(int)
    ties = rng.random(len(shares))
    quota[np.lexsort((ties, quota - shares))[: size - quota.sum()]] += 1
    taken = np.zeros(len(shuffled), dtype=bool)
    for label, count in enumerate(quota):
        taken[np.flatnonzero(labels[shuffled] == label)[:count]] = True
    return shuffled[taken], shuffled[~taken]


def _sizes(spec: DataSpec, pool: Pool, classes: int) -> dict[str, int]:
    """Number of examples of every split in the order in which they are drawn, or all that is wrong with them."""
    problems: list[Problem] = []
    total, sizes, least = len(pool.labels), {}, classes or _FEWEST_NUMBERS
    for name in ("search", "selection", "test"):
        value = getattr(spec.splits, name)
        if value >= 1 and value != int(value):
            allowed = "a whole count from 1 up, or a fraction below 1"
            problems.append(Problem(f"data.splits.{name}", f"needs {allowed}; got {value:g}"))
        sizes[name] = int(value) if value >= 1 else round(value * total)
    official = pool.test is not None
    if pool.test is not None:
        sizes["test"] = min(sizes["test"], len(pool.test.labels)) if spec.splits.test >= 1 else len(pool.test.labels)
        if spec.splits.test > len(pool.test.labels):
            text = f"{spec.splits.test:g} examples wanted, but the official test set has {len(pool.test.labels)}"
            problems.append(Problem("data.splits.test", text))
    held_out = {name: size for name, size in sizes.items() if not (official and name == "test")}
    left = total - sum(held_out.values())
    sizes["train"] = left if spec.train_size is None else spec.train_size
    for name, size in sizes.items():
        if size < least and (name != "train" or spec.train_size is not None):
            path = "data.train_size" if name == "train" else f"data.splits.{name}"
            problems.append(Problem(path, f"{size} examples cannot {_purpose(classes)}; use {least} or more"))
    if sizes["train"] > left or left < least:
        problems.append(_too_large(spec, held_out, total, classes))
    refuse_all(problems)
    return sizes


def _purpose(classes: int) -> str:
    return f"hold all {classes} classes" if classes else "tell how far apart numbers lie"


def _too_large(spec: DataSpec, held_out: Mapping[str, int], total: int, classes: int) -> Problem:
    wanted = dict(held_out) if spec.train_size is None else {**held_out, "train_size": spec.train_size}
    numbers = " + ".join(f"{name} {size}" for name, size in wanted.items())
    sum_of = f"{numbers} = {sum(wanted.values())} examples, but the pool of {spec.name!r} has {total}"
    least = f"{classes}, one per class" if classes else f"{_FEWEST_NUMBERS}"
    train = f" and training needs at least {least}" if spec.train_size is None else ""
    return Problem("data.splits", f"{sum_of}{train}; lower data.splits{'' if train else ' or data.train_size'}")


def _check_classes(labels: NDArray[np.int64], splits: Sequence[str]) -> None:
    counts = np.bincount(labels)
    rare = [f"class {label} has {count}" for label, count in enumerate(counts) if count < len(splits)]
    if rare:
        shown = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more classes" if len(rare) > 5 else "")
        needs = f"every class needs at least {len(splits)} examples, one for each of {listing(splits)}"
        refuse("data.splits", f"cannot split by class: {needs}; {shown}")


# Inputs


def _prepare(inputs: Tensor, pool: Pool) -> Tensor:
    scaled = inputs.float() if pool.white is None else inputs.float() / pool.white
    return scaled if pool.resize is None else resize_images(scaled, pool.resize)


def _standardise(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    train = inputs["train"]
    over = [axis for axis in range(train.ndim) if axis != 1]
    std, mean = torch.std_mean(train, dim=over, correction=0, keepdim=True)
    std = torch.where(std > 0, std, 1.0)  # a channel without variation has nothing to scale
    return {name: (split - mean) / std for name, split in inputs.items()}
