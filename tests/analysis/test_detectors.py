import numpy as np
import pandas as pd
import pytest

from sparsestudy.analysis.detectors import DISPARITY, detectors
from sparsestudy.analysis.evidence import CURVES, Evidence
from sparsestudy.analysis.onset import Onsets

EPOCHS = np.arange(40)


def evidence(loss, configuration=None, state="COMPLETE", **more):
    count = len(loss)
    trials = pd.DataFrame(
        {
            "study": "s", "trial": np.arange(count), "arm": "none", "replicate": 0,
            "configuration": np.arange(count) if configuration is None else configuration,
            "epochs": np.isfinite(loss).sum(axis=1), "state": state, "seconds": 1.0,
        }
    )  # fmt: skip
    empty = {"signals": (), "values": np.zeros((*loss.shape, 0))}
    return Evidence(trials=trials, curves=dict.fromkeys(CURVES, loss), **{**empty, **more})


def runs(turns):
    """Losses with their minimum at the given epochs; those that turn at the last one never overfit."""
    turns = np.asarray(turns)
    loss = 1 + 0.1 * np.abs(EPOCHS - turns[:, None])
    return loss, Onsets(epoch=turns, censored=turns == 39)


def alarms(epochs):
    epochs = np.asarray(epochs)
    return Onsets(epoch=np.where(epochs < 0, 39, epochs), censored=epochs < 0)


def row(found, name):
    (match,) = [detector for detector in found if detector.name.startswith(name)]
    return match


def test_every_figure_of_a_rule():
    loss, overfitting = runs([10, 20, 20, 39, 39, 39])
    # 4 epochs early, 6 late, missed; one false alarm among three controls.
    found = row(
        detectors(evidence(loss), overfitting, {"conv": alarms([6, 26, -1, 9, -1, -1])}), "sparsity rises, conv"
    )
    assert (found.overfitting, found.controls) == (3, 3)
    assert found.false_alarms.estimate == pytest.approx(1 / 3)
    assert found.misses.estimate == pytest.approx(1 / 3)
    assert found.before.estimate == pytest.approx(1 / 3)
    assert found.lead.estimate == pytest.approx((4 - 6) / 2)
    assert found.lead.count == 2
    # Stopped 4 early, 6 late, 19 late (never); the control 30 early, the others at their end.
    assert found.excess.estimate == pytest.approx(0.1 * (4 + 6 + 19 + 30) / 6)
    # With the best weights kept being late costs nothing.
    assert found.kept.estimate == pytest.approx(0.1 * (4 + 30) / 6)
    assert found.spent.estimate == pytest.approx((7 + 27 + 40 + 10 + 40 + 40) / 240)


def test_a_rule_that_always_cries_at_once_leads_most_and_costs_most():
    loss, overfitting = runs(np.arange(10, 30))
    found = detectors(evidence(loss), overfitting, {"crying": alarms([0] * 20), "knowing": alarms(range(10, 30))})
    crying, knowing = row(found, "sparsity rises, crying"), row(found, "sparsity rises, knowing")
    assert crying.lead.estimate > knowing.lead.estimate == 0
    assert knowing.before.estimate == 1
    assert crying.excess.low > knowing.excess.high
    assert knowing.excess.estimate == 0
    assert knowing.against_constant.high < 0 < crying.against_constant.low


def test_patience_is_late_by_itself_and_keeps_the_best():
    loss, overfitting = runs([10, 15, 20, 25, 39, 39])
    found = row(detectors(evidence(loss), overfitting, {}), "validation loss, patience")
    assert found.lead.estimate == -10
    assert found.excess.estimate == pytest.approx(4 / 6)
    assert found.kept.estimate == pytest.approx(0)
    assert (found.false_alarms.estimate, found.misses.estimate) == (0, 0)


def test_the_constant_epoch_is_its_own_measure():
    loss, overfitting = runs([20] * 6)
    found = row(detectors(evidence(loss), overfitting, {}), "constant epoch")
    assert (found.excess.estimate, found.lead.estimate, found.against_constant.estimate) == (0, 0, 0)


def test_gradient_disparity_is_judged_where_it_was_recorded():
    loss, overfitting = runs([20] * 6)
    without = row(detectors(evidence(loss), overfitting, {}), "gradient disparity")
    assert (without.reason, without.excess) == ("gradient disparity was not recorded", None)
    rising = np.abs(EPOCHS - 8.0)[None, :, None].repeat(6, axis=0)
    recorded = evidence(loss, signals=(DISPARITY,), values=rising)
    assert row(detectors(recorded, overfitting, {}), "gradient disparity").lead.estimate == 20 - (8 + 10)


def test_pruned_runs_that_have_not_overfitted_are_neither_controls_nor_misses():
    loss, overfitting = runs([10, 20, 39, 39])
    state = ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    found = row(detectors(evidence(loss, state=state), overfitting, {"conv": alarms([0] * 4)}), "sparsity rises")
    assert (found.overfitting, found.controls) == (2, 1)


def test_intervals_know_that_replicates_belong_together():
    loss, overfitting = runs(np.repeat([10, 15, 20, 25, 30], 4))
    rule = {"conv": alarms([17] * 20)}
    apart = row(detectors(evidence(loss), overfitting, rule), "sparsity rises")
    together = row(detectors(evidence(loss, np.arange(20) // 4), overfitting, rule), "sparsity rises")
    assert apart.lead.estimate == together.lead.estimate
    assert together.lead.high - together.lead.low > 2 * (apart.lead.high - apart.lead.low)


def test_gaps_and_ends_of_the_loss_stand_for_the_value_before():
    loss, overfitting = runs([10, 10, 10])
    loss[0, 20:] = np.nan
    loss[1, 30] = np.nan
    found = row(detectors(evidence(loss), overfitting, {"conv": alarms([35, 30, 30])}), "sparsity rises")
    assert found.excess.estimate == pytest.approx(0.1 * (9 + 19 + 20) / 3)


def test_losses_that_were_never_measured_leave_words():
    loss = np.full((2, 40), np.nan)
    overfitting = Onsets(epoch=np.array([-1, -1]), censored=np.array([True, True]))
    found = detectors(evidence(loss), overfitting, {"conv": alarms([5, 5])})
    assert row(found, "sparsity rises").reason == "no trial is long enough to be judged"
    assert row(found, "constant epoch").reason == "there are no other configurations to choose it from"
