r"""Perplexity sparsity: how few units carry a layer's response.

For a non-negative vector ``a`` of length n (magnitudes are taken), ``p = a / sum(a)``, entropy ``H = -sum p log p``::

    S_ratio  = 1 - exp(H) / n            in [0, 1 - 1/n]   clone-invariant; the default
    S_affine = 1 - (exp(H) - 1) / (n-1)  in [0, 1]

0 means all units respond equally (dense), the supremum means one unit carries everything (sparse). Both are invariant
to rescaling ``a``. ``exp(H)``, the perplexity, is the effective number of active units.

Axes, for activations ``A[B, C, S]`` with mass ``m[b, c] = sum over s of A``:

======== ==================================== ===== ==================
axis     vector                               n     averaged over
======== ==================================== ===== ==================
layer    all units of one image               C S   images
inter    mass of each filter, one image       C     images
intra    one map of one image                 S     images and filters
image    mass of one filter over all images   B     filters
======== ==================================== ===== ==================

A vector without any activity has no sparsity; it is left out of the mean, and the share of images whose whole layer is
silent is reported beside it. A dense layer has no ``intra`` axis, and its ``inter`` axis is its ``layer`` axis.

Source: that sparsity is perplexity-based, per layer, on activations and differentiable is stated by Huesmann et al.
2021 (arXiv 2104.06153), VERBATIM. Their formula is not public to us: this one is ASSUMED, perplexity itself is
textbook (Hill number of order 1).
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from sparsestudy.measures._statistic import LayerStatistic, Sums, as_maps, mean_of

Axis: TypeAlias = Literal["layer", "inter", "intra", "image"]
Normalise: TypeAlias = Literal["ratio", "affine"]

_SILENT = 1e-30
"""A sum up to this counts as no activity: the gradient grows as its inverse, and would leave float32."""


def perplexity_sparsity(
    activations: Tensor, axis: Axis = "layer", normalise: Normalise = "ratio"
) -> tuple[Tensor, Tensor]:
    """Perplexity sparsity along one axis, differentiable; value and gradient are finite for magnitudes up to 1e30.

    Args:
        activations: ``[B, C, *spatial]`` or ``[B, C]``.
        axis: See the module's table.
        normalise: ``ratio`` or ``affine``.

    Returns:
        Sparsity, shape ``[B]`` (layer, inter), ``[B, C]`` (intra) or ``[C]`` (image), 0 where undefined; and a boolean
        tensor of the same shape, False where the vector is silent and the sparsity therefore undefined.

    Raises:
        ValueError: The vector along this axis has fewer than two entries.

    Example:
        >>> sparsity, live = perplexity_sparsity(torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
        >>> round(sparsity.item(), 6), live.item()
        (0.5, True)
    """
    maps = as_maps(activations).abs()
    values = maps.sum(2) if axis in ("inter", "image") else maps
    dims: tuple[int, ...] = {"layer": (1, 2), "inter": (1,), "intra": (2,), "image": (0,)}[axis]
    n = 1
    for dim in dims:
        n *= values.shape[dim]
    if n < 2:
        raise ValueError(
            f"perplexity along axis {axis!r} needs vectors of at least 2 entries, got shape {[*values.shape]}"
        )
    # The double "where" keeps the gradient finite: log never sees a zero, not even in the branch that is thrown away.
    positive = values > 0
    logs = torch.where(positive, values, 1).log()
    return _sparsity(values.sum(dims), (values * logs).sum(dims), n, normalise)


def _sparsity(total: Tensor, total_xlogx: Tensor, n: int | Tensor, normalise: Normalise) -> tuple[Tensor, Tensor]:
    """Sparsity from the sums ``s = sum a`` and ``t = sum a log a``, by the stable form ``H = log s - t / s``."""
    live = total > _SILENT
    safe = torch.where(live, total, 1)
    perplexity = torch.exp(safe.log() - total_xlogx / safe)
    sparsity = 1 - perplexity / n if normalise == "ratio" else 1 - (perplexity - 1) / (n - 1)
    # Rounding can put a perfectly dense vector at -1e-8.
    return torch.where(live, sparsity, 0).clamp(min=0), live


class Perplexity(LayerStatistic):
    """All four axes at once, ratio-normalised, sharing one logarithm of the activations.

    Outputs: ``perplexity`` (axis layer), ``perplexity_inter``, ``perplexity_intra``, ``perplexity_image`` in [0, 1)
    and ``perplexity_silent``, the share of images whose whole layer is zero.
    """

    outputs: ClassVar[tuple[str, ...]] = (
        "perplexity",
        "perplexity_inter",
        "perplexity_intra",
        "perplexity_image",
        "perplexity_silent",
    )

    def update(self, activations: Tensor) -> Sums:
        """See `LayerStatistic.update`."""
        maps = as_maps(activations).abs()
        batch, channels, spatial = maps.shape
        mass, mass_xlogx = maps.sum(2), torch.xlogy(maps, maps).sum(2)  # [B, C]
        filter_xlogx = torch.xlogy(mass, mass)
        image_mass = mass.sum(1)
        layer, live = _sparsity(image_mass, mass_xlogx.sum(1), channels * spatial, "ratio")
        sums = {
            "images": torch.full((), batch, dtype=maps.dtype, device=maps.device),
            "live": live.sum(dtype=maps.dtype),
            "layer": layer.sum(),
            "filter_mass": mass.sum(0),
            "filter_xlogx": filter_xlogx.sum(0),
        }
        if spatial > 1:
            inter, _ = _sparsity(image_mass, filter_xlogx.sum(1), channels, "ratio")
            intra, live_maps = _sparsity(mass, mass_xlogx, spatial, "ratio")
            sums |= {"inter": inter.sum(), "intra": intra.sum(), "live_maps": live_maps.sum(dtype=maps.dtype)}
        return sums

    def compute(self, sums: Sums) -> dict[str, Tensor]:
        """See `LayerStatistic.compute`."""
        image, live = _sparsity(sums["filter_mass"], sums["filter_xlogx"], sums["images"], "ratio")
        values = {
            "perplexity": mean_of(sums["layer"], sums["live"]),
            "perplexity_image": mean_of(image.sum(), live.sum(dtype=image.dtype)),
            "perplexity_silent": 1 - sums["live"] / sums["images"],
        }
        if "inter" in sums:
            values["perplexity_inter"] = mean_of(sums["inter"], sums["live"])
            values["perplexity_intra"] = mean_of(sums["intra"], sums["live_maps"])
        return values
