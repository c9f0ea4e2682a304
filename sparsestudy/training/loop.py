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

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy import measures, regularizers
from sparsestudy.errors import DivergedError
from sparsestudy.regularizers import Regularizer, Step
from sparsestudy.snapshot import Snapshot
from sparsestudy.study import ScheduleSpec, TrainingSpec, derive_seed
from sparsestudy.training import data, models
from sparsestudy.training.data import Dataset, Split
from sparsestudy.training.probe import Probe, sites
from sparsestudy.training.snapshot import take
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

    Attributes:
        model: The network; trained as far as the iteration has come.
        dataset: The data, with the splits this trial must not look at still in it.
    """

    def __init__(self, config: TrialConfig) -> None:
        self.config = config
        # Part of the configuration, because the order of additions, and so the last bit, depends on it.
        torch.set_num_threads(config.threads)
        dtype = torch.float64 if config.training.precision == "float64" else torch.float32
        self.dataset: Dataset = data.load(config.data)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(config.seed, "weights"))
            self.model = models.build(config.model, self.dataset.input_shape, self.dataset.classes)
        self.model.to(device=config.device, dtype=dtype)
        self._train, self._search = (_to(s, config.device, dtype) for s in (self.dataset.train, self.dataset.search))
        self._statistics = {name: measures.get(name) for name in config.measures.names}
        self._sums: dict[tuple[str, str], measures.Sums] = {}
        self._measuring = False

    def __iter__(self) -> Iterator[Measurement]:
        config, model = self.config, self.model
        methods = [regularizers.get(**method) for method in config.methods]
        optimizer = _optimizer(config.training, model)
        with ExitStack() as stack:
            penalized = Probe(model, lambda layer: any(method.acts_on(layer) for method in methods))
            measured = Probe(model, config.measures.layers, self._on_activation)
            for probe in (penalized, measured):
                stack.enter_context(probe)
                probe.enabled = False
            for method in methods:
                for handle in method.install(model, sites(model)):
                    stack.callback(handle.remove)
            for epoch in range(config.training.epochs):
                started = time.perf_counter()
                penalized.enabled = any(method.reads == "activations" for method in methods)
                penalty, rate = self._epoch(epoch, methods, optimizer, penalized)
                penalized.enabled = False
                yield self._measure(epoch, penalty, rate, measured, started)

    def snapshot(self) -> Snapshot:
        """What the network, trained as far as it is, does with the probe sets; changes nothing."""
        size = self.config.measures.probe_size
        probes = {"train": self._train, "validation": self._search}
        return take(
            self.model,
            {name: Split(split.inputs[:size], split.labels[:size]) for name, split in probes.items()},
            self.config.measures.layers,
        )

    def _epoch(
        self, epoch: int, methods: list[Regularizer], optimizer: torch.optim.Optimizer, probe: Probe
    ) -> tuple[Tensor, float]:
        """Train one epoch; returns the mean penalty per step (0-d) and the last learning rate."""
        spec, model, device = self.config.training, self.model, self.config.device
        weights = {name: p for name, p in model.named_parameters() if p.dim() >= 2 and p.requires_grad}
        model.train()
        rate, total = 0.0, torch.zeros((), device=device)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.config.seed, "epoch", epoch))
            batches = self._shuffled_batches()
            for step, (inputs, labels) in enumerate(batches):
                progress = epoch + step / len(batches)
                rate = spec.optimizer.lr * schedule_factor(spec.schedule, progress, spec.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                with torch.autocast(device, torch.bfloat16, enabled=spec.precision == "bfloat16"):
                    logits = model(inputs)
                    loss = cross_entropy(logits, labels)
                seen = Step(
                    activations=probe.activations, weights=weights, logits=logits, labels=labels, epoch=progress
                )
                penalties = [p for method in methods if (p := method.penalty(seen)) is not None]
                if penalties:
                    penalty = torch.stack(penalties).sum()
                    total += penalty.detach()
                    loss = loss + penalty
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return total / len(batches), rate

    def _shuffled_batches(self) -> list[tuple[Tensor, Tensor]]:
        size = self.config.training.batch_size
        order = torch.randperm(len(self._train.labels))
        if len(order) % size == 1 and len(order) > 1:
            order = order[:-1]  # batch norm cannot train on a batch of one
        order = order.to(self._train.labels.device)
        inputs, labels = self._train.inputs[order], self._train.labels[order]
        return list(zip(inputs.split(size), labels.split(size), strict=True))

    def _measure(self, epoch: int, penalty: Tensor, rate: float, probe: Probe, started: float) -> Measurement:
        last = self.config.training.epochs - 1
        probe.enabled = epoch % self.config.measures.every == 0 or epoch == last
        results = {
            "train": self._evaluate(self._train, TRAIN_EXAMPLES_EVALUATED),
            "validation": self._evaluate(self._search, len(self._search.labels)),
        }
        probe.enabled = False
        # The only copy off the device in the whole epoch.
        flat = [penalty.double()] + [value.double() for result in results.values() for value in result.values()]
        values = iter(torch.stack(flat).tolist())
        mean_penalty = next(values)
        numbers = {split: {key: next(values) for key in result} for split, result in results.items()}
        loss = {split: found[_LOSS] for split, found in numbers.items()}
        for name, value in (("train loss", loss["train"]), ("penalty", mean_penalty)):
            if not math.isfinite(value):
                raise DivergedError(
                    f"{name} became {value} in epoch {epoch}; a lower learning rate or strength may help"
                )
        return Measurement(
            epoch=epoch,
            train_loss=loss["train"],
            train_accuracy=numbers["train"][_ACCURACY],
            validation_loss=loss["validation"] if math.isfinite(loss["validation"]) else sys.float_info.max,
            validation_accuracy=numbers["validation"][_ACCURACY],
            penalty=mean_penalty,
            learning_rate=rate,
            seconds=time.perf_counter() - started,
            timestamp=time.time_ns() // 1_000_000,
            statistics={split: layers for split, found in numbers.items() if (layers := _by_layer(found))},
        )

    @torch.no_grad()
    def _evaluate(self, split: Split, limit: int) -> dict[tuple[str, str], Tensor]:
        """Loss and accuracy of the first ``limit`` examples, statistics of the probe set; nothing leaves the device."""
        self.model.eval()
        self._sums = {}
        inputs, labels = split.inputs[:limit], split.labels[:limit]
        probe_size = self.config.measures.probe_size
        loss = torch.zeros((), dtype=torch.float64, device=inputs.device)
        correct = torch.zeros((), dtype=torch.float64, device=inputs.device)
        for start in range(0, len(labels), probe_size):
            self._measuring = start == 0  # the probe set is the first chunk
            chunk = slice(start, start + probe_size)
            logits = self.model(inputs[chunk])
            loss += cross_entropy(logits, labels[chunk], reduction="sum")
            correct += (logits.argmax(1) == labels[chunk]).sum()
        values = {_LOSS: loss / len(labels), _ACCURACY: correct / len(labels)}
        for (layer, name), sums in self._sums.items():
            values |= {(layer, output): v for output, v in self._statistics[name].compute(sums).items()}
        return values

    def _on_activation(self, layer: str, activations: Tensor) -> None:
        if self._measuring:
            self._sums |= {(layer, name): s.update(activations) for name, s in self._statistics.items()}


_LOSS, _ACCURACY = ("", "loss"), ("", "accuracy")


def _by_layer(numbers: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float | None]]:
    layers: dict[str, dict[str, float | None]] = {}
    for (layer, measure), value in numbers.items():
        if layer:
            layers.setdefault(layer, {})[measure] = value if math.isfinite(value) else None
    return layers


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
    return Split(inputs=split.inputs.to(device=device, dtype=dtype), labels=split.labels.to(device))
