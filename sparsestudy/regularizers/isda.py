"""ISDA, implicit semantic data augmentation: train on all features that an image's class might have had instead.

With a the inputs of the last linear layer (weights w_j, logits z) and Σ_c the covariance of class c's features over all
that training has seen, the cross-entropy over infinitely many samples from N(a, λ Σ_y) is at most that of raised
logits::

    z'_j = z_j + λ / 2 * (w_j - w_y)^T Σ_y (w_j - w_y)
    added to the loss: CE(z', y) - CE(z, y), which makes the two together CE(z', y)
    λ = strength * epoch / epochs, whole epochs counted from 0: nothing in the first one

Means and covariances are without gradient; they are brought up to date with a batch before its loss is taken, and
forget nothing: covariances of early epochs are stale. The gradient reaches the classifier through the quadratic form,
and the features only through z: weights shrink, features grow to make up for it, and their covariances with them.
Unless a norm holds the features, strengths beyond 0.5 can run away. The network is evaluated on z.

Memory: a covariance matrix for each class, C * A**2 numbers for C classes and A features; networks that would need more
than `LIMIT` bytes are refused. Cost: B * C * A**2 multiplications twice a step, for batches of B.

Source: Wang et al. 2019 (arXiv 1909.12220) and 2020 (arXiv 2007.10538); covariances, logits, schedule and strength 0.5
VERBATIM from the authors' code; the limit is ours.
"""

from __future__ import annotations

import math
from typing import ClassVar, TypeAlias

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparsestudy.regularizers._regularizer import Number, OverRanks, Reads, Regularizer, Single
from sparsestudy.regularizers._step import Memory, Network, Step
from sparsestudy.space import Domain, Uniform
from sparsestudy.study import TaskName

LIMIT = 2**30
"""Bytes of covariances in float32, at most."""

Moments: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Of the features of each class: how many examples ``[C]``, their mean ``[C, A]``, their covariance ``[C, A, A]``."""


def merge(seen: Moments, features: Tensor, labels: Tensor) -> Moments:
    """Moments, exact and divided by the number of examples, of all seen so far and a batch.

    Args:
        seen: Moments so far; zeros if there are none.
        features: ``[B, A]``, of the type of the moments.
        labels: ``[B]``.

    Example:
        >>> nothing = torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, 1, 1)
        >>> count, mean, covariance = merge(nothing, torch.tensor([[1.0], [4.0], [3.0]]), torch.tensor([0, 1, 0]))
        >>> count.tolist(), mean.flatten().tolist(), covariance.flatten().tolist()
        ([2.0, 1.0], [2.0, 4.0], [1.0, 0.0])
    """
    count, mean, covariance = seen
    member = (labels[:, None] == torch.arange(len(count), device=labels.device)).to(features.dtype)  # [B, C]
    added = member.sum(0)
    some = added.clamp(min=1)
    batch_mean = member.T @ features / some[:, None]
    centred = features - batch_mean[labels]
    batch_covariance = torch.einsum("bc,bi,bj->cij", member, centred, centred) / some[:, None, None]
    share = added / (added + count).clamp(min=1)
    shift = mean - batch_mean
    between = torch.einsum("c,ci,cj->cij", share * (1 - share), shift, shift)
    weight, weights = share[:, None], share[:, None, None]
    return (
        count + added,
        (1 - weight) * mean + weight * batch_mean,
        (1 - weights) * covariance + weights * batch_covariance + between,
    )


def spread(weights: Tensor, covariance: Tensor, labels: Tensor) -> Tensor:
    """Variance of the difference between the logit of each class and that of the label, ``[B, C]``.

    Args:
        weights: Of the last linear layer ``[C, A]``.
        covariance: Of the features of each class ``[C, A, A]``.
        labels: ``[B]``.

    Example:
        >>> spread(torch.tensor([[1.0], [3.0]]), torch.tensor([[[0.5]], [[2.0]]]), torch.tensor([0, 1])).tolist()
        [[0.0, 2.0], [8.0, 0.0]]
    """
    differences = weights[None] - weights[labels][:, None]  # [B, C, A]
    return ((differences @ covariance[labels]) * differences).sum(2)


def augmentation_term(logits: Tensor, labels: Tensor, variances: Tensor, strength: Number) -> Tensor:
    """Cross-entropy of the raised logits minus that of the logits, 0-d.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]``.
        variances: See `spread`.
        strength: λ.

    Example:
        >>> logits, variances = torch.zeros(1, 2), torch.tensor([[0.0, 2.0]])
        >>> round(augmentation_term(logits, torch.tensor([0]), variances, 1.0).item(), 4)  # log((1 + e) / 2)
        0.6201
    """
    return cross_entropy(logits + strength / 2 * variances, labels) - cross_entropy(logits, labels)


class ISDA(Regularizer):
    """Implicit semantic data augmentation in front of the last linear layer."""

    reads: ClassVar[Reads] = "features"
    tasks: ClassVar[tuple[TaskName, ...]] = ("classification",)
    over_ranks: ClassVar[OverRanks] = "gather"
    strength_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    search: ClassVar[dict[str, Domain]] = {"strength": Uniform(low=0.05, high=0.5, log=True)}

    strength: Single = Field(0.5, description="λ that the last epochs approach.")

    def obstacles(self, network: Network) -> list[str]:
        """It needs a last linear layer, and room for the covariances."""
        found = [weight.shape for weight in network.weights if weight.name == network.classifier]
        if not found:
            return ["it works in front of a last linear layer, and the network does not end in one"]
        classes, features = found[0]
        size = 4 * classes * features**2
        if size <= LIMIT:
            return []
        name = network.classifier.removesuffix(".weight")
        return [
            f"it keeps a covariance of the {features} inputs of {name!r} for each of {classes} classes, "
            f"{size / 2**30:.1f} GiB, and at most {LIMIT / 2**30:g} GiB is allowed; take a network with fewer features"
        ]

    def penalty(self, step: Step) -> Tensor | None:
        """`augmentation_term` with the strength of this epoch; None if the strength is the number zero."""
        if not isinstance(self.strength, Tensor) and self.strength == 0:
            return None
        if step.features is None or step.logits is None or step.labels is None or not step.weights:
            raise ValueError("ISDA needs features, logits, labels and weights: Step(..., features=features, ...)")
        wide = torch.float64 if step.features.dtype == torch.float64 else torch.float32
        features, logits = step.features.detach().to(wide), step.logits.to(wide)
        weights = list(step.weights.values())[-1].to(wide)
        count, mean, covariance = merge(_recall(step.memory, weights), features, step.labels)
        step.memory.update(count=count, mean=mean, covariance=covariance)
        variances = spread(weights, step.memory["covariance"], step.labels)
        ramp = math.floor(step.epoch) / step.epochs if step.epochs else 1.0
        return augmentation_term(logits, step.labels, variances, ramp * self.strength)


def _recall(memory: Memory, weights: Tensor) -> Moments:
    """The moments in memory, or zeros."""
    if memory:
        return memory["count"], memory["mean"], memory["covariance"]
    classes, features = weights.shape
    zeros = weights.detach().new_zeros
    return zeros(classes), zeros(classes, features), zeros(classes, features, features)
