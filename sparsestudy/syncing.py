"""MLflow made anew from the ledger: what a store lacks of a study, or all of it, at any time.

The store is asked what it has; nothing is taken from what the ledger believes to have delivered. Runs are known by
their key (study, time of its creation, trial), so that any store may be asked, and asked again. The identifiers of runs
in the ledger are those of the store the study delivers to; those of another store stay there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sparsestudy.errors import TrackingError
from sparsestudy.launching import artifacts_of, leased, pictures_of
from sparsestudy.operations import outcome_files, outcome_metrics, pictured
from sparsestudy.recorded import Study, open_study
from sparsestudy.selecting import CONTENTS, FOLDER, finals_metrics, selection_of, version_tags, write_selection
from sparsestudy.tracking.leases import Lease
from sparsestudy.tracking.ledger import Delivery
from sparsestudy.tracking.mlflow_client import away, default_uri, ours, reason
from sparsestudy.tracking.mlflow_names import STATUS, end_tags, ended, parameters, points, start_tags
from sparsestudy.tracking.mlflow_runs import Run
from sparsestudy.tracking.mlflow_store import Store
from sparsestudy.tracking.mlflow_tracker import Artifacts, outcome_time
from sparsestudy.trial import Measurement, Trial, trial_label

RENEWAL = 10.0
"""Seconds after which the lease is renewed."""


@dataclass(frozen=True, kw_only=True)
class Synced:
    """What it took.

    Attributes:
        uri: The store.
        trials: Trials with something to show.
        made: Runs that were not there.
        mended: Runs that lacked something.
        seconds: Wall clock.
    """

    uri: str
    trials: int
    made: int
    mended: int
    seconds: float

    @property
    def said(self) -> str:
        """In words."""
        if not self.made and not self.mended:
            return f"has all {self.trials} trials; nothing was written"
        return f"now has all {self.trials} trials; {self.made} runs made, {self.mended} mended"


def sync(name: str, *, to: str | None = None, watch: Callable[[str], None] | None = None) -> Synced:
    """Make an MLflow store have what the ledger has of a study, its finals and its winner.

    Args:
        name: A recorded study.
        to: The store; default: the one that the study delivers to.
        watch: Called with words on where it stands.

    Raises:
        NotFoundError: There is no such study.
        ConflictError: Somebody is running it, and delivers to MLflow.
        TrackingError: The store does not answer; what it took stays, and the same call goes on.
    """
    began = time.monotonic()
    found = Synced(uri="", trials=0, made=0, mended=0, seconds=0.0)
    with open_study(name) as study, ours():
        uri = to or default_uri(study.folder)
        try:
            for record in study.ledger.studies():  # others than this one and its finals, too
                if study.record.id not in (record.id, record.parent):
                    continue
                part = Study(folder=study.folder, ledger=study.ledger, record=record)
                with leased(part) as lease:
                    done = _Sync(study, part, Store(uri, record), lease, own=uri == default_uri(study.folder))
                    found = _sum(found, done.run(watch or (lambda said: None)))
        except Exception as error:
            if not away(error):
                raise
            raise TrackingError(f"MLflow at {uri} does not answer: {reason(error)}") from error
    return replace(found, uri=uri, seconds=time.monotonic() - began)


def _sum(one: Synced, other: Synced) -> Synced:
    counts = {key: getattr(one, key) + getattr(other, key) for key in ("trials", "made", "mended")}
    return replace(one, **counts)


class _Sync:
    """One study of a ledger, and one store."""

    def __init__(self, whole: Study, study: Study, store: Store, lease: Lease, *, own: bool) -> None:
        self._whole, self._study, self._store, self._lease, self._own = whole, study, store, lease, own
        self._artifacts: Artifacts = artifacts_of(study, study.spec)
        self._made = self._mended = 0
        self._renewed = time.monotonic()

    def run(self, watch: Callable[[str], None]) -> Synced:
        study, store = self._study, self._store
        watch(f"asking MLflow for {study.name}")
        fresh = store.open(environment=False)
        runs = {} if fresh else store.runs()
        if self._own:
            study.ledger.set_run(study.record.id, store.parent)
        trials = study.trials()
        shown = [trial for trial in trials if trial.epochs or trial.state.finished]
        ids: dict[int, str] = {}
        for count, trial in enumerate(shown, 1):
            watch(f"{study.name}: trial {count} of {len(shown)}")
            ids[trial.number] = self._trial(trial, runs.get(f"trial/{trial.number}"))
            self._keep_lease()
        watch(f"{study.name}: the outcome")
        self._outcome(trials, ids, runs.get("study"))
        return Synced(uri="", trials=len(shown), made=self._made, mended=self._mended, seconds=0.0)

    def _keep_lease(self) -> None:
        if time.monotonic() - self._renewed > RENEWAL:
            self._lease.renew()
            self._renewed = time.monotonic()

    def _trial(self, trial: Trial, run: Run | None) -> str:
        """Make the store have a trial; returns its run."""
        ledger, study = self._study.ledger, self._study.record.id
        trajectory = ledger.trajectory(study, trial.number)
        closing = trial.state.finished
        run_id = run.id if run else self._store.create(trial, trial_label(trial.config))
        if run is None or self._lacks(run, trial, trajectory):
            if run is not None:
                self._store.log(run_id, [], tags=start_tags(trial, self._study.name, self._store.parent))
            self._store.write(run_id, trial, trajectory, closing=closing)
            self._note(run)
        if closing:
            self._close(run_id, run, trial, trajectory)
        if self._own:
            ledger.set_run(study, run_id, trial.number)
            ledger.mark_delivered(study, Delivery(trial=trial, measurements=tuple(trajectory), closing=closing))
        return run_id

    def _note(self, run: Run | None) -> None:
        if run is None:
            self._made += 1
        else:
            self._mended += 1

    def _lacks(self, run: Run, trial: Trial, trajectory: list[Measurement]) -> bool:
        closing = trial.state.finished
        steps = {name: set(of[0].tolist()) for name, of in run.series.items()}
        tags = start_tags(trial, self._study.name, self._store.parent) | (end_tags(trial) if closing else {})
        params = parameters(trial) if closing else {}
        return (
            any(step not in steps.get(name, ()) for name, _, _, step in points(trial, trajectory, closing=closing))
            or not params.items() <= run.params.items()
            or not tags.items() <= run.tags.items()
        )

    def _close(self, run_id: str, run: Run | None, trial: Trial, trajectory: list[Measurement]) -> None:
        has = self._store.files_of(run_id) if run else set()
        if not {"trajectory.parquet", "sparsity.png"} <= has:
            self._store.attach(run_id, self._artifacts(trial, trajectory))
        if run is None or (run.status, run.ended) != (STATUS[trial.state], ended(trial)):
            self._store.end(run_id, trial)

    def _outcome(self, trials: list[Trial], ids: dict[int, str], parent: Run | None) -> None:
        study, store = self._study, self._store
        winner = selection_of(study.folder / FOLDER)
        searched = study.name == self._whole.name
        complete = (
            bool(trials) and all(t.state.finished for t in trials) and len(trials) >= (study.spec.search.trials or 0)
        )
        if searched:
            files, metrics = outcome_files(study.folder), outcome_metrics(study.spec, trials)
        else:
            files = {}
            metrics = finals_metrics(winner) if winner.get("finals") == study.name else {}
        waiting = [ids[t.number] for t in trials if t.number in ids and not t.state.finished]
        store.finish(files, metrics, outcome_time(study.record, trials), None if complete else waiting)
        if searched and complete:
            self._pictures(trials, ids)
        if not searched and winner.get("finals") == study.name:
            self._register(ids, winner)

    def _pictures(self, trials: list[Trial], ids: dict[int, str]) -> None:
        for trial in pictured(self._study.spec, trials):
            if "inside-sparsity.png" not in self._store.files_of(ids[trial.number]):
                pictures = pictures_of(self._study.name, self._study.folder, trial)
                self._store.attach(ids[trial.number], pictures)

    def _register(self, ids: dict[int, str], record: dict[str, object]) -> None:
        folder, whole = self._whole.folder / FOLDER, self._whole
        if not all((folder / name).exists() for name in CONTENTS):
            return
        contents = {name: (folder / name).read_bytes() for name in CONTENTS}
        run_id = ids[int(str(record["shipped"]))]
        version = self._store.register(run_id, whole.name, contents, version_tags(whole.name, record))
        registered = {"model": whole.name, "version": version, "alias": "champion"}
        if self._own and record["registered"] != registered:
            record["registered"] = registered
            write_selection(folder, record)
