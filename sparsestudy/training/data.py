"""Data sets as tensors in memory: loaded, split by class, scaled, and wrong on purpose where the study asks for it.

Four splits: ``train`` is what the network learns from, ``search`` guides the search (every metric calls it validation),
``selection`` chooses between finalists, ``test`` is looked at once. They are disjoint and stratified by class. A data
set with an official test set keeps it for ``test``; the other splits, and ``test`` of all other data sets, are drawn
from the pool: all examples, or those of the official training set.
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
from sparsestudy.study import DataSpec
from sparsestudy.training.imports import refuse, refuse_all
from sparsestudy.training.sources import Pool, names, read_pool, resize_images

__all__ = ["Dataset", "Split", "load", "names"]

_Positions = NDArray[np.int64]
_NOISE_STREAM = 1
"""Keeps the draws of label noise apart from those of the splits, so that neither moves the other."""


@dataclass(frozen=True, eq=False)
class Split:
    """Examples of one split.

    Attributes:
        inputs: float32 [examples, *input_shape]; images are [channels, height, width], standardised per channel.
        labels: int64 [examples], classes from 0.
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
        classes: Number of classes, at least 2.
        input_shape: Shape of one example.
        corrupted: bool [training examples], true where label noise replaced the label.
    """

    train: Split
    search: Split
    selection: Split
    test: Split
    classes: int
    input_shape: tuple[int, ...]
    corrupted: Tensor


def load(spec: DataSpec) -> Dataset:
    """Load a data set, split it, scale it and apply label noise.

    The same spec gives the same tensors, and which examples evaluate depends neither on ``train_size`` nor on
    ``label_noise``. Images are scaled to [0, 1], resized, then standardised per channel by the mean and standard
    deviation of the training split. Inputs of ``synthetic`` and of a user's function stay as they are.

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
    classes = _class_count(pool)
    parts = _partition(spec, pool, classes)
    held_out = pool.test or pool
    sources = {"train": pool, "search": pool, "selection": pool, "test": held_out}
    inputs = {name: _prepare(sources[name].inputs[parts[name]], pool) for name in sources}
    if pool.white is not None:
        inputs = _standardise(inputs)
    labels = {name: sources[name].labels[parts[name]] for name in sources}
    labels["train"], corrupted = _corrupt(labels["train"], spec.label_noise, classes, spec.seed)
    return Dataset(
        **{name: Split(inputs[name], labels[name]) for name in sources},
        classes=classes,
        input_shape=tuple(inputs["train"].shape[1:]),
        corrupted=corrupted,
    )


# Splits


def _class_count(pool: Pool) -> int:
    present = np.unique(pool.labels.numpy())
    classes = len(present)
    if classes < 2 or not np.array_equal(present, np.arange(classes)):
        few = f"{present[:10].tolist()}{' …' if classes > 10 else ''}"
        refuse("data.name", f"labels must be 0, 1, … without a gap, at least two classes; got {few}")
    if pool.test is not None and not np.isin(pool.test.labels.numpy(), present).all():
        refuse("data.name", f"the official test set has labels outside 0 … {classes - 1} of its training set")
    return classes


def _partition(spec: DataSpec, pool: Pool, classes: int) -> dict[str, _Positions]:
    """Draw positions of every split: ``test`` in the official test set if there is one, all others in the pool.

    Evaluation splits are drawn before the training split, so that its size does not move them.
    """
    sizes = _sizes(spec, pool, classes)
    labels = pool.labels.numpy()
    drawn = [name for name in sizes if name != "test" or pool.test is None]
    _check_classes(labels, drawn)
    rng = np.random.default_rng(spec.seed)
    parts: dict[str, _Positions] = {}
    if pool.test is not None:
        parts["test"], _ = _draw(pool.test.labels.numpy(), np.arange(len(pool.test.labels)), sizes["test"], rng)
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
    total, sizes = len(pool.labels), {}
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
        if size < classes and (name != "train" or spec.train_size is not None):
            path = "data.train_size" if name == "train" else f"data.splits.{name}"
            problems.append(Problem(path, f"{size} examples cannot hold all {classes} classes; use {classes} or more"))
    if sizes["train"] > left or left < classes:
        problems.append(_too_large(spec, held_out, total, classes))
    refuse_all(problems)
    return sizes


def _too_large(spec: DataSpec, held_out: Mapping[str, int], total: int, classes: int) -> Problem:
    wanted = dict(held_out) if spec.train_size is None else {**held_out, "train_size": spec.train_size}
    numbers = " + ".join(f"{name} {size}" for name, size in wanted.items())
    sum_of = f"{numbers} = {sum(wanted.values())} examples, but the pool of {spec.name!r} has {total}"
    train = f" and training needs at least {classes}, one per class" if spec.train_size is None else ""
    return Problem("data.splits", f"{sum_of}{train}; lower data.splits{'' if train else ' or data.train_size'}")


def _check_classes(labels: NDArray[np.int64], splits: Sequence[str]) -> None:
    counts = np.bincount(labels)
    rare = [f"class {label} has {count}" for label, count in enumerate(counts) if count < len(splits)]
    if rare:
        shown = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more classes" if len(rare) > 5 else "")
        needs = f"every class needs at least {len(splits)} examples, one for each of {listing(splits)}"
        refuse("data.splits", f"cannot split by class: {needs}; {shown}")


def _corrupt(labels: Tensor, share: float, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Replace ``round(share * examples)`` labels by another class, each equally likely.

    More noise adds to less: the labels that are wrong at 10 % are wrong in the same way at 20 %.
    """
    rng = np.random.default_rng([seed, _NOISE_STREAM])
    order = torch.from_numpy(rng.permutation(len(labels)))
    steps = torch.from_numpy(rng.integers(1, classes, len(labels)))
    corrupted = torch.zeros(len(labels), dtype=torch.bool)
    corrupted[order[: round(share * len(labels))]] = True
    return torch.where(corrupted, (labels + steps) % classes, labels), corrupted


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
