"""One launch of a study: the lease, the trials it still lacks, and their delivery to MLflow."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sparsestudy import snapshot
from sparsestudy.errors import ConflictError, TrackingError
from sparsestudy.planning import Finals, Plan
from sparsestudy.recorded import Study
from sparsestudy.scheduling.progress import Progress
from sparsestudy.scheduling.search import StudySearch
from sparsestudy.study import StudySpec
from sparsestudy.tracking.leases import Lease
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.tracking.mlflow_tracker import Artifacts, Tracker
from sparsestudy.trial import Measurement, Trial, TrialState

if TYPE_CHECKING:
    import pandas as pd

PATIENCE = 15.0
"""Seconds at the end of a launch in which MLflow has to take something."""
HURRY = 3.0
"""The same where somebody stopped the study and wants to go."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a launch ended: whether it was interrupted, and whether MLflow has got everything."""

    tracker: Tracker
    interrupted: bool
    delivered: bool


@contextlib.contextmanager
def leased(study: Study) -> Iterator[Lease]:
    """The right to drive a study, for the time of the block.

    Raises:
        ConflictError: Another process is running it.
    """
    lease = study.ledger.lease(study.record)
    try:
        yield lease
    finally:
        # Somebody took the study over, and it is theirs; or the disk is full, which has been said already.
        with contextlib.suppress(ConflictError, TrackingError):
            lease.release()


def train(study: Study, planned: Plan | Finals, lease: Lease, watch: Callable[[Progress], None] | None) -> Launch:
    """Run the trials that the study still lacks, and bring them to MLflow."""
    # Imported late: Ray takes a second, and `validate` or `list` need not wait for it.
    from sparsestudy.scheduling import checkpoints, tune

    study.check(planned.spec)  # another process may have let it grow before this one had the lease
    study.ledger.update_spec(lease, planned.spec)
    progress = _progress(study, planned)
    kept = checkpoints.root(study.folder, study.name, study.record.created)
    checkpoints.sweep(kept, _unfinished(study))
    search = StudySearch(planned.spec, planned.space, planned.configure, lease)
    interrupted = True
    tracker = _tracker(study, planned.spec)
    tracker.start()
    try:
        if search.exhausted:
            interrupted = False
        else:
            with tune.cluster(os.environ.get("RAY_ADDRESS")):
                show = partial(watch, progress) if watch else None
                interrupted = not tune.execute(search, lease, progress, study.folder, kept, show)
    finally:
        with contextlib.suppress(ConflictError, TrackingError):  # what stays is swept at the next launch
            checkpoints.sweep(kept, _unfinished(study))
        progress.phase = "writing the outcome"
        if watch:
            watch(progress)
        delivered = tracker.close(HURRY if interrupted else PATIENCE)
    return Launch(tracker=tracker, interrupted=interrupted, delivered=delivered)


def deliver(study: Study) -> Launch:
    """Bring to MLflow what is recorded and has not got there; train nothing."""
    tracker = _tracker(study, study.spec)
    tracker.start()
    return Launch(tracker=tracker, interrupted=False, delivered=tracker.close(PATIENCE))


def _unfinished(study: Study) -> set[int]:
    return {trial.number for trial in study.trials() if not trial.state.finished}


def _progress(study: Study, planned: Plan | Finals) -> Progress:
    spec = planned.spec
    progress = Progress(
        study=study.name,
        total=planned.trials,
        epochs=spec.training.epochs,
        objective=spec.search.objectives[0],
    )
    for trial in study.trials():
        if trial.state.finished:
            progress.on_recorded(trial)
    return progress


def _tracker(study: Study, spec: StudySpec) -> Tracker:
    return Tracker(Ledger(study.ledger.url), study.record, study.folder, artifacts_of(study, spec))


def artifacts_of(study: Study, spec: StudySpec) -> Artifacts:
    """What makes the files that go to the MLflow run of each finished trial."""
    from sparsestudy.analysis import table
    from sparsestudy.analysis.heatmap import heatmap_png

    def artifacts(trial: Trial, trajectory: list[Measurement]) -> dict[str, bytes]:
        if not trajectory:
            return {}
        main = trial.config.measures.main
        pictured = spec.measures.snapshots == "all" and trial.state is TrialState.COMPLETE
        heatmap = heatmap_png(trajectory, main, title=_title(study.name, trial), task=trial.config.task)
        return {
            "trajectory.parquet": parquet(table.trajectory_table(trajectory)),
            "sparsity.png": heatmap,
            **(pictures_of(study.name, study.folder, trial) if pictured else {}),
        }

    return artifacts


def _title(study: str, trial: Trial) -> str:
    return f"{study} · trial {trial.number} · {trial.config.arm}"


def pictures_of(study: str, folder: Path, trial: Trial) -> dict[str, bytes]:
    """Pictures of the inside of a trial's network by file name; none if there is no snapshot that can be read."""
    from sparsestudy.analysis.inside.pictures import pictures

    found = snapshot.read(folder, trial.number)
    return {} if found is None else pictures(found, title=_title(study, trial))


def parquet(frame: pd.DataFrame) -> bytes:
    """The content of a Parquet file."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()
