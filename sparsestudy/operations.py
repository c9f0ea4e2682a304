"""The verbs on a study; the command line says them, and so can anybody's Python.

Running the same file again continues the study that `sparsestudy.recorded` finds for it.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsestudy import analyzing, measures, regularizers, snapshot
from sparsestudy._registry import card
from sparsestudy.errors import (
    NotFoundError,
    SparseStudyError,
    TrialFailedError,
    listing,
    suggest,
)
from sparsestudy.launching import leased, pictures_of, train
from sparsestudy.planning import Plan, resolve, single_point
from sparsestudy.recorded import Study, claim, differences, home, open_study, studies, versions
from sparsestudy.scheduling.progress import Progress
from sparsestudy.specfile import dump_yaml, parse, read
from sparsestudy.study import StudySpec
from sparsestudy.tracking.mlflow_client import QUIET, default_uri, reason
from sparsestudy.tracking.mlflow_tracker import Tracker
from sparsestudy.trial import Trial, TrialState
from sparsestudy.values import DOMAIN_SCHEMA
from sparsestudy.words import called

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a launch left behind.

    Attributes:
        study: Name of the study.
        folder: Its folder.
        trials: All its trials.
        ranking: COMPLETE trials, best first.
        summary: The answer in plain words.
        interrupted: The launch was stopped before the study was done.
        delivered: MLflow has everything; if not, `sparsestudy.syncing` and the next launch deliver the rest.
        seconds: Wall clock of the launch.
    """

    study: str
    folder: Path
    spec: StudySpec
    trials: Sequence[Trial]
    ranking: Sequence[Trial]
    summary: str
    interrupted: bool
    delivered: bool
    seconds: float

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"

    @property
    def best(self) -> Path:
        """The study file of the best configuration."""
        return self.folder / "best.yaml"


def plan(source: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read and check a study file, start nothing.

    Raises:
        SpecError: With every mistake of the file.
        NotFoundError: There is no such file.
    """
    return resolve(read(source, overrides))


def run(
    source: Path,
    overrides: Sequence[str] = (),
    *,
    new: bool = False,
    watch: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Run a study, or continue it where it stands.

    Args:
        source: The study file.
        overrides: Such as ``training.epochs=5``.
        new: Start over beside a study of the same name.
        watch: Called several times a second with the progress.

    Raises:
        SpecError: The file has mistakes; nothing was started.
        ConflictError: The file changed since the study began, or another process is running it.
        TrialFailedError: Every trial failed; the message has the first traceback.
    """
    started = time.monotonic()
    planned = plan(source, overrides)
    with claim(planned.spec, new=new) as study:
        return _launch(study, planned, f"sparsestudy run {shlex.quote(str(source))}", watch, started)


def resume(name: str, *, watch: Callable[[Progress], None] | None = None) -> Outcome:
    """Continue a recorded study where it stands, without its file.

    Args:
        name: The study.
        watch: Called several times a second with the progress.

    Raises:
        NotFoundError: There is no such study.
        SpecError: What it was started from cannot be run here: a data set or a module is missing.
        ConflictError: Another process is running it.
        TrialFailedError: Every trial failed; the message has the first traceback.
    """
    started = time.monotonic()
    with open_study(name) as study:
        planned = resolve(parse(dump_yaml(study.spec), f"study {name!r}"))
        return _launch(study, planned, f"sparsestudy resume {shlex.quote(name)}", watch, started)


def _launch(
    study: Study, planned: Plan, command: str, watch: Callable[[Progress], None] | None, started: float
) -> Outcome:
    with leased(study) as lease:
        launch = train(study, planned, lease, watch)
        outcome = _conclude(study, command, planned, launch.interrupted, launch.delivered, time.monotonic() - started)
        if launch.delivered and not _attach_outcome(launch.tracker, outcome):
            outcome = replace(outcome, delivered=False)
        _fail_if_all_failed(outcome)
        return outcome


def _conclude(study: Study, command: str, planned: Plan, interrupted: bool, delivered: bool, seconds: float) -> Outcome:
    """Write best.yaml, the tables and the page."""
    from sparsestudy.analysis import report, table

    trials = study.trials()
    ranking = table.ranking(planned.spec, trials)
    outcome = Outcome(
        study=study.name,
        folder=study.folder,
        spec=planned.spec,
        trials=trials,
        ranking=ranking,
        summary=report.summary(planned.spec, trials),
        interrupted=interrupted,
        delivered=delivered,
        seconds=seconds,
    )
    commands = {"Run or continue this study": command}
    if ranking:
        outcome.best.write_text(_best_yaml(planned.spec, ranking[0], study.name), encoding="utf-8")
        commands["Train the best configuration again"] = f"sparsestudy run {shlex.quote(str(outcome.best))}"
    commands["Browse in MLflow"] = f"sparsestudy ui {study.name}"
    table.write_parquet(table.trials_table(planned.spec, trials), study.folder / "trials.parquet")
    if analyzing.files_of(study.folder):  # the page has what was found, which further trials may have changed
        analyzing.analyze_study(study, commands)
        return outcome
    trajectories = {t.number: study.trajectory(t.number) for t in trials if t.epochs}
    inside = snapshot.read(study.folder, ranking[0].number) if ranking else None
    report.write_report(outcome.report, planned.spec, trials, trajectories, commands=commands, inside=inside)
    return outcome


def _best_yaml(spec: StudySpec, best: Trial, study: str) -> str:
    values = ", ".join(
        f"{called(o.metric, best.config.task)} = {v:.4g}"
        for o, v in zip(spec.search.objectives, best.values, strict=True)
    )
    comment = (
        f"The best configuration of study {study!r}: trial {best.number}, {values} on the search split.\n"
        f"Best of {spec.search.trials or 'all'} trials on the split that chose it, so expect less on new data."
    )
    return dump_yaml(single_point(spec, best.config, f"{spec.name}-best"), comment)


def _attach_outcome(tracker: Tracker, outcome: Outcome) -> bool:
    """Bring the outcome to MLflow; returns whether it took it, for it may have gone since the last delivery."""
    metrics = outcome_metrics(outcome.spec, outcome.trials)
    try:
        tracker.finish(outcome_files(outcome.folder), metrics=metrics, complete=not outcome.interrupted)
        if not outcome.interrupted:
            for trial in pictured(outcome.spec, outcome.trials):
                tracker.attach(str(trial.run_id), pictures_of(outcome.study, outcome.folder, trial))
    except Exception as error:
        logger.warning("MLflow at %s did not take the outcome: %s", tracker.uri, reason(error))
        return False
    return True


def outcome_files(folder: Path) -> dict[str, bytes]:
    """What the parent run of a study has attached of its outcome, as far as it is there."""
    paths = (folder / "report.html", folder / "best.yaml", *analyzing.files_of(folder))
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def outcome_metrics(spec: StudySpec, trials: Sequence[Trial]) -> dict[str, float]:
    """Metrics of the parent run of a study: trials by state, and the best one with its values."""
    from sparsestudy.analysis import table

    ranking = table.ranking(spec, trials)
    metrics = {f"trials/{state.lower()}": float(n) for state, n in Counter(t.state for t in trials).items()}
    if ranking:
        metrics["best/trial"] = float(ranking[0].number)
        metrics |= {o.metric: value for o, value in zip(spec.search.objectives, ranking[0].values, strict=True)}
    return metrics


def pictured(spec: StudySpec, trials: Sequence[Trial]) -> list[Trial]:
    """Trials whose runs get pictures of the inside when the study is complete, beside those that have them."""
    from sparsestudy.analysis import table

    return list(table.best_by_arm(spec, trials).values()) if spec.measures.snapshots == "best" else []


def _fail_if_all_failed(outcome: Outcome) -> None:
    failed = [trial for trial in outcome.trials if trial.state is TrialState.FAIL]
    if not failed or any(
        t.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING) for t in outcome.trials
    ):
        return
    first = failed[0]
    assert first.failure is not None
    raise TrialFailedError(
        f"every one of the {len(failed)} trials of {outcome.study!r} failed; the first one, trial {first.number}:\n"
        f"{first.failure.traceback.rstrip()}\n"
        f"mend the cause and try them again with: sparsestudy retry {shlex.quote(outcome.study)} --failed; a changed "
        f"file is run with --new"
    )


def ui_command(name: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command and environment that serve the MLflow pages of a study on this machine."""
    with open_study(name) as study:
        uri = default_uri(study.folder)
    environment = {**QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    return [*command, "--workers", "1"], environment


def catalogue() -> dict[str, dict[str, str]]:
    """The cards of all regularisers and measures: kind -> name -> text, whose first line says what it is."""
    return {
        "regulariser": {name: card(regularizers.__name__, name) for name in regularizers.names()},
        "measure": {name: card(measures.__name__, name) for name in measures.names()},
    }


def explain(name: str) -> list[tuple[str, str]]:
    """Title and text of every card of that name: a regulariser, a measure, or both.

    Raises:
        NotFoundError: There is none.
    """
    cards = catalogue()
    found = [(f"{kind} {name}", texts[name]) for kind, texts in cards.items() if name in texts]
    if not found:
        known = sorted({known for texts in cards.values() for known in texts})
        raise NotFoundError(
            f"no regulariser or measure named {name!r}; there are: {listing(known)}{suggest(name, known)}"
        )
    if name in cards["regulariser"]:
        fields = regularizers.kind(name).model_fields.items()
        lines = [f"  {key} = {field.default!r}: {field.description}" for key, field in fields]
        found[0] = (found[0][0], "\n".join([found[0][1], "", "Parameters:" if lines else "No parameters.", *lines]))
    return found


def relation_schema() -> dict[str, Any]:
    """JSON Schema of ``relation.json``, what `sparsestudy.analyzing` writes."""
    from sparsestudy.analysis.schema import relation_schema

    return relation_schema()


def json_schema() -> dict[str, Any]:
    """JSON Schema of study files, with the parameters of every method."""
    schema = StudySpec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "sparsestudy study file"
    value = {"anyOf": [{}, DOMAIN_SCHEMA]}
    for name in regularizers.names():
        fields = regularizers.kind(name).model_json_schema().get("properties", {})
        for field, described in fields.items():
            for arm in ("ArmSpec", "MethodSpec"):
                known = schema["$defs"][arm]["properties"]
                note = f"{described.get('description', field)} ({name})"
                known.setdefault(field, {**value, "description": note})
    return schema


__all__ = [
    "Outcome",
    "SparseStudyError",
    "Study",
    "claim",
    "differences",
    "home",
    "json_schema",
    "open_study",
    "plan",
    "relation_schema",
    "resume",
    "run",
    "studies",
    "ui_command",
    "versions",
]
