"""Processes that train a trial together: they give the numbers of one, and however they end, all of them end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sparsestudy.errors import CheckpointError
from sparsestudy.scheduling.processes import LocalRanks
from sparsestudy.scheduling.ranks import RankFailedError
from sparsestudy.study import ModelSpec
from sparsestudy.training.loop import fit
from sparsestudy.training.weights import restore
from sparsestudy.trial import TrialConfig
from tests.training.test_loop import comparable, config, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks() -> Iterator[LocalRanks]:
    """Two processes; after a failure, which ends them, the next trial starts two others."""
    found = LocalRanks(2, patience=60.0)
    yield found
    found.stop()


def troubled(trouble: str, rank: int = 1) -> TrialConfig:
    model = ModelSpec(name="tests.troubled_network:build", arguments={"trouble": trouble, "rank": rank})
    return config(model=model, epochs=3)


def gone(pids: list[int]) -> bool:
    """Whether none of these processes is left, within seconds."""
    deadline = time.monotonic() + 5
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return not alive


def test_a_trial_after_another_with_the_numbers_of_one_process(ranks: LocalRanks) -> None:
    kept = config(epochs=3).model_copy(update={"keep": "final"})
    for trial in (kept, config({"method": "perplexity", "strength": 1.0}, seed=1)):
        joint = ranks.start(trial)
        found = list(joint)
        network, expected = fit(trial)
        assert joint.done
        assert [m.epoch for m in found] == [m.epoch for m in expected]
        for measurement, other in zip(found, expected, strict=True):
            assert measurement.scalars() == pytest.approx(other.scalars(), rel=1e-5, abs=1e-6)
        picture = joint.snapshot()
        assert [layer.name for layer in picture.layers] == ["features.dense1"]
        assert bool(joint.weights) == (trial is kept)
        if joint.weights:
            torch.testing.assert_close(weights(restore(trial, joint.weights)), weights(network), rtol=1e-5, atol=1e-6)


def test_processes_are_kept_for_the_next_trial_and_a_trial_may_be_given_up(ranks: LocalRanks) -> None:
    next(iter(ranks.start(config(epochs=5))))
    before = ranks.pids
    assert len(list(ranks.start(config(epochs=2)))) == 2
    assert ranks.pids == before != []


def test_a_trial_goes_on_from_a_checkpoint_bit_for_bit(ranks: LocalRanks) -> None:
    """Memories of methods, momentum and numbers drawn by each process included."""
    methods = [{"method": "dropout", "strength": 0.3}, {"method": "isda"}, {"method": "srip"}]
    trial = config(*methods, epochs=4)
    whole = comparable(list(ranks.start(trial)))
    joint = ranks.start(trial)
    measurements = iter(joint)
    first = [next(measurements), next(measurements)]
    assert joint.between_epochs
    checkpoint = joint.checkpoint({"said": "before"})
    ranks.stop()
    again = ranks.start(trial, resume=checkpoint)
    assert (again.epochs, again.notes) == (2, {"said": "before"})
    assert comparable([*first, *again]) == whole
    assert again.epochs == 4


def test_a_checkpoint_of_another_trial_is_refused(ranks: LocalRanks) -> None:
    joint = ranks.start(config())
    next(iter(joint))
    with pytest.raises(CheckpointError):
        ranks.start(config(seed=1), resume=joint.checkpoint())
    assert ranks.pids == []


def test_one_that_hangs_is_named(ranks: LocalRanks) -> None:
    list(ranks.start(config(epochs=1)))  # what comes first takes seconds, and is not meant
    trial, pids = ranks.start(troubled("hang")), ranks.pids
    ranks.patience = 3.0
    with pytest.raises(RankFailedError) as error:
        list(trial)
    ranks.patience = 60.0
    message = "nothing happened for 3 s: process 2 of 2 does not go on, and the others wait for it"
    assert (error.value.failure.kind, error.value.failure.message) == ("WorkerStalled", message)
    assert gone(pids)
    assert ranks.pids == []


@pytest.mark.parametrize(
    ("trouble", "kind", "message"),
    [
        ("error", "ZeroDivisionError", "step 3 divides by zero"),
        ("nan", "DivergedError", "train loss became nan in epoch 0; a lower learning rate or strength may help"),
        (
            "kill",
            "WorkerDied",
            "process 2 of 2 was ended by SIGKILL; out of memory, killed, or crashed in native code",
        ),
    ],
)
def test_trouble_of_one_ends_all_and_is_told_as_it_was(
    trouble: str, kind: str, message: str, ranks: LocalRanks
) -> None:
    trial, pids = ranks.start(troubled(trouble)), ranks.pids
    with pytest.raises(RankFailedError) as error:
        list(trial)
    assert (error.value.failure.kind, error.value.failure.message) == (kind, message)
    assert ("in fail" in error.value.failure.traceback) == (trouble == "error")
    assert gone(pids)
    assert ranks.pids == []


ORPHANS = """
from sparsestudy.errors import CheckpointError
from sparsestudy.scheduling.processes import LocalRanks
from tests.training.test_loop import config

if __name__ == "__main__":
    ranks = LocalRanks(2)
    measurements = iter(ranks.start(config(epochs=100000)))
    next(measurements)
    print(*ranks.pids, flush=True)
    list(measurements)
"""


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert gone(pids)
