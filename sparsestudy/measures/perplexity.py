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

from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from sparsestudy.measures._activity import Activity, as_maps, by_parts, log_, parts, widened
from sparsestudy.measures._statistic import LayerStatistic, Sums, mean_of

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
    values, kept = activations, 2 if axis == "intra" else 1
    if axis in ("inter", "image"):
        mass = as_maps(activations).abs().sum(2)
        values = mass if axis == "inter" else mass.T
    n = values.shape[kept:].numel()
    if n < 2:
        raise ValueError(
            f"perplexity along axis {axis!r} needs vectors of at least 2 entries, got shape {[*values.shape]}"
        )
    total, total_xlogx = _Totals.apply(values, kept)
    _in_turn(total.grad_fn, activations.grad_fn)
    return _sparsity(total, total_xlogx, n, normalise)


class _Totals(torch.autograd.Function):
    """``sum |a|`` and ``sum |a| log |a|`` over all but the first dimensions, in float32 or better.

    With gradients g and g' of the two, that of an entry is ``sign(a) (g + g' (1 + log |a|))``, and 0 at 0. Autograd
    would keep four tensors of the size of the activations; this keeps the activations alone, which the network keeps
    anyway, and takes their logarithm twice.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        total, total_xlogx = by_parts(partial(_totals, kept=kept), values)
        return total, total_xlogx

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_xlogx: Tensor) -> tuple[Tensor | None, None]:
        (values,) = ctx.saved_tensors
        per_vector = (*g.shape, *[1] * (values.dim() - g.dim()))
        offset, slope = (each.reshape(per_vector) for each in (g + g_xlogx, g_xlogx))
        cut = parts(values)
        if len(cut) == 1:
            return _gradient(values, offset, slope), None
        done, gradient = 0, None
        for part in cut:
            these = slice(done, done + len(part))
            found = _gradient(part, offset[these], slope[these])
            # Made by a part, so that torch.func takes both for the same kind; written into, because cat would read all
            # parts again when they have left the cache.
            gradient = found.new_empty(values.shape) if gradient is None else gradient
            gradient[these] = found
            done += len(part)
        return gradient, None


def _in_turn(node: Any, origin: Any) -> None:
    """Have autograd compute the gradient of the activations when it arrives there.

    It takes the youngest operation first, which is that of a penalty: the gradients for all layers would lie in memory
    until the backward pass comes by. The number that says how young an operation is has no documented setter; without
    one, nothing but memory is lost.
    """
    if hasattr(node, "_set_sequence_nr") and hasattr(origin, "_sequence_nr"):
        node._set_sequence_nr(origin._sequence_nr())


def _totals(values: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    magnitudes = widened(values).abs().flatten(kept)
    return magnitudes.sum(-1), _logs(magnitudes).mul_(magnitudes).sum(-1)


def _gradient(values: Tensor, offset: Tensor, slope: Tensor) -> Tensor:
    wide = widened(values)
    return (torch.addcmul(offset, _logs(wide.abs()), slope) * wide.sign()).to(values.dtype)


def _logs(magnitudes: Tensor) -> Tensor:
    """Logarithms, that of zero as that of the smallest normal number: finite, and all the same if it counts for 0."""
    return log_(magnitudes.clamp(min=torch.finfo(magnitudes.dtype).tiny))


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

    def update(self, activations: Tensor | Activity) -> Sums:
        """See `LayerStatistic.update`."""
        activity = Activity.of(activations)
        maps = activity.maps
        batch, channels, spatial = maps.shape
        mass, mass_xlogx = by_parts(partial(_totals, kept=2), maps)  # [B, C]
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
