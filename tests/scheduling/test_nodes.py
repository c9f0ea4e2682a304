"""A trial on another machine needs nothing of the driver's disk."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
import yaml

from sparsestudy import operations
from sparsestudy.trial import TrialState

pytestmark = pytest.mark.study


def test_no_worker_saves_into_the_folder_of_the_driver(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail there: Tune's folder is a temporary one of the driver's machine."""
    scratch = tmp_path / "scratch"
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda prefix: contextlib.nullcontext(str(scratch)))
    study = {
        "name": "two",
        "data": {"name": "digits", "train_size": 60, "splits": {"search": 60, "selection": 60, "test": 60}},
        "model": {"name": "mlp", "arguments": {"hidden": [12]}},
        "training": {"epochs": 2},
        "regularizers": [{"name": "none"}],
        "search": {"sampler": "random", "trials": 2},
        "measures": {"snapshots": "none"},
    }
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(study))
    outcome = operations.run(file)
    assert [trial.state for trial in outcome.trials] == [TrialState.COMPLETE] * 2
    assert list(scratch.iterdir())  # the folder is Tune's
    assert [path for path in scratch.rglob("*") if path.name.startswith("checkpoint_0")] == []
