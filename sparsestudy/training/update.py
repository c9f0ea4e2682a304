"""One update of the weights: the loss, the penalties, the gradient and the optimizer, as the methods want them.

The batch may be shared by several processes (`sparsestudy.training.distributed`), and each may compute its share in
parts. Gradients are sums over parts, each with the weight it has in the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsestudy.regularizers import Regularizer, Step, survey, trained_weights
from sparsestudy.regularizers._step import Memory
from sparsestudy.study import derive_seed
from sparsestudy.training.distributed import ALONE, Group, Share
from sparsestudy.training.probe import Probe


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Examples of a batch that are computed together: where they are, and what their mean weighs in the batch's."""

    rows: slice
    weight: float
    first: bool


class Updater:
    """Updates a model batch by batch. One object serves one training run.

    Args:
        model: The network, the methods installed in it.
        methods: What regularises it, in the order of the arm.
        optimizer: Over its parameters.
        loss: Outputs ``[B, ...]`` and labels ``[B]`` to the mean loss, a 0-d tensor.
        probe: On the model; holds the activations that the methods read.
        seed: Of the methods' own random numbers.
        precision: ``float32``, ``float64`` or ``bfloat16``, which is automatic mixed precision.
        epochs: That training is planned for; 0 if unknown.
        group: The processes that share every batch.
        micro_batches: Parts, as equal as can be, in which this process computes its share, one after the other: the
            activations of one of them are in memory at a time. The update is the same but for rounding, and for what
            is drawn at random.

    Raises:
        ValueError: Several parts would give another update; see `obstacle_to_parts`.

    Attributes:
        memories: What each method keeps from step to step.
        probe: As given. Enable it while training if ``observes``.
        observes: Whether a method reads activations.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Regularizer],
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor, Tensor], Tensor],
        probe: Probe,
        *,
        seed: int = 0,
        precision: str = "float32",
        epochs: int = 0,
        group: Group = ALONE,
        micro_batches: int = 1,
    ) -> None:
        obstacle = obstacle_to_parts(model, methods) if micro_batches > 1 else ""
        if obstacle:
            raise ValueError(f"a batch cannot be computed in {micro_batches} parts: {obstacle}")
        self._group, self._micro_batches = group, micro_batches
        self._model, self._methods, self._optimizer = model, list(methods), optimizer
        self._loss, self.probe = loss, probe
        self._seed, self._precision = seed, precision
        weights = trained_weights(model)
        network = survey(model, ())
        self._common: dict[str, Any] = {
            "weights": weights,
            "grouped": frozenset(weight.name for weight in network.weights if weight.groups > 1),
            "network": model,
            "epochs": epochs,
        }
        self._classifier: nn.Module | None = None
        if network.classifier and any(method.reads in ("activations", "features") for method in methods):
            self._classifier = model.get_submodule(network.classifier.removesuffix(".weight"))
        self.observes = any(method.reads == "activations" for method in methods)
        self.memories: list[Memory] = [{} for _ in methods]

    def __call__(self, inputs: Tensor, labels: Tensor, *, epoch: float, rate: float) -> Tensor | None:
        """Take one step.

        Args:
            inputs: ``[B, ...]``.
            labels: ``[B]``.
            epoch: Epochs trained so far, with its fraction; also tells the steps' random numbers apart.
            rate: Learning rate.

        Returns:
            The penalty at the weights before the step, 0-d and without graph; None if no method adds to the loss.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        seen = {"inputs": inputs, "labels": labels, "epoch": epoch, "rate": rate, **self._common}
        before = [dict(memory) for memory in self.memories]
        penalties: list[Tensor | None] = []

        def compute() -> None:
            # A further pass over the same batch sees what the first one saw, and leaves no trace.
            memories = [dict(memory) for memory in before] if penalties else self.memories
            penalties.append(self._backward(seen, memories))

        gradient: Callable[[], None] = compute
        take: Callable[[], Any] = self._optimizer.step
        for method, step in reversed(list(zip(self._methods, self._steps(seen, self.memories), strict=True))):
            gradient = partial(method.around_gradient, step, gradient)
            take = partial(method.around_update, step, take)
        gradient()
        take()
        return penalties[0]

    def _steps(self, seen: dict[str, Any], memories: Sequence[Memory]) -> list[Step]:
        """What each method sees; each has random numbers of its own."""
        seed = derive_seed(self._seed, "step", repr(seen["epoch"]))
        return [Step(memory=memory, seed=seed + place, **seen) for place, memory in enumerate(memories)]

    def _backward(self, seen: dict[str, Any], memories: Sequence[Memory]) -> Tensor | None:
        """Gradient of loss and penalties for the whole batch; returns the penalty without its graph."""
        self._optimizer.zero_grad()
        with self._group.sharing(len(seen["labels"])) as share:
            parts = self._parts(share)
            found = [self._compute(part, seen, memories) for part in parts]
            penalties = [penalty for penalty in found if penalty is not None]
            return self._group.add_gradients(self._model, reduce(torch.add, penalties) if penalties else None)

    def _parts(self, share: Share) -> list[_Part]:
        examples = share.rows.stop - share.rows.start
        count = min(self._micro_batches, examples)
        found = []
        for place in range(count):
            rows = Share.of(examples, place, count).rows
            weight = share.weight * (rows.stop - rows.start) / examples if count > 1 else share.weight
            moved = slice(share.rows.start + rows.start, share.rows.start + rows.stop)
            found.append(_Part(rows=moved, weight=weight, first=place == 0))
        return found

    def _compute(self, part: _Part, seen: dict[str, Any], memories: Sequence[Memory]) -> Tensor | None:
        """Loss and penalties of a part forwards and backwards; returns the penalty without its graph."""
        inputs, labels = seen["inputs"][part.rows], seen["labels"][part.rows]
        with _inputs_of(self._classifier) as features, mixed(inputs.device, self._precision):
            logits = self._model(inputs)
            loss = self._loss(logits, labels)
        # Methods may take forward passes of their own, which the probe would see too: this one's activations stay here.
        activations = self.probe.activations if self.observes else {}
        shown = {**seen, "inputs": inputs, "labels": labels}
        shown |= {"activations": activations, "logits": logits, "features": features.get("last")}
        steps = self._steps(shown, memories)
        found = [self._penalty(method, step, part, seen) for method, step in zip(self._methods, steps, strict=True)]
        penalties = [penalty for penalty in found if penalty is not None]
        penalty = torch.stack(penalties).sum() if penalties else None
        # The backward pass frees the activations of a layer when it has done with them, unless they are held here.
        activations.clear()
        features.clear()
        del shown, steps, found, penalties
        loss = _weighted(loss, part.weight)
        (loss if penalty is None else loss + penalty).backward()
        return None if penalty is None else penalty.detach()

    def _penalty(self, method: Regularizer, step: Step, part: _Part, seen: dict[str, Any]) -> Tensor | None:
        """What a part contributes to the penalty of the batch."""
        if method.over_ranks in ("sum", "draws"):
            penalty, weight = method.penalty(step), part.weight
        elif part.first:
            whole = self._whole(method, step, seen) if method.over_ranks == "gather" else step
            penalty, weight = method.penalty(whole), 1 / self._group.size
        else:
            return None
        return None if penalty is None else _weighted(penalty, weight)

    def _whole(self, method: Regularizer, step: Step, seen: dict[str, Any]) -> Step:
        """The step of the whole batch, as far as the method reads it; every rank has the same."""
        if self._group.size == 1:
            return step
        gathered = self._group.gathered
        activations = {n: gathered(a) for n, a in step.activations.items() if method.acts_on(n)}
        whole = replace(step, activations=activations, inputs=seen["inputs"], labels=seen["labels"])
        if method.reads != "features" or step.features is None or step.logits is None:
            return whole
        return replace(whole, features=gathered(step.features), logits=gathered(step.logits))


def obstacle_to_parts(model: nn.Module, methods: Sequence[Regularizer]) -> str:
    """Why the update is another one if a batch is computed in parts; empty if it is the same.

    Example:
        >>> from sparsestudy import regularizers
        >>> obstacle_to_parts(nn.Linear(2, 2), [regularizers.get("weight_decay")])
        ''
        >>> obstacle_to_parts(nn.Linear(2, 2), [regularizers.get("decov")])
        'DeCov compares the examples of a batch with each other'
    """
    for method in methods:
        if method.over_ranks == "gather":
            return f"{type(method).__name__} compares the examples of a batch with each other"
    norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return f"the batch norm {norms[0]!r} norms by the batch" if norms else ""


def _weighted(value: Tensor, weight: float) -> Tensor:
    return value if weight == 1 else weight * value


def mixed(device: torch.device, precision: str) -> torch.autocast:
    """Automatic mixed precision if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def _inputs_of(module: nn.Module | None) -> Iterator[dict[str, Tensor]]:
    """Keeps the input of a module during a forward pass, under ``last``."""
    kept: dict[str, Tensor] = {}
    if module is None:
        yield kept
        return

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept["last"] = inputs[0]

    handle = module.register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
