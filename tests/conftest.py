"""One local Ray for the whole session: starting one takes seconds, and studies do not mind sharing it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.servers import Postgres, postgres


def pytest_configure() -> None:
    """Ctrl-C reaches what tests start, also where the tests run in the background of a shell, which ignores it.

    What is ignored here would be ignored by every process that tests start, and a shell could not even trap it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests are spread over processes, those that run real studies stay in one: Ray takes all cores it sees."""
    for item in items:
        if item.get_closest_marker("study") or "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("studies"))


@pytest.fixture(autouse=True)
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every test has a home folder of its own, and no tracking server or cluster of the person who runs it."""
    folder = tmp_path / "results"
    monkeypatch.setenv("SPARSESTUDY_HOME", str(folder))
    settings = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPARSESTUDY_DATA", "SPARSESTUDY_CHECKPOINTS")
    for name in (*settings, "SPARSESTUDY_DATABASE_URL"):
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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL server for all tests that need one; each makes a database of its own."""
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger that does not exist yet is to be: a file, and then a database on a server."""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres_server")
        return server.database()
    return f"sqlite:///{tmp_path / 'ledger.db'}"
