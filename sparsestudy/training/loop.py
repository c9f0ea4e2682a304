"""The training loop. It reads a `TrialConfig`, yields one `Measurement` an epoch, and knows nothing of the machinery.

Randomness: every epoch starts from a seed derived from the trial's seed and the epoch, so that a trial gives the same
numbers whatever ran before it in the process, and an interrupted one can go on as if it had not been.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsestudy import measures, regularizers
from sparsestudy.errors import ConflictError, DivergedError
from sparsestudy.measures import LayerStatistic, OutputStatistic
from sparsestudy.snapshot import Snapshot
from sparsestudy.study import ScheduleSpec, TrainingSpec, derive_seed
from sparsestudy.training import data, models
from sparsestudy.training.checkpoint import Checkpoint, opened
from sparsestudy.training.data import Dataset, Split
from sparsestudy.training.distributed import ALONE, Group
from sparsestudy.training.inspection import Inspection, Place, nested
from sparsestudy.training.probe import Probe, changes_in_place, find_layers
from sparsestudy.training.snapshot import take
from sparsestudy.training.synced import synchronise
from sparsestudy.training.tasks import TASKS
from sparsestudy.training.update import Updater, mixed
from sparsestudy.training.weights import pack
from sparsestudy.trial import Measurement, TrialConfig

TRAIN_EXAMPLES_EVALUATED = 2048
"""Train loss and accuracy are taken on at most this many training examples, always the same ones."""


def fit(
    config: TrialConfig, on_measurement: Callable[[Measurement], bool | None] | None = None
) -> tuple[nn.Module, list[Measurement]]:
    """Train one configuration to its end, or until told to stop.

    Args:
        config: What to train.
        on_measurement: Called after every epoch; returning True stops the training.

    Returns:
        The trained network, in evaluation mode, and the trajectory.

    Raises:
        DivergedError: The loss stopped being finite.
    """
    trajectory = []
    trainer = Trainer(config)
    for measurement in trainer:
        trajectory.append(measurement)
        if on_measurement is not None and on_measurement(measurement):
            break
    return trainer.model.eval(), trajectory


class Trainer:
    """One trial in progress: iterate to train, one `Measurement` an epoch.

    Args:
        config: What to train.
        resume: A checkpoint to go on from: what `checkpoint` gave, or the path of a file with it.
        adopt: Whether the checkpoint may be that of another configuration with the same network and methods.
        group: The processes that train it together. In all of them the measurements are the same, but only that of the
            first rank has measures of weights and of the network as a whole; only there are `weights` kept.
        micro_batches: See `sparsestudy.training.update.Updater`.

    Raises:
        CheckpointError: The checkpoint is damaged, or that of another configuration; when iteration begins: it does
            not fit the network.
        ValueError: The processes cannot share its batches; when iteration begins: micro-batches would change them.

    Attributes:
        model: The network; trained as far as the iteration has come.
        dataset: The data, with the splits this trial must not look at still in it.
        done: Whether the latest measurement is the last one, because the epochs or a method's patience have run out.
        weights: Those that the configuration asks to keep, so far, as a safetensors file; empty if none.
    """

    def __init__(
        self,
        config: TrialConfig,
        resume: bytes | Path | None = None,
        *,
        adopt: bool = False,
        group: Group = ALONE,
        micro_batches: int = 1,
    ) -> None:
        self.config, self._group, self._micro_batches = config, group, micro_batches
        self._start = opened(resume, config, adopt=adopt) if resume is not None else None
        # Part of the configuration, because the order of additions, and so the last bit, depends on it.
        torch.set_num_threads(config.threads)
        dtype = torch.float64 if config.training.precision == "float64" else torch.float32
        self.dataset: Dataset = data.load(config.data)
        self._task = TASKS[self.dataset.task]
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(config.seed, "weights"))
            self.model = models.build(config.model, self.dataset.input_shape, self.dataset.outputs)
        self.model.to(device=config.device, dtype=dtype)
        group.check(
            train=len(self.dataset.train), validation=len(self.dataset.search), probe=config.measures.probe_size
        )
        self._train, self._search = (_to(s, config.device, dtype) for s in (self.dataset.train, self.dataset.search))
        chosen = {name: measures.get(name) for name in config.measures.names}
        self._statistics = {name: s for name, s in chosen.items() if isinstance(s, LayerStatistic)}
        self._answers = {name: s for name, s in chosen.items() if isinstance(s, OutputStatistic)}
        self._sums: dict[tuple[str, str], measures.Sums] = {}
        self._measuring = False
        self.done = False
        self.weights = self._start.weights if self._start else b""
        self._losses = [*self._start.losses] if self._start else []
        self._state: tuple[torch.optim.Optimizer, Updater] | None = None

    @property
    def epochs(self) -> int:
        """How many epochs have been trained, those before the checkpoint included."""
        return len(self._losses)

    @property
    def notes(self) -> Mapping[str, Any]:
        """Those of the checkpoint it goes on from; none if it starts afresh."""
        return self._start.notes if self._start else {}

    @property
    def between_epochs(self) -> bool:
        """Whether an epoch has been trained here and no other one has begun."""
        return self._state is not None

    def checkpoint(self, notes: Mapping[str, Any] | None = None) -> bytes:
        """What it takes to go on from here bit for bit; changes nothing.

        Args:
            notes: To be found again in `notes`; goes through JSON.

        Raises:
            ConflictError: It is not `between_epochs`.
        """
        if self._state is None:
            raise ConflictError("a checkpoint is taken between two epochs; wait for the next measurement")
        optimizer, update = self._state
        return Checkpoint.take(
            self.config, self._losses, self.model, optimizer, update.memories, weights=self.weights, notes=notes
        ).to_bytes()

    def __iter__(self) -> Iterator[Measurement]:
        config, model = self.config, self.model
        methods = [regularizers.get(**method) for method in config.methods]
        losses = self._losses
        with ExitStack() as stack:
            layers = find_layers(model, self._train.inputs[:2])
            for method in methods:
                for handle in method.install(model, layers):
                    stack.callback(handle.remove)
            model.to(self._train.inputs)
            self._group.agree(model)
            synchronise(model, self._group)
            inspection = Inspection.of(model, config)
            reads = any(method.reads == "activations" for method in methods)
            with mixed(self._train.inputs.device, config.training.precision):
                copy = reads and changes_in_place(model, self._train.inputs[:2])
            penalized = Probe(model, lambda layer: any(method.acts_on(layer) for method in methods), copy=copy)
            measured = Probe(model, config.measures.layers, self._on_activation)
            for probe in (penalized, measured):
                stack.enter_context(probe)
                probe.enabled = False
            optimizer = _optimizer(config.training, model)
            update = Updater(
                model, methods, optimizer, self._task.loss, penalized,
                seed=config.seed, precision=config.training.precision, epochs=config.training.epochs,
                group=self._group, micro_batches=self._micro_batches,
            )  # fmt: skip
            if self._start is not None:
                self._start.restore(model, optimizer, update.memories)
            for epoch in range(len(losses), config.training.epochs):
                started, self._state = time.perf_counter(), None
                penalty, rate = self._epoch(epoch, update)
                last = epoch + 1 == config.training.epochs
                measure = partial(self._measure, epoch, penalty, rate, measured, inspection, started)
                measurement = measure(last)
                losses.append(measurement.validation_loss)
                self.done = last or any(method.stops(losses) for method in methods)
                if self.done and not last and epoch % config.measures.every:
                    measurement = measure(True)  # nobody knew before that this epoch would be the last
                better = len(losses) == 1 or losses[-1] < min(losses[:-1])  # of equals the first, as `headlines` has it
                kept = (config.keep == "best" and better) or (config.keep == "final" and self.done)
                if kept and self._group.first:
                    self.weights = pack(model)
                self._state = optimizer, update
                yield measurement
                if self.done:
                    return

    def snapshot(self) -> Snapshot:
        """What the network, trained as far as it is, does with the probe sets; changes nothing."""
        size = self.config.measures.probe_size
        probes = {"train": self._train, "validation": self._search}
        return take(
            self.model,
            {name: Split(split.inputs[:size], split.labels[:size]) for name, split in probes.items()},
            self.config.measures.layers,
        )

    def _epoch(self, epoch: int, update: Updater) -> tuple[Tensor, float]:
        """Train one epoch; returns the mean penalty per step (0-d) and the last learning rate."""
        spec = self.config.training
        self.model.train()
        update.probe.enabled = update.observes
        rate, total = 0.0, torch.zeros((), device=self.config.device)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.config.seed, "epoch", epoch))
            batches = self._shuffled_batches()
            self._group.seed(self.config.seed, "epoch", epoch)
            for step, (inputs, labels) in enumerate(batches):
                progress = epoch + step / len(batches)
                rate = spec.optimizer.lr * schedule_factor(spec.schedule, progress, spec.epochs)
                penalty = update(inputs, labels, epoch=progress, rate=rate)
                if penalty is not None:
                    total += penalty
        update.probe.enabled = False
        return total / len(batches), rate

    def _shuffled_batches(self) -> list[tuple[Tensor, Tensor]]:
        size = self.config.training.batch_size
        order = torch.randperm(len(self._train.labels))
        if len(order) % size == 1 and len(order) > 1:
            order = order[:-1]  # batch norm cannot train on a batch of one
        order = order.to(self._train.labels.device)
        inputs, labels = self._train.inputs[order], self._train.labels[order]
        return list(zip(inputs.split(size), labels.split(size), strict=True))

    def _measure(
        self,
        epoch: int,
        penalty: Tensor,
        rate: float,
        probe: Probe,
        inspection: Inspection,
        started: float,
        last: bool,
    ) -> Measurement:
        measured = probe.enabled = last or epoch % self.config.measures.every == 0
        results = self._evaluate("train", self._train, TRAIN_EXAMPLES_EVALUATED, measured)
        results |= self._evaluate("validation", self._search, len(self._search.labels), measured)
        probe.enabled = False
        if measured and self._group.first:
            results |= inspection.values(self.model, {"train": self._train, "validation": self._search})
        # The only copy off the device in the whole epoch.
        mean_penalty, *values = torch.stack([v.double() for v in (penalty, *results.values())]).tolist()
        numbers = dict(zip(results, values, strict=True))
        loss = {split: numbers[split, "", "loss"] for split in ("train", "validation")}
        accuracy = numbers["validation", "", "accuracy"]
        for name, value in (("train loss", loss["train"]), ("penalty", mean_penalty)):
            if not math.isfinite(value):
                raise DivergedError(
                    f"{name} became {value} in epoch {epoch}; a lower learning rate or strength may help"
                )
        return Measurement(
            epoch=epoch,
            train_loss=loss["train"],
            train_accuracy=numbers["train", "", "accuracy"],
            validation_loss=loss["validation"] if math.isfinite(loss["validation"]) else sys.float_info.max,
            # Shares always are; R² is not where predictions have left all bounds.
            validation_accuracy=accuracy if math.isfinite(accuracy) else -sys.float_info.max,
            penalty=mean_penalty,
            learning_rate=rate,
            seconds=time.perf_counter() - started,
            timestamp=time.time_ns() // 1_000_000,
            statistics=nested(numbers),
        )

    @torch.no_grad()
    def _evaluate(self, name: str, split: Split, limit: int, measured: bool) -> dict[Place, Tensor]:
        """Loss, accuracy and, if ``measured``, statistics of the answers to the first ``limit`` examples.

        Statistics of layers are those of the probe set. Nothing leaves the device.
        """
        self.model.eval()
        self._sums = {}
        chosen, answers = self._answers if measured else {}, dict[str, measures.Sums]()
        inputs, labels = split.inputs[:limit], split.labels[:limit]
        probe_size = self.config.measures.probe_size
        found = torch.zeros((), dtype=torch.float64, device=inputs.device)
        for start in range(0, len(labels), probe_size):
            self._measuring = start == 0  # the probe set is the first chunk
            chunk = self._group.part(start, min(start + probe_size, len(labels)))
            if chunk.start == chunk.stop:
                continue
            logits = self.model(inputs[chunk])
            found = found + self._task.sums(logits, labels[chunk])
            for key, statistic in chosen.items():
                sums = statistic.update(logits, labels[chunk])
                answers[key] = measures.merge(answers[key], sums) if key in answers else sums
        found = self._add_up(found, [*self._sums.values(), *answers.values()])
        loss, accuracy = self._task.results(found)
        values = {(name, "", "loss"): loss, (name, "", "accuracy"): accuracy}
        for (layer, key), sums in self._sums.items():
            values |= {(name, layer, output): v for output, v in self._statistics[key].compute(sums).items()}
        for key, sums in answers.items():
            values |= {("network", name, output): v for output, v in self._answers[key].compute(sums).items()}
        return values

    def _add_up(self, found: Tensor, sums: list[measures.Sums]) -> Tensor:
        """Add the sums of all ranks, those of statistics in their places; returns that of the first."""
        places = [(each, name) for each in sums for name in each]
        total, *values = self._group.added_up([found, *(each[name] for each, name in places)])
        for (each, name), value in zip(places, values, strict=True):
            each[name] = value
        return total

    def _on_activation(self, layer: str, activations: Tensor) -> None:
        if self._measuring:
            activity = measures.Activity.of(activations)  # what several statistics need is computed once
            self._sums |= {(layer, name): s.update(activity) for name, s in self._statistics.items()}


def schedule_factor(spec: ScheduleSpec, progress: float, epochs: int) -> float:
    """Factor on the learning rate after ``progress`` epochs of ``epochs``.

    Example:
        >>> schedule_factor(ScheduleSpec(name="cosine"), 5.0, 10)
        0.5
        >>> schedule_factor(ScheduleSpec(name="step", every=30, factor=0.1), 31.0, 90)
        0.1
    """
    if progress < spec.warmup_epochs:
        return progress / spec.warmup_epochs
    if spec.name == "cosine":
        done = (progress - spec.warmup_epochs) / max(1e-9, epochs - spec.warmup_epochs)
        return 0.5 * (1 + math.cos(math.pi * done))
    if spec.name == "step":
        return float(spec.factor ** int(progress // spec.every))
    return 1.0


def _optimizer(spec: TrainingSpec, model: nn.Module) -> torch.optim.Optimizer:
    options = spec.optimizer
    if options.name == "adam":
        return torch.optim.Adam(model.parameters(), lr=options.lr, betas=(options.momentum, 0.999), fused=True)
    return torch.optim.SGD(
        model.parameters(), lr=options.lr, momentum=options.momentum, nesterov=options.nesterov, fused=True
    )


def _to(split: Split, device: str, dtype: torch.dtype) -> Split:
    labels = split.labels.to(device=device, dtype=dtype if split.labels.is_floating_point() else None)
    return Split(inputs=split.inputs.to(device=device, dtype=dtype), labels=labels)
