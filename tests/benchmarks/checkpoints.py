"""What checkpoints cost: the time of taking and writing one beside that of an epoch, and its size.

Each network is trained by `Trainer`; every second epoch is followed by a checkpoint, so that a machine that slows down
slows both. Seconds are those of the clock: they include the wait until the disk has the file.

Usage: ``python -m tests.benchmarks.checkpoints [--rounds R] [--output FILE]``
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsestudy.scheduling.checkpoints import SHARE, Keeper, Shelf
from sparsestudy.study import (
    CheckpointsSpec,
    DataSpec,
    MeasuresSpec,
    ModelSpec,
    OptimizerSpec,
    SplitSpec,
    TrainingSpec,
)
from sparsestudy.training.loop import Trainer
from sparsestudy.trial import TrialConfig

HERE = Path(__file__).resolve().parent
GOAL = 3.0
"""Per cent of a trial's time."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Medians over rounds.

    Attributes:
        name: What was trained.
        epoch: Seconds of an epoch, measures included.
        cost: Seconds of a checkpoint.
        size: Megabytes of its file.
    """

    name: str
    epoch: float
    cost: float
    size: float

    @property
    def interval(self) -> float:
        """Seconds from one checkpoint to the next with the default setting: a whole number of epochs."""
        spec = CheckpointsSpec()
        assert spec.seconds is not None
        wanted = max(spec.seconds, self.cost / SHARE)
        return self.epoch * max(1, -(-wanted // self.epoch))

    @property
    def share(self) -> float:
        """Per cent of a trial's time that checkpoints take with the default setting."""
        return 100 * self.cost / (self.interval + self.cost)


def trial(model: str, arguments: dict[str, Any], size: int, method: dict[str, Any], optimizer: str) -> TrialConfig:
    """A trial that goes on for longer than anybody looks."""
    return TrialConfig(
        study="checkpoints",
        number=0,
        arm="arm",
        parameters={},
        methods=(method,),
        data=DataSpec(name="synthetic", train_size=size, splits=SplitSpec(search=100, selection=20, test=20)),
        model=ModelSpec(name=model, arguments=arguments),
        training=TrainingSpec(epochs=10_000, batch_size=32, optimizer=OptimizerSpec(name=optimizer, lr=0.001)),
        measures=MeasuresSpec(),
        seed=0,
    )


CONVNET = {"channels": [16, 32, 32], "dense": 64}
TRIALS = {
    "convnet of the quickstart, SGD": trial("convnet", CONVNET, 300, {"method": "none"}, "sgd"),
    "the same, Adam, `isda`": trial("convnet", CONVNET, 300, {"method": "isda"}, "adam"),
    "mlp with 2 x 2,048 units, Adam": trial("mlp", {"hidden": [2048, 2048]}, 300, {"method": "none"}, "adam"),
    "ResNet-18, SGD with momentum": trial("torchvision:resnet18", {}, 64, {"method": "none"}, "sgd"),
}


def measure(name: str, config: TrialConfig, rounds: int) -> Row:
    """Train an epoch without and one with a checkpoint, in turn."""
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        keeper = Keeper(Shelf(url=folder, attempt=1), CheckpointsSpec())
        trainer = Trainer(config)
        running = iter(trainer)
        next(running)
        plain, kept = [], []
        for _ in range(rounds):
            for times, keeps in ((plain, False), (kept, True)):
                began = time.perf_counter()
                next(running)
                middle = time.perf_counter()
                if keeps:
                    keeper.keep(trainer.epochs, trainer.checkpoint)
                    times.append(time.perf_counter() - middle)
                else:
                    times.append(middle - began)
        size = max(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
    sys.stderr.write(f"{name}: {plain} {kept}\n")
    return Row(name=name, epoch=statistics.median(plain), cost=statistics.median(kept), size=size)


def page(rows: list[Row], rounds: int) -> str:
    """The committed page."""
    spec = CheckpointsSpec()
    lines = [
        "# What checkpoints cost",
        "",
        f"Written by `python -m tests.benchmarks.checkpoints`. Medians of {rounds} epochs with a checkpoint after them",
        f"and of {rounds} without, in turn, on one thread of a machine that others use as well. A checkpoint is taken,",
        "hashed, written and on the disk before training goes on.",
        "",
        "| network | an epoch | a checkpoint | its size | share of the time | repeated after kill -9, at most |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {1000 * row.epoch:.0f} ms | {1000 * row.cost:.0f} ms | {row.size:.1f} MB "
            f"| {row.share:.2f} % | {row.interval + row.epoch:.1f} s |"
        )
    worst = max(row.share for row in rows)
    verdict = "met" if worst <= GOAL else "**missed**"
    lines += [
        "",
        f"By default a checkpoint is due every {spec.seconds:g} s, or after 33 times what the last one took if that",
        f"is later. The share of the time follows from the medians: at most {worst:.2f} %, goal at most {GOAL:g} %:",
        f"{verdict}. After a kill -9 the epochs since the last checkpoint and the one under way are trained again,",
        "after Ctrl-C or SIGTERM none if the epoch under way ends within seconds.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="checkpoints", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "checkpoints.md", help="page to write")
    arguments = parser.parse_args()
    rows = [measure(name, config, arguments.rounds) for name, config in TRIALS.items()]
    text = page(rows, arguments.rounds)
    sys.stdout.write(text)
    arguments.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
