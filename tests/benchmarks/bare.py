"""Sides (b) and (b2) of the throughput benchmark: `fit` in a loop, one process, nothing around it.

Usage: ``python bare.py CONFIGURATIONS OUTCOME PART PARTS`` trains every PARTS-th configuration, beginning at PART.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from sparsestudy.training.loop import fit
from sparsestudy.trial import TrialConfig


def main(configurations: str, outcome: str, part: str, parts: str) -> None:
    """Train, and write down how it ended."""
    chosen = json.loads(Path(configurations).read_text(encoding="utf-8"))[int(part) :: int(parts)]
    trials = {}
    epochs = 0.0
    started = time.time()
    for configuration in chosen:
        config = TrialConfig.model_validate_json(json.dumps(configuration))
        _, trajectory = fit(config)
        trials[config.number] = [trajectory[-1].validation_accuracy, trajectory[-1].validation_loss]
        epochs += sum(measurement.seconds for measurement in trajectory)
    finished = time.time()
    found = {"trials": trials, "started": started, "finished": finished, "epochs": epochs}
    Path(outcome).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
