"""Where examples come from: built-in data sets, torchvision's, and the user's own function, all read into a `Pool`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from sparsestudy.errors import NotFoundError, Problem, listing, suggest
from sparsestudy.study import DataSpec
from sparsestudy.training.imports import accepted, argument_problems, import_function, is_count, refuse, refuse_all
from sparsestudy.training.pool import Pool
from sparsestudy.training.tabular import diabetes, friedman1, installed_table


def names() -> list[str]:
    """Names of the built-in data sets.

    Example:
        >>> names()  # doctest: +NORMALIZE_WHITESPACE
        ['cifar10', 'cifar100', 'diabetes', 'digits', 'fashion_mnist', 'friedman1', 'image_folder', 'mnist', 'svhn',
         'synthetic']
    """
    return sorted(_LOADERS)


def read_pool(spec: DataSpec, root: str) -> Pool:
    """Read all examples of a data set; ``root`` is where those of torchvision lie unless the arguments say otherwise.

    Raises:
        NotFoundError: No data set or function of that name, or its files are missing.
        SpecError: Wrong arguments, or a function that does not return (inputs, labels).
    """
    if ":" in spec.name:
        return _from_function(spec)
    loader = _LOADERS.get(spec.name)
    if loader is None:
        raise NotFoundError(
            f"no data set {spec.name!r}; built in: {listing(names())}; your own: package.module:function"
            f"{suggest(spec.name, names())}"
        )
    arguments = {"root": root, **spec.arguments} if "root" in accepted(loader)[0] else spec.arguments
    refuse_all(argument_problems(loader, arguments, spec.name, "data.arguments"))
    return loader(**arguments)


def resize_images(images: Tensor, side: int) -> Tensor:
    """Resize floating-point images [examples, channels, height, width] to squares, bilinearly, without aliasing."""
    if images.shape[-2:] == (side, side):
        return images
    return interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def _check_resize(resize: object) -> None:
    if resize is not None and not is_count(resize):
        refuse("data.arguments.resize", f"needs the side of the images in pixels, an integer from 1 up; got {resize!r}")


def _digits(resize: int | None = None) -> Pool:
    _check_resize(resize)
    images, labels = _read_digits()
    inputs = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    return Pool(inputs=inputs, labels=torch.from_numpy(labels).long(), white=16.0, resize=resize)


def _read_digits() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 1797 images [1797, 64] in 0 to 16, and their labels, as scikit-learn ships them."""
    table = installed_table("digits.csv.gz")
    if table is None:
        from sklearn.datasets import load_digits

        found: tuple[NDArray[np.float64], NDArray[np.float64]] = load_digits(return_X_y=True)
        return found
    rows = np.loadtxt(table, delimiter=",")
    return rows[:, :-1], rows[:, -1]


def _synthetic(
    examples: int = 2000,
    shape: int | Sequence[int] = (1, 8, 8),
    classes: int = 10,
    teacher: str = "mlp",
    width: int = 64,
    seed: int = 0,
) -> Pool:
    """Gaussian inputs labelled by a random network; ``width`` is that of the hidden layer of teacher ``mlp``."""
    sides = list(shape) if isinstance(shape, Sequence) else [shape]
    checks = {
        "examples": (is_count(examples), "an integer from 1 up", examples),
        "shape": (
            bool(sides) and all(is_count(side) for side in sides),
            "an integer from 1 up, or a list of them such as [1, 8, 8]",
            shape,
        ),
        "classes": (is_count(classes, 2), "an integer from 2 up", classes),
        "teacher": (teacher in ("mlp", "linear"), "mlp or linear", teacher),
        "width": (is_count(width), "an integer from 1 up", width),
        "seed": (is_count(seed, 0), "an integer from 0 up", seed),
    }
    wrong = {key: f"needs {needs}; got {got!r}" for key, (right, needs, got) in checks.items() if not right}
    refuse_all([Problem(f"data.arguments.{key}", message) for key, message in wrong.items()])

    normal = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    inputs = normal(examples, *sides)
    hidden = inputs.flatten(1)
    if teacher == "mlp":
        hidden = torch.relu(hidden @ normal(hidden.shape[1], width) / math.sqrt(hidden.shape[1]))
    logits = hidden @ normal(hidden.shape[1], classes)
    # A random network prefers some classes; on an equal footing, each wins about equally often.
    labels = ((logits - logits.mean(0)) / logits.std(0)).argmax(1)
    return Pool(inputs=inputs, labels=labels)


@dataclass(frozen=True)
class _Torchvision:
    """A data set of torchvision that has an official test set: class, where it lies below root, how to name a part."""

    name: str
    folder: str
    parts: tuple[str, str] = ("train=True", "train=False")

    def __call__(self, root: str, resize: int | None = None) -> Pool:
        from torchvision import datasets  # slow to import, and not needed by other data sets

        _check_resize(resize)
        kind = getattr(datasets, self.name)
        train, test = (self._read(kind, root, part) for part in self.parts)
        return replace(train, test=test, white=255.0, resize=resize)

    def _read(self, kind: Any, root: str, part: str) -> Pool:
        key, _, value = part.partition("=")
        argument = {"True": True, "False": False}.get(value, value.strip("'"))
        try:
            stored = kind(root, download=False, **{key: argument})
        except Exception as error:
            raise NotFoundError(
                f"{self.name} is missing or damaged in {Path(root).absolute() / self.folder}: {error}; fetch it with\n"
                f"  {self._command(root)}"
            ) from error
        images = torch.as_tensor(stored.data)
        if self.name.startswith("CIFAR"):
            images = images.permute(0, 3, 1, 2)
        labels = stored.labels if hasattr(stored, "labels") else stored.targets
        images = images if images.ndim == 4 else images.unsqueeze(1)
        return Pool(inputs=images, labels=torch.as_tensor(labels, dtype=torch.int64))

    def _command(self, root: str) -> str:
        parts = [f"{part}, " for part in self.parts] if self.name == "SVHN" else [""]  # others fetch both at once
        calls = "; ".join(f"{self.name}({root!r}, {part}download=True)" for part in parts)
        return f'python -c "from torchvision.datasets import {self.name}; {calls}"'


def _image_folder(root: str, resize: int | None = None) -> Pool:
    """Images in one folder per class, converted to RGB."""
    from torchvision.datasets import ImageFolder  # slow to import
    from torchvision.transforms.functional import pil_to_tensor

    _check_resize(resize)
    try:
        folder = ImageFolder(root)
        images = [pil_to_tensor(folder.loader(path)) for path, _ in folder.samples]
    except Exception as error:
        raise NotFoundError(
            f"image_folder cannot be read from {Path(root).absolute()}: {error}; it needs one folder of images per "
            "class, root/CLASS/NAME.png; set data.arguments.root"
        ) from error
    if resize is not None:
        images = [resize_images(image[None].float(), resize)[0] for image in images]
    odd = next((i for i, image in enumerate(images) if image.shape != images[0].shape), None)
    if odd is not None:
        sizes = [f"{Path(folder.samples[i][0]).name} {tuple(images[i].shape[1:])}" for i in (0, odd)]
        refuse(
            "data.arguments.resize", f"images differ in size (height, width): {', '.join(sizes)}; give a side, as 32"
        )
    return Pool(inputs=torch.stack(images), labels=torch.tensor(folder.targets), white=255.0)


_LOADERS: Mapping[str, Callable[..., Pool]] = {
    "digits": _digits,
    "synthetic": _synthetic,
    "diabetes": diabetes,
    "friedman1": friedman1,
    "mnist": _Torchvision("MNIST", "MNIST/raw"),
    "fashion_mnist": _Torchvision("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": _Torchvision("CIFAR10", "cifar-10-batches-py"),
    "cifar100": _Torchvision("CIFAR100", "cifar-100-python"),
    "svhn": _Torchvision("SVHN", ".", ("split='train'", "split='test'")),
    "image_folder": _image_folder,
}


def _from_function(spec: DataSpec) -> Pool:
    function = import_function(spec.name)
    refuse_all(argument_problems(function, spec.arguments, spec.name, "data.arguments"))
    try:
        returned = function(**spec.arguments)
    except Exception as error:
        refuse("data.name", f"{spec.name} raised {type(error).__name__}: {error}", error)
    if not (isinstance(returned, tuple | list) and len(returned) == 2):
        refuse("data.name", f"{spec.name} must return (inputs, labels); got {type(returned).__name__}")
    inputs, labels = (_tensor(spec.name, part) for part in returned)
    shapes = f"got {inputs.dtype} {list(inputs.shape)} and {labels.dtype} {list(labels.shape)}"
    if not inputs.is_floating_point() or inputs.ndim < 2:
        refuse("data.name", f"inputs of {spec.name} must be floating point [examples, ...]; {shapes}")
    if labels.is_complex() or labels.dtype == torch.bool or labels.shape != inputs.shape[:1]:
        needs = "must be integers (classes) or floating point (numbers to predict) [examples], one per input"
        refuse("data.name", f"labels of {spec.name} {needs}; {shapes}")
    for what, values in (("inputs", inputs), ("labels", labels)):
        if not values.isfinite().all():
            odd = int((~values.isfinite()).sum())
            refuse("data.name", f"{what} of {spec.name} must be finite; {odd} values are not")
    return Pool(inputs=inputs.float(), labels=labels.double() if labels.is_floating_point() else labels.long())


def _tensor(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return torch.from_numpy(value.copy())
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    return refuse("data.name", f"{name} must return two numeric tensors or numpy arrays; got {kind}")
