"""A trial that goes on from a checkpoint is the one that was never interrupted, bit for bit."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsestudy import regularizers
from sparsestudy.errors import CheckpointError, ConflictError, DivergedError
from sparsestudy.study import ModelSpec, ScheduleSpec
from sparsestudy.training.checkpoint import Checkpoint
from sparsestudy.training.loop import Trainer
from sparsestudy.trial import Measurement, TrialConfig
from tests.training.test_loop import comparable, config, same, weights

EPOCHS, INTERRUPTED = 4, 2
CONVNET = ModelSpec(name="convnet", arguments={"channels": [4, 6], "dense": 8})
NORMED = ModelSpec(name="convnet", arguments={"channels": [4, 6], "dense": 8, "batch_norm": True})
EVERY_KIND = ("perplexity", "weight_norms", "hyperspherical_energy", "margins", "path_norm", "sharpness")
FORMS: dict[str, dict[str, Any]] = {
    "comhe": {"form": "adversarial", "dimensions": 3},
    "early_stopping": {"patience": 1},
    "growing_l2": {"every": 1, "strength": 0.1},
}
"""Parameters with which a method keeps something that this short a training uses."""


def trial(*methods: dict[str, Any], **training: Any) -> TrialConfig:
    return config(*methods, **{"epochs": EPOCHS, "model": CONVNET, "batch_size": 24, **training})


def resumed(of: TrialConfig, content: bytes) -> tuple[Trainer, list[Measurement]]:
    """The rest of a trial, in a process that has drawn random numbers since."""
    torch.rand(5)
    np.random.rand(3)
    random.random()
    trainer = Trainer(of, content)
    return trainer, [*trainer]


def interrupted(of: TrialConfig, after: int = INTERRUPTED) -> tuple[Trainer, list[Measurement], bytes]:
    """A trial left alone but for a checkpoint that is taken on the way."""
    trainer, trajectory, content = Trainer(of), [], b""
    for measurement in trainer:
        trajectory.append(measurement)
        if len(trajectory) == after:
            content = trainer.checkpoint()
    return trainer, trajectory, content


def assert_goes_on(of: TrialConfig, after: int = INTERRUPTED) -> None:
    calm, whole, content = interrupted(of, after)
    again, rest = resumed(of, content)
    assert len(whole) > after
    assert comparable(rest) == comparable(whole)[after:]
    assert same(weights(again.model), weights(calm.model))
    assert (again.weights, again.done, again.epochs) == (calm.weights, True, len(whole))
    assert again.snapshot().to_bytes() == calm.snapshot().to_bytes()


@pytest.mark.parametrize("name", regularizers.names())
def test_every_method_goes_on_bit_for_bit(name: str) -> None:
    method = {"method": name, **FORMS.get(name, {})}
    if name == "early_stopping":
        # Learned by heart within a few epochs: patience has been used up in part at the checkpoint.
        stopping = trial({**method, "patience": 3}, epochs=60, model=ModelSpec(name="mlp", arguments={"hidden": [12]}))
        length = len([*Trainer(stopping)])
        assert length < 60
        assert_goes_on(stopping, length - 2)
    else:
        assert_goes_on(trial(method))


SETTINGS: dict[str, TrialConfig] = {
    "adam": trial(optimizer={"name": "adam", "lr": 0.01}),
    "nesterov": trial(optimizer={"momentum": 0.8, "nesterov": True}),
    "no momentum": trial(optimizer={"momentum": 0.0}),
    "bfloat16": trial({"method": "perplexity", "strength": 0.1}, precision="bfloat16"),
    "float64": trial({"method": "spectral_penalty"}, precision="float64"),
    "schedule": trial(schedule=ScheduleSpec(name="cosine", warmup_epochs=1)),
    "batch norm of the network": trial({"method": "amp", "strength": 0.01}, model=NORMED),
    "best weights": trial(model=NORMED, optimizer={"lr": 0.2}).model_copy(update={"keep": "best"}),
    "final weights": trial().model_copy(update={"keep": "final"}),
    "combined": trial(
        {"method": "amp", "strength": 0.01},
        {"method": "isda", "strength": 0.3},
        {"method": "drop_grad", "strength": 0.1},
        {"method": "batch_norm", "layers": ["features.*"]},
        {"method": "normalize_and_project", "layers": ["classifier.*"]},
        {"method": "growing_l2", "every": 2},
        {"method": "dropout", "strength": 0.2},
    ),
    "angle preserving": trial({"method": "comhe", "form": "angle_preserving", "dimensions": 3}),
    "growing in form two": trial({"method": "growing_l2", "form": "two", "every": 1, "strength": 0.1}),
    "measures of every kind": trial(measures={"names": EVERY_KIND, "probe_size": 16}),
    "measured every third epoch": trial(measures={"every": 3}),
    "regression": trial(
        {"method": "l2_activity"},
        data={"name": "diabetes"},
        model=ModelSpec(name="mlp", arguments={"hidden": [12]}),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_goes_on_bit_for_bit(name: str) -> None:
    assert_goes_on(SETTINGS[name])


def test_a_chain_of_interruptions() -> None:
    of = SETTINGS["combined"]
    calm, whole, _ = interrupted(of)
    content, pieces = None, []
    for _ in range(EPOCHS):
        trainer = Trainer(of, content)
        pieces.append(next(iter(trainer)))
        content = trainer.checkpoint()
    assert comparable(pieces) == comparable(whole)
    assert same(weights(trainer.model), weights(calm.model))


def test_taking_a_checkpoint_changes_nothing() -> None:
    of = SETTINGS["combined"]
    _, with_one, _ = interrupted(of)
    assert comparable(with_one) == comparable([*Trainer(of)])


@pytest.mark.parametrize("part", ["optimizer", "memory"])
@pytest.mark.parametrize("name", ["comhe", "growing_l2", "isda", "spectral_penalty", "normalize_and_project"])
def test_what_is_kept_is_needed(part: str, name: str) -> None:
    """Without the momentum, or without what the method remembers, the trial would go on differently."""
    of = trial({"method": name, **FORMS.get(name, {})})
    _, whole, content = interrupted(of)
    kept = Checkpoint.from_bytes(content)
    poorer = {k: v for k, v in kept.tensors.items() if not k.startswith(f"{part}/")}
    assert len(poorer) < len(kept.tensors)
    _, rest = resumed(of, dataclasses.replace(kept, tensors=poorer).to_bytes())
    assert comparable(rest) != comparable(whole)[INTERRUPTED:]


# The file


def a_checkpoint(**changes: Any) -> Checkpoint:
    plain = {"identity": "i", "losses": (0.1, 1 / 3), "tensors": {"model/a": torch.arange(3.0)}}
    return Checkpoint(**{**plain, **changes})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_tensors_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.arange(6)[: max(0, int(np.prod(shape)))].reshape(shape) / 3).to(dtype)
    found = Checkpoint.from_bytes(a_checkpoint(tensors={"model/a": tensor}).to_bytes()).tensors["model/a"]
    assert found.dtype == dtype
    assert torch.equal(found, tensor)


@pytest.mark.parametrize("change", [lambda t: t.transpose(0, 2), lambda t: t.to(memory_format=torch.channels_last)])
def test_layouts_come_back(change: Callable[[Tensor], Tensor]) -> None:
    tensor = change(torch.rand(2, 3, 4, 5))
    found = Checkpoint.from_bytes(a_checkpoint(tensors={"memory/0/a": tensor}).to_bytes()).tensors["memory/0/a"]
    assert found.stride() == tensor.stride()
    assert torch.equal(found, tensor)


def test_the_rest_comes_back() -> None:
    plain, notes = {"memory/0/steps": 3, "memory/0/name": "x"}, {"rungs": {"4": 0.1}}
    found = Checkpoint.from_bytes(a_checkpoint(plain=plain, notes=notes, weights=b"\x00\xff").to_bytes())
    assert (found.losses, found.epochs, found.identity) == ((0.1, 1 / 3), 2, "i")
    assert (found.plain, found.notes, found.weights) == (plain, notes, b"\x00\xff")
    assert Checkpoint.from_bytes(a_checkpoint().to_bytes()).weights == b""


def test_equal_trials_have_equal_files() -> None:
    assert interrupted(SETTINGS["combined"])[2] == interrupted(SETTINGS["combined"])[2]


def test_plain_values_and_hidden_buffers_go_where_they_were() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("hidden", torch.ones(2), persistent=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    memory = {"steps": 3, "kept": torch.arange(2)}
    kept = Checkpoint.take(trial(), [1.0], model, optimizer, [{}, memory])
    memory["kept"] = memory["kept"] + 1
    expected = weights(model)
    with torch.no_grad():
        model.weight.zero_()
        model.hidden.zero_()
    memories: list[dict[str, Any]] = [{}, {}]
    Checkpoint.from_bytes(kept.to_bytes()).restore(model, optimizer, memories)
    assert same(weights(model), expected)
    assert torch.equal(model.hidden, torch.ones(2))
    assert memories[0] == {}
    assert memories[1]["steps"] == 3
    assert torch.equal(memories[1]["kept"], torch.arange(2))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
    ],
)
def test_damage_is_noticed(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint is damaged: its content does not have the hash"):
        Trainer(trial(), damage(interrupted(trial())[2]))


def test_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsestudy.training.checkpoint.FORMAT", 99)
        content = a_checkpoint().to_bytes()
    with pytest.raises(CheckpointError, match="the checkpoint has format 99, this sparsestudy reads format 1"):
        Checkpoint.from_bytes(content)


# Whose it is


def test_a_checkpoint_of_another_configuration_is_refused() -> None:
    _, _, content = interrupted(trial({"method": "dropout", "strength": 0.1}))
    with pytest.raises(CheckpointError, match="another configuration, or of another version of sparsestudy or torch"):
        Trainer(trial({"method": "dropout", "strength": 0.2}), content)


def test_unless_it_is_adopted(tmp_path: Path) -> None:
    """Weights, momentum and losses are the donor's, the strength is its own."""
    donor = trial({"method": "dropout", "strength": 0.0})
    _, whole, content = interrupted(donor)
    (tmp_path / "donor").write_bytes(content)
    heir = trial({"method": "dropout", "strength": 0.5})
    trainer = Trainer(heir, tmp_path / "donor", adopt=True)
    rest = [*trainer]
    assert [m.epoch for m in rest] == [2, 3]
    assert rest[0].train_loss != whole[2].train_loss
    same_strength = [*Trainer(donor.model_copy(update={"number": 7}), content, adopt=True)]
    assert comparable(same_strength) == comparable(whole)[2:]


@pytest.mark.parametrize(
    "other", [trial(model=NORMED), trial(model=ModelSpec(arguments={"channels": [4, 7], "dense": 8}))]
)
def test_a_network_it_does_not_fit_is_refused(other: TrialConfig) -> None:
    _, _, content = interrupted(trial())
    with pytest.raises(CheckpointError, match=r"belongs to another network: '\S+' differs"):
        next(iter(Trainer(other, content, adopt=True)))


def test_methods_it_does_not_fit_are_refused() -> None:
    _, _, content = interrupted(trial({"method": "none"}, {"method": "isda"}))
    with pytest.raises(CheckpointError, match="belongs to other methods"):
        next(iter(Trainer(trial(), content, adopt=True)))


# When


def test_there_is_none_within_an_epoch() -> None:
    trainer = Trainer(trial(optimizer={"lr": 1e30}))
    assert not trainer.between_epochs
    with pytest.raises(ConflictError, match="between two epochs"):
        trainer.checkpoint()
    with pytest.raises(DivergedError):
        next(iter(trainer))
    with pytest.raises(ConflictError, match="between two epochs"):
        trainer.checkpoint()


def test_notes_are_found_again() -> None:
    trainer = Trainer(trial())
    next(iter(trainer))
    assert Trainer(trial()).notes == {}
    assert Trainer(trial(), trainer.checkpoint({"standing": [1, 0.5]})).notes == {"standing": [1, 0.5]}
