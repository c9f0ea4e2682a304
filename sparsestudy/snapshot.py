"""A snapshot: what a trained network does with its probe sets, as plain arrays from which pictures are made.

It is taken where the network is (`sparsestudy.training.snapshot`) and looked at where it is not, so it knows no torch.
A study keeps one file a completed trial, ``snapshots/NUMBER.npz``. Nothing rests on these files: they may be deleted at
any time, and one that is missing or cannot be read is only a picture less.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsestudy.files import replace

logger = logging.getLogger(__name__)
FORMAT = 1
"""Version of the file; a file of another version counts as unreadable."""
CORRELATED = 64
"""The correlation matrix is that of the first so many filters of a layer."""
SHOWN_OF = "validation"
"""The probe set whose correlations and maps are kept."""
FOLDER = "snapshots"


@dataclass(frozen=True, kw_only=True, eq=False)
class FilterMaps:
    """Feature maps of a few filters of one layer, F of them, on the example images.

    Attributes:
        filters: int64 [F], their numbers in the layer, from 0.
        sparsity: float32 [F] in [0, 1), perplexity sparsity within one map (axis intra), mean over the validation
            images on which the filter responds.
        maps: float32 [examples, F, height, width], activations; large maps are averaged down.
    """

    filters: NDArray[Any]
    sparsity: NDArray[Any]
    maps: NDArray[Any]

    def __post_init__(self) -> None:
        if self.maps.ndim != 4 or not self.maps.shape[1] == len(self.filters) == len(self.sparsity):
            raise ValueError(f"{len(self.filters)} filters do not fit maps of shape {[*self.maps.shape]}")


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerSnapshot:
    """One layer of a snapshot.

    Attributes:
        name: The layer.
        shape: Shape of one image's activations, (C, *spatial); C is the number of filters, or units if dense.
        sparsity: Probe set -> float32 [images] in [0, 1), perplexity sparsity of all units on each image (axis layer),
            NaN where the layer is silent.
        dead: Probe set -> number of filters that are zero on all its images.
        correlation: float16 [K, K] in [-1, 1], Pearson correlation over validation images and positions between the
            first K filters, K at most `CORRELATED`; NaN in rows and columns of filters that are constant.
        sparsest, densest: Maps of the most and of the least sparse of the filters that respond to an example image,
            each from the more to the less sparse, no filter in both; none where a map is a single number.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: Mapping[str, NDArray[Any]]
    dead: Mapping[str, int]
    correlation: NDArray[Any]
    sparsest: FilterMaps
    densest: FilterMaps

    def __post_init__(self) -> None:
        side = min(self.shape[0], CORRELATED)
        if self.correlation.shape != (side, side):
            raise ValueError(f"{self.shape[0]} filters do not fit a matrix of shape {[*self.correlation.shape]}")
        if any(values.ndim != 1 for values in self.sparsity.values()) or self.sparsity.keys() != self.dead.keys():
            raise ValueError("each probe set needs one sparsity an image and one number of dead filters")
        if SHOWN_OF not in self.sparsity:
            raise ValueError(f"probe set {SHOWN_OF} is missing")
        if len(self.sparsest.maps) != len(self.densest.maps):
            raise ValueError("the most and the least sparse filters need the same example images")


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A network on its probe sets (``train`` and ``validation``), after its last epoch.

    Attributes:
        layers: In the order of a forward pass.
        examples: int64 [examples], places of the example images in the validation probe set.
        images: uint8 [examples, 1 or 3, height, width], the example images, each stretched to its own range; [0, 1, 1,
            1] if the inputs are no images.
        labels, predictions: int64 [examples], classes; empty if the network does not classify.
    """

    layers: tuple[LayerSnapshot, ...]
    examples: NDArray[Any]
    images: NDArray[Any]
    labels: NDArray[Any]
    predictions: NDArray[Any]

    def __post_init__(self) -> None:
        count = len(self.examples)
        known = {len(self.images), len(self.labels), len(self.predictions)}
        if known - {0, count} or len(self.labels) != len(self.predictions) or self.images.ndim != 4:
            raise ValueError(f"{count} examples do not fit images, labels and predictions of {known}")
        if any(len(layer.sparsest.maps) != count for layer in self.layers):
            raise ValueError(f"a layer has not one map for each of {count} examples")

    def images_of(self, split: str) -> int:
        """How many images a probe set has."""
        return max((len(layer.sparsity.get(split, ())) for layer in self.layers), default=0)

    def to_bytes(self) -> bytes:
        """As the content of a compressed ``.npz`` file, the same bytes for the same snapshot."""
        layers = [{"name": layer.name, "shape": layer.shape, "dead": dict(layer.dead)} for layer in self.layers]
        header = json.dumps({"format": FORMAT, "layers": layers})
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        for number, layer in enumerate(self.layers):
            arrays[f"{number}/correlation"] = layer.correlation
            arrays |= {f"{number}/sparsity/{split}": values for split, values in layer.sparsity.items()}
            for group in ("sparsest", "densest"):
                kept = asdict(getattr(layer, group))
                arrays |= {f"{number}/{group}/{key}": values for key, values in kept.items()}
        out = io.BytesIO()
        np.savez_compressed(out, header=np.frombuffer(header.encode(), dtype=np.uint8), **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Snapshot:
        """The inverse of `to_bytes`; nothing in the content is executed.

        Raises:
            ValueError: The content is no snapshot, or is damaged.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']}, this sparsestudy reads format {FORMAT}")
            layers = tuple(_layer(number, entry, arrays) for number, entry in enumerate(header["layers"]))
            return cls(layers=layers, **{name: arrays[name] for name in _ARRAYS})
        except Exception as error:  # a damaged file can fail in any way that zip, zlib, JSON and numpy know
            raise ValueError(f"not a readable snapshot: {type(error).__name__}: {error}") from error


_ARRAYS = ("examples", "images", "labels", "predictions")


def _layer(number: int, entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> LayerSnapshot:
    groups = {
        group: FilterMaps(**{key: arrays[f"{number}/{group}/{key}"] for key in ("filters", "sparsity", "maps")})
        for group in ("sparsest", "densest")
    }
    return LayerSnapshot(
        name=entry["name"],
        shape=tuple(entry["shape"]),
        sparsity={split: arrays[f"{number}/sparsity/{split}"] for split in entry["dead"]},
        dead=entry["dead"],
        correlation=arrays[f"{number}/correlation"],
        **groups,
    )


def write(folder: Path, number: int, content: bytes) -> None:
    """Keep a trial's snapshot in its study's folder; one that is there is replaced at once or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    replace(_path(folder, number), content)


def read(folder: Path, number: int) -> Snapshot | None:
    """The snapshot of a trial in its study's folder; None if there is none, or none that can be read."""
    path = _path(folder, number)
    try:
        return Snapshot.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be used, its pictures are left out: %s", path, error)
        return None


def _path(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"{number}.npz"
