"""What runs in a worker process: it trains, and reports; it records nothing and knows no study.

Epochs travel in parcels of about a second, because every report costs a round trip through the driver during which the
worker waits. Kept apart from the driver's modules, which a worker need not import.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from typing import Any

from ray.tune import Trainable

from sparsestudy.training.loop import Trainer
from sparsestudy.trial import Measurement, TrialConfig

PARCEL_SECONDS = 1.0
METRIC, EPOCHS, PARCEL, ENDED, SNAPSHOT, WEIGHTS = "objective", "epochs", "parcel", "ended", "snapshot", "weights"


class TrialWorker(Trainable):
    """One worker process: trains one configuration after another, and reports parcels of epochs."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first trial."""
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self._task = config
        self._trainer: Trainer | None = None
        self._measurements: Iterator[Measurement] = iter(())

    def step(self) -> dict[str, Any]:
        """Train for about a second, to the next rung, or to the end."""
        parcel: list[Measurement] = []
        ended: dict[str, Any] = {}
        snapshot = weights = b""
        try:
            ended["complete"] = self._train(parcel)
            if ended["complete"] and self._task["snapshot"]:
                snapshot = self._snapshot(ended)
            if ended["complete"] and self._trainer is not None:
                weights = self._trainer.weights
        except Exception as error:
            # Reported as a result rather than raised, so that the class and the message arrive as they are and the
            # worker lives on for the next trial.
            ended = {"kind": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        done = bool(ended.get("complete", True))
        standing = {EPOCHS: parcel[-1].epoch + 1, METRIC: self._standing(parcel[-1])} if parcel else {}
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
        if self._trainer is None:
            self._config = TrialConfig.model_validate_json(self._task["trial"])
            self._trainer = Trainer(self._config)
            self._measurements = iter(self._trainer)
        started = time.monotonic()
        for measurement in self._measurements:
            parcel.append(measurement)
            if self._trainer.done:
                return True
            if measurement.epoch + 1 in self._task["rungs"] or time.monotonic() - started > PARCEL_SECONDS:
                return False
        raise AssertionError("a trial ends at its last epoch")

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
        """Drop the trial."""
        self._trainer, self._measurements = None, iter(())

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: an interrupted trial is trained again from its seed."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""
