"""Growing decay: by the formulas of Wang et al. 2021, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsestudy import regularizers
from sparsestudy.errors import SpecError
from sparsestudy.regularizers import Network, Step, Weight
from tests.regularizers.updating import small_network, train, updater


def shrinking(weight: list[float], steps: int, shape: tuple[int, ...], **parameters: Any) -> list[list[float]]:
    """A weight without a loss after each step of plain descent, rate 0.5."""
    method = regularizers.get("growing_l2", **parameters)
    at = nn.Parameter(torch.tensor(weight, dtype=torch.float64).reshape(shape))
    step, found = Step(weights={"w.weight": at}), []
    for _ in range(steps):
        penalty = method.penalty(step)
        assert penalty is not None
        (gradient,) = torch.autograd.grad(penalty, at)
        with torch.no_grad():
            at -= 0.5 * gradient
        found.append(at.flatten().tolist())
    return found


@pytest.mark.parametrize(
    ("groups", "shape"), [("filter", (4, 1)), ("channel", (1, 4)), ("weight", (2, 2)), ("filter", (4, 1, 1, 1))]
)
def test_growing_decay_of_the_smallest_groups(groups: str, shape: tuple[int, ...]) -> None:
    found = shrinking([0.1, -0.2, 0.8, 1.0], 4, shape, groups=groups, strength=0.1, every=2, pruned=0.5)
    expected = [(0.095, -0.19), (0.09025, -0.1805), (0.081225, -0.16245), (0.0731025, -0.146205)]
    for after, small in zip(found, expected, strict=True):
        assert after == pytest.approx([*small, 0.8, 1.0], rel=1e-12)


def test_growth_ends_at_the_ceiling() -> None:
    """Factors .4, .8, 1, 1: half of each is taken from the weight."""
    found = shrinking([0.1, 1.0], 4, (2, 1), strength=0.4, every=1, ceiling=1.0)
    assert [after[0] for after in found] == pytest.approx([0.08, 0.048, 0.024, 0.012], rel=1e-12)


def test_form_two_picks_after_a_common_growth() -> None:
    """Factors of all .01, .02; then .12, .22 of the smaller group and -0.04 of the other."""
    found = shrinking([0.1, 1.0], 4, (2, 1), form="two", strength=0.1, every=1, pick_at=0.02, kept=0.04)
    factors = [(0.01, 0.01), (0.02, 0.02), (0.12, -0.04), (0.22, -0.04)]
    at = [0.1, 1.0]
    for after, pair in zip(found, factors, strict=True):
        at = [w * (1 - 0.5 * r) for w, r in zip(at, pair, strict=True)]
        assert after == pytest.approx(at, rel=1e-12)


@pytest.mark.parametrize("form", ["one", "two"])
def test_groups_are_picked_once(form: str) -> None:
    """The first row is the smallest when they are picked, and no longer when the factors grow again."""
    method = regularizers.get("growing_l2", form=form, strength=0.1, every=1, pick_at=0.0)
    memory: dict[str, Tensor] = {}
    for rows in ([[0.1], [1.0]], [[1.0], [0.1]]):
        method.penalty(Step(weights={"a.weight": torch.tensor(rows)}, memory=memory))
    kept = 0.0 if form == "one" else -1e-4
    assert memory["factors/a.weight"].flatten().tolist() == pytest.approx([0.2, kept])


def test_growth_starts_when_it_is_told_to() -> None:
    method = regularizers.get("growing_l2", start_epoch=2.0)
    weights = {"a.weight": torch.tensor([[1.0], [2.0]]), "b.weight": torch.ones(3, 2)}
    memory: dict[str, Tensor] = {}
    assert method.penalty(Step(weights=weights, epoch=1.9, memory=memory)) is None
    assert not memory
    penalty = method.penalty(Step(weights=weights, epoch=2.0, memory=memory))
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.5 * 1e-4)  # the output layer b is left alone
    named = regularizers.get("growing_l2", layers=["b"]).penalty(Step(weights=weights))
    assert named is not None
    assert named.item() == pytest.approx(0.5 * 1e-4 * 4)  # ceil(3 / 2) of its rows of two ones


@pytest.mark.parametrize(("count", "share", "picked"), [(4, 0.5, 2), (5, 0.5, 3), (3, 0.99, 2), (100, 0.55, 55)])
def test_how_many_groups_are_picked(count: int, share: float, picked: int) -> None:
    weight = torch.arange(1.0, count + 1)[:, None]
    memory: dict[str, Tensor] = {}
    regularizers.get("growing_l2", pruned=share).penalty(Step(weights={"a.weight": weight}, memory=memory))
    assert (memory["factors/a.weight"].flatten() > 0).tolist() == [index < picked for index in range(count)]


def test_a_further_pass_does_not_grow_it_further() -> None:
    once, twice = small_network(), small_network()
    growing = {"method": "growing_l2", "strength": 0.1, "every": 1}
    updates = [updater(once, growing), updater(twice, {"method": "amp", "strength": 0.1}, growing)]
    for update in updates:
        train(update, 4)
    kept = [update.memories[-1] for update in updates]
    assert kept[0]["steps"].item() == kept[1]["steps"].item() == 4
    assert kept[1]["factors/0.weight"].max().item() == pytest.approx(0.4)


def test_a_weight_of_one_group_is_an_obstacle_only_if_it_is_alone_or_named() -> None:
    single = Weight(name="a.weight", shape=(1, 4))
    network = Network(layers=(), weights=[single, Weight(name="b.weight", shape=(3, 1))])
    text = "it cannot work on weight 'a': it has a single filter, and filters are compared with each other"
    assert regularizers.get("growing_l2").obstacles(network) == [f"{text}; choose other layers"]
    wide = Network(layers=(), weights=[Weight(name="c.weight", shape=(2, 4)), *network.weights])
    assert regularizers.get("growing_l2").obstacles(wide) == []
    assert regularizers.get("growing_l2", layers=["a"]).obstacles(wide) == [f"{text}; choose other layers"]
    assert regularizers.get("growing_l2", layers=["b"]).obstacles(wide) == []
    assert regularizers.get("growing_l2", groups="channel", layers=["a"]).obstacles(wide) == []


def test_picking_beyond_the_ceiling_is_refused() -> None:
    with pytest.raises(SpecError, match=r"pick_at lies in \[0, ceiling\], got 0\.5 with a ceiling of 0\.1"):
        regularizers.get("growing_l2", pick_at=0.5, ceiling=0.1)
