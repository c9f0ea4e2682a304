"""A study in one MLflow store: its experiment, its parent run, one run per trial, and what is written to them.

Everything may be repeated: runs are found again by a unique tag, metric points carry the timestamp they were measured
at (MLflow keeps identical points once), parameters never change. Nothing here knows what was delivered before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparsestudy.specfile import dump_yaml
from sparsestudy.tracking.environment import environment_tags, installed
from sparsestudy.tracking.ledger import StudyRecord
from sparsestudy.tracking.mlflow_client import connect, database
from sparsestudy.tracking.mlflow_names import (
    FAILURE,
    STATUS,
    WAITS,
    Point,
    end_tags,
    ended,
    parameters,
    points,
    start_tags,
)
from sparsestudy.tracking.mlflow_runs import Run, read_runs
from sparsestudy.trial import Measurement, Trial
from sparsestudy.words import UNITS

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "sparsestudy.key"


class Store:
    """A study in an MLflow store. All methods belong inside `sparsestudy.tracking.mlflow_client.ours`.

    Args:
        uri: The store.
        record: The study.

    Attributes:
        parent: Its parent run, empty before `open`.
    """

    def __init__(self, uri: str, record: StudyRecord) -> None:
        self.uri, self.parent = uri, ""
        self._record, self._experiment = record, ""
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """The client, made when it is first asked for."""
        if self._client is None:
            self._client = connect(self.uri)
        return self._client

    def open(self, *, environment: bool) -> bool:
        """Find or make the experiment and the parent run; returns whether the run was made now.

        Args:
            environment: Whether the study runs here, so that a new run may say versions, machine and commit.
        """
        self._experiment = self._find_experiment(self._record.name)
        found = self._runs_of("study")
        parent = found[0] if found else self._make_parent(environment)
        # Whoever made it, or MLflow itself, may have died before its files were there; study.yaml is the last one.
        if not found or "study.yaml" not in {file.path for file in self.client.list_artifacts(parent)}:
            self.attach(parent, {"environment.txt": installed().encode()} if environment else {})
            self.attach(parent, {"study.yaml": dump_yaml(self._record.spec).encode()})
        self.parent = parent
        return not found

    def _make_parent(self, environment: bool) -> str:
        spec = self._record.spec
        tags = {
            "sparsestudy.kind": "study",
            "sparsestudy.study": self._record.name,
            "sparsestudy.digest": spec.digest,
            "mlflow.note.content": spec.question,
            **(environment_tags() if environment else {"mlflow.source.name": "sparsestudy"}),
        }
        return self._create("study", self._record.name, int(1000 * self._record.created), tags)

    def run_of(self, trial: Trial, label: str) -> str:
        """The run of a trial; made if there is none."""
        found = self._runs_of(f"trial/{trial.number}")
        return found[0] if found else self.create(trial, label)

    def create(self, trial: Trial, label: str) -> str:
        """Make the run of a trial that has none."""
        tags = start_tags(trial, self._record.name, self.parent)
        return self._create(f"trial/{trial.number}", label, int(1000 * (trial.started or 0)), tags)

    def write(self, run_id: str, trial: Trial, measurements: Sequence[Measurement], *, closing: bool) -> None:
        """Write epochs of a trial, and with ``closing`` how it ended."""
        tags = end_tags(trial) if closing else {}
        self.log(run_id, points(trial, measurements, closing=closing), parameters(trial) if closing else {}, tags)

    def log(
        self, run_id: str, found: Sequence[Point], params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Write metrics, parameters and tags in as few requests as MLflow allows."""
        from mlflow.entities import Metric, Param, RunTag

        self.client.log_batch(
            run_id,
            [Metric(*point) for point in found],
            [Param(key, value) for key, value in (params or {}).items()],
            [RunTag(key, value) for key, value in (tags or {}).items()],
        )

    def end(self, run_id: str, trial: Trial) -> None:
        """Close the run of a trial that has ended."""
        if trial.attempts > 1 and trial.failure is None:
            self._forget_failure(run_id, trial)
        self.client.set_terminated(run_id, STATUS[trial.state], ended(trial))

    def _forget_failure(self, run_id: str, trial: Trial) -> None:
        """What an earlier attempt said of its failure is not true of the trial any more."""
        if FAILURE not in self.client.get_run(run_id).data.tags:
            return
        self.client.delete_tag(run_id, FAILURE)
        self.client.set_tag(run_id, "mlflow.note.content", UNITS[trial.config.task])

    def finish(
        self, files: Mapping[str, bytes], metrics: Mapping[str, float], at: int, waiting: Sequence[str] | None
    ) -> None:
        """Attach the study's outcome to the parent run, and say whether the study is complete or will go on.

        Args:
            files: To attach.
            metrics: Of the whole study.
            at: When that was so, in milliseconds since 1970; the same for the same outcome.
            waiting: Runs of trials that will go on; None if the study is complete.
        """
        self.attach(self.parent, files)
        self.log(self.parent, [(name, value, at, 0) for name, value in metrics.items()])
        if waiting is None:
            self.client.set_terminated(self.parent, end_time=at)
            return
        for run_id in (*waiting, self.parent):
            self.client.update_run(run_id, status=WAITS)

    def attach(self, run_id: str, files: Mapping[str, bytes], below: str | None = None) -> None:
        """Attach files to a run, in place of those of the same names."""
        if not files:
            return
        with _on_disk(files) as folder:
            self.client.log_artifacts(run_id, str(folder), below)

    def files_of(self, run_id: str) -> set[str]:
        """Names of the files attached to a run."""
        return {str(file.path) for file in self.client.list_artifacts(run_id)}

    def register(self, run_id: str, name: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> int:
        """Make a run's network the champion among the versions of a registered model; returns its version.

        The files go to the run, below ``model``. A run is one version, however often it is registered.
        """
        from mlflow.exceptions import MlflowException

        self.attach(run_id, files, "model")
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = [v for v in self.client.search_model_versions(f"run_id = '{run_id}'") if v.name == name]
        version = known[0] if known else self.client.create_model_version(
            name, f"runs:/{run_id}/model", run_id, tags=dict(tags)
        )  # fmt: skip
        self.client.set_registered_model_alias(name, "champion", version.version)
        return int(version.version)

    def runs(self) -> dict[str, Run]:
        """All runs of the study with everything in them, by what they are: ``study``, ``trial/0``, ...

        A run that was made twice, because the answer to the first request was lost, is left once.
        """
        found: dict[str, Run] = {}
        for run in read_runs(self.uri, self._record.name, lambda names: names):
            key = run.tags.get(KEY, "")
            if not key.startswith(self._key("")):
                continue
            if found.setdefault(key.removeprefix(self._key("")), run) is not run:
                self.client.delete_run(run.id)
        return found

    def _find_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            path = database(self.uri)
            location = (path.resolve().parent / "artifacts").as_uri() if path is not None else None
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # somebody else was faster
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":  # it takes no runs, and its name is taken
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _key(self, what: str) -> str:
        # The time of creation tells apart two studies of the same name in one store.
        return f"{self._record.name}/{self._record.created:.6f}/{what}"

    def _runs_of(self, what: str) -> list[str]:
        query = f"tags.`{KEY}` = '{self._key(what)}'"
        return [str(run.info.run_id) for run in self.client.search_runs([self._experiment], query, max_results=1)]

    def _create(self, what: str, name: str, started: int, tags: Mapping[str, str]) -> str:
        run = self.client.create_run(
            self._experiment, start_time=started, run_name=name, tags={**tags, KEY: self._key(what)}
        )
        return str(run.info.run_id)


@contextmanager
def _on_disk(files: Mapping[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sparsestudy-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield Path(folder)
