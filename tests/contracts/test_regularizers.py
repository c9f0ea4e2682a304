"""What every regulariser promises; a new file in sparsestudy/regularizers is picked up by itself."""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections import UserDict
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from sparsestudy import regularizers
from sparsestudy.errors import NotFoundError, SpecError
from sparsestudy.regularizers import LayerRegularizer, Regularizer, Step
from sparsestudy.regularizers._step import Memory
from sparsestudy.specfile import load_yaml
from sparsestudy.study import DataSpec, MeasuresSpec, ModelSpec, OptimizerSpec, SplitSpec, TrainingSpec
from sparsestudy.training.loop import fit
from sparsestudy.training.probe import find_layers
from sparsestudy.trial import TrialConfig

from .inputs import AWKWARD, noise

NAMES = regularizers.names()
FIELDS = {name: regularizers.kind(name).model_fields for name in NAMES}
WITH_STRENGTH = [name for name in NAMES if "strength" in FIELDS[name]]
WITH_LAYERS = [name for name in NAMES if issubclass(regularizers.kind(name), LayerRegularizer)]
WITH_TARGETS = [name for name in NAMES if "targets" in FIELDS[name]]
WITH_PENALTY = [name for name in NAMES if regularizers.kind(name).reads != "nothing"]
HELD = {"isda": "moments of the features", "spectral_penalty": "singular vectors"}
"""What is kept in memory and in the gradient constant by definition, though it depends on the present step."""
every_method = pytest.mark.parametrize("name", NAMES)

MODELS = {"mlp": {"hidden": [12, 8]}, "convnet": {"channels": [4, 4], "dense": 8}}


def recommended(name: str) -> list[dict[str, Any]]:
    """Parameters at every corner of the ranges the method recommends; a target for all layers."""
    domains = regularizers.kind(name).search
    corners = [domain.corners() for domain in domains.values()]
    points = [dict(zip(domains, point, strict=True)) for point in itertools.product(*corners)]
    return [{key: {"*": v} if key == "targets" else v for key, v in point.items()} for point in points]


def variants(name: str) -> list[Regularizer]:
    """The method with its defaults, at the corners of its recommended ranges, and with all it can be told by layer."""
    per_layer: dict[str, Any] = {}
    if name in WITH_LAYERS:
        low, high = regularizers.kind(name).strength_range
        per_layer = {"strength": {"a*": max(low, 0.0), "*": min(high, 1.0) / 2}, "layers": ["*"]}
    if name in WITH_TARGETS:
        per_layer["targets"] = {"a*": 0.1, "*": 0.3}
    return [regularizers.get(name, **p) for p in ({}, *recommended(name), per_layer)]


def total(
    method: Regularizer, activations: Tensor, weights: Tensor, epoch: float = 3.5, memory: Memory | None = None
) -> Tensor:
    """The penalty as a tensor; two layers share the activations."""
    penalty = method.penalty(awkward_step(activations, weights, epoch, memory))
    return torch.zeros((), dtype=activations.dtype) if penalty is None else penalty


class Tanh(nn.Module):
    """``tanh`` of a linear function of the inputs' mean: a network whose outputs are as awkward as its inputs."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.outputs = weights.flatten()[:3]

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs.flatten(1).mean(1, keepdim=True) * self.outputs)


def awkward_step(activations: Tensor, weights: Tensor, epoch: float = 3.5, memory: Memory | None = None) -> Step:
    """A step all of whose parts are made of the same activations and weights; the last two weights fit together."""
    features = activations.flatten(1)
    hidden = weights[:, 0] * (noise(3, len(weights), seed=1) - 0.5).to(weights)
    classifier = weights[0, 0] * (noise(3, features.shape[1], seed=2) - 0.5).to(weights)
    return Step(
        activations={"a1": activations, "b1": 2 * activations},
        weights={"a1.weight": weights, "b1.weight": hidden, "c1.weight": classifier},
        logits=features @ classifier.T,
        labels=torch.zeros(len(activations), dtype=torch.int64),
        features=features,
        inputs=activations,
        network=Tanh(weights),
        rate=0.1,
        epoch=epoch,
        epochs=7,
        memory={} if memory is None else memory,
    )


# Penalties


@every_method
def test_adds_to_the_loss_if_it_reads_anything(name: str) -> None:
    method = regularizers.get(name)
    step = awkward_step(noise(4, 6), noise(4, 6))
    assert (method.penalty(step) is not None) == (name in WITH_PENALTY)
    assert method.acts_on("a1") or method.reads != "activations"


@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activations", AWKWARD.values(), ids=AWKWARD)
def test_penalty_and_gradient_are_finite(name: str, activations: Tensor, dtype: torch.dtype) -> None:
    for method in variants(name):
        inputs = activations.detach().to(dtype).clone().requires_grad_()
        weights = inputs.detach().flatten(1).clone().requires_grad_()
        penalty = total(method, inputs, weights)
        assert penalty.shape == ()
        assert penalty.isfinite()
        if penalty.requires_grad:
            gradients = torch.autograd.grad(penalty, (inputs, weights), allow_unused=True)
            assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", WITH_PENALTY)
@pytest.mark.parametrize("shape", [(3, 2, 2, 2), (3, 4)])
def test_gradcheck(name: str, shape: tuple[int, ...]) -> None:
    activations = (noise(*shape) + 0.1).requires_grad_()
    weights = (noise(4, 3) - 0.5).requires_grad_()
    # Penalties on inputs take passes of their own in every evaluation; their strength only scales or bounds.
    found = variants(name)[:1] if regularizers.kind(name).reads == "inputs" else variants(name)
    for method in found:
        penalty = functools.partial(total, method)
        if name in HELD:
            penalty = functools.partial(total, method, memory=(memory := Constant()))
            penalty(activations, weights)
            assert memory
        assert torch.autograd.gradcheck(penalty, (activations, weights))


class Constant(UserDict[str, Tensor]):
    """A memory that keeps the first values it is given."""

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.data.setdefault(name, value)


# Strengths


@pytest.mark.parametrize("name", WITH_STRENGTH)
def test_zero_strength_is_no_penalty(name: str) -> None:
    penalty = total(regularizers.get(name, strength=0), noise(4, 3, 2, 2), noise(4, 3))
    assert penalty.item() == 0


@functools.cache
def trained(model: str, name: str, strength: float | None) -> dict[str, Tensor]:
    """Weights after five epochs on digits."""
    config = TrialConfig(
        study="contract",
        number=0,
        arm=name,
        parameters={},
        methods=({"method": name} | ({} if strength is None else {"strength": strength}),),
        data=DataSpec(train_size=100, splits=SplitSpec(search=50, selection=20, test=20)),
        model=ModelSpec(name=model, arguments=MODELS[model]),
        training=TrainingSpec(epochs=5, batch_size=32, optimizer=OptimizerSpec(lr=0.05)),
        measures=MeasuresSpec(every=5),
        seed=3,
    )
    network, _ = fit(config)
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("name", WITH_STRENGTH)
@pytest.mark.parametrize("model", MODELS)
def test_zero_strength_leaves_training_bit_identical(name: str, model: str) -> None:
    control, zero = trained(model, "none", None), trained(model, name, 0.0)
    assert all(torch.equal(zero[key], control[key]) for key in control)


@pytest.mark.parametrize("name", WITH_STRENGTH)
@pytest.mark.parametrize("model", MODELS)
def test_largest_recommended_strength_changes_training(name: str, model: str) -> None:
    # Without this, the test above would pass for a method that never acts.
    strength = regularizers.kind(name).search["strength"].corners()[-1]
    assert isinstance(strength, float)
    control, found = trained(model, "none", None), trained(model, name, strength)
    assert not all(torch.equal(found[key], control[key]) for key in control)
    assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("name", [name for name in NAMES if "regression" in regularizers.kind(name).tasks])
def test_trains_on_numbers_if_it_says_so(name: str) -> None:
    config = TrialConfig(
        study="contract",
        number=0,
        arm=name,
        parameters={},
        methods=({"method": name},),
        data=DataSpec(name="diabetes", train_size=60, splits=SplitSpec(search=50, selection=20, test=20)),
        model=ModelSpec(name="mlp", arguments=MODELS["mlp"]),
        training=TrainingSpec(epochs=5, batch_size=20, optimizer=OptimizerSpec(lr=1e-3)),
        measures=MeasuresSpec(every=5),
        seed=3,
    )
    _, trajectory = fit(config)
    assert all(math.isfinite(value) for m in trajectory for value in m.scalars().values())
    assert trajectory[-1].train_loss < trajectory[0].train_loss


def test_what_takes_a_cross_entropy_needs_classes() -> None:
    assert [name for name in NAMES if regularizers.kind(name).tasks != ("classification", "regression")] == [
        "adversarial_training",
        "isda",
        "label_smoothing",
        "loss_gradient",
    ]


@pytest.mark.parametrize("name", sorted({*NAMES} - {*WITH_STRENGTH, "none"}))
@pytest.mark.parametrize("model", MODELS)
def test_without_a_strength_it_changes_training_or_ends_it(name: str, model: str) -> None:
    control, found = trained(model, "none", None), trained(model, name, None)
    assert all(value.isfinite().all() for value in found.values())
    same = found.keys() == control.keys() and all(torch.equal(found[key], control[key]) for key in control)
    rising = [float(epoch) for epoch in range(100)]
    assert same == regularizers.get(name).stops(rising)
    assert not regularizers.get(name).stops(rising[::-1])


@pytest.mark.parametrize("name", WITH_STRENGTH)
def test_vmap_over_strengths_equals_a_loop(name: str) -> None:
    activations, weights = noise(4, 3, 2, 2), noise(4, 3)
    strengths = torch.tensor([0.0, 0.2, 0.7], dtype=torch.float64)

    def penalty(strength: Any) -> Tensor:
        return total(regularizers.get(name, strength=strength), activations, weights)

    found = torch.func.vmap(penalty, randomness="same")(strengths)
    expected = torch.stack([penalty(strength) for strength in strengths.tolist()])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (expected[1:] != 0).all() == (name in WITH_PENALTY)


@pytest.mark.parametrize("name", sorted({*WITH_LAYERS} & {*WITH_PENALTY}))
def test_vmap_over_strengths_per_layer_equals_a_loop(name: str) -> None:
    activations, weights = noise(4, 3, 2, 2), noise(4, 3)
    strengths = torch.tensor([[0.0, 0.5], [0.2, 0.1], [0.7, 0.0]], dtype=torch.float64)

    def penalty(pair: Any) -> Tensor:
        return total(regularizers.get(name, strength={"a*": pair[0], "b*": pair[1]}), activations, weights)

    found = torch.func.vmap(penalty, randomness="same")(strengths)
    expected = torch.stack([penalty(pair) for pair in strengths.tolist()])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", WITH_TARGETS)
@pytest.mark.parametrize("sign", [1, -1])
def test_vmap_over_strengths_and_targets_equals_a_loop(name: str, sign: int) -> None:
    activations, weights = noise(4, 3, 2, 2), noise(4, 3)
    strengths = sign * torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64)
    targets = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)

    def penalty(strength: Any, target: Any) -> Tensor:
        return total(regularizers.get(name, strength=strength, targets={"*": target}), activations, weights)

    found = torch.func.vmap(penalty, randomness="same")(strengths, targets)
    expected = torch.stack([penalty(*pair) for pair in zip(strengths.tolist(), targets.tolist(), strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert expected.max() > 0


# Examples that several processes share


def of_examples(step: Step, rows: slice) -> Step:
    """What a process sees that has only these examples."""
    assert step.logits is not None
    assert step.labels is not None
    assert step.features is not None
    assert step.inputs is not None
    return replace(
        step,
        activations={name: activations[rows] for name, activations in step.activations.items()},
        logits=step.logits[rows],
        labels=step.labels[rows],
        features=step.features[rows],
        inputs=step.inputs[rows],
        memory={},
    )


def in_parts(method: Regularizer) -> tuple[Tensor, Tensor, Tensor]:
    """The penalty of five examples, of the first two and of the others."""
    activations = torch.cat([noise(2, 3, 2, 2), noise(3, 3, 2, 2, seed=1) * 2])
    step = awkward_step(activations, noise(4, 3))
    found = [method.penalty(of_examples(step, rows)) for rows in (slice(0, 5), slice(0, 2), slice(2, 5))]
    whole, first, second = (torch.zeros((), dtype=torch.float64) if p is None else p for p in found)
    return whole, first, second


@every_method
def test_depends_on_examples_as_it_says(name: str) -> None:
    kind = regularizers.kind(name).over_ranks
    found = [in_parts(method) for method in variants(name)]
    adds_up = [torch.allclose((2 * first + 3 * second) / 5, whole, rtol=1e-9) for whole, first, second in found]
    ignores = [torch.allclose(first, second, rtol=1e-9) for _, first, second in found]
    if name in WITH_PENALTY:
        # What is a mean over examples need not be gathered, and what depends on none need not be computed twice.
        assert {"sum": all(adds_up) and not any(ignores), "same": all(ignores), "gather": not all(adds_up)}[kind]
    else:
        assert kind in ("same", "draws") or name == "batch_norm"


@every_method
def test_draws_for_examples_if_it_says_so(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2))
    inputs = noise(5, 3).float()
    regularizers.get(name).install(model, find_layers(model, inputs))
    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        outputs.append(model.train()(inputs))
    assert (regularizers.kind(name).over_ranks == "draws") == (not torch.equal(*outputs))


# Parameters


@every_method
def test_survives_a_round_trip(name: str) -> None:
    for method in variants(name):
        assert regularizers.get(name, **method.model_dump()) == method
        text = yaml.safe_dump({"method": name, **method.model_dump(mode="json")})
        assert regularizers.get(**load_yaml(text)) == method


@every_method
def test_is_frozen(name: str) -> None:
    method = regularizers.get(name)
    for field in [*FIELDS[name], "new"]:
        with pytest.raises(ValueError, match=r"frozen|no field"):
            setattr(method, field, 0.3)


@every_method
def test_recommended_ranges_are_accepted(name: str) -> None:
    kind = regularizers.kind(name)
    assert set(kind.search) <= set(FIELDS[name])
    assert all(isinstance(regularizers.get(name, **point), kind) for point in recommended(name))
    assert ("strength" in kind.search) == (name in WITH_STRENGTH)


def _out_of_range(name: str) -> list[object]:
    low, high = regularizers.kind(name).strength_range
    beyond = [low - 0.1] * math.isfinite(low) + [high] * math.isfinite(high)
    return [math.nan, math.inf, -math.inf, "much", True, None, [0.1], *beyond]


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in WITH_STRENGTH for wrong in _out_of_range(name)])
def test_wrong_strength_and_unknown_parameter_are_reported_together(name: str, wrong: object) -> None:
    with pytest.raises(SpecError) as error:
        regularizers.get(name, strength=wrong, no_such=1, strenght=2)
    problems = {problem.path: problem.message for problem in error.value.problems}
    assert set(problems) == {"strength", "no_such", "strenght"}
    assert problems["strenght"].endswith("; did you mean 'strength'?")
    assert problems["no_such"].startswith(f"{name} has no parameter 'no_such'; its parameters: ")
    spelled = f"{wrong:g}" if isinstance(wrong, float) else repr(wrong)
    assert f"got {spelled}" in problems["strength"]


@pytest.mark.parametrize("name", [n for n in WITH_LAYERS if math.isfinite(regularizers.kind(n).strength_range[0])])
def test_every_wrong_strength_of_a_layer_is_reported(name: str) -> None:
    low = regularizers.kind(name).strength_range[0]
    with pytest.raises(SpecError, match=rf"strength lies in \[{low:g}, .*\), got {low - 1:g}, {low - 2:g}"):
        regularizers.get(name, strength={"a": low - 1, "b": low, "c": low - 2})


@pytest.mark.parametrize("name", sorted({*NAMES} - {*WITH_TARGETS}))
def test_targets_are_refused_where_there_are_none(name: str) -> None:
    with pytest.raises(SpecError, match=f"targets: {name} has no sparsity targets; its parameters: "):
        regularizers.get(name, targets={"*": 0.5})


def test_unknown_method_lists_what_there_is() -> None:
    with pytest.raises(NotFoundError, match=r"no regularizer named 'drop_out'; there are: .*did you mean 'dropout'\?"):
        regularizers.get("drop_out")


# Networks and method cards


@every_method
def test_handles_leave_only_what_belongs_to_the_trained_network(name: str) -> None:
    """In evaluation mode the network computes the same with and without them, and hooks stay only for that."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    inputs = noise(5, 3).float()
    layers = find_layers(model, inputs)
    untouched = model(inputs)
    handles = regularizers.get(name).install(model, layers)
    installed = model(inputs)
    for handle in handles:
        handle.remove()
    assert torch.equal(model(inputs), installed)
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert hooked == (not torch.equal(installed, untouched))
    assert find_layers(model, inputs) == layers


@every_method
def test_docstring_names_the_source(name: str) -> None:
    assert "Source: " in (importlib.import_module(f"sparsestudy.regularizers.{name}").__doc__ or "")


def test_perplexity_says_what_is_known_and_what_is_assumed() -> None:
    text = importlib.import_module("sparsestudy.regularizers.perplexity").__doc__ or ""
    assert "VERBATIM: " in text
    assert "ASSUMED: " in text
