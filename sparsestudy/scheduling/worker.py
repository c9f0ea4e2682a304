"""What runs in a worker process: it trains, and reports; it records nothing and knows no study.

Epochs travel in parcels of about a second, because every report costs a round trip through the driver during which the
worker waits. Kept apart from the driver's modules, which a worker need not import.

An attempt goes on after the latest good checkpoint of its trial. Before a step, the driver has recorded all that was
reported; what it may not have recorded yet travels with a checkpoint, and is reported again by whoever goes on.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.tune import Trainable

from sparsestudy.errors import CheckpointError
from sparsestudy.scheduling.actors import ActorRanks
from sparsestudy.scheduling.checkpoints import Keeper
from sparsestudy.scheduling.processes import LocalRanks
from sparsestudy.scheduling.ranks import JointTrainer, RankFailedError, Ranks
from sparsestudy.scheduling.retries import classify
from sparsestudy.training.loop import Trainer
from sparsestudy.trial import Measurement, TrialConfig

logger = logging.getLogger(__name__)
PARCEL_SECONDS = 1.0
FILE = "trial.checkpoint"
"""Name of the file in a folder that Tune keeps as a checkpoint."""
METRIC, EPOCHS, PARCEL, ENDED, SNAPSHOT, WEIGHTS = "objective", "epochs", "parcel", "ended", "snapshot", "weights"


class TrialWorker(Trainable):
    """One worker process: trains one configuration after another, and reports parcels of epochs.

    A trial of several processes is trained by those, which it starts and keeps.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first trial."""
        self._ranks: Ranks | None = None
        self._told = False
        self._take(config)
        self._heed_signals()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self._task = config
        self._config = TrialConfig.model_validate_json(config["trial"])
        self._keeper = Keeper.of(config.get("checkpoints"))
        self._trainer: Trainer | JointTrainer | None = None
        self._measurements: Iterator[Measurement] | None = None
        self._unconfirmed: list[Measurement] = []
        self._standings: dict[int, float] = {}
        self._to_repeat: list[int] = []
        self._stepping = False

    def step(self) -> dict[str, Any]:
        """Train for about a second, to the next rung, or to the end."""
        self._unconfirmed = parcel = list[Measurement]()
        self._stepping = True
        if self._told:
            self._leave()
        try:
            return self._step(parcel)
        finally:
            self._stepping = False

    def _step(self, parcel: list[Measurement]) -> dict[str, Any]:
        ended: dict[str, Any] = {}
        snapshot = weights = b""
        try:
            if self._keeper.due(self._epochs):
                self._keep()
            if self._measurements is None:
                self._measurements = self._started()
            if self._to_repeat:
                rung = self._to_repeat.pop(0)
                return {PARCEL: "[]", ENDED: "", "done": False, EPOCHS: rung, METRIC: self._standings[rung]}
            ended["complete"] = self._train(parcel)
            if ended["complete"] and self._task["snapshot"]:
                snapshot = self._snapshot(ended)
            if ended["complete"] and self._trainer is not None:
                weights = self._trainer.weights
        except RankFailedError as error:
            ended = {**asdict(error.failure), "class": error.kind}
        except Exception as error:
            # Reported as a result rather than raised, so that the class and the message arrive as they are and the
            # worker lives on for the next trial.
            ended = {"kind": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
            ended["class"] = classify(error)
            if self._task.get("parts", 1) > 1 and isinstance(error, ValueError):
                ended["message"] += "; tried in parts because the whole batch did not fit into memory"
        done = bool(ended.get("complete", True))
        standing = {EPOCHS: parcel[-1].epoch + 1, METRIC: self._standing(parcel[-1])} if parcel else {}
        if parcel and parcel[-1].epoch + 1 in self._task["rungs"]:
            self._standings[parcel[-1].epoch + 1] = standing[METRIC]
        return {
            PARCEL: json.dumps([m.to_dict() for m in parcel]),
            SNAPSHOT: snapshot,
            WEIGHTS: weights,
            ENDED: json.dumps(ended) if done else "",
            "done": done,
            **standing,
        }

    def _train(self, parcel: list[Measurement]) -> bool:
        """Add epochs to the parcel until it is full; returns whether the trial is complete."""
        started = time.monotonic()
        assert self._measurements is not None
        for measurement in self._measurements:
            parcel.append(measurement)
            if self._trainer is not None and self._trainer.done:
                return True
            if self._told:
                self._leave()
            full = time.monotonic() - started > PARCEL_SECONDS or self._keeper.due(self._epochs)
            if full or measurement.epoch + 1 in self._task["rungs"]:
                return False
        raise AssertionError("a trial ends at its last epoch")

    @property
    def _epochs(self) -> int:
        """Epochs after which a checkpoint could be taken now; 0 if it could not."""
        return self._trainer.epochs if self._trainer is not None and self._trainer.between_epochs else 0

    def _started(self) -> Iterator[Measurement]:
        """Find a checkpoint to go on from; returns the measurements from there on, or all."""
        for content in self._keeper.contents():
            try:
                self._adopt(self._made(content))
            except CheckpointError as error:
                logger.warning("trial %d does not go on from a checkpoint: %s", self._config.number, error)
                continue
            assert self._trainer is not None
            first = self._trainer.epochs - len(self._trainer.notes["unconfirmed"])
            if first <= self._task["recorded"]:
                return self._rest()
        self._adopt(self._made())
        return self._rest()

    def _made(self, resume: bytes | None = None, *, adopt: bool = False) -> Trainer | JointTrainer:
        """The trainer of the trial, in this process or in several."""
        parts = self._task.get("parts", 1)
        if self._config.workers == 1:
            return Trainer(self._config, resume, adopt=adopt, micro_batches=parts)
        if self._ranks is None:
            kind = ActorRanks if self._task.get("spread") else LocalRanks
            self._ranks = kind(self._config.workers, self._config.device)
        return self._ranks.start(self._config, resume=resume, adopt=adopt, micro_batches=parts)

    def _adopt(self, trainer: Trainer | JointTrainer) -> None:
        self._trainer = trainer
        self._keeper.started(trainer.epochs)
        self._standings = {int(rung): value for rung, value in trainer.notes.get("standings", {}).items()}
        # The scheduler of this launch has not seen them.
        self._to_repeat = sorted(rung for rung in self._standings if rung <= self._task["recorded"])

    def _rest(self) -> Iterator[Measurement]:
        """Measurements that may not have been recorded, then those to come."""
        assert self._trainer is not None
        yield from (Measurement.from_dict(data) for data in self._trainer.notes.get("unconfirmed", ()))
        try:
            yield from self._trainer
        except CheckpointError as error:
            # The network is another one than that of the last launch, though the configuration is the same.
            logger.warning("trial %d starts again: %s", self._config.number, error)
            self._adopt(self._made())
            yield from self._trainer

    def _keep(self) -> None:
        """Keep a checkpoint of what there is."""
        if self._trainer is not None and self._trainer.between_epochs and not self._trainer.done:
            self._keeper.keep(self._epochs, self._checkpoint)

    def _checkpoint(self) -> bytes:
        assert self._trainer is not None
        unconfirmed = [m.to_dict() for m in self._unconfirmed]
        return self._trainer.checkpoint({"unconfirmed": unconfirmed, "standings": self._standings})

    def _heed_signals(self) -> None:
        """Before SIGTERM ends this process, keep a checkpoint: at once, or when the epoch is over."""
        ours = ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
        if not ours or threading.current_thread() is not threading.main_thread():
            return

        def heed(number: int, frame: FrameType | None) -> None:
            self._told = True
            if not self._stepping:
                self._leave()

        signal.signal(signal.SIGTERM, heed)

    def _leave(self) -> None:
        self._keep()
        raise SystemExit(1)

    def _snapshot(self, ended: dict[str, Any]) -> bytes:
        assert self._trainer is not None
        try:
            return self._trainer.snapshot().to_bytes()
        except Exception as error:
            # The trial is complete; that its pictures are missing must not undo it.
            ended["no_snapshot"] = f"{type(error).__name__}: {error}"
            return b""

    def _standing(self, measurement: Measurement) -> float:
        value = measurement.value(self._task["metric"], self._config.measures.main)
        return float("nan") if value is None else value

    def cleanup(self) -> None:
        """Keep a last checkpoint of a trial that has not ended, drop it, and end its processes."""
        self._keep()
        self._trainer, self._measurements = None, None
        if self._ranks is not None:
            self._ranks.stop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a checkpoint for Tune, whose schedulers hand it to other trials; the ledger's trials have their own."""
        if self._epochs:
            Path(checkpoint_dir, FILE).write_bytes(self._checkpoint())

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from what `save_checkpoint` of a trial wrote, with this trial's own configuration."""
        path = Path(checkpoint, FILE)
        self._take(self._task)
        if path.exists():
            trainer = self._made(path.read_bytes(), adopt=True)
            self._adopt(trainer)
            self._to_repeat, self._measurements = [], iter(trainer)
