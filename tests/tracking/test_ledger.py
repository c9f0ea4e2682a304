"""The ledger: what is recorded stays recorded, once, whoever dies in between."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, update

from sparsestudy.errors import ConflictError, NotFoundError, TrackingError
from sparsestudy.study import StudySpec
from sparsestudy.tracking.leases import Lease
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.tracking.tables import STUDIES
from sparsestudy.trial import Failure, Measurement, TrialConfig, TrialState
from tests.servers import Postgres

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
def ledger(ledger_url: str) -> Iterator[Ledger]:
    opened = Ledger(ledger_url)
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


def test_racing_drivers_get_one_lease(ledger: Ledger) -> None:
    """Eight threads, each with its own connection, ask at the same moment."""
    record = ledger.create_study("s", SPEC)
    won, lost = [], []

    def ask() -> None:
        with closing(Ledger(ledger.url)) as mine:
            try:
                won.append(mine.lease(record))
            except ConflictError:
                lost.append(1)

    at_once([ask] * 8)
    assert (len(won), len(lost)) == (1, 7)


def at_once(actions: Sequence[Callable[[], None]]) -> None:
    """Do all of it in threads that begin at the same moment."""
    barrier = threading.Barrier(len(actions))

    def begin(action: Callable[[], None]) -> None:
        barrier.wait()
        action()

    threads = [threading.Thread(target=begin, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_racing_drivers_create_the_tables_and_the_study_once(ledger_url: str) -> None:
    created, refused, failed = [], [], []

    def create() -> None:
        try:
            with closing(Ledger(ledger_url)) as mine:
                created.append(mine.create_study("s", SPEC))
        except ConflictError as error:
            refused.append(str(error))
        except Exception as error:
            failed.append(error)

    at_once([create] * 6)
    assert failed == []
    assert (len(created), len(refused)) == (1, 5)
    assert all("a study named 's' is already recorded in" in text for text in refused)


def test_a_dead_driver_s_lease_is_free_at_once(ledger: Ledger) -> None:
    ledger.create_study("s", SPEC)
    program = (
        "import os, sys; from sparsestudy.tracking.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1]); ledger.lease(ledger.study('s')); os._exit(9)"
    )
    result = subprocess.run([sys.executable, "-c", program, ledger.url], check=False)
    assert result.returncode == 9
    assert ledger.lease(ledger.study("s")).fence == 2


def alter(ledger: Ledger, **values: object) -> None:
    """Change the only study's row behind everybody's back."""
    engine = create_engine(ledger.url)
    with engine.begin() as connection:
        connection.execute(update(STUDIES).values(**values))
    engine.dispose()


def test_an_expired_lease_can_be_taken_and_the_old_holder_cannot_write(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(0)])
    alter(ledger, lease_expires=time.time() - 1, lease_uptime=time.monotonic() - 1)
    thief = ledger.lease(ledger.study("s"))
    for write in (
        lambda: ledger.start(lease, 0),
        lambda: ledger.add_trials(lease, [config(1)]),
        lambda: ledger.requeue_running(lease, "x"),
        lambda: ledger.update_spec(lease, SPEC),
        lease.renew,
        lease.release,
    ):
        with pytest.raises(ConflictError, match=r"another process has taken over study 's'"):
            write()
    assert ledger.start(thief, 0) == 1
    assert len(ledger.trials(thief.study_id)) == 1


@pytest.mark.parametrize("jump", [-1e6, 1e6], ids=["back", "forth"])
def test_a_clock_that_jumps_steals_no_lease(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    with pytest.raises(ConflictError, match="already being run"):
        ledger.lease(ledger.study("s"))
    assert lease.renew() is False
    alter(ledger, lease_uptime=time.monotonic() - 1, lease_expires=now - 1)
    assert ledger.lease(ledger.study("s")).fence == lease.fence + 1


def test_the_clock_of_the_server_counts_between_machines(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder is on another machine, and so is whoever asks, with a clock that is a million seconds off."""
    now = time.time()
    with closing(Ledger(postgres_server.database())) as ledger:
        lease = ledger.lease(ledger.create_study("s", SPEC))
        alter(ledger, owner_host="elsewhere", owner_boot="another start")
        for jump in (-1e6, 1e6):
            monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
            with pytest.raises(ConflictError, match=r"already being run by process \d+ on elsewhere"):
                ledger.lease(ledger.study("s"))
        monkeypatch.undo()
        alter(ledger, lease_expires=time.time() - 1)
        assert ledger.lease(ledger.study("s")).fence == lease.fence + 1


def test_a_driver_learns_that_it_is_asked_to_stop(ledger: Ledger, lease: Lease) -> None:
    assert lease.renew() is False
    assert ledger.ask_to_stop(ledger.study("s")) == f"{socket.gethostname()}:{os.getpid()}"
    assert ledger.study("s").stopping
    assert lease.renew() is True
    lease.release()
    assert ledger.ask_to_stop(ledger.study("s")) is None
    assert ledger.lease(ledger.study("s")).renew() is False


def test_what_is_done_again_is_done_once(ledger: Ledger, lease: Lease) -> None:
    """As after a connection that broke between the commit and the answer."""
    for _ in range(2):
        ledger.add_trials(lease, [config(0), config(1)])
    assert [ledger.start(lease, 0) for _ in range(2)] == [1, 1]
    for _ in range(2):
        ledger.record(lease, 0, 1, [measurement(0)])
    for _ in range(2):
        ledger.finish(lease, 0, TrialState.COMPLETE, values=[0.5])
    ledger.start(lease, 1)
    ledger.finish(lease, 1, TrialState.COMPLETE, values=[0.5])
    trials = ledger.trials(lease.study_id)
    assert [(t.order, t.attempts, t.epochs) for t in trials] == [(0, 1, 1), (1, 1, 0)]


def test_numbers_that_are_none_come_back(ledger: Ledger, lease: Lease) -> None:
    """A diverging trial has them, and PostgreSQL's own JSON would refuse them."""
    ledger.add_trials(lease, [config(0)])
    ledger.start(lease, 0)
    ledger.record(lease, 0, 1, [measurement(0, math.inf), measurement(1, math.nan)])
    ledger.finish(lease, 0, TrialState.FAIL, headlines={"final/train/loss": math.nan})
    first, second = ledger.trajectory(lease.study_id, 0)
    assert first.train_loss == math.inf
    assert math.isnan(second.validation_loss)
    assert math.isnan(ledger.trial(lease.study_id, 0).headlines["final/train/loss"])


def test_a_study_s_specs_are_counted_and_its_trials_know_theirs(ledger: Ledger, lease: Lease) -> None:
    ledger.add_trials(lease, [config(0)])
    same = SPEC.model_copy(update={"question": "Why?"})
    assert ledger.update_spec(lease, same) == 1
    more = StudySpec.from_dict({**SPEC.to_dict(), "search": {"trials": 9}})
    assert [ledger.update_spec(lease, more) for _ in range(2)] == [2, 2]
    ledger.add_trials(lease, [config(1)])
    assert [(n, s.search.trials) for n, s, _ in ledger.spec_versions(lease.study_id)] == [(1, 3), (2, 9)]
    assert (ledger.study("s").spec, ledger.study("s").version) == (more, 2)
    assert [t.version for t in ledger.trials(lease.study_id)] == [1, 2]


def test_studies_of_one_database_keep_apart(ledger: Ledger) -> None:
    first, second = (ledger.lease(ledger.create_study(name, SPEC)) for name in ("a", "b"))
    final = ledger.create_study("a-finals", SPEC, parent=ledger.study("a"))
    for lease in (first, second):
        ledger.add_trials(lease, [config(0), config(1)])
        ledger.start(lease, 1)
        ledger.record(lease, 1, 1, [measurement(0)])
    ledger.finish(second, 1, TrialState.COMPLETE, values=[0.5])
    assert ledger.trial(second.study_id, 1).order == 0
    assert ledger.states(first.study_id) == {TrialState.WAITING: 1, TrialState.RUNNING: 1}
    assert ledger.requeue_running(first, "x") == [1]
    assert [d.closing for d in ledger.undelivered(first.study_id)] == [False]
    assert [d.closing for d in ledger.undelivered(second.study_id)] == [True]
    assert [(s.name, s.parent) for s in ledger.studies()] == [("a", None), ("b", None), ("a-finals", first.study_id)]
    assert final.driver is None


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


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, but long enough to look like one\n" * 50)
    with pytest.raises(TrackingError, match=r"cannot be opened: file is not a database"):
        Ledger.in_folder(tmp_path)
