"""One update of the weights: the loss, the penalties, the gradient and the optimizer, as the methods want them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsestudy.regularizers import Regularizer, Step, survey, trained_weights
from sparsestudy.regularizers._step import Memory
from sparsestudy.study import derive_seed
from sparsestudy.training.probe import Probe


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
    ) -> None:
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
        """Loss and penalties forwards and backwards; returns the penalty without its graph."""
        inputs, labels = seen["inputs"], seen["labels"]
        with _inputs_of(self._classifier) as features, mixed(inputs.device, self._precision):
            logits = self._model(inputs)
            loss = self._loss(logits, labels)
        # Methods may take forward passes of their own, which the probe would see too: this one's activations stay here.
        activations = self.probe.activations if self.observes else {}
        shown = {**seen, "activations": activations, "logits": logits, "features": features.get("last")}
        steps = self._steps(shown, memories)
        found = [method.penalty(step) for method, step in zip(self._methods, steps, strict=True)]
        penalties = [penalty for penalty in found if penalty is not None]
        penalty = torch.stack(penalties).sum() if penalties else None
        # The backward pass frees the activations of a layer when it has done with them, unless they are held here.
        activations.clear()
        features.clear()
        del shown, steps, found, penalties
        self._optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        return None if penalty is None else penalty.detach()


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
