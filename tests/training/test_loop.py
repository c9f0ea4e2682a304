"""The training loop: repeatable to the last bit, and doing exactly what the configuration says."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error, r2_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsestudy import measures as statistics
from sparsestudy.errors import DivergedError
from sparsestudy.measures.dead_fraction import dead_fraction
from sparsestudy.measures.perplexity import perplexity_sparsity
from sparsestudy.measures.zero_fraction import zero_fraction
from sparsestudy.study import DataSpec, MeasuresSpec, ModelSpec, OptimizerSpec, ScheduleSpec, SplitSpec, TrainingSpec
from sparsestudy.training import data, loop
from sparsestudy.training.loop import Trainer, fit, schedule_factor
from sparsestudy.training.probe import Probe
from sparsestudy.trial import SCALARS, Measurement, TrialConfig, headlines

TRAIN, SEARCH = 96, 50
MODULE = "user_networks_for_tests"
Method = Mapping[str, Any]


def config(
    *methods: Method,
    seed: int = 0,
    data: Mapping[str, Any] | None = None,
    model: ModelSpec | None = None,
    measures: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | None = None,
    schedule: ScheduleSpec | None = None,
    **training: Any,
) -> TrialConfig:
    """A small trial: 96 digits, 12 hidden units, 2 epochs of 3 steps."""
    splits = SplitSpec(search=SEARCH, selection=20, test=20)
    return TrialConfig(
        study="study",
        number=0,
        arm="arm",
        parameters={},
        methods=tuple(dict(method) for method in methods) or ({"method": "none"},),
        data=DataSpec(**{"train_size": TRAIN, "splits": splits, **(data or {})}),
        model=model or ModelSpec(name="mlp", arguments={"hidden": [12]}),
        training=TrainingSpec(
            **{"epochs": 2, "batch_size": 32, **training},
            optimizer=OptimizerSpec(**{"lr": 0.05, **(optimizer or {})}),
            schedule=schedule or ScheduleSpec(),
        ),
        measures=MeasuresSpec(**(measures or {})),
        seed=seed,
    )


@pytest.fixture
def user_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Write a user's network into an empty working directory; returns its spec."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)

    def write(body: str, **arguments: Any) -> ModelSpec:
        Path(f"{MODULE}.py").write_text(f"import torch\nfrom torch import nn\n\n\n{body}\n")
        return ModelSpec(name=f"{MODULE}:make", arguments=arguments)

    yield write
    sys.modules.pop(MODULE, None)


LINEAR = """
def make(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32, bias=False), nn.Identity(), nn.Linear(32, classes))
"""


def comparable(trajectory: list[Measurement]) -> list[dict[str, Any]]:
    """All fields but those that tell the time."""
    return [{k: v for k, v in m.to_dict().items() if k not in ("seconds", "timestamp")} for m in trajectory]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def initial(of: TrialConfig) -> nn.Module:
    return copy.deepcopy(Trainer(of).model)


def evaluated(model: nn.Module, split: data.Split) -> tuple[float, float]:
    """Loss and accuracy, by numpy."""
    with torch.no_grad():
        logits = model(split.inputs).double().numpy()
    labels = split.labels.numpy()
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return losses.mean(), (logits.argmax(1) == labels).mean()


def activations(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    with Probe(model) as probe, torch.no_grad():
        model(inputs)
    return probe.activations


# Repeatability

EVERYTHING = config(
    {"method": "dropout", "strength": 0.3},
    {"method": "perplexity", "strength": 0.1, "warmup_epochs": 1},
    model=ModelSpec(name="convnet", arguments={"channels": [4, 4], "dense": 8, "batch_norm": True}),
)


def test_same_configuration_gives_the_same_bits() -> None:
    first_model, first = fit(EVERYTHING)
    expected = weights(first_model)
    fit(config({"method": "dropout", "strength": 0.5}, seed=9))  # another trial in the same process
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        torch.rand(7)
        np.random.seed(3)
        second_model, second = fit(EVERYTHING)
    assert same(weights(second_model), expected)
    assert comparable(second) == comparable(first)
    assert [set(m.to_dict()) for m in first] == [{f.name for f in dataclasses.fields(Measurement)}] * 2


def test_two_trials_taking_turns_do_not_disturb_each_other() -> None:
    other = config({"method": "dropout", "strength": 0.5}, seed=9)
    trainers = [Trainer(EVERYTHING), Trainer(other)]
    turns = [list(turn) for turn in zip(*trainers, strict=True)]
    for index, each in enumerate((EVERYTHING, other)):
        alone_model, alone = fit(each)
        assert comparable([turn[index] for turn in turns]) == comparable(alone)
        assert same(weights(trainers[index].model), weights(alone_model))


def test_global_random_state_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    fit(EVERYTHING)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_seeds_differ_in_weights_and_in_order() -> None:
    models = [initial(config(seed=seed)) for seed in (0, 1)]
    assert not same(*(weights(model) for model in models))
    first, second = (fit(config(seed=seed))[1] for seed in (0, 1))
    assert first[-1].train_loss != second[-1].train_loss
    # From the same weights, so that only the order of examples can tell the epochs apart.
    trainers = [Trainer(config(seed=seed, optimizer={"momentum": 0.0})) for seed in (0, 1)]
    trainers[1].model.load_state_dict(trainers[0].model.state_dict())
    for trainer in trainers:
        next(iter(trainer))
    assert not same(*(weights(trainer.model) for trainer in trainers))


# Epochs and what is measured


def test_epochs_are_counted_from_zero() -> None:
    _, trajectory = fit(config(epochs=4))
    assert [m.epoch for m in trajectory] == [0, 1, 2, 3]
    assert all(m.seconds > 0 for m in trajectory)
    stamps = [m.timestamp for m in trajectory]
    assert stamps == sorted(stamps)


def test_training_stops_on_request() -> None:
    seen: list[Measurement] = []

    def stop(measurement: Measurement) -> bool:
        seen.append(measurement)
        return measurement.epoch == 1

    model, trajectory = fit(config(epochs=5), stop)
    assert [m.epoch for m in trajectory] == [0, 1]
    assert seen == trajectory
    assert not model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    # Two of five epochs of a constant schedule are the same as two of two.
    assert same(weights(model), weights(fit(config(epochs=2))[0]))


@pytest.mark.parametrize(("epochs", "every", "expected"), [(6, 4, [0, 4, 5]), (5, 2, [0, 2, 4]), (3, 1, [0, 1, 2])])
def test_statistics_every_few_epochs_and_at_the_last(epochs: int, every: int, expected: list[int]) -> None:
    _, trajectory = fit(config(epochs=epochs, measures={"every": every}))
    assert [m.epoch for m in trajectory if m.statistics] == expected
    # Wherever the best epoch lies, the nearest measured one speaks for it.
    assert {"best/sparsity/mean", "final/sparsity/mean"} <= set(headlines(trajectory, "perplexity"))
    assert all(math.isfinite(value) for m in trajectory for value in m.scalars().values())


@pytest.mark.parametrize("every", [1, 100])
def test_a_method_may_end_training_and_the_last_epoch_is_measured(every: int) -> None:
    """Few digits are soon learned by heart: the validation loss falls no more, and three such epochs end it."""
    trial = config({"method": "early_stopping", "patience": 3}, epochs=60, measures={"every": every})
    trainer = Trainer(trial)
    trajectory, done = zip(*((measurement, trainer.done) for measurement in trainer), strict=True)
    losses = [m.validation_loss for m in trajectory]
    assert losses.index(min(losses)) == len(losses) - 4 < 56
    assert list(done) == [False] * (len(losses) - 1) + [True]
    assert trajectory[-1].statistics
    # The same epochs as without it, however they are measured.
    control = fit(config(epochs=len(losses)))[1]
    assert [m.scalars() for m in trajectory] == [m.scalars() for m in control]
    assert trajectory[-1].statistics == control[-1].statistics


@pytest.mark.parametrize("probe_size", [20, 64, 256])
def test_statistics_are_those_of_the_probe_set(probe_size: int) -> None:
    trial = config(measures={"probe_size": probe_size}, model=ModelSpec(arguments={"channels": [4], "dense": 8}))
    model, trajectory = fit(trial)
    dataset = data.load(trial.data)
    for name, split in (("train", dataset.train), ("validation", dataset.search)):
        seen = activations(model, split.inputs[:probe_size])
        found = trajectory[-1].statistics[name]
        assert list(found) == list(seen) == ["features.conv1", "classifier.dense1"]
        for layer, values in seen.items():
            sparsity, live = perplexity_sparsity(values)
            # Both in float32, but summed in another order.
            assert found[layer]["perplexity"] == pytest.approx(sparsity[live].mean().item(), rel=1e-4)
            assert found[layer]["zero_fraction"] == pytest.approx(zero_fraction(values).item(), rel=1e-6)
            assert found[layer]["dead_fraction"] == pytest.approx(dead_fraction(values).item(), abs=1e-6)


def test_only_chosen_layers_and_measures() -> None:
    model = ModelSpec(name="mlp", arguments={"hidden": [6, 5]})
    _, trajectory = fit(config(model=model, measures={"layers": ("*2",), "names": ("zero_fraction",)}))
    for split in ("train", "validation"):
        assert {k: list(v) for k, v in trajectory[0].statistics[split].items()} == {
            "features.dense2": ["zero_fraction"]
        }


BEYOND_LAYERS = ("weight_norms", "hyperspherical_energy", "margins", "path_norm", "spectral_product", "sharpness",
                 "gradient_disparity")  # fmt: skip


def test_weights_and_network_are_those_of_the_returned_model() -> None:
    trial = config(measures={"names": ("perplexity", *BEYOND_LAYERS), "probe_size": 16}, epochs=12)
    model, trajectory = fit(trial)
    dataset, found = data.load(trial.data), trajectory[-1].statistics
    assert set(found) == {"train", "validation", "weights", "network"}
    start = initial(trial).state_dict()
    layers = {"features.dense1.0": model.features.dense1[0], "classifier": model.classifier}
    assert list(found["weights"]) == list(layers)
    for name, layer in layers.items():
        weight, before = (matrix.detach().double().numpy() for matrix in (layer.weight, start[f"{name}.weight"]))
        assert found["weights"][name]["spectral_norm"] == pytest.approx(np.linalg.norm(weight, 2), rel=1e-6)
        assert found["weights"][name]["weight_distance"] == pytest.approx(np.linalg.norm(weight - before), rel=1e-6)
        assert found["weights"][name]["hyperspherical_energy_s2"] > 0
    for name, split in (("train", dataset.train), ("validation", dataset.search)):
        rows = model(split.inputs).detach().numpy()
        margins = [row[y] - np.delete(row, y).max() for row, y in zip(rows, split.labels, strict=True)]
        assert found["network"][name]["margin_mean"] == pytest.approx(np.mean(margins), rel=1e-4)
        assert found["network"][name]["margin_negative"] == pytest.approx(1 - evaluated(model, split)[1], abs=1e-9)
    probe = dataset.train.inputs[:16], dataset.train.labels[:16]
    for name in ("path_norm", "spectral_product"):
        for output, value in statistics.get(name).compute(model, *probe, 0).items():
            assert found["network"]["train"][output] == pytest.approx(value.item(), rel=1e-6)
    assert found["network"]["train"]["sharpness"] > 0
    assert found["network"]["train"]["gradient_disparity"] > 0
    assert set(found["network"]["validation"]) == set(statistics.get("margins").outputs)


def test_compute_skipped_is_that_of_the_validation_probe_set() -> None:
    """One hidden layer of 12: 64 * 12 MACs that read the data, 12 * 10 that read the rectified units."""
    trial = config(measures={"names": ("perplexity", "skipped_compute"), "probe_size": 16}, epochs=3)
    model, trajectory = fit(trial)
    found = trajectory[-1].statistics["network"]
    (seen,) = activations(model, data.load(trial.data).search.inputs[:16]).values()
    expected = 120 * np.mean(seen.numpy() == 0) / (64 * 12 + 120)
    assert expected > 0
    assert found == {"validation": {"skipped_compute": pytest.approx(expected, rel=1e-12)}}


def test_measuring_weights_and_network_changes_nothing_else() -> None:
    with_them = EVERYTHING.model_copy(update={"measures": MeasuresSpec(names=("perplexity", *BEYOND_LAYERS))})
    plain_model, plain = fit(EVERYTHING)
    expected = weights(plain_model)
    model, trajectory = fit(with_them)
    assert same(weights(model), expected)
    assert [m.scalars() for m in trajectory] == [m.scalars() for m in plain]
    for one, other in zip(trajectory, plain, strict=True):
        for split in ("train", "validation"):
            for layer, values in one.statistics[split].items():
                assert values["perplexity"] == other.statistics[split][layer]["perplexity"]
    assert comparable(fit(with_them)[1]) == comparable(trajectory)


def test_weights_and_network_are_measured_in_measured_epochs_only() -> None:
    _, trajectory = fit(config(epochs=5, measures={"names": ("perplexity", *BEYOND_LAYERS), "every": 3}))
    assert [set(m.statistics) for m in trajectory if m.epoch in (1, 2)] == [set(), set()]
    assert all({"weights", "network"} <= set(m.statistics) for m in trajectory if m.epoch in (0, 3, 4))


@pytest.mark.parametrize("probe_size", [16, 256])
def test_loss_and_accuracy_are_those_of_the_returned_model(probe_size: int) -> None:
    # Dropout and batch norm: training mode would give other numbers.
    trial = config(
        {"method": "dropout", "strength": 0.5},
        model=ModelSpec(name="mlp", arguments={"hidden": [12], "batch_norm": True}),
        measures={"probe_size": probe_size},
    )
    model, trajectory = fit(trial)
    dataset, last = data.load(trial.data), trajectory[-1]
    assert (last.train_loss, last.train_accuracy) == pytest.approx(evaluated(model, dataset.train), rel=1e-5)
    expected = evaluated(model, dataset.search)
    assert (last.validation_loss, last.validation_accuracy) == pytest.approx(expected, rel=1e-5)


def test_train_loss_of_large_sets_is_that_of_the_first_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TRAIN_EXAMPLES_EVALUATED", 10)
    trial = config()
    model, trajectory = fit(trial)
    train = data.load(trial.data).train
    expected = evaluated(model, data.Split(train.inputs[:10], train.labels[:10]))
    assert (trajectory[-1].train_loss, trajectory[-1].train_accuracy) == pytest.approx(expected, rel=1e-5)
    assert trajectory[-1].validation_loss == pytest.approx(evaluated(model, data.load(trial.data).search)[0], rel=1e-5)


def test_gaps() -> None:
    _, trajectory = fit(config())
    found = trajectory[-1]
    scalars = found.scalars()
    assert tuple(scalars) == SCALARS
    assert scalars["gap/loss"] == found.validation_loss - found.train_loss
    assert scalars["gap/accuracy"] == found.train_accuracy - found.validation_accuracy


# Steps


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_one_step_by_hand(name: str) -> None:
    """One batch of all examples: w - lr * gradient for SGD; Adam's first step is lr * g / (|g| + 1e-8)."""
    trial = config(
        {"method": "perplexity", "strength": 0.7},
        {"method": "weight_decay", "strength": 0.1},
        epochs=1,
        batch_size=TRAIN,
        precision="float64",
        optimizer={"name": name, "lr": 0.01},
    )
    reference, train = initial(trial), data.load(trial.data).train
    with Probe(reference) as probe:
        loss = cross_entropy(reference(train.inputs.double()), train.labels)
    sparsity = perplexity_sparsity(probe.activations["features.dense1"])[0].mean()
    decay = sum(p.square().sum() for p in reference.parameters() if p.dim() == 2) / 2
    penalty = 0.7 * sparsity + 0.1 * decay
    (loss + penalty).backward()
    model, trajectory = fit(trial)
    for parameter, found in zip(reference.parameters(), model.parameters(), strict=True):
        assert parameter.grad is not None
        gradient = parameter.grad
        move = gradient if name == "sgd" else gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(found, parameter - 0.01 * move, rtol=1e-9, atol=1e-9)
    assert trajectory[0].penalty == pytest.approx(penalty.item(), rel=1e-6)  # its mean is kept in float32


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum(nesterov: bool) -> None:
    trial = config(epochs=4, batch_size=TRAIN, precision="float64", optimizer={"momentum": 0.8, "nesterov": nesterov})
    reference, train = initial(trial), data.load(trial.data).train
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.8, nesterov=nesterov)
    for _ in range(4):
        optimizer.zero_grad()
        cross_entropy(reference(train.inputs.double()), train.labels).backward()
        optimizer.step()
    for expected, found in zip(reference.parameters(), fit(trial)[0].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("train_size", "steps"), [(96, 3), (97, 3), (98, 4), (33, 1), (32, 1)])
def test_last_batch_of_one_is_dropped(train_size: int, steps: int, user_network: Any) -> None:
    body = """
SIZES = []

class Net(nn.Linear):
    def forward(self, x):
        if self.training:
            SIZES.append(len(x))
        return super().forward(x.flatten(1))

def make(input_shape, classes):
    return Net(64, classes)
"""
    fit(config(model=user_network(body), data={"train_size": train_size}, epochs=1))
    sizes = sys.modules[MODULE].SIZES
    assert len(sizes) == steps
    assert sizes[:-1] == [32] * (steps - 1)
    assert sizes[-1] == (2 if train_size == 98 else 32)


def test_every_example_is_seen_once_an_epoch_in_a_new_order(user_network: Any) -> None:
    body = """
SEEN = []

class Net(nn.Linear):
    def forward(self, x):
        if self.training:
            SEEN.append(x.flatten(1).sum(1))
        return super().forward(x.flatten(1))

def make(input_shape, classes):
    return Net(64, classes)
"""
    trial = config(model=user_network(body), batch_size=40)
    fit(trial)
    seen = [torch.cat(sys.modules[MODULE].SEEN[start : start + 3]) for start in (0, 3)]
    expected = data.load(trial.data).train.inputs.flatten(1).sum(1).sort().values
    for order in seen:
        assert torch.equal(order.sort().values, expected)
    assert not torch.equal(*seen)


# Learning rate


@pytest.mark.parametrize(
    ("schedule", "progress", "epochs", "expected"),
    [
        (ScheduleSpec(), 7.3, 10, 1.0),
        (ScheduleSpec(name="cosine"), 0.0, 8, 1.0),
        (ScheduleSpec(name="cosine"), 2.0, 8, 0.5 * (1 + math.sqrt(0.5))),  # cos(pi / 4)
        (ScheduleSpec(name="cosine"), 4.0, 8, 0.5),
        (ScheduleSpec(name="cosine"), 8.0, 8, 0.0),
        (ScheduleSpec(name="cosine", warmup_epochs=2), 1.0, 10, 0.5),
        (ScheduleSpec(name="cosine", warmup_epochs=2), 2.0, 10, 1.0),
        (ScheduleSpec(name="cosine", warmup_epochs=2), 6.0, 10, 0.5),
        (ScheduleSpec(name="step", every=3, factor=0.5), 2.99, 10, 1.0),
        (ScheduleSpec(name="step", every=3, factor=0.5), 3.0, 10, 0.5),
        (ScheduleSpec(name="step", every=3, factor=0.5), 9.5, 10, 0.125),
        (ScheduleSpec(warmup_epochs=4), 0.0, 10, 0.0),
        (ScheduleSpec(warmup_epochs=4), 3.0, 10, 0.75),
        (ScheduleSpec(warmup_epochs=4), 4.0, 10, 1.0),
    ],
)
def test_schedule(schedule: ScheduleSpec, progress: float, epochs: int, expected: float) -> None:
    assert schedule_factor(schedule, progress, epochs) == pytest.approx(expected, abs=1e-12)


def test_learning_rate_of_the_last_step_is_reported() -> None:
    # Three steps an epoch: the last one starts after 2/3, 5/3 and 8/3 epochs.
    _, trajectory = fit(config(epochs=3, schedule=ScheduleSpec(name="cosine"), optimizer={"lr": 0.2}))
    expected = [0.2 * 0.5 * (1 + math.cos(math.pi * step / 9)) for step in (2, 5, 8)]
    assert [m.learning_rate for m in trajectory] == pytest.approx(expected)


def test_learning_rate_is_the_one_used() -> None:
    # A warm-up over one epoch of three steps: 0, 1/3 and 2/3 of the rate; of one step: 0, so nothing moves.
    trial = config(epochs=1, batch_size=TRAIN, schedule=ScheduleSpec(warmup_epochs=1))
    model, trajectory = fit(trial)
    assert trajectory[0].learning_rate == 0
    assert same(weights(model), weights(initial(trial)))
    _, trajectory = fit(config(epochs=1, schedule=ScheduleSpec(warmup_epochs=1), optimizer={"lr": 0.3}))
    assert trajectory[0].learning_rate == pytest.approx(0.2)


# Precision, divergence, dead layers


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.float32), ("float64", torch.float64)]
)
def test_precision(precision: str, dtype: torch.dtype, user_network: Any) -> None:
    body = """
SEEN = set()

class Net(nn.Sequential):
    def forward(self, x):
        y = super().forward(x)
        SEEN.add((self.training, y.dtype))
        return y

def make(input_shape, classes):
    return Net(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, classes))
"""
    methods = [{"method": name, "strength": 0.01} for name in ("perplexity", "l1_activity", "weight_decay", "dropout")]
    model, trajectory = fit(config(*methods, model=user_network(body), precision=precision, epochs=8))
    assert {p.dtype for p in model.parameters()} == {dtype}
    seen = {kind for training, kind in sys.modules[MODULE].SEEN if training}
    assert seen == {torch.bfloat16 if precision == "bfloat16" else dtype}
    assert trajectory[-1].train_loss < 0.5 * trajectory[0].train_loss
    assert trajectory[-1].penalty > 0


def test_precisions_agree_as_far_as_they_reach() -> None:
    losses = {p: fit(config(precision=p))[1][-1].train_loss for p in ("float32", "bfloat16", "float64")}
    assert losses["float32"] == pytest.approx(losses["float64"], rel=1e-3)
    assert losses["bfloat16"] == pytest.approx(losses["float64"], rel=0.1)  # eight bits in each product
    assert len(set(losses.values())) == 3


def test_batch_norm_trains_and_is_evaluated_with_running_statistics() -> None:
    trial = config(
        model=ModelSpec(arguments={"channels": [4], "dense": 8, "batch_norm": True}), data={"train_size": 97}, epochs=6
    )
    model, trajectory = fit(trial)
    assert model.features.conv1[1].num_batches_tracked.item() == 6 * 3  # evaluation leaves them alone
    assert trajectory[-1].train_loss < trajectory[0].train_loss


@pytest.mark.parametrize("names", [("perplexity",), tuple(statistics.names())], ids=["one measure", "all measures"])
def test_divergence_names_the_epoch(names: tuple[str, ...]) -> None:
    network = ModelSpec(name="mlp", arguments={"hidden": [12, 12]})
    trial = config(optimizer={"lr": 1e6}, epochs=20, model=network, measures={"names": names})
    seen: list[Measurement] = []
    with pytest.raises(DivergedError) as error:
        fit(trial, seen.append)
    text = f"became (nan|inf) in epoch {len(seen)}; a lower learning rate or strength may help"
    assert error.match(f"^(train loss|penalty) {text}$")


DEAD = """
def make(input_shape, classes, both=False):
    first, second = nn.Linear(64, 8), nn.Linear(8, 6)
    nn.init.constant_(second.bias, -1e3)
    if both:
        nn.init.constant_(first.bias, -1e3)
    parts = nn.Flatten(), nn.Sequential(first, nn.ReLU()), nn.Sequential(second, nn.ReLU()), nn.Linear(6, classes)
    return nn.Sequential(*parts)
"""


@pytest.mark.parametrize("both", [False, True])
def test_dead_layer_is_reported_as_dead_and_undefined(both: bool, user_network: Any) -> None:
    trial = config({"method": "perplexity", "strength": 1.0}, model=user_network(DEAD, both=both))
    _, trajectory = fit(trial)
    for split in ("train", "validation"):
        dead = trajectory[-1].statistics[split]["2"]
        assert dead == {
            "perplexity": None,
            "perplexity_image": None,
            "perplexity_silent": 1.0,
            "zero_fraction": 1.0,
            "dead_fraction": 1.0,
        }
        assert (trajectory[-1].statistics[split]["1"]["perplexity"] is None) == both
    found = headlines(trajectory, "perplexity")
    expected = set() if both else {f"{when}/sparsity/{what}" for when in ("best", "final") for what in ("1", "mean")}
    assert {name for name in found if "/sparsity/" in name} == expected
    assert all(math.isfinite(value) for value in found.values())
    assert trajectory[-1].penalty == 0 if both else trajectory[-1].penalty > 0


# Label noise


def test_label_noise_lowers_what_a_linear_network_can_learn(user_network: Any) -> None:
    model = user_network(LINEAR)
    accuracy = {}
    for noise in (0.0, 0.5):
        # 600 examples in 64 dimensions: a linear network cannot learn random labels by heart.
        trial = config(model=model, epochs=30, data={"train_size": 600, "label_noise": noise}, measures={"every": 100})
        accuracy[noise] = fit(trial)[1][-1].train_accuracy
    assert accuracy[0.0] > 0.97
    assert accuracy[0.5] < 0.85
    clean, noisy = (data.load(config(data={"label_noise": noise}).data) for noise in (0.0, 0.5))
    assert torch.equal(clean.search.labels, noisy.search.labels)
    assert (clean.train.labels != noisy.train.labels).sum() == TRAIN // 2


# Penalties do what they are for


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_perplexity_penalty_lowers_sparsity(seed: int) -> None:
    def sparsity(*methods: Method) -> float | None:
        trajectory = fit(config(*methods, seed=seed, epochs=10, measures={"every": 100}))[1]
        return trajectory[-1].value("sparsity/mean", "perplexity")

    none, penalized = sparsity(), sparsity({"method": "perplexity", "strength": 2.0})
    targeted = sparsity({"method": "perplexity", "strength": 30.0, "targets": {"features.*": 0.4}})
    encouraged = sparsity({"method": "perplexity", "strength": -2.0})
    assert none is not None
    assert penalized is not None
    assert targeted is not None
    assert encouraged is not None
    assert penalized < none - 0.05
    assert targeted == pytest.approx(0.4, abs=0.1)
    assert encouraged > none + 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_l1_activity_lowers_activations(seed: int) -> None:
    def mean_activation(*methods: Method) -> float:
        trial = config(*methods, seed=seed, epochs=10)
        return activations(fit(trial)[0], data.load(trial.data).train.inputs)["features.dense1"].mean().item()

    assert mean_activation({"method": "l1_activity", "strength": 0.01}) < 0.9 * mean_activation()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weight_decay_lowers_the_norm_of_weights(seed: int) -> None:
    def norm(*methods: Method) -> float:
        parameters = fit(config(*methods, seed=seed, epochs=10))[0].parameters()
        return sum(p.square().sum().item() for p in parameters if p.dim() >= 2)

    assert norm({"method": "weight_decay", "strength": 0.05}) < 0.9 * norm()


def test_penalties_and_measures_see_activations_before_dropout() -> None:
    activity, dropout = {"method": "l1_activity", "strength": 0.01}, {"method": "dropout", "strength": 0.6}
    # A single step, too small to change anything: what is seen is that of the initial weights.
    step = {"epochs": 1, "batch_size": TRAIN, "optimizer": {"lr": 1e-12}}
    plain, dropped = (fit(config(*methods, **step))[1][0] for methods in ((activity,), (dropout, activity)))
    assert plain.penalty > 0
    assert dropped.penalty == pytest.approx(plain.penalty, rel=1e-6)
    assert dropped.statistics == plain.statistics


IN_PLACE = """
def make(input_shape, classes, inplace):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Dropout(0.5, inplace=inplace), nn.Linear(16, classes)
    )
"""


def test_penalties_see_activations_before_the_network_changes_them_in_place(user_network: Any) -> None:
    model = user_network(IN_PLACE)
    method = {"method": "l1_activity", "strength": 1.0}
    found = [
        comparable(fit(config(method, model=model.model_copy(update={"arguments": {"inplace": inplace}})))[1])
        for inplace in (True, False)
    ]
    assert found[0] == found[1]


FUNCTIONAL = """
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.flatten, self.hidden, self.out = nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, classes)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(self.flatten(x))))


class Modules(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.out(self.relu(self.hidden(self.flatten(x))))


def make(input_shape, classes, functional):
    return Net(classes) if functional else Modules(classes)
"""


def test_functional_activations_are_trained_and_measured_as_modules_are(user_network: Any) -> None:
    model = user_network(FUNCTIONAL)
    method = {"method": "perplexity", "strength": 1.0, "targets": {"relu": 0.5}}
    found = [
        comparable(fit(config(method, model=model.model_copy(update={"arguments": {"functional": functional}})))[1])
        for functional in (True, False)
    ]
    assert found[0] == found[1]
    assert list(found[0][-1]["statistics"]["validation"]) == ["relu"]


def test_methods_add_up() -> None:
    decay, activity = {"method": "weight_decay", "strength": 0.1}, {"method": "l1_activity", "strength": 0.01}
    step = {"epochs": 1, "batch_size": TRAIN}
    penalties = [fit(config(*methods, **step))[1][0].penalty for methods in ((decay,), (activity,), (decay, activity))]
    assert min(penalties) > 0
    assert penalties[2] == pytest.approx(penalties[0] + penalties[1], rel=1e-5)
    assert fit(config(**step))[1][0].penalty == 0


# Numbers to predict

SPATIAL = {"perplexity_inter", "perplexity_intra"}
"""Outputs of convolutions only."""


def regression(*methods: Method, model: ModelSpec | None = None, **training: Any) -> TrialConfig:
    """A small trial on noisy numbers."""
    friedman = {"name": "friedman1", "arguments": {"examples": 400}}
    return config(*methods, data=friedman, model=model, **{"optimizer": {"lr": 0.02}, **training})


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("probe_size", [16, 256])
def test_loss_and_accuracy_of_numbers_are_those_of_the_returned_model(probe_size: int, precision: str) -> None:
    trial = regression({"method": "dropout", "strength": 0.2}, precision=precision, epochs=10)
    trial = trial.model_copy(update={"measures": MeasuresSpec(probe_size=probe_size)})
    model, trajectory = fit(trial)
    dataset, last = data.load(trial.data), trajectory[-1]
    found = {"train": (last.train_loss, last.train_accuracy)}
    found["search"] = (last.validation_loss, last.validation_accuracy)
    for name, (loss, accuracy) in found.items():
        split = getattr(dataset, name)
        with torch.no_grad():
            predicted = model(split.inputs.to(next(model.parameters()).dtype))[:, 0]
        assert loss == pytest.approx(mean_squared_error(split.labels, predicted), rel=1e-5)
        assert accuracy == pytest.approx(r2_score(split.labels, predicted), rel=1e-5)
    assert trajectory[0].train_accuracy < last.train_accuracy < 1
    assert last.scalars()["gap/accuracy"] == last.train_accuracy - last.validation_accuracy


def test_one_step_on_numbers_by_hand() -> None:
    """One batch of all examples: w - lr * gradient of the mean squared error."""
    trial = regression(epochs=1, batch_size=TRAIN, precision="float64")
    reference, train = initial(trial), data.load(trial.data).train
    predicted = reference(train.inputs.double())
    assert predicted.shape == (TRAIN, 1)
    ((predicted[:, 0] - train.labels.double()) ** 2).mean().backward()
    for expected, found in zip(reference.parameters(), fit(trial)[0].parameters(), strict=True):
        assert expected.grad is not None
        torch.testing.assert_close(found, expected - 0.02 * expected.grad, rtol=1e-9, atol=1e-9)


def test_precisions_agree_on_numbers() -> None:
    losses = {p: fit(regression(precision=p))[1][-1].train_loss for p in ("float32", "bfloat16", "float64")}
    assert losses["float32"] == pytest.approx(losses["float64"], rel=1e-3)
    assert losses["bfloat16"] == pytest.approx(losses["float64"], rel=0.1)  # eight bits in each product
    assert len(set(losses.values())) == 3


def test_every_measure_that_needs_no_classes_is_taken_of_numbers() -> None:
    names = [name for name in statistics.names() if "regression" in statistics.get(name).tasks]
    assert {*statistics.names()} - {*names} == {"gradient_disparity", "margins", "sharpness", "spectral_product"}
    trial = regression(epochs=1).model_copy(update={"measures": MeasuresSpec(names=tuple(names))})
    splits = fit(trial)[1][-1].statistics
    taken = {output for layers in splits.values() for values in layers.values() for output in values}
    assert taken == {output for name in names for output in statistics.get(name).outputs} - SPATIAL


def test_images_can_have_numbers(user_network: Any) -> None:
    user_network(
        "def load():\n    x = torch.linspace(-3, 3, 7680).sin().view(120, 1, 8, 8)\n    return x, x.mean((1, 2, 3))"
    )
    sizes = SplitSpec(search=20, selection=20, test=20)
    own = {"name": f"{MODULE}:load", "train_size": 60, "splits": sizes}
    model = ModelSpec(arguments={"channels": [4], "dense": 8, "activation": "tanh"})
    _, trajectory = fit(config(data=own, model=model, epochs=30, optimizer={"lr": 0.01}))
    assert trajectory[-1].train_accuracy > 0.5
    assert list(trajectory[-1].statistics["train"]) == ["features.conv1", "classifier.dense1"]


def test_predictions_out_of_all_bounds_are_still_numbers(user_network: Any) -> None:
    """The loss on unseen examples may overflow while that of training does not: what is recorded stays finite."""
    body = """
class Net(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y if self.training or len(x) == 96 else y / 0

def make(input_shape, outputs):
    return Net(*input_shape, outputs)
"""
    _, trajectory = fit(regression(model=user_network(body)))
    last = trajectory[-1]
    assert (last.validation_loss, last.validation_accuracy) == (sys.float_info.max, -sys.float_info.max)
    assert all(math.isfinite(value) for value in last.scalars().values())
