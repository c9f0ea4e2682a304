"""What all trials of one or several studies say of sparsity and overfitting, fitted, written down, and put in words.

Everything is written, and says why nothing can be said, also where no trial can be used.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsestudy import files, snapshot
from sparsestudy.errors import ConflictError, listing
from sparsestudy.gathering import arm_names, from_mlflow, from_studies
from sparsestudy.recorded import Study, home, open_study
from sparsestudy.study import StudySpec
from sparsestudy.tracking.run_names import read_names
from sparsestudy.trial import Trial
from sparsestudy.words import called, task_of

if TYPE_CHECKING:
    from sparsestudy.analysis.evidence import Evidence
    from sparsestudy.analysis.relation import Importance, Relation

logger = logging.getLogger(__name__)
RELATION = "relation.json"
TABLES = ("evidence-trials.parquet", "evidence-epochs.parquet")

IMAGES = frozenset({"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "image_folder"})
"""Data sets of images. What a function of the user's returns is not known to be any."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What was fitted, and the files it was written to: ``relation.json``, two tables and the page."""

    relation: Relation
    files: tuple[Path, ...]


def analyze(names: Sequence[str]) -> Analysis:
    """Fit how sparsity relates to overfitting over all trials of the studies.

    The files of one study go to its folder, those of several to ``with-OTHER`` in the folder of the first. What one
    study yields is attached to its run in MLflow, too.

    Args:
        names: Recorded studies, at least one.

    Raises:
        NotFoundError: One of them does not exist.
        ConflictError: They cannot be analysed together.
    """
    with ExitStack() as stack:
        studies = [stack.enter_context(open_study(name)) for name in dict.fromkeys(names)]
        if len(studies) > 1:
            return _analyze_together(studies)
        found = analyze_study(studies[0], {})
        _attach(studies[0], found.files)
        return found


def analyze_study(study: Study, commands: Mapping[str, str]) -> Analysis:
    """Analyse one study and write its page anew.

    Args:
        study: With any number of trials, none included.
        commands: What a person may want to do next -> the command that does it; others are added.
    """
    from sparsestudy.analysis.verdict import methods_of_arms

    evidence, trials = from_studies(study), study.trials()
    relation = _relation(evidence, methods_of_arms(study.spec), {study.name: study.spec}, trials)
    relation = replace(relation, importance=_importance(study.spec, trials))
    written = _written(study.folder, evidence, relation)
    return Analysis(relation=relation, files=(*written, _write_page(study, trials, commands, evidence, relation)))


def analyze_mlflow(uri: str, experiment: str, *, names: Path | None = None, out: Path | None = None) -> Analysis:
    """Fit the same over the runs of an MLflow experiment, whoever logged them.

    An arm that is called as a method is taken to be that method, and ``none`` to be the control.

    Args:
        uri: ``sqlite:///mlflow.db`` or another database, or the address of a server.
        experiment: Its name or number.
        names: A YAML file that says what metrics and parameters are called there; see `RunNames`. Default: as this
            project or a common framework calls them.
        out: Folder of the files; default: ``EXPERIMENT-relation`` beside the studies.

    Raises:
        NotFoundError: There is no such experiment or file, or no run logged a validation loss; the message lists what
            was logged, and a file to copy.
        SpecError: The file of names has mistakes.
        TrackingError: The store cannot be read.
    """
    given = read_names(names) if names is not None else None
    evidence = from_mlflow(uri, experiment, given)
    methods = {arm: frozenset({arm}) - {"none"} for arm in dict.fromkeys(evidence.trials["arm"])}
    relation = _relation(evidence, methods, {}, ())
    folder = out or home() / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', experiment).strip('-.') or 'mlflow'}-relation"
    title = f"How sparsity goes with overfitting in {experiment}"
    written = _written(folder, evidence, relation)
    trials = evidence.trials
    named = trials["run"].tolist() if "run" in trials else []
    runs = {(experiment, int(number)): str(run) for number, run in zip(trials["trial"], named, strict=False)}
    return Analysis(relation=relation, files=(*written, _write_relation_page(folder, evidence, relation, title, runs)))


def _analyze_together(studies: Sequence[Study]) -> Analysis:
    from sparsestudy.analysis.verdict import methods_of_arms

    trials = {study.name: study.trials() for study in studies}
    tasks = {name: task_of(own) for name, own in trials.items() if own}
    if len(set(tasks.values())) > 1:
        told = listing(f"{name}: {task}" for name, task in tasks.items())
        raise ConflictError(f"gaps of different tasks cannot be compared; analyse the studies one by one ({told})")
    specs = {study.name: study.spec for study in studies}
    names = arm_names(specs)
    methods = {names[name][arm]: own for name, spec in specs.items() for arm, own in methods_of_arms(spec).items()}
    evidence = from_studies(*studies)
    relation = _relation(evidence, methods, specs, [trial for own in trials.values() for trial in own])
    folder = studies[0].folder / f"with-{'-'.join(study.name for study in studies[1:])}"
    title = f"How sparsity goes with overfitting in {' and '.join(specs)}"
    runs = {(name, t.number): t.run_id for name, own in trials.items() for t in own if t.run_id}
    written = _written(folder, evidence, relation)
    return Analysis(relation=relation, files=(*written, _write_relation_page(folder, evidence, relation, title, runs)))


def _relation(
    evidence: Evidence, methods: Mapping[str, frozenset[str]], specs: Mapping[str, StudySpec], trials: Sequence[Trial]
) -> Relation:
    from sparsestudy.analysis.relation import relate

    samplers = {spec.search.sampler for spec in specs.values()}
    return relate(
        evidence,
        methods,
        sampler=samplers.pop() if len(samplers) == 1 else None,
        question=next((spec.question for spec in specs.values()), ""),
        accuracy=called("accuracy", task_of(trials)),
        images={name: spec.data.name for name, spec in specs.items() if spec.data.name in IMAGES},
    )


def _importance(spec: StudySpec, trials: Sequence[Trial]) -> Importance:
    # Optuna takes a second to import.
    from sparsestudy.analysis.relation import EVERY, Importance
    from sparsestudy.analysis.table import searched_domains
    from sparsestudy.scheduling.importance import importances

    shares, reasons = importances(trials, spec.search.objectives[0], searched_domains(spec), EVERY)
    return Importance(shares=shares, reasons=reasons)


def _written(folder: Path, evidence: Evidence, relation: Relation) -> tuple[Path, ...]:
    from sparsestudy.analysis.relation import to_json
    from sparsestudy.analysis.rows import write_rows

    path = folder / RELATION
    files.replace(path, json.dumps(to_json(relation), indent=1, allow_nan=False).encode())
    return (path, *write_rows(evidence, folder))


def _write_relation_page(
    folder: Path, evidence: Evidence, relation: Relation, title: str, runs: Mapping[tuple[str, int], str]
) -> Path:
    """Write the page of what is no single study; a page that shows a study beside it stays as it is."""
    from sparsestudy.analysis.findings import Findings
    from sparsestudy.analysis.report import write_relation_page

    path = folder / "relation.html"
    write_relation_page(path, Findings(relation=relation, evidence=evidence), title=title, commands={}, runs=runs)
    return path


def _write_page(
    study: Study, trials: Sequence[Trial], commands: Mapping[str, str], evidence: Evidence, relation: Relation
) -> Path:
    """Write the study's page; only of the trials that are drawn are the epochs read."""
    from sparsestudy.analysis import report, table
    from sparsestudy.analysis.findings import Findings

    ranked = table.ranking(study.spec, trials)
    drawn = {t.number for t in (*table.best_by_arm(study.spec, trials).values(), *ranked[:1], *ranked[-1:])}
    path = study.folder / "report.html"
    best = study.folder / "best.yaml"
    more = {"Train the best configuration again": f"sparsestudy run {best}"} if best.exists() else {}
    report.write_report(
        path,
        study.spec,
        trials,
        {number: study.trajectory(number) for number in drawn},
        commands={**more, "Browse in MLflow": f"sparsestudy ui {study.name}", **commands},
        inside=snapshot.read(study.folder, ranked[0].number) if ranked else None,
        findings=Findings(relation=relation, evidence=evidence, importance=relation.importance.shares),
        runs={(study.name, t.number): t.run_id for t in trials if t.run_id},
    )
    return path


def files_of(folder: Path) -> list[Path]:
    """What an earlier analysis left in a study's folder, besides the page; empty if there was none."""
    return [path for name in (RELATION, *TABLES) if (path := folder / name).exists()]


def _attach(study: Study, paths: Iterable[Path]) -> None:
    """Lay files beside the study in MLflow; if it is away, the study's folder has them."""
    from sparsestudy.tracking.mlflow_client import reason
    from sparsestudy.tracking.mlflow_tracker import Tracker

    tracker = Tracker(study.ledger, study.record, study.folder, lambda trial, trajectory: {})
    try:
        tracker.attach_to_study(paths)
    except Exception as error:
        logger.warning(
            "MLflow at %s did not take the analysis, which is in %s: %s", tracker.uri, study.folder, reason(error)
        )
