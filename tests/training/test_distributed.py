"""Two processes that train together: what one process computes is what they compute, for every method."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy import measures, regularizers
from sparsestudy.study import ModelSpec
from sparsestudy.training.distributed import ALONE, Group, Share
from sparsestudy.training.loop import Trainer
from sparsestudy.training.probe import Probe
from sparsestudy.training.synced import synchronise
from sparsestudy.training.update import Updater
from sparsestudy.trial import TrialConfig
from tests.contracts.test_regularizers import recommended
from tests.ranks import Together, pair
from tests.regularizers.updating import INPUTS, LABELS, RATE, small_network
from tests.training.test_loop import config

NAMES = regularizers.names()
DRAWS = [name for name in NAMES if regularizers.kind(name).over_ranks == "draws"]
CONVNET = ModelSpec(name="convnet", arguments={"channels": [4, 4], "dense": 8})
UNEVEN = {"train_size": 101}
"""The last batch of an epoch has 5 examples, which do not divide evenly."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    with pair(tmp_path_factory.mktemp("ranks")) as found:
        yield found


def trained(group: Group, trial: TrialConfig) -> tuple[list[dict[str, Any]], dict[str, Tensor], bytes]:
    trainer = Trainer(trial, group=group)
    found = [{k: v for k, v in m.to_dict().items() if k not in ("seconds", "timestamp")} for m in trainer]
    return found, dict(trainer.model.state_dict()), trainer.weights


def flat(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in items:
        if isinstance(item, Mapping | list):
            yield from flat(item, f"{path}/{key}")
        else:
            yield f"{path}/{key}", math.nan if item is None else item


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    assert dict(flat(found)) == pytest.approx(dict(flat(expected)), rel=tolerance, abs=tolerance, nan_ok=True)


def strong(name: str) -> dict[str, Any]:
    """The method at the upper corner of its recommended ranges, where a wrong weight cannot hide."""
    return {"method": name, **recommended(name)[-1]} if regularizers.kind(name).search else {"method": name}


def assert_two_are_one(together: Together, trial: TrialConfig, tolerance: float) -> None:
    (two, weights, _), (_, others, _) = together(trained, trial)
    one, expected, _ = trained(ALONE, trial)
    assert_close(two, one, tolerance)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=tolerance, atol=tolerance)
        assert torch.equal(weights[name], others[name])


@pytest.mark.parametrize("name", sorted({*NAMES} - {*DRAWS}))
def test_two_train_as_one(name: str, together: Together) -> None:
    for precision, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
        trial = config(strong(name), data=UNEVEN, model=CONVNET, precision=precision)
        assert_two_are_one(together, trial, tolerance)


def test_methods_together_adam_and_every_measure(together: Together) -> None:
    methods = [
        {"method": "amp", "strength": 0.05},
        {"method": "drop_grad"},
        {"method": "batch_norm", "layers": ["classifier.*"]},
        {"method": "perplexity", "strength": 1.0, "targets": {"features.*": 0.3}},
        {"method": "decov", "layers": ["classifier.*"]},
        {"method": "weight_decay", "strength": 0.01},
        {"method": "early_stopping", "patience": 1},
    ]
    trial = config(
        *methods,
        data=UNEVEN,
        model=CONVNET,
        measures={"names": measures.names(), "every": 3, "probe_size": 20},
        optimizer={"name": "adam", "lr": 0.01},
        precision="float64",
        epochs=6,
    )
    assert_two_are_one(together, trial, 1e-8)


def test_numbers_to_predict(together: Together) -> None:
    data = {"name": "diabetes", "train_size": 61}
    trial = config({"method": "l2_activity", "strength": 0.1}, data=data, precision="float64", epochs=3)
    assert_two_are_one(together, trial, 1e-10)


def test_a_network_with_batch_norms_of_its_own(together: Together) -> None:
    model = ModelSpec(name="torchvision:shufflenet_v2_x0_5")
    trial = config(model=model, data={"train_size": 33}, precision="float64", epochs=1, batch_size=16)
    assert_two_are_one(together, trial, 1e-8)


def test_mixed_precision(together: Together) -> None:
    """Rounded to three digits in every layer, and rounded differently; the gathered activations are rounded too."""
    methods = {"method": "perplexity", "strength": 1.0}
    (two, _, _), _ = together(trained, config(methods, model=CONVNET, data=UNEVEN, precision="bfloat16"))
    one, _, _ = trained(ALONE, config(methods, model=CONVNET, data=UNEVEN, precision="bfloat16"))
    assert_close([m["train_loss"] for m in two], [m["train_loss"] for m in one], 0.02)


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_those_of_the_rank_and_all_else_is_shared(name: str, together: Together) -> None:
    (first, weights, _), (second, others, _) = together(trained, config(strong(name), model=CONVNET, data=UNEVEN))
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    assert_close([m["validation_loss"] for m in second], [m["validation_loss"] for m in first], 0)
    again, same, _ = together(trained, config(strong(name), model=CONVNET, data=UNEVEN))[0]
    assert again == first
    assert all(torch.equal(weights[key], same[key]) for key in weights)


def drawn(group: Group) -> list[float]:
    torch.manual_seed(5)
    group.seed(5, "epoch", 0)
    return torch.rand(3).tolist()  # type: ignore[no-any-return]


def test_ranks_draw_numbers_of_their_own_and_the_first_those_of_one(together: Together) -> None:
    first, second = together(drawn)
    assert first == drawn(ALONE)
    assert not set(first) & set(second)


def test_only_the_first_keeps_weights_and_measures_the_network(together: Together) -> None:
    trial = config(model=CONVNET, measures={"names": ["perplexity", "weight_norms"]})
    (first, _, kept), (second, _, none) = together(trained, trial.model_copy(update={"keep": "best"}))
    assert len(kept) > 0
    assert none == b""
    assert "weights" in first[0]["statistics"]
    assert "weights" not in second[0]["statistics"]


# Single updates


def updated(group: Group, norm: float | str | None, examples: int, method: str) -> dict[str, Tensor]:
    """State after two updates by the first so many examples; ``norm`` is the momentum of a batch norm, if any."""
    model = small_network(norm=norm != "no")
    if norm != "no":
        model[1].momentum = norm
    synchronise(model, group)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    methods = [regularizers.get(method)]
    update = Updater(model, methods, optimizer, cross_entropy, Probe(model), group=group)
    with update.probe:
        for step in range(2):
            update(INPUTS[:examples], LABELS[:examples], epoch=step / 2, rate=RATE)
    return dict(model.state_dict())


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("examples", [2, 7, 20])
def test_batch_norm_is_that_of_the_whole_batch(momentum: float | None, examples: int, together: Together) -> None:
    first, second = together(updated, momentum, examples, "none")
    expected = updated(ALONE, momentum, examples, "none")
    assert expected.keys() == first.keys()
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-10, atol=1e-10)
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize("method", ["none", "weight_decay", "l1_activity", "perplexity", "al2"])
def test_a_batch_of_fewer_examples_than_processes(method: str, together: Together) -> None:
    first, second = together(updated, "no", 1, method)
    for name, value in updated(ALONE, "no", 1, method).items():
        torch.testing.assert_close(first[name], value, rtol=1e-12, atol=1e-12)
        assert torch.equal(first[name], second[name])


def test_a_norm_without_running_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(ValueError, match="the batch norm '1' has no running statistics, which several workers need"):
        synchronise(model, Group(0, 2))


def test_fewer_examples_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="4 processes cannot share 3 examples: train 96, validation 50, probe 3"):
        Trainer(config(measures={"probe_size": 3}), group=Group(0, 4))


def test_a_group_of_one_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = copy.deepcopy(model)
    synchronise(model, ALONE)
    assert "forward" not in vars(model[1])
    assert vars(before[1]).keys() == vars(model[1]).keys()


def gathered(group: Group, examples: int) -> tuple[Tensor, Tensor]:
    """The whole batch, and the gradient of half the sum of its squares, which every rank takes."""
    whole = torch.arange(3.0 * examples).view(examples, 3)
    with group.sharing(examples) as share:
        mine = whole[share.rows].clone().requires_grad_()
        found = group.gathered(mine)
        (found.square().sum() / 2 / group.size).backward()
    assert mine.grad is not None
    return found.detach(), mine.grad


@pytest.mark.parametrize("examples", [2, 5])
def test_gathering_keeps_the_order_and_the_graph(examples: int, together: Together) -> None:
    whole, expected = gathered(ALONE, examples)
    (first, left), (second, right) = together(gathered, examples)
    assert torch.equal(first, whole)
    assert torch.equal(second, whole)
    assert torch.equal(torch.cat([left, right]), expected)


@pytest.mark.parametrize(("examples", "size"), [(7, 1), (7, 2), (7, 3), (6, 3), (3, 3)])
def test_shares_make_up_the_batch(examples: int, size: int) -> None:
    shares = [Share.of(examples, rank, size) for rank in range(size)]
    rows = [row for share in shares for row in range(examples)[share.rows]]
    assert rows == list(range(examples))
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert [share.weight * examples for share in shares] == pytest.approx([*shares[0].counts])
    assert max(shares[0].counts) - min(shares[0].counts) <= 1
