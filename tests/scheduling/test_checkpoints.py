"""Where checkpoints are kept and when: the latest two, of the latest attempt first, never in a later attempt's way."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from sparsestudy.errors import ConflictError
from sparsestudy.scheduling import checkpoints
from sparsestudy.scheduling.checkpoints import Keeper, Shelf, root, sweep
from sparsestudy.study import CheckpointsSpec


@pytest.fixture(params=["path", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of this machine by its path and as a URL, and one of another kind of storage."""
    memory = f"fsspec+memory:///{uuid.uuid4().hex}"
    return {"path": f"{tmp_path}/a study", "file": f"file://{tmp_path}/study", "memory": memory}[request.param]


def shelf(url: str, attempt: int = 1, trial: int = 0) -> Shelf:
    return Shelf(url=f"{url}/{trial}", attempt=attempt)


def found(url: str, trial: int = 0) -> list[bytes]:
    return [*shelf(url, 99, trial).contents()]


def test_the_latest_two_are_kept(url: str) -> None:
    assert found(url) == []
    for epochs in (5, 10, 15):
        shelf(url).put(epochs, f"after {epochs}".encode())
    assert found(url) == [b"after 15", b"after 10"]
    shelf(url).put(100, b"after 100")
    assert found(url) == [b"after 100", b"after 15"]


def test_a_later_attempt_comes_first_and_keeps_what_it_went_on_from(url: str) -> None:
    shelf(url, 1).put(50, b"old")
    shelf(url, 2).put(40, b"new")
    assert found(url) == [b"new", b"old"]
    shelf(url, 2).put(45, b"newer")
    assert found(url) == [b"newer", b"new"]


def test_a_worker_that_wakes_up_late_is_in_nobodys_way(url: str) -> None:
    """The worker of attempt 1 was cut off; attempt 3 has been going on for a while when it comes back."""
    late, current = shelf(url, 1), shelf(url, 3)
    late.put(30, b"1 after 30")
    current.put(40, b"3 after 40")
    current.put(50, b"3 after 50")
    for epochs in (60, 70, 80):
        late.put(epochs, b"too late")
        assert found(url)[:2] == [b"3 after 50", b"3 after 40"]
    current.put(60, b"3 after 60")
    assert found(url) == [b"3 after 60", b"3 after 50"]


def test_half_a_file_does_not_count(tmp_path: Path) -> None:
    shelf(str(tmp_path)).put(5, b"whole")
    (tmp_path / "0" / "000001-00000006.checkpoint.part").write_bytes(b"ha")
    (tmp_path / "0" / "notes.txt").write_text("mine")
    assert found(str(tmp_path)) == [b"whole"]


def test_clearing(url: str) -> None:
    shelf(url).clear()
    for trial in (0, 1):
        shelf(url, trial=trial).put(5, b"a")
    shelf(url).clear()
    assert (found(url, 0), found(url, 1)) == ([], [b"a"])


def test_sweeping(url: str) -> None:
    sweep(url, {1})
    for trial in (0, 1, 2):
        shelf(url, trial=trial).put(5, b"a")
    sweep(url, {1})
    assert [found(url, trial) for trial in (0, 1, 2)] == [[], [b"a"], []]
    sweep(url, ())
    assert found(url, 1) == []
    system, path = checkpoints._opened(url)
    assert system.get_file_info(path).type.name == "NotFound"


@pytest.mark.parametrize("place", ["nonsense://x/y", "file://a b", "fsspec+nonsense:///x"])
def test_a_place_that_cannot_be_used_is_said_so(place: str) -> None:
    with pytest.raises(
        ConflictError, match=r"checkpoints cannot be kept at .*; mend it, or set SPARSESTUDY_CHECKPOINTS"
    ):
        sweep(place, ())


def test_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert root(Path("results/s"), "s", 1.5) == str(tmp_path / "results" / "s" / "checkpoints" / "s")
    monkeypatch.setenv("SPARSESTUDY_CHECKPOINTS", "s3://bucket/deep/")
    assert root(tmp_path, "s", 1.5) == "s3://bucket/deep/s-5dc"
    monkeypatch.setenv("SPARSESTUDY_CHECKPOINTS", "common")
    assert root(tmp_path, "s", 1.5) == f"{tmp_path}/common/s-5dc"


# When


class Clock:
    """Tells the time it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_by_seconds(tmp_path: Path) -> None:
    clock = Clock()
    keeper = Keeper(shelf(str(tmp_path)), CheckpointsSpec(seconds=10.0), clock)
    clock.now += 9.9
    assert not keeper.due(7)
    clock.now += 0.1
    assert keeper.due(7)
    assert not keeper.due(0)  # there is nothing to keep
    keeper.keep(7, lambda: b"seven")
    assert not keeper.due(8)
    clock.now += 10
    assert keeper.due(8)
    assert not keeper.due(7)  # it is there


def test_by_epochs(tmp_path: Path) -> None:
    keeper = Keeper(shelf(str(tmp_path)), CheckpointsSpec(seconds=None, epochs=5), Clock())
    keeper.started(3)
    assert [keeper.due(epochs) for epochs in (3, 7, 8, 9)] == [False, False, True, True]
    keeper.keep(8, lambda: b"eight")
    assert [keeper.due(epochs) for epochs in (9, 12, 13)] == [False, False, True]


def test_whichever_comes_first(tmp_path: Path) -> None:
    clock = Clock()
    keeper = Keeper(shelf(str(tmp_path)), CheckpointsSpec(seconds=10.0, epochs=5), clock)
    assert keeper.due(5)
    clock.now += 10
    assert keeper.due(1)


def test_one_that_takes_long_is_taken_less_often(tmp_path: Path) -> None:
    """3 % of the time: what takes 0.6 s is due every 20 s, though every 10 s were asked for."""
    clock = Clock()
    keeper = Keeper(shelf(str(tmp_path)), CheckpointsSpec(seconds=10.0), clock)

    def slow() -> bytes:
        clock.now += 0.6
        return b"large"

    clock.now += 10
    keeper.keep(1, slow)
    clock.now += 19.9
    assert not keeper.due(2)
    clock.now += 0.2
    assert keeper.due(2)


def test_never(tmp_path: Path) -> None:
    for keeper in (Keeper(shelf(str(tmp_path)), CheckpointsSpec(seconds=None), Clock()), Keeper.of(None)):
        assert not keeper.due(1000)
        keeper.keep(1000, lambda: b"no")
        assert [*keeper.contents()] == []
    assert [*tmp_path.iterdir()] == []


def test_one_that_cannot_be_kept_is_said_and_tried_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    (tmp_path / "0").write_text("a file where the folder should be")
    keeper = Keeper(shelf(str(tmp_path)), CheckpointsSpec(seconds=10.0), clock)
    keeper.keep(3, lambda: b"three")
    assert "the checkpoint after 3 epochs cannot be kept" in caplog.text
    assert not keeper.due(3)
    clock.now += 10
    (tmp_path / "0").unlink()
    assert keeper.due(3)
    keeper.keep(3, lambda: b"three")
    assert [*keeper.contents()] == [b"three"]


def test_what_a_worker_is_told_makes_the_same_keeper(tmp_path: Path) -> None:
    told = checkpoints.task(str(tmp_path), 7, 2, CheckpointsSpec(seconds=None, epochs=1))
    keeper = Keeper.of(told)
    keeper.keep(1, lambda: b"one")
    assert [path.name for path in (tmp_path / "7").iterdir()] == ["000002-00000001.checkpoint"]
