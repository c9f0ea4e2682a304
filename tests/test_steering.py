"""Asking a study to stop, and failed trials to be tried again, without any training."""

from __future__ import annotations

import threading
import time

import pytest

from sparsestudy import recorded, steering
from sparsestudy.cli import main
from sparsestudy.errors import ConflictError, NotFoundError
from sparsestudy.recorded import Study
from sparsestudy.tracking.leases import Lease
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.trial import Failure, TrialState
from tests.tracking.test_ledger import SPEC, config, measurement


@pytest.fixture
def study(home: object) -> Study:
    """Five trials: 0 and 3 failed, 1 is complete, 2 waits and 4 is not there yet."""
    with recorded.claim(SPEC.model_copy(update={"search": SPEC.search.model_copy(update={"trials": 5})})) as made:
        lease = made.ledger.lease(made.record)
        made.ledger.add_trials(lease, [config(n) for n in range(4)])
        for number, state in ((0, TrialState.FAIL), (1, TrialState.COMPLETE), (3, TrialState.FAIL)):
            made.ledger.start(lease, number)
            made.ledger.record(lease, number, 1, [measurement(0)])
            failure = Failure(kind="E", message="m") if state is TrialState.FAIL else None
            made.ledger.finish(lease, number, state, values=[] if failure else [0.5], failure=failure)
        for delivery in made.ledger.undelivered(made.record.id):
            made.ledger.mark_delivered(made.record.id, delivery)
        lease.release()
    return made


def test_failed_trials_wait_again_as_they_were(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retry", "s", "3"]) == 0
    assert "1 trial to try again: 3\nto go on: sparsestudy resume s" in capsys.readouterr().out
    assert steering.retry("s", failed=True) == [0]
    with recorded.open_study("s") as again:
        before, after = config(3), again.trial(3)
        assert (after.state, after.config, after.attempts, after.epochs) == (TrialState.WAITING, before, 1, 1)
        assert (after.failure, after.order, after.finished) == (None, None, None)
        assert again.ledger.undelivered(study.record.id) == []
        lease = again.ledger.lease(again.record)
        assert again.ledger.start(lease, 3) == 2
        again.ledger.finish(lease, 3, TrialState.COMPLETE, values=[0.25])
        assert again.trial(3).order == 2  # after trial 1, which was the second to finish of three
        (delivery,) = again.ledger.undelivered(study.record.id)
        assert (delivery.trial.number, delivery.trial.attempts, delivery.closing) == (3, 2, True)
        assert again.states() == {TrialState.WAITING: 2, TrialState.COMPLETE: 2}


def test_only_failed_trials_are_tried_again(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConflictError, match=r"trial 1 of 's' is COMPLETE; failed: 0, 3"):
        steering.retry("s", [0, 1])
    with pytest.raises(NotFoundError, match="there is no trial 9"):
        steering.retry("s", [9])
    for arguments in ([], ["0", "--failed"]):
        assert main(["retry", "s", *arguments]) == 2
        assert "name the trials to try again by number, or say --failed" in capsys.readouterr().err
    with recorded.open_study("s") as again:
        assert again.trial(0).state is TrialState.FAIL
        lease = again.ledger.lease(again.record)
        with pytest.raises(ConflictError, match="already being run"):
            steering.retry("s", [0])
        lease.release()
    steering.retry("s", failed=True)
    with pytest.raises(ConflictError, match="no trial of 's' has failed"):
        steering.retry("s", failed=True)


def test_a_study_that_nobody_runs_needs_no_stopping(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", "s"]) == 0
    expected = "nobody runs it; 3 of 4 trials finished, nothing is lost. To go on: sparsestudy resume s\n"
    assert capsys.readouterr().out == expected
    assert main(["stop", "t"]) == 2
    assert "no study named 't'" in capsys.readouterr().err


def drive(lease: Lease, ledger: Ledger) -> None:
    """A driver that does nothing but renew its lease until it is asked to stop."""
    while not lease.renew():
        time.sleep(0.05)
    lease.release()
    ledger.close()


@pytest.mark.parametrize("finals", [False, True])
def test_a_driver_stops_when_asked(study: Study, capsys: pytest.CaptureFixture[str], finals: bool) -> None:
    ledger = Ledger.in_folder(study.folder)
    record = ledger.create_study("s-finals", SPEC, parent=study.record) if finals else study.record
    driver = threading.Thread(target=drive, args=(ledger.lease(record), ledger))
    driver.start()
    assert main(["stop", "s", "--wait", "30"]) == 0
    driver.join()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("asked ")
    assert said[1] == "stopped; 3 of 4 trials finished, nothing is lost. To go on: sparsestudy resume s"


def test_a_driver_that_does_not_stop_is_said(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    with recorded.open_study("s") as held:
        lease = held.ledger.lease(held.record)
        assert main(["stop", "s", "--wait", "0.5"]) == 1
        assert "it has not stopped in 0 s" in capsys.readouterr().err
        assert main(["stop", "s", "--wait", "0"]) == 0
        assert "it will stop; 3 of 4 trials finished" in capsys.readouterr().out
        assert lease.renew() is True
