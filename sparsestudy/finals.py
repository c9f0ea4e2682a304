"""Networks of the finals: their scores, their weights even where the file has gone, and the looks at the test split."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsestudy import files
from sparsestudy.recorded import Study
from sparsestudy.study import StudySpec
from sparsestudy.trial import Trial

logger = logging.getLogger(__name__)
LOOKS = "looks.json"


def score(final: Study, trial: Trial, split: str) -> dict[str, float]:
    """Loss and accuracy of a network of the finals on a whole split."""
    from sparsestudy.training import data, weights

    dataset = data.load(trial.config.data)
    model = weights.restore(trial.config, weights_of(final, trial))
    return weights.score(model, getattr(dataset, split), dataset.task)


def weights_of(final: Study, trial: Trial) -> bytes:
    """The kept weights of a complete trial; if the file has gone, it is trained again here, from its own seed.

    On the machine that trained it before, these are the same weights, bit for bit.
    """
    from sparsestudy.scheduling.tune import weights_path
    from sparsestudy.training.loop import Trainer

    path = weights_path(final.folder, final.name, trial.number)
    if not path.exists():
        logger.warning("the weights of trial %d of %s are gone: training it again", trial.number, final.name)
        trainer = Trainer(trial.config)
        for _ in trainer:
            pass
        files.replace(path, trainer.weights)
    return path.read_bytes()


def objectives_of(spec: StudySpec, trial: Trial, scores: Mapping[str, float]) -> tuple[float, ...]:
    """Values of the study's objectives for a trial of the finals.

    Losses and accuracies of validation are those on the selection split; all others are the trial's own.
    """
    found = []
    for objective in spec.search.objectives:
        split, _, metric = objective.per_epoch.partition("/")
        found.append(scores[metric] if split == "validation" else trial.headlines[objective.metric])
    return tuple(found)


def answers(spec: StudySpec, metric: str, scores: Mapping[str, float]) -> bool:
    """Whether the scores that the choice depends on are finite; a network without an answer has failed."""
    several = spec.search.objectives if len(spec.search.objectives) > 1 else ()
    named = (objective.per_epoch.partition("/") for objective in several)
    wanted = {metric, *(name for split, _, name in named if split == "validation")}
    return all(math.isfinite(scores[name]) for name in wanted)


def looks(folder: Path) -> int:
    """How often the test split has been looked at for the winners of a folder."""
    counted, chosen = (_content(folder / name) for name in (LOOKS, "selection.json"))
    return max(int(counted.get("looks", 0)), int(chosen.get("test", {}).get("looks", 0)))


def _content(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def count_look(folder: Path) -> int:
    """Put down, durably, that the test split is about to be looked at; returns the number of this look.

    Before the look, not after it: a look that a crash kept from being told of may have been seen.
    """
    number = looks(folder) + 1
    files.replace(folder / LOOKS, json.dumps({"looks": number}).encode(), durable=True)
    return number
