"""From a searched study to the configuration to ship: finals on fresh seeds, one winner, one look at the test split.

The finals are a study of their own in the same ledger, through the same scheduler; a launch that was interrupted goes
on where it stood. What is chosen, and why, stands in ``winner/selection.json`` and is never computed twice.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sparsestudy import files
from sparsestudy.errors import ConflictError, TrialFailedError
from sparsestudy.launching import Launch, leased, train
from sparsestudy.planning import finals, single_point
from sparsestudy.recorded import Study, open_study
from sparsestudy.scheduling.progress import Progress
from sparsestudy.specfile import dump_yaml
from sparsestudy.study import SelectionSpec, StudySpec
from sparsestudy.tracking.mlflow_tracker import Tracker
from sparsestudy.trial import Trial, TrialState
from sparsestudy.words import called

logger = logging.getLogger(__name__)
FOLDER = "winner"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was chosen.

    Attributes:
        study: Name of the searched study.
        folder: Where the winner is: ``selection.json``, ``best.yaml``, ``weights.safetensors``, ``config.json`` and
            ``README.md``, the model card.
        record: Content of ``selection.json``; empty if the finals were interrupted.
        fresh: Whether it was made now; if not, it was recorded before and nothing was looked at again.
    """

    study: str
    folder: Path
    record: Mapping[str, Any]
    fresh: bool


def select(name: str, *, again: bool = False, watch: Callable[[Progress], None] | None = None) -> Selection:
    """Choose the configuration to ship, or say what was chosen.

    Args:
        name: A recorded study.
        again: Choose anew although there is a choice, and look at the test split once more; it is counted.
        watch: Called several times a second while the finals run.

    Raises:
        NotFoundError: No such study.
        ConflictError: Somebody is running it, or no configuration can be chosen; the message says why.
        TrialFailedError: Every trial of the finals failed.
    """
    with open_study(name) as study:
        folder = study.folder / FOLDER
        recorded = _recorded(folder)
        if recorded and not again:
            return Selection(study=name, folder=folder, record=recorded, fresh=False)
        with leased(study):  # nobody is searching: the trials to choose from are all there
            chosen = _finalists(study)
        plan = finals(study.spec, {c.trial.number: c.trial.config for c in chosen})
        final = _finals_study(study, plan.spec)
        with leased(final) as lease:
            launch = train(final, plan, lease, watch)
            # Stopped by a signal, or because the budget of the launch was spent.
            if not all(trial.state.finished for trial in final.trials()):
                _tell(launch, lambda tracker: tracker.finish({}, metrics={}, complete=False))
                return Selection(study=name, folder=folder, record={}, fresh=True)
            record = _judge(study, final, chosen, looks=1 + int(recorded.get("test", {}).get("looks", 0)))
            _hand_over(study, final, launch, folder, record)
        return Selection(study=name, folder=folder, record=record, fresh=True)


def _recorded(folder: Path) -> dict[str, Any]:
    path = folder / "selection.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _finalists(study: Study) -> Sequence[Any]:
    from sparsestudy.analysis import selection

    trials = study.trials()
    found = selection.finalists(study.spec, trials)
    if found:
        return found
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        raise ConflictError(f"study {study.name!r} has no complete trial to choose from; run it first")
    free = study.spec.model_copy(update={"selection": SelectionSpec()})
    best = selection.candidates(free, trials)[0]
    raise ConflictError(
        f"no configuration among the {len(complete)} complete trials of {study.name!r} meets selection.constraints; "
        f"the best one, trial {best.trial.number}: {'; '.join(selection.violations(study.spec, best))}; loosen them in "
        f"the study file, run it again, which trains no finished trial anew, and select again"
    )


def _finals_study(study: Study, spec: StudySpec) -> Study:
    """The finals in the study's own ledger: those that were begun with this very plan, or new ones."""
    known = {record.name: record for record in study.ledger.studies()}
    for record in known.values():
        if record.name != study.name and record.spec.digest == spec.digest:
            return Study(folder=study.folder, ledger=study.ledger, record=record)
    first = f"{study.name}-finals"
    name = next(n for n in (first, *(f"{first}-{number}" for number in range(2, len(known) + 2))) if n not in known)
    return Study(folder=study.folder, ledger=study.ledger, record=study.ledger.create_study(name, spec))


def _judge(study: Study, final: Study, chosen: Sequence[Any], looks: int) -> dict[str, Any]:
    """Compare finalists on the selection split, look at the winner's test split, and say so as plain data."""
    from sparsestudy.analysis.selection import judge, selection_record

    metric = "loss" if study.spec.search.objectives[0].metric.endswith("loss") else "accuracy"
    scores = _selection_scores(final, metric)
    alive = [candidate for candidate in chosen if f"trial-{candidate.trial.number}" in scores]
    standings = judge(study.spec, alive, [[*scores[f"trial-{c.trial.number}"].values()] for c in alive], metric)
    own = scores[f"trial-{standings[0].number}"]
    # Shipped is the seed in the middle: the best one would be the luckiest one.
    shipped = sorted(own, key=lambda number: own[number])[(len(own) - 1) // 2]
    tests = {number: _score(final, final.trial(number), "test") for number in own}
    values = [found[metric] for found in tests.values()]
    test = {"mean": sum(values) / len(values), "scores": values, "shipped": tests[shipped], "looks": looks}
    scored = {number for by_trial in scores.values() for number in by_trial}
    return {
        **selection_record(study.spec, standings, metric, test),
        "task": final.trial(shipped).config.task,
        "study": study.name,
        "finals": final.name,
        "shipped": shipped,
        "failed": sorted({trial.number for trial in final.trials()} - scored),
    }


def _selection_scores(final: Study, metric: str) -> dict[str, dict[int, float]]:
    """Arm of the finals -> its trials that can be scored -> score on the selection split."""
    scores: dict[str, dict[int, float]] = {}
    for trial in final.trials():
        if trial.state is TrialState.COMPLETE:
            value = _score(final, trial, "selection")[metric]
            if math.isfinite(value):  # a network without an answer has failed, whatever its training said
                scores.setdefault(trial.config.arm, {})[trial.number] = value
    if not scores:
        failures = [f"{t.failure.kind}: {t.failure.message}" for t in final.trials() if t.failure]
        raise TrialFailedError(
            f"every trial of the finals failed; the first one: {[*failures, 'its answers are not finite'][0]}"
        )
    return scores


def _score(final: Study, trial: Trial, split: str) -> dict[str, float]:
    from sparsestudy.scheduling.tune import weights_path
    from sparsestudy.training import data, weights

    dataset = data.load(trial.config.data)
    model = weights.restore(trial.config, weights_path(final.folder, final.name, trial.number).read_bytes())
    return weights.score(model, getattr(dataset, split), dataset.task)


def _hand_over(study: Study, final: Study, launch: Launch, folder: Path, record: dict[str, Any]) -> None:
    """Write the winner's folder, register the model, and then, last of all, the record that says it is done."""
    from sparsestudy.analysis.card import model_card
    from sparsestudy.scheduling.tune import weights_path

    shipped = final.trial(record["shipped"])
    winner = study.trial(record["winner"])
    config = shipped.config.model_copy(update={"keep": "none", "arm": winner.config.arm})
    comment = (
        f"The configuration chosen from study {study.name!r}: trial {winner.number}, by {record['rule']} over "
        f"{study.spec.selection.seeds} fresh seeds on the selection split.\n"
        f"Mean {called(record['metric'], record['task'])} on the test split: {record['test']['mean']:.4g}."
    )
    contents = {
        "weights.safetensors": weights_path(final.folder, final.name, shipped.number).read_bytes(),
        "config.json": config.model_dump_json(indent=2).encode(),
        "best.yaml": dump_yaml(single_point(study.spec, config, f"{study.spec.name}-winner"), comment).encode(),
        "README.md": model_card(study.spec, winner, record, folder).encode(),
    }
    for name, content in contents.items():
        files.replace(folder / name, content)
    record["registered"] = None
    _tell(launch, partial(_register, study=study, contents=contents, record=record))
    files.replace(folder / "selection.json", json.dumps(record, indent=2, allow_nan=False).encode())


def _register(tracker: Tracker, *, study: Study, contents: Mapping[str, bytes], record: dict[str, Any]) -> None:
    tags = {"sparsestudy.study": study.name, "sparsestudy.trial": str(record["winner"])}
    version = tracker.register(record["shipped"], study.name, contents, tags)
    record["registered"] = {"model": study.name, "version": version, "alias": "champion"}
    metrics = {f"test/{record['metric']}": record["test"]["mean"], "optimism": record["optimism"]}
    tracker.finish({}, metrics=metrics, complete=True)


def _tell(launch: Launch, say: Callable[[Tracker], None]) -> None:
    """Say something to MLflow; if it has gone, the winner's folder has everything."""
    if not launch.delivered:
        return
    try:
        say(launch.tracker)
    except Exception as error:
        logger.warning("MLflow did not take the outcome of the finals: %s", error)
