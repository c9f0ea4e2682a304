"""The study that nothing befalls, run once, and the processes that no test of this folder may leave.

Orphans are looked for module by module: another module's tests may use the Ray that the whole session shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.faults.invariants", "tests.faults.injuries")

from tests.faults import invariants, processes, table  # noqa: E402


@pytest.fixture(scope="module")
def known() -> Iterator[set[int]]:
    """Processes from before; at the end no other may be left, not even of Ray."""
    with processes.adopting() as known:
        yield known
        invariants.check_no_orphans(known)


@pytest.fixture(scope="session")
def calm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is."""
    return tmp_path_factory.mktemp("calm") / "run"


@pytest.fixture(scope="module")
def calm(known: set[int], calm_folder: Path) -> invariants.Outcome:
    """What it comes to."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPARSESTUDY_DATA", "SPARSESTUDY_CHECKPOINTS"):
            patch.delenv(name, raising=False)
        return table.calm(calm_folder)
