"""What methods that act on the step or the network claim, each on its own quantity, in real training over three seeds.

Every claim is held against the same trial without the method. Few digits, a fifth of the labels wrong: without a method
the network learns them by heart.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy import regularizers
from sparsestudy.regularizers import Step, trained_weights
from sparsestudy.study import DataSpec, MeasuresSpec, ModelSpec, OptimizerSpec, SplitSpec, TrainingSpec
from sparsestudy.training import data
from sparsestudy.training.loop import Trainer, fit
from sparsestudy.trial import Measurement, TrialConfig

pytestmark = pytest.mark.slow
every_seed = pytest.mark.parametrize("seed", [0, 1, 2])
NONE = {"method": "none"}
LAYERS = ("features.conv1", "features.conv2", "features.conv3", "classifier.dense1")


def trial(method: dict[str, Any], seed: int, epochs: int, **arguments: Any) -> TrialConfig:
    return TrialConfig(
        study="claims",
        number=0,
        arm=method["method"],
        parameters={},
        methods=(method,),
        data=DataSpec(train_size=300, label_noise=0.2, splits=SplitSpec(search=400, selection=400, test=400)),
        model=ModelSpec(arguments={"channels": [16, 32, 32], **arguments}),
        training=TrainingSpec(epochs=epochs, batch_size=64, optimizer=OptimizerSpec(lr=0.02)),
        measures=MeasuresSpec(every=epochs),
        seed=seed,
    )


@functools.cache
def _trained(method: str, seed: int, epochs: int) -> tuple[nn.Module, list[Measurement]]:
    return fit(trial(json.loads(method), seed, epochs))


def trained(method: dict[str, Any], seed: int, epochs: int) -> tuple[nn.Module, list[Measurement]]:
    """A network after training, and its trajectory; trained once."""
    return _trained(json.dumps(method), seed, epochs)


def training_set() -> tuple[Tensor, Tensor]:
    split = data.load(trial(NONE, 0, 1).data).train
    return split.inputs, split.labels


def gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(cross_entropy(model(inputs), labels), list(model.parameters())))


@torch.no_grad()
def entering(model: nn.Module) -> dict[str, Tensor]:
    """What enters the non-linearity of each layer, by layer, in float64."""
    seen: dict[str, Tensor] = {}

    def keep(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: seen.update({layer: inputs[0].double()})

    handles = [model.get_submodule(name)[-1].register_forward_pre_hook(keep(name)) for name in LAYERS]
    model(training_set()[0])
    for handle in handles:
        handle.remove()
    return seen


@every_seed
def test_amp_finds_flatter_minima(seed: int) -> None:
    """The loss rises less where every parameter tensor moves by 0.05 along its gradient."""

    def rise(method: dict[str, Any]) -> float:
        model = trained(method, seed, 20)[0]
        inputs, labels = training_set()
        directions = gradient(model, inputs, labels)
        moved = {
            name: p + 0.05 * d / d.norm() for (name, p), d in zip(model.named_parameters(), directions, strict=True)
        }
        with torch.no_grad():
            perturbed = torch.func.functional_call(model, moved, (inputs,))
            return (cross_entropy(perturbed, labels) - cross_entropy(model(inputs), labels)).item()

    assert 0 < rise({"method": "amp", "strength": 0.05}) < 0.6 * rise(NONE)


@every_seed
def test_drop_grad_is_unbiased(seed: int) -> None:
    """Of 400 noisy gradients each entry's mean is off by a standard error of |g| sqrt(p / (1 - p) / 400).

    In these units the squared deviations of all n entries have mean 1 and a standard error of about sqrt(2 / n).
    """
    method = regularizers.get("drop_grad", strength=0.3)
    model = trained({"method": "drop_grad", "strength": 0.3}, seed, 6)[0]
    inputs, labels = training_set()
    clean = gradient(model, inputs, labels)

    def compute() -> None:
        for p, g in zip(model.parameters(), clean, strict=True):
            p.grad = g.clone()

    totals = [torch.zeros_like(g) for g in clean]
    for draw in range(400):
        method.around_gradient(Step(network=model, seed=draw), compute)
        for total, p in zip(totals, model.parameters(), strict=True):
            assert p.grad is not None
            total += p.grad
    found, exact = (torch.cat([t.flatten() for t in each]).double() for each in (totals, clean))
    alive = exact != 0
    deviations = (found[alive] / 400 - exact[alive]) / (exact[alive].abs() * math.sqrt(0.3 / 0.7 / 400))
    assert alive.sum() > 5000
    assert deviations.square().mean().item() == pytest.approx(1, abs=5 * math.sqrt(2 / alive.sum().item()))
    assert deviations.mean().abs().item() < 5 / math.sqrt(alive.sum().item())
    other = trained(NONE, seed, 6)[0]
    assert not torch.equal(model.classifier.output.weight, other.classifier.output.weight)


@every_seed
def test_decoupled_decay_lowers_the_norm_of_weights(seed: int) -> None:
    def norm(method: dict[str, Any]) -> float:
        weights = trained_weights(trained(method, seed, 6)[0])
        return math.sqrt(sum(w.square().sum().item() for w in weights.values()))

    assert norm({"method": "decoupled_weight_decay", "strength": 0.3}) < 0.95 * norm(NONE)


@every_seed
def test_projection_keeps_the_lengths_of_weights_and_norms_keep_what_enters(seed: int) -> None:
    nap, none = (trained({"method": name}, seed, 6)[0] for name in ("normalize_and_project", "none"))
    start = trained_weights(Trainer(trial(NONE, seed, 6)).model)
    hidden = [name for name in start if name != "classifier.output.weight"]
    lengths = {name: start[name].norm().item() for name in start}
    assert len(hidden) == 4
    for name in hidden:
        assert trained_weights(nap)[name].norm().item() == pytest.approx(lengths[name], rel=1e-6)
        assert trained_weights(none)[name].norm().item() != pytest.approx(lengths[name], rel=1e-4)
    assert trained_weights(nap)["classifier.output.weight"].norm().item() != pytest.approx(
        lengths["classifier.output.weight"], rel=1e-4
    )
    for model, kept in ((nap, True), (none, False)):
        for tensor in entering(model).values():
            rows = tensor.flatten(1)
            unit = (rows.mean(1).abs() < 1e-5) & ((rows.var(1, correction=0) - 1).abs() < 1e-3)
            assert unit.all().item() == kept


@every_seed
@pytest.mark.parametrize("form", ["one", "two"])
def test_growing_decay_empties_the_groups_it_picked(form: str, seed: int) -> None:
    """Half of the filters of each hidden weight end far below the rest; in form one the smallest at the start."""
    method = {"method": "growing_l2", "strength": 0.1, "every": 1, "form": form, "pick_at": 0.05}
    start = trained_weights(Trainer(trial(NONE, seed, 12)).model)

    def ratio(found: dict[str, Any]) -> float:
        sizes = {name: w.detach().abs().flatten(1).mean(1) for name, w in found.items() if "output" not in name}
        order = start if form == "one" else found
        ratios = []
        for name, size in sizes.items():
            picked = order[name].detach().abs().flatten(1).mean(1).argsort()[: len(size) // 2]
            kept = torch.ones(len(size), dtype=torch.bool)
            kept[picked] = False
            ratios.append((size[kept].mean() / size[picked].mean()).item())
        return min(ratios)

    assert ratio(trained_weights(trained(method, seed, 12)[0])) > 10
    assert ratio(trained_weights(trained(NONE, seed, 12)[0])) < 2


@every_seed
def test_early_stopping_ends_before_the_loss_has_risen(seed: int) -> None:
    stopped = trained({"method": "early_stopping", "patience": 8}, seed, 30)[1]
    whole = trained(NONE, seed, 30)[1]
    assert len(stopped) < len(whole) == 30
    assert stopped[-1].validation_loss < whole[-1].validation_loss
    assert min(m.validation_loss for m in stopped) == min(m.validation_loss for m in whole)
    assert [m.scalars() for m in stopped] == [m.scalars() for m in whole[: len(stopped)]]


@every_seed
def test_batch_norm_standardises_channels(seed: int) -> None:
    """In training mode, before gain and offset; without it no layer has a channel of mean 0 and variance 1."""
    norm, none = (trained({"method": name}, seed, 6)[0] for name in ("batch_norm", "none"))
    norm.train()
    found = entering(norm)
    norm.eval()
    for model, tensors in ((norm, found), (none, entering(none))):
        for layer, tensor in tensors.items():
            if model is norm:
                part = model.get_submodule(layer)[-1].batch_norm["1"]
                shape = (1, -1, *[1] * (tensor.dim() - 2))
                tensor = (tensor - part.bias.reshape(shape)) / part.weight.reshape(shape)
            over = [axis for axis in range(tensor.dim()) if axis != 1]
            mean, variance = tensor.mean(over), tensor.var(over, correction=0)
            alive = (mean.abs() < 1e-4) & ((variance - 1).abs() < 0.01)
            assert alive.all().item() if model is norm else not alive.any().item()


@every_seed
def test_al2_lowers_the_features_that_the_classifier_reads(seed: int) -> None:
    def mean_square(method: dict[str, Any]) -> float:
        return entering(trained(method, seed, 12)[0])["classifier.dense1"].relu().square().mean().item()

    assert mean_square({"method": "al2", "strength": 0.1}) < 0.8 * mean_square(NONE)


@every_seed
@pytest.mark.parametrize(("name", "maps"), [("dropout", False), ("spatial_dropout", True), ("none", False)])
def test_rates_of_dropout(name: str, maps: bool, seed: int) -> None:
    """One epoch of 300 images of 16 maps of 8 x 8; tanh is never exactly 0, so that every zero is a dropped one."""
    p = 0.0 if name == "none" else 0.3
    trainer = Trainer(trial({"method": name} | ({"strength": p} if p else {}), seed, 2, activation="tanh"))
    epochs = iter(trainer)
    next(epochs)  # by now the method is installed, so that this hook sees what it leaves
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    block = trainer.model.get_submodule("features.conv1")
    block.register_forward_hook(lambda module, inputs, output: seen[module.training].append(output.detach()))
    next(epochs)
    training, evaluation = (torch.cat(seen[mode]) for mode in (True, False))
    assert training.shape == (300, 16, 8, 8)
    dropped = (training == 0).flatten(2)
    count = 300 * 16 * (1 if maps else 64)
    assert dropped.double().mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / count))
    assert torch.equal(dropped.all(2), dropped.any(2)) == (maps or name == "none")
    assert (evaluation != 0).all()
