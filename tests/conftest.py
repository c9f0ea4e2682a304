"""One local Ray for the whole session: starting one takes seconds, and studies do not mind sharing it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every test has a home folder of its own, and no tracking server or cluster of the person who runs it."""
    folder = tmp_path / "results"
    monkeypatch.setenv("SPARSESTUDY_HOME", str(folder))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPARSESTUDY_DATA", "SPARSESTUDY_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray with two CPUs."""
    from sparsestudy.scheduling import tune

    with tune.cluster(None):
        yield
