"""The ledger: what is recorded stays recorded, once, whoever dies in between."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsestudy.errors import ConflictError, NotFoundError, TrackingError
from sparsestudy.study import StudySpec
from sparsestudy.tracking import ledger as ledger_module
from sparsestudy.tracking.ledger import Lease, Ledger
from sparsestudy.trial import Failure, Measurement, TrialConfig, TrialState

SPEC = StudySpec.model_validate_json('{"name": "s", "regularizers": [{"name": "none"}], "search": {"trials": 3}}')


def config(number: int) -> TrialConfig:
    return TrialConfig(
        study="s",
        number=number,
        arm="none",
        parameters={"arm": "none"},
        methods=({"method": "none"},),
        data=SPEC.data,
        model=SPEC.model,
        training=SPEC.training,
        measures=SPEC.measures,
        seed=7 + number,
    )


def measurement(epoch: int, loss: float = 1.0) -> Measurement:
    return Measurement(
        epoch=epoch,
        train_loss=loss,
        train_accuracy=0.5,
        validation_loss=loss + 0.5,
        validation_accuracy=0.25,
        penalty=0.0,
        learning_rate=0.1,
        seconds=0.01,
        timestamp=1000 + epoch,
        statistics={"validation": {"conv1": {"perplexity": 0.25, "perplexity_image": None}}},
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.in_folder(tmp_path / "study")
    yield opened
    opened.close()


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    return ledger.lease(ledger.create_study("s", SPEC))


def test_a_trial_lives_from_waiting_to_complete(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(0)])
    assert ledger.trial(lease.study_id, 0).state is TrialState.WAITING
    assert ledger.start(lease, 0) == 1
    ledger.record(lease, 0, 1, [measurement(0), measurement(1)])
    running = ledger.trial(lease.study_id, 0)
    assert (running.state, running.epochs, running.attempts) == (TrialState.RUNNING, 2, 1)
    ledger.finish(lease, 0, TrialState.COMPLETE, values=[0.9], headlines={"best/epoch": 1.0})
    done = ledger.trial(lease.study_id, 0)
    assert (done.state, done.values, done.order, done.config) == (TrialState.COMPLETE, (0.9,), 0, config(0))
    assert done.headlines == {"best/epoch": 1.0}
    assert done.finished is not None
    assert done.started is not None
    assert done.finished >= done.started


def test_measurements_come_back_as_they_went(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(0)])
    ledger.start(lease, 0)
    sent = [measurement(0, 0.1 + 0.2), measurement(1, 1 / 3)]
    ledger.record(lease, 0, 1, sent)
    assert ledger.trajectory(lease.study_id, 0) == sent


def test_an_epoch_is_recorded_once_and_keeps_its_first_timestamp(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(0)])
    ledger.start(lease, 0)
    ledger.record(lease, 0, 1, [measurement(0), measurement(1)])
    late = Measurement.from_dict({**measurement(1).to_dict(), "timestamp": 99})
    ledger.record(lease, 0, 2, [late, measurement(2)])
    assert [m.timestamp for m in ledger.trajectory(lease.study_id, 0)] == [1000, 1001, 1002]


def test_failures_keep_class_message_and_traceback(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(0)])
    ledger.start(lease, 0)
    failure = Failure(kind="ValueError", message="bad [markup]", traceback="Traceback ...")
    ledger.finish(lease, 0, TrialState.FAIL, failure=failure)
    assert ledger.trial(lease.study_id, 0).failure == failure


def test_a_finished_trial_cannot_finish_again(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(0)])
    ledger.start(lease, 0)
    ledger.finish(lease, 0, TrialState.PRUNED, values=[0.5])
    with pytest.raises(ConflictError, match=r"trial 0 of 's' is PRUNED, it cannot become COMPLETE"):
        ledger.finish(lease, 0, TrialState.COMPLETE, values=[0.9])


def test_the_order_of_ends_is_recorded(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(i) for i in range(3)])
    for number in (2, 0, 1):
        ledger.start(lease, number)
        ledger.finish(lease, number, TrialState.COMPLETE, values=[0.0])
    assert [t.order for t in ledger.trials(lease.study_id)] == [1, 2, 0]


def test_requeue_is_idempotent_and_counts_attempts(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(0), config(1)])
    ledger.start(lease, 1)
    ledger.record(lease, 1, 1, [measurement(0)])
    assert ledger.requeue_running(lease, "driver died") == [1]
    assert ledger.requeue_running(lease, "driver died") == []
    again = ledger.trial(lease.study_id, 1)
    assert (again.state, again.epochs, again.config.seed) == (TrialState.WAITING, 1, 8)
    assert ledger.start(lease, 1) == 2
    assert ledger.trial(lease.study_id, 1).attempts == 2


def test_only_one_driver_at_a_time(ledger: Ledger, lease: Lease) -> None:
    with pytest.raises(ConflictError, match=rf"'s' is already being run by process {os.getpid()} on "):
        ledger.lease(ledger.study("s"))
    assert ledger.study("s").driver is not None
    lease.release()
    assert ledger.study("s").driver is None
    assert ledger.lease(ledger.study("s")).fence == lease.fence + 1


def test_racing_drivers_get_one_lease(tmp_path: Path) -> None:
    """Eight threads, each with its own connection, ask at the same moment."""
    first = Ledger.in_folder(tmp_path)
    record = first.create_study("s", SPEC)
    barrier, won, lost = threading.Barrier(8), [], []

    def ask() -> None:
        mine = Ledger.in_folder(tmp_path)
        barrier.wait()
        try:
            won.append(mine.lease(record))
        except ConflictError:
            lost.append(1)
        finally:
            mine.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first.close()
    assert (len(won), len(lost)) == (1, 7)


def test_a_dead_driver_s_lease_is_free_at_once(ledger: Ledger, tmp_path: Path) -> None:
    ledger.create_study("s", SPEC)
    program = (
        "import os, sys; from pathlib import Path; from sparsestudy.tracking.ledger import Ledger\n"
        "ledger = Ledger.in_folder(Path(sys.argv[1])); ledger.lease(ledger.study('s')); os._exit(9)"
    )
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path / "study")], check=False)
    assert result.returncode == 9
    assert ledger.lease(ledger.study("s")).fence == 2


def test_an_expired_lease_can_be_taken_and_the_old_holder_cannot_write(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.add_trials(lease, [config(0)])
    now = time.time()
    monkeypatch.setattr(ledger_module.time, "time", lambda: now + ledger_module.LEASE_SECONDS + 1)
    thief = ledger.lease(ledger.study("s"))
    for write in (
        lambda: ledger.start(lease, 0),
        lambda: ledger.add_trials(lease, [config(1)]),
        lambda: ledger.requeue_running(lease, "x"),
        lease.renew,
        lease.release,
    ):
        with pytest.raises(ConflictError, match=r"another process has taken over study 's'"):
            write()
    assert ledger.start(thief, 0) == 1
    assert len(ledger.trials(thief.study_id)) == 1


def test_delivery_hands_over_each_epoch_once(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(0), config(1)])
    ledger.start(lease, 0)
    ledger.record(lease, 0, 1, [measurement(0), measurement(1)])
    assert ledger.undelivered(lease.study_id, minimum=3) == []
    (delivery,) = ledger.undelivered(lease.study_id, minimum=2)
    assert ([m.epoch for m in delivery.measurements], delivery.closing) == ([0, 1], False)
    ledger.record(lease, 0, 1, [measurement(2)])  # arrives while the delivery is under way
    ledger.mark_delivered(lease.study_id, delivery)
    ledger.finish(lease, 0, TrialState.COMPLETE, values=[1.0])
    (delivery,) = ledger.undelivered(lease.study_id, minimum=99)
    assert ([m.epoch for m in delivery.measurements], delivery.closing) == ([2], True)
    ledger.mark_delivered(lease.study_id, delivery)
    assert ledger.undelivered(lease.study_id) == []


def test_names_that_do_not_exist(ledger: Ledger, lease: Lease) -> None:
    with pytest.raises(NotFoundError, match=r"no study named 'S'; studies: s; did you mean 's'\?"):
        ledger.study("S")
    with pytest.raises(NotFoundError, match=r"there is no trial 4 in this study"):
        ledger.trial(lease.study_id, 4)
    with pytest.raises(ConflictError, match=r"a study named 's' is already recorded"):
        ledger.create_study("s", SPEC)


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    Ledger.in_folder(tmp_path).close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    with pytest.raises(TrackingError, match=r"has schema version 99, this sparsestudy reads versions 1 to 2"):
        Ledger.in_folder(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, but long enough to look like one\n" * 50)
    with pytest.raises(TrackingError, match=r"cannot be opened: file is not a database"):
        Ledger.in_folder(tmp_path)
