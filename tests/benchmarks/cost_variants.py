"""What the cost benchmark compares: `Trainer` with and without measures and methods, and the rival."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsestudy import measures, regularizers
from sparsestudy.measures import LayerStatistic
from sparsestudy.study import DataSpec, MeasuresSpec, ModelSpec, OptimizerSpec, SplitSpec, TrainingSpec
from sparsestudy.training.loop import Trainer
from sparsestudy.training.probe import Probe
from sparsestudy.trial import TrialConfig
from tests.benchmarks import naive
from tests.benchmarks.cost_page import BARE, DIGITS, EPOCH, PENALTY, STEP

BATCH = 128
PROBE = 256
CONV = "features."
NEVER = 10**6

VGG = ModelSpec(
    name="convnet", arguments={"channels": [32, 32, 64, 64, 128, 128], "pool": [False, True] * 3, "dense": 256}
)
TRAINING = TrainingSpec(epochs=NEVER, batch_size=BATCH, optimizer=OptimizerSpec(lr=1e-3))
DEFAULT = MeasuresSpec().names
ALL = tuple(name for name in measures.names() if isinstance(measures.get(name), LayerStatistic))
DEAR = ("gini", "kurtosis", "filter_correlation", "basis_collapse")
"""What needs a sort, the fourth powers or the products of all pairs of filters."""
CHEAP = tuple(name for name in ALL if name not in DEAR)
IDLE = ("none", "early_stopping")
"""Methods that do nothing in a step."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained.

    Attributes:
        device: cpu or cuda.
        steps: Training steps of an epoch.
    """

    device: str
    steps: int

    def config(self, *methods: dict[str, Any], every: int = NEVER, names: Sequence[str] = DEFAULT) -> TrialConfig:
        """The small VGG with these methods, measured in every so many epochs on the probe sets."""
        train = self.steps * BATCH
        # Measured, and not trained on: as many images as a probe set has.
        splits = SplitSpec(search=PROBE, selection=10, test=10)
        arguments = {"examples": train + 2 * PROBE, "shape": [3, 32, 32], "teacher": "linear"}
        return TrialConfig(
            **self._common(methods),
            data=DataSpec(name="synthetic", arguments=arguments, train_size=train, splits=splits),
            model=VGG,
            training=TRAINING,
            measures=MeasuresSpec(names=tuple(names), every=every, probe_size=PROBE),
        )

    def digits(self, every: int = NEVER, names: Sequence[str] = DEFAULT) -> TrialConfig:
        """What a study file that names nothing trains: all digits, the small convnet."""
        return TrialConfig(
            **self._common(()),
            data=DataSpec(),
            model=ModelSpec(),
            training=TrainingSpec(epochs=NEVER),
            measures=MeasuresSpec(names=tuple(names), every=every),
        )

    def _common(self, methods: Sequence[dict[str, Any]]) -> dict[str, Any]:
        given = {"study": "cost", "number": 0, "arm": "cost", "parameters": {}, "seed": 0, "device": self.device}
        return {**given, "methods": tuple(methods)}


Start = Callable[[Setting], Iterator[Any]]
"""Begins a variant; every `next` trains one epoch."""


def trainer(every_step: Sequence[str] = (), *methods: dict[str, Any], **arguments: Any) -> Start:
    """`Trainer` on the small VGG; ``every_step`` names measures of all layers to take in every training step."""

    def start(setting: Setting) -> Iterator[Any]:
        found = Trainer(setting.config(*methods, **arguments))
        if not every_step:
            yield from found
            return
        statistics: Any = {name: measures.get(name) for name in every_step}
        sums: dict[str, dict[str, measures.Sums]] = {}

        @torch.no_grad()
        def measure(layer: str, activations: Tensor) -> None:
            if not found.model.training:
                return
            activity, old = measures.Activity.of(activations), sums.get(layer)
            fresh = {name: statistic.update(activity) for name, statistic in statistics.items()}
            sums[layer] = {n: measures.merge(old[n], s) for n, s in fresh.items()} if old else fresh

        with Probe(found.model, on_activation=measure):
            for _ in found:
                for layer in sums.values():
                    torch.stack([v for n, s in layer.items() for v in statistics[n].compute(s).values()]).tolist()
                sums.clear()
                yield

    return start


def digits(**arguments: Any) -> Start:
    """`Trainer` on digits."""
    return lambda setting: iter(Trainer(setting.digits(**arguments)))


def plain(names: Sequence[str] = (), penalised: str = "") -> Start:
    """The plain loop of `naive` on the network and the data of `trainer`."""

    def start(setting: Setting) -> Iterator[Any]:
        found = Trainer(setting.config())
        split = found.dataset.train
        inputs, labels = split.inputs.to(setting.device), split.labels.to(setting.device)
        batches = list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True))
        return naive.train(found.model, batches, TRAINING.optimizer.lr, names, penalised)

    return start


def variants() -> dict[str, Start]:
    """Everything that is compared, by the name in the tables; the page says what each of them is."""
    kinds = {"default": DEFAULT, "all": ALL, "of every kind": tuple(measures.names())}
    steps = {"default": DEFAULT, "cheap": CHEAP, "all": ALL}
    return {
        BARE: trainer(),
        "plain loop": plain(),
        **{STEP.format(which): trainer(names) for which, names in steps.items()},
        **{EPOCH.format(which): trainer(every=1, names=names) for which, names in kinds.items()},
        **{f"alone: {name}": trainer((name,)) for name in ALL},
        **{f"method: {name}": trainer((), {"method": name}) for name in regularizers.names() if name not in IDLE},
        PENALTY: trainer((), {"method": "perplexity", "layers": [f"{CONV}*"]}),
        "rival, measures default, every step": plain([name for name in DEFAULT if name in naive.MEASURES]),
        "rival, measures all, every step": plain(list(naive.MEASURES)),
        f"rival, {PENALTY}": plain(penalised=CONV),
        DIGITS: digits(),
        **{f"digits, {EPOCH.format(which)}": digits(every=1, names=names) for which, names in kinds.items()},
    }
