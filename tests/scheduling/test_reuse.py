"""Which trials get a worker that has become free."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.execution.tune_controller import TuneController

from sparsestudy.scheduling import tune


@pytest.mark.parametrize(
    ("asked", "placed", "resetting", "given"),
    [
        pytest.param(False, False, False, True, id="no worker was asked for"),
        pytest.param(True, True, False, False, id="its own one is starting"),
        pytest.param(True, False, False, True, id="its own one waits for a place, and a node is lost"),
        pytest.param(True, True, True, True, id="it has a freed one already"),
    ],
)
def test_a_freed_worker_goes_to_a_trial_whose_own_is_not_starting(
    asked: bool, placed: bool, resetting: bool, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller: Any = SimpleNamespace(
        _trial_to_actor={"trial": "own"} if asked else {},
        _resetting_trials={"trial"} if resetting else set(),
        _actor_manager=SimpleNamespace(is_actor_started=lambda worker: placed),
    )
    monkeypatch.setattr(TuneController, "_maybe_reuse_cached_actor", lambda self, trial: True)
    with tune._patient_reuse():
        assert TuneController._maybe_reuse_cached_actor(controller, "trial") is given
