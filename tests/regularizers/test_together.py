"""Several methods in one arm: their order, and that together they train and repeat."""

from __future__ import annotations

import pytest
import torch

from sparsestudy.study import ModelSpec
from sparsestudy.training.loop import fit
from tests.regularizers.updating import INPUTS, LABELS, RATE, same, small_network, train, updater
from tests.training.test_loop import config

EVERYTHING = [
    {"method": "amp", "strength": 0.01},
    {"method": "drop_grad", "strength": 0.1},
    {"method": "decoupled_weight_decay", "strength": 0.05},
    {"method": "batch_norm", "layers": ["features.*"]},
    {"method": "dropout", "strength": 0.1},
]
TRIAL = config(*EVERYTHING, model=ModelSpec(arguments={"channels": [8, 8], "dense": 16}), epochs=10)


def test_the_first_method_is_the_outermost() -> None:
    """Perturbation before noise sees noise in every pass; after it, only the last gradient is noisy."""
    noisy, amp = {"method": "drop_grad", "strength": 0.5}, {"method": "amp", "strength": 0.5}
    models = [small_network() for _ in range(3)]
    for model, methods in zip(models, ([noisy, amp], [amp, noisy], [amp]), strict=True):
        update = updater(model, *methods, optimizer=torch.optim.SGD(model.parameters(), lr=RATE))
        update(INPUTS, LABELS, epoch=0.0, rate=RATE)
    outside, inside, clean = ([p.detach() for p in model.parameters()] for model in models)
    start = [p.detach() for p in small_network().parameters()]
    for moved, only_amp, inner, at in zip(outside, clean, inside, start, strict=True):
        # Noise outside: the step of the perturbation alone, each entry of it dropped or doubled.
        ratio = ((moved - at) / (only_amp - at)).flatten()
        assert ((ratio.abs() < 1e-6) | ((ratio - 2).abs() < 1e-6)).all()
        assert not torch.equal(inner, moved)
    inner_ratio = (inside[0] - start[0]) / (clean[0] - start[0])
    assert not ((inner_ratio.abs() < 1e-6) | ((inner_ratio - 2).abs() < 1e-6)).all()


def test_decay_and_projection_follow_their_order() -> None:
    """Decay shrinks before the optimizer's step, and the projection comes after it, whichever stands first."""
    decay, project = {"method": "decoupled_weight_decay", "strength": 2.0}, {"method": "normalize_and_project"}
    models = [small_network() for _ in range(2)]
    for model, methods in zip(models, ([decay, project], [project, decay]), strict=True):
        train(updater(model, *methods), 3)
        start = small_network()
        torch.testing.assert_close(model[0].weight.norm(), start[0].weight.norm(), rtol=1e-12, atol=0)
    assert same(*models)


def test_everything_together_trains_and_repeats_bit_for_bit() -> None:
    first, trajectory = fit(TRIAL)
    fit(config({"method": "drop_grad", "strength": 0.5}, seed=9))  # another trial in the same process
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        second, again = fit(TRIAL)
    assert trajectory[-1].train_loss < 0.7 * trajectory[0].train_loss
    assert [m.scalars() for m in again] == [m.scalars() for m in trajectory]
    assert first.state_dict().keys() == second.state_dict().keys()
    assert same(first, second)


@pytest.mark.parametrize("left_out", range(len(EVERYTHING)))
def test_each_of_them_acts(left_out: int) -> None:
    methods = tuple(method for index, method in enumerate(EVERYTHING) if index != left_out)
    short = TRIAL.training.model_copy(update={"epochs": 1})
    whole = TRIAL.model_copy(update={"training": short})
    assert fit(whole)[1][0].train_loss != fit(whole.model_copy(update={"methods": methods}))[1][0].train_loss
