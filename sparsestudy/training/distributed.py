"""Several processes that train one trial together, each on its part of every batch; the numbers are those of one.

A process is a *rank* of a *group*. Each rank holds the whole network and all the data, and takes the same steps: of a
batch of B examples it computes what its own b of them contribute to the loss of the batch, and the ranks add up their
gradients. What a rank computes is weighted by b / B, so that uneven parts count as they should; what concerns the batch
as a whole is computed by each rank alike from what the ranks gather, and weighted by one over their number. After a
step all ranks have the same weights, bit for bit, because they add the same numbers in the same order.

The gradients are added up here rather than by ``DistributedDataParallel``: methods take several backward passes a step,
and further passes through the network itself. Given up is communication that overlaps with computation.

A batch of fewer examples than ranks is computed whole by each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsestudy.study import derive_seed


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one rank has of one batch, or of a part of it.

    Attributes:
        rows: Its examples, in the batch.
        counts: How many examples each rank has, in order of rank; empty if every rank has all of them.
        weight: What the mean over its examples weighs in the mean over the batch.

    Example:
        >>> Share.of(5, rank=1, size=2)
        Share(rows=slice(2, 5, None), counts=(2, 3), weight=0.6)
        >>> Share.of(1, rank=1, size=2)
        Share(rows=slice(0, 1, None), counts=(), weight=0.5)
    """

    rows: slice
    counts: tuple[int, ...] = ()
    weight: float = 1.0

    @classmethod
    def of(cls, examples: int, rank: int, size: int) -> Share:
        """That of a rank among ``size`` in a batch of so many examples: a contiguous part, even to one example."""
        if examples < size:
            return cls(rows=slice(0, examples), weight=1 / size)
        bounds = [place * examples // size for place in range(size + 1)]
        counts = tuple(end - start for start, end in pairwise(bounds))
        rows = slice(bounds[rank], bounds[rank + 1])
        return cls(rows=rows, counts=counts, weight=counts[rank] / examples)


class Group:
    """The processes that train one trial, as one of them sees them; by default there is this one alone.

    All ranks call the same methods in the same order. With one rank they do nothing.

    Args:
        rank: Of this process, from 0.
        size: How many there are; torch's default process group has been made if that is above 1.
        beat: Called before this rank waits for the others, so that a watcher sees it go on.

    Attributes:
        share: What this rank has of the batch that is being trained on; None between batches.

    Example:
        >>> ALONE.added_up([torch.ones(2)])
        [tensor([1., 1.])]
    """

    def __init__(self, rank: int = 0, size: int = 1, beat: Callable[[], None] = lambda: None) -> None:
        self.rank, self.size, self._beat = rank, size, beat
        self.share: Share | None = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that reports."""
        return self.rank == 0

    def check(self, **examples: int) -> None:
        """Refuse sets of examples, by name, that are too small to give one to every rank.

        Raises:
            ValueError: One is.
        """
        if min(examples.values()) < self.size:
            sets = ", ".join(f"{name} {count}" for name, count in examples.items())
            raise ValueError(f"{self.size} processes cannot share {min(examples.values())} examples: {sets}")

    @contextmanager
    def sharing(self, examples: int) -> Iterator[Share]:
        """While a batch of so many examples is trained on."""
        self.share = Share.of(examples, self.rank, self.size)
        try:
            yield self.share
        finally:
            self.share = None

    def part(self, start: int, end: int) -> slice:
        """The examples from ``start`` to ``end`` that this rank evaluates; maybe none."""
        count = end - start
        return slice(start + self.rank * count // self.size, start + (self.rank + 1) * count // self.size)

    def seed(self, *parts: object) -> None:
        """Have every rank but the first draw random numbers of its own, which depend on all parts and on the rank."""
        if self.rank:
            torch.manual_seed(derive_seed(*parts, "rank", self.rank))

    def agree(self, model: nn.Module) -> None:
        """Give all ranks the parameters and buffers of the first.

        They are made from one seed; but processors of two kinds may round differently.
        """
        if self.size > 1:
            with torch.no_grad():
                for tensor in [*model.parameters(), *model.buffers()]:
                    self._beat()
                    dist.broadcast(tensor, 0)

    def added_up(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Sums over the ranks of tensors without graph, in float64 on the way; every rank has the same."""
        if self.size == 1 or not values:
            return list(values)
        flat = torch.cat([value.detach().double().flatten() for value in values])
        self._add(flat)
        parts = flat.split([value.numel() for value in values])
        return [part.view_as(value).to(value.dtype) for part, value in zip(parts, values, strict=True)]

    def add_gradients(self, model: nn.Module, penalty: Tensor | None) -> Tensor | None:
        """Leave in every ``.grad`` the sum over the ranks; returns that of the penalties, 0-d.

        A parameter that nothing depends on is left with a gradient of zeros. One exchange a step: the penalty travels
        with the gradients.
        """
        if self.size == 1:
            return penalty
        parameters = [p for p in model.parameters() if p.requires_grad]
        values = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        values += [] if penalty is None else [penalty.to(parameters[0].dtype)]
        flat = torch.cat([value.flatten() for value in values])
        self._add(flat)
        sums = flat.split([value.numel() for value in values])
        for parameter, total in zip(parameters, sums, strict=False):
            parameter.grad = total.view_as(parameter)
        return None if penalty is None else sums[-1].view_as(penalty).to(penalty.dtype)

    def gathered(self, mine: Tensor) -> Tensor:
        """What all ranks have of the present batch, ``[b, ...]`` each, as one tensor ``[B, ...]`` with its graph.

        The gradient is right for what every rank computes alike and weights by one over the number of ranks: then all
        of them send back the same gradient, and the sum over the ranks is as many times what this one has.
        """
        if self.size == 1 or self.share is None or not self.share.counts:
            return mine
        return _Gathered.apply(mine, self)  # type: ignore[no-any-return]

    def summed(self, mine: Tensor) -> Tensor:
        """Sum over the ranks with its graph, for what each rank goes on to use in its own way."""
        return mine if self.size == 1 else _Summed.apply(mine, self)

    def _add(self, values: Tensor) -> None:
        self._beat()
        dist.all_reduce(values)

    def _gather(self, mine: Tensor, counts: Sequence[int]) -> Tensor:
        padded = mine.new_zeros((max(counts), *mine.shape[1:]))
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in counts]
        self._beat()
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


ALONE = Group()


class _Gathered(torch.autograd.Function):
    """See `Group.gathered`."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, group: Group) -> Tensor:
        assert group.share is not None
        ctx.rows, ctx.size = group.share.rows, group.size
        return group._gather(mine.detach(), group.share.counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.rows] * ctx.size, None


class _Summed(torch.autograd.Function):
    """See `Group.summed`."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = mine.detach().clone()
        group._add(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        ctx.group._add(total)
        return total, None
