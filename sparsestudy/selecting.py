"""From a searched study to the configuration to ship: finals on fresh seeds, one winner, one look at the test split.

The finals are a study of their own in the same ledger, through the same scheduler; a launch that was interrupted goes
on where it stood. What is chosen, and why, stands in ``winner/selection.json`` and is never computed twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sparsestudy import files
from sparsestudy.errors import ConflictError, TrialFailedError
from sparsestudy.finals import answers, count_look, objectives_of, weights_of
from sparsestudy.finals import score as _score
from sparsestudy.launching import Launch, deliver, leased, train
from sparsestudy.planning import finals, single_point
from sparsestudy.recorded import Study, open_study
from sparsestudy.scheduling.progress import Progress
from sparsestudy.specfile import dump_yaml
from sparsestudy.study import SelectionSpec, StudySpec
from sparsestudy.tracking.mlflow_client import reason
from sparsestudy.tracking.mlflow_tracker import Tracker
from sparsestudy.trial import TrialState
from sparsestudy.words import called

logger = logging.getLogger(__name__)
FOLDER = "winner"
CONTENTS = ("weights.safetensors", "config.json", "best.yaml", "README.md")
"""Files of a winner, which a registered model has too."""


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
        recorded = selection_of(folder)
        if recorded and not again:
            if not recorded["registered"]:
                _register_late(study, folder, recorded)
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
            record = _judge(study, final, chosen, folder)
            _hand_over(study, final, launch, folder, record)
        return Selection(study=name, folder=folder, record=record, fresh=True)


def selection_of(folder: Path) -> dict[str, Any]:
    """Content of ``selection.json`` in a winner's folder; empty if there is none."""
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
        if record.parent == study.record.id and record.spec.digest == spec.digest:
            return Study(folder=study.folder, ledger=study.ledger, record=record)
    first = f"{study.name}-finals"
    name = next(n for n in (first, *(f"{first}-{number}" for number in range(2, len(known) + 2))) if n not in known)
    record = study.ledger.create_study(name, spec, parent=study.record)
    return Study(folder=study.folder, ledger=study.ledger, record=record)


def _judge(study: Study, final: Study, chosen: Sequence[Any], folder: Path) -> dict[str, Any]:
    """Compare finalists on the selection split, look at the winner's test split, and say so as plain data."""
    from sparsestudy.analysis.front import Yardstick, front_record
    from sparsestudy.analysis.selection import front_of, judge, selection_record

    spec = study.spec
    metric = "loss" if spec.search.objectives[0].metric.endswith("loss") else "accuracy"
    found = _selection_scores(final, metric)
    alive = [candidate for candidate in chosen if f"trial-{candidate.trial.number}" in found]
    own = [found[f"trial-{candidate.trial.number}"] for candidate in alive]
    scores = [[each[metric] for each in by_trial.values()] for by_trial in own]
    front, distances = front_of(spec, study.trials()) if len(spec.search.objectives) > 1 else [], None
    if front:
        yardstick = Yardstick.of(spec, front)
        distances = [
            [yardstick.distance(objectives_of(spec, final.trial(n), each)) for n, each in by_trial.items()]
            for by_trial in own
        ]
    standings = judge(spec, alive, scores, metric, distances)
    winning = {number: each[metric] for number, each in found[f"trial-{standings[0].number}"].items()}
    # Shipped is the seed in the middle: the best one would be the luckiest one.
    shipped = sorted(winning, key=lambda number: winning[number])[(len(winning) - 1) // 2]
    number = count_look(folder)
    tests = {trial: _score(final, final.trial(trial), "test") for trial in winning}
    values = [each[metric] for each in tests.values()]
    test = {"mean": sum(values) / len(values), "scores": values, "shipped": tests[shipped], "looks": number}
    scored = {number for by_trial in found.values() for number in by_trial}
    return {
        **selection_record(spec, standings, metric, test),
        **({"front": front_record(spec, front)} if front else {}),
        "task": final.trial(shipped).config.task,
        "study": study.name,
        "finals": final.name,
        "shipped": shipped,
        "failed": sorted({trial.number for trial in final.trials()} - scored),
    }


def _selection_scores(final: Study, metric: str) -> dict[str, dict[int, dict[str, float]]]:
    """Arm of the finals -> its trials that can be scored -> loss and accuracy on the selection split."""
    scores: dict[str, dict[int, dict[str, float]]] = {}
    for trial in final.trials():
        if trial.state is TrialState.COMPLETE:
            found = _score(final, trial, "selection")
            if answers(final.spec, metric, found):
                scores.setdefault(trial.config.arm, {})[trial.number] = found
    if not scores:
        failures = [f"{t.failure.kind}: {t.failure.message}" for t in final.trials() if t.failure]
        raise TrialFailedError(
            f"every trial of the finals failed; the first one: {[*failures, 'its answers are not finite'][0]}"
        )
    return scores


def _hand_over(study: Study, final: Study, launch: Launch, folder: Path, record: dict[str, Any]) -> None:
    """Write the winner's folder, after that the record that says it is chosen, and register the model."""
    from sparsestudy.analysis.card import model_card

    shipped = final.trial(record["shipped"])
    winner = study.trial(record["winner"])
    config = shipped.config.model_copy(update={"keep": "none", "arm": winner.config.arm})
    comment = (
        f"The configuration chosen from study {study.name!r}: trial {winner.number}, by {record['rule']} over "
        f"{study.spec.selection.seeds} fresh seeds on the selection split.\n"
        f"Mean {called(record['metric'], record['task'])} on the test split: {record['test']['mean']:.4g}."
    )
    made = (
        weights_of(final, shipped),
        config.model_dump_json(indent=2).encode(),
        dump_yaml(single_point(study.spec, config, f"{study.spec.name}-winner"), comment).encode(),
        model_card(study.spec, winner, record, folder).encode(),
    )
    contents = dict(zip(CONTENTS, made, strict=True))
    for name, content in contents.items():
        files.replace(folder / name, content)
    record["registered"] = None
    write_selection(folder, record)
    _tell(launch, partial(_register, study=study, contents=contents, record=record))
    write_selection(folder, record)


def write_selection(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``selection.json``."""
    files.replace(folder / "selection.json", json.dumps(record, indent=2, allow_nan=False).encode())


def _register_late(study: Study, folder: Path, record: dict[str, Any]) -> None:
    """Register a winner that MLflow was not there for; nothing is trained or looked at."""
    try:
        contents = {name: (folder / name).read_bytes() for name in CONTENTS}
    except FileNotFoundError as error:
        logger.warning("the winner is not registered in MLflow, because %s is gone; --again makes it", error.filename)
        return
    final = Study(folder=study.folder, ledger=study.ledger, record=study.ledger.study(record["finals"]))
    with suppress(ConflictError), leased(final):  # somebody chooses anew, and will register that
        _tell(deliver(final), partial(_register, study=study, contents=contents, record=record))
    if record["registered"]:
        write_selection(folder, record)


def _register(tracker: Tracker, *, study: Study, contents: Mapping[str, bytes], record: dict[str, Any]) -> None:
    version = tracker.register(record["shipped"], study.name, contents, version_tags(study.name, record))
    record["registered"] = {"model": study.name, "version": version, "alias": "champion"}
    tracker.finish({}, metrics=finals_metrics(record), complete=True)


def version_tags(study: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a registered winner."""
    return {"sparsestudy.study": study, "sparsestudy.trial": str(record["winner"])}


def finals_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of the parent run of the finals."""
    return {f"test/{record['metric']}": record["test"]["mean"], "optimism": record["optimism"]}


def _tell(launch: Launch, say: Callable[[Tracker], None]) -> None:
    """Say something to MLflow; if it has gone, the winner's folder has everything."""
    if not launch.delivered:
        return
    try:
        say(launch.tracker)
    except Exception as error:
        logger.warning("MLflow did not take the outcome of the finals: %s", reason(error))
