"""MLflow may go at any moment, also between a study's last delivery and its outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from sparsestudy import operations
from sparsestudy.cli import main
from sparsestudy.tracking.mlflow_tracker import Tracker
from sparsestudy.trial import TrialState
from tests.written_studies import spec_of, write


def test_mlflow_goes_before_it_has_the_outcome(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study is done all the same, says what MLflow lacks, and the next launch brings it."""
    spec = spec_of("done", [{"name": "none"}], search={"sampler": "random", "trials": 2}, training={"epochs": 14})
    folder = write(home, spec, [TrialState.COMPLETE] * 2)
    file = tmp_path / "done.yaml"
    file.write_text(yaml.safe_dump(spec.to_dict()), encoding="utf-8")

    def gone(*arguments: Any, **named: Any) -> None:
        raise ConnectionError("it has just gone")

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "finish", gone)
        assert main(["run", str(file)]) == 0
    assert "MLflow lacks part of this study; nothing is lost" in capsys.readouterr().err
    assert (folder / "report.html").exists()
    assert operations.run(file).delivered
    client = MlflowClient(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    runs = client.search_runs([client.get_experiment_by_name("done").experiment_id])
    (parent,) = [run for run in runs if run.data.tags["sparsestudy.kind"] == "study"]
    assert parent.info.status == "FINISHED"
    assert "report.html" in {found.path for found in client.list_artifacts(parent.info.run_id)}
