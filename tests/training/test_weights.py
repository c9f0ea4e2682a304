"""Trained weights: which are kept, whether they come back, and what they score."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from sklearn.metrics import log_loss, mean_squared_error, r2_score
from torch import nn

from sparsestudy import load_winner, regularizers
from sparsestudy.study import DataSpec, MeasuresSpec, ModelSpec, OptimizerSpec, SplitSpec, TrainingSpec
from sparsestudy.training import weights
from sparsestudy.training.loop import Trainer
from sparsestudy.trial import TrialConfig, headlines


def config(*methods: dict[str, Any], keep: str = "final", data: str = "digits", **training: Any) -> TrialConfig:
    """A small trial: 60 examples, a convolution and a dense layer, or two dense layers where there are no images."""
    images = data == "digits"
    arguments = {"channels": [4], "dense": 8} if images else {"hidden": [8, 6]}
    return TrialConfig(
        study="s", number=0, arm="a", parameters={}, methods=methods or ({"method": "none"},), keep=keep,
        data=DataSpec(name=data, train_size=60, splits=SplitSpec(search=40, selection=40, test=40)),
        model=ModelSpec(name="convnet" if images else "mlp", arguments=arguments),
        training=TrainingSpec(**{"epochs": 2, "batch_size": 20, **training}), measures=MeasuresSpec(), seed=3,
    )  # fmt: skip


def trained(of: TrialConfig) -> tuple[Trainer, list[float]]:
    """To its end, with the losses that choose the best epoch."""
    trainer = Trainer(of)
    return trainer, [measurement.validation_loss for measurement in trainer]


@pytest.mark.parametrize("name", regularizers.names())
def test_weights_of_every_method_come_back(name: str) -> None:
    """The restored network answers as the trained one does, bit for bit; its own seed does not matter."""
    given = {key: 0.1 for key in ("strength",) if key in regularizers.kind(name).model_fields}
    trainer, _ = trained(config({"method": name, **given}, epochs=1))
    restored = weights.restore(config({"method": name, **given}).model_copy(update={"seed": 9}), trainer.weights)
    inputs = trainer.dataset.test.inputs
    with torch.no_grad():
        assert torch.equal(restored(inputs), trainer.model.eval()(inputs))
    assert not restored.training


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_weights_keep_their_precision(precision: str) -> None:
    trainer, _ = trained(config(precision=precision, epochs=1))
    restored = weights.restore(config(precision=precision), trainer.weights).state_dict()
    assert {value.dtype for value in restored.values()} == {torch.float64 if precision == "float64" else torch.float32}
    assert all(torch.equal(value, restored[key]) for key, value in trainer.model.state_dict().items())


def test_nothing_is_kept_unless_asked() -> None:
    assert trained(config(keep="none"))[0].weights == b""


def test_the_best_weights_are_those_of_the_epoch_of_lowest_validation_loss() -> None:
    """The same trial, told to end there, has the same weights in the end."""
    high = OptimizerSpec(lr=0.4)
    best, losses = trained(config(keep="best", epochs=12, optimizer=high))
    epoch = losses.index(min(losses))
    assert 0 < epoch < 11, "the middle, or this shows nothing"
    until, _ = trained(config(keep="final", epochs=epoch + 1, optimizer=high))
    assert best.weights == until.weights
    final, _ = trained(config(keep="final", epochs=12, optimizer=high))
    assert final.weights == weights.pack(final.model) != best.weights


def test_of_equal_epochs_the_first_is_kept_as_headlines_have_it() -> None:
    """Nothing moves but the count of batches: three an epoch."""
    still = {"method": "batch_norm", "momentum": 1e-30}
    trainer = Trainer(config(still, keep="best", epochs=3, optimizer=OptimizerSpec(lr=1e-30)))
    trajectory = [*trainer]
    assert len({m.validation_loss for m in trajectory}) == 1
    assert headlines(trajectory, "perplexity")["best/epoch"] == 0
    counts = {int(v) for k, v in load(trainer.weights).items() if k.endswith("num_batches_tracked")}
    assert counts == {3}


def test_a_patient_method_ends_a_trial_whose_last_weights_are_kept() -> None:
    trainer, losses = trained(
        config({"method": "early_stopping", "patience": 1}, epochs=30, optimizer=OptimizerSpec(lr=0.4))
    )
    assert len(losses) < 30
    assert trainer.weights == weights.pack(trainer.model)


def test_weights_of_another_network_are_refused() -> None:
    trainer, _ = trained(config(epochs=1))
    with pytest.raises(RuntimeError, match="Missing key"):
        weights.restore(config({"method": "batch_norm"}), trainer.weights)


def test_restoring_leaves_the_random_state_alone() -> None:
    trainer, _ = trained(config({"method": "normalize_and_project"}, epochs=1))
    before = torch.get_rng_state()
    weights.restore(trainer.config, trainer.weights)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("chunk", [7, 256])
def test_scores_of_classes_and_of_numbers_are_those_of_scikit_learn(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "CHUNK", chunk)
    trainer, _ = trained(config())
    model, test = trainer.model.eval(), trainer.dataset.test
    with torch.no_grad():
        answers = model(test.inputs)
    found = weights.score(model, test, "classification")
    assert found["accuracy"] == pytest.approx((answers.argmax(1) == test.labels).double().mean().item(), abs=1e-7)
    expected = log_loss(test.labels, answers.double().softmax(1), labels=range(10))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    trainer, _ = trained(config(data="diabetes"))
    model, test = trainer.model.eval(), trainer.dataset.test
    with torch.no_grad():
        predicted = model(test.inputs)[:, 0]
    found = weights.score(model, test, "regression")
    assert found["accuracy"] == pytest.approx(r2_score(test.labels, predicted), abs=1e-5)
    assert found["loss"] == pytest.approx(mean_squared_error(test.labels, predicted), rel=1e-5)


def test_a_folder_gives_the_network_and_its_methods(tmp_path: Path) -> None:
    methods = ({"method": "batch_norm", "layers": ["features.*"]}, {"method": "dropout", "strength": 0.2})
    trainer, _ = trained(config(*methods))
    (tmp_path / "config.json").write_text(trainer.config.model_dump_json(), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors"):
        load_winner(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(trainer.weights)
    model, found = load_winner(tmp_path)
    inputs = trainer.dataset.test.inputs
    with torch.no_grad():
        assert torch.equal(model(inputs), trainer.model.eval()(inputs))
    assert found == [regularizers.get(**method) for method in methods]
    assert sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()) == 1
    assert all(math.isfinite(float(value.sum())) for value in model.state_dict().values())
