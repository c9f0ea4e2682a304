"""The vocabulary: digests that must never change, headlines computed by hand, names and seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sparsestudy.planning import resolve
from sparsestudy.specfile import parse
from sparsestudy.study import StudySpec, derive_seed, digest
from sparsestudy.trial import Measurement, TrialConfig, TrialState, headlines, objective_names, short_names, trial_label

SMALL: dict[str, Any] = {"name": "a", "regularizers": [{"name": "none"}]}
LARGE: dict[str, Any] = {
    "name": "a",
    "data": {"train_size": 300, "label_noise": 0.2, "splits": {"search": 400}},
    "training": {"epochs": 5, "optimizer": {"lr": 0.1}},
    "regularizers": [
        {"name": "dropout", "strength": {"uniform": [0.1, 0.5]}},
        {
            "name": "both",
            "combine": [
                {"method": "perplexity", "targets": {"features.*": "auto"}, "warmup_epochs": 3},
                {"method": "weight_decay", "strength": 0.001},
            ],
        },
    ],
    "search": {"trials": 4, "parameters": {"training.batch_size": {"choice": [32, 64]}}},
    "measures": {"every": 2},
}

# Digests. They tell whether a recorded study may be continued from a file, so a release that changes one cuts every
# user off from their studies. A new field whose default changes nothing must leave all of them as they are; a test
# that fails here says that it does not.


@pytest.mark.parametrize(
    ("spec", "pinned"), [(SMALL, "dae9b2a18f447acc"), (LARGE, "21cd05d1a20d741c")], ids=["small", "large"]
)
def test_digests_are_pinned(spec: dict[str, Any], pinned: str) -> None:
    assert StudySpec.from_dict(spec).digest == pinned


def test_digest_is_the_head_of_sha256_of_canonical_json() -> None:
    text = '{"measures":{"every":2},"regularizers":[{"name":"none","strength":1}]}'
    spec = {**SMALL, "regularizers": [{"name": "none", "strength": 1.0}], "measures": {"every": 2}}
    assert StudySpec.from_dict(spec).digest == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "b"},
        {"question": "Why?"},
        {"resources": {"cpus": 2}},
        {"budget": {"minutes": 5}},
        {"budget": {"retries": 0}},
        {"checkpoints": {"seconds": None, "epochs": 3}},
        {"selection": {"finalists": 5}},
        {"measures": {"snapshots": "all"}},
        {"data": {"name": "digits", "splits": {"test": 0.2}}},  # defaults, written out
        {"regularizers": [{"name": "none", "targets": {}}]},
    ],
)
def test_digest_does_not_see(change: dict[str, Any]) -> None:
    assert StudySpec.from_dict({**SMALL, **change}).digest == StudySpec.from_dict(SMALL).digest


def test_digest_does_not_see_pictures_beside_other_measures() -> None:
    measured = {**SMALL, "measures": {"every": 2}}
    pictured = {**SMALL, "measures": {"every": 2, "snapshots": "none"}}
    assert StudySpec.from_dict(pictured).digest == StudySpec.from_dict(measured).digest


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"seed": 1}},
        {"model": {"name": "mlp"}},
        {"training": {"seed": 1}},
        {"regularizers": [{"name": "dropout"}]},
        {"search": {"sampler": "random"}},
        {"stopping": {"rule": "asha"}},
        {"measures": {"every": 2}},
    ],
)
def test_digest_sees(change: dict[str, Any]) -> None:
    assert StudySpec.from_dict({**SMALL, **change}).digest != StudySpec.from_dict(SMALL).digest


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(item) for key, item in reversed(value.items())}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def test_digest_does_not_see_the_order_of_keys_but_that_of_arms() -> None:
    spec = StudySpec.from_dict(LARGE)
    assert StudySpec.from_dict(reversed_keys(LARGE)).digest == spec.digest
    assert StudySpec.from_dict({**LARGE, "regularizers": LARGE["regularizers"][::-1]}).digest != spec.digest


def test_digest_does_not_see_how_a_number_is_written() -> None:
    whole = "name: t\nregularizers: [{name: perplexity, strength: 1, warmup_epochs: 5}]\n"
    point = "name: t\nregularizers: [{name: perplexity, strength: 1.0, warmup_epochs: 5e0}]\n"
    assert parse(whole).spec.digest == parse(point).spec.digest


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_digest_of_any_data(value: Any) -> None:
    assert digest(value) == digest(reversed_keys(value))
    assert len(digest(value)) == 16
    assert int(digest(value), 16) >= 0
    assert digest([value]) != digest(value)


# Plain data


@pytest.mark.parametrize("spec", [SMALL, LARGE], ids=["small", "large"])
def test_plain_data_is_read_back(spec: dict[str, Any]) -> None:
    read = StudySpec.from_dict(spec)
    assert read.to_dict() == spec
    assert StudySpec.from_dict(read.to_dict()) == read


@pytest.mark.parametrize(
    "change", [{"training": {"epochs": "5"}}, {"training": {"epochs": True}}, {"regularizers": {"name": "none"}}]
)
def test_reading_plain_data_is_strict(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StudySpec.from_dict({**SMALL, **change})


def test_objective_names() -> None:
    assert len(objective_names()) == 18
    assert {"best/validation/accuracy", "final/sparsity/mean", "final/penalty", "best/compute/skipped"} <= set(
        objective_names()
    )


def test_states_that_are_ends() -> None:
    assert {state.name for state in TrialState if state.finished} == {"COMPLETE", "PRUNED", "FAIL"}


# Headlines


def measured(epoch: int, loss: float, statistics: dict[str, Any] | None = None) -> Measurement:
    return Measurement(
        epoch=epoch,
        train_loss=0.25,
        train_accuracy=0.75 + epoch / 16,
        validation_loss=loss,
        validation_accuracy=0.5,
        penalty=epoch / 4,
        learning_rate=0.1,
        seconds=1.0,
        timestamp=epoch,
        statistics=statistics or {},
    )


def sparsity(**layers: float | None) -> dict[str, Any]:
    return {
        "train": {layer: {"perplexity": 0.0} for layer in layers},
        "validation": {layer: {"perplexity": value, "zero_fraction": 0.125} for layer, value in layers.items()},
    }


def test_headlines_by_hand() -> None:
    # Lowest loss 0.5 in epochs 1 and 3: the earlier one counts. Measured in epochs 0, 2 and 4 only.
    trajectory = [
        measured(0, 1.0, sparsity(a=0.25, b=0.75)),
        measured(1, 0.5),
        measured(2, 0.75, sparsity(a=0.5, b=None)),
        measured(3, 0.5),
        measured(4, 1.5, sparsity(a=0.125, b=None)),
    ]
    assert headlines(trajectory, "perplexity") == {
        "best/epoch": 1.0,
        "best/train/loss": 0.25,
        "best/train/accuracy": 0.8125,
        "best/validation/loss": 0.5,
        "best/validation/accuracy": 0.5,
        "best/gap/loss": 0.25,
        "best/gap/accuracy": 0.3125,
        "best/penalty": 0.25,
        "best/sparsity/a": 0.25,
        "best/sparsity/b": 0.75,
        "best/sparsity/mean": 0.5,
        "final/epoch": 4.0,
        "final/train/loss": 0.25,
        "final/train/accuracy": 1.0,
        "final/validation/loss": 1.5,
        "final/validation/accuracy": 0.5,
        "final/gap/loss": 1.25,
        "final/gap/accuracy": 0.5,
        "final/penalty": 1.0,
        "final/sparsity/a": 0.125,
        "final/sparsity/mean": 0.125,
    }


def test_headlines_of_another_measure_and_of_none() -> None:
    found = headlines([measured(0, 1.0, sparsity(a=None, b=None))], "zero_fraction")
    assert (found["best/sparsity/a"], found["final/sparsity/mean"]) == (0.125, 0.125)
    dead = headlines([measured(0, 1.0, sparsity(a=None, b=None))], "perplexity")
    assert [key for key in dead if "sparsity" in key] == []
    assert [key for key in headlines([measured(0, 1.0)], "perplexity") if "sparsity" in key] == []


def test_headlines_of_compute_skipped_stand_where_it_was_measured() -> None:
    """The lowest loss is in epoch 1, the last measurement before it in epoch 0."""
    shares = {0: 0.25, 1: None, 2: 0.5}
    of = {e: {"network": {"validation": {"skipped_compute": share}}} if share else {} for e, share in shares.items()}
    trajectory = [measured(e, loss, of[e]) for e, loss in ((0, 1.0), (1, 0.5), (2, 0.75))]
    found = headlines(trajectory, "perplexity")
    assert (found["best/compute/skipped"], found["final/compute/skipped"]) == (0.25, 0.5)
    assert [m.value("compute/skipped", "perplexity") for m in trajectory] == [0.25, None, 0.5]
    assert not [key for key in headlines(trajectory[1:2], "perplexity") if "skipped" in key]


SKIPPED = {"metric": "final/compute/skipped"}


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({}, False),
        ({"search": {"objectives": [{"metric": "best/validation/accuracy"}]}}, False),
        ({"search": {"objectives": [{"metric": "best/validation/accuracy"}, SKIPPED]}}, True),
        ({"selection": {"constraints": [{**SKIPPED, "at_least": 0.2}]}}, True),
        ({"measures": {"names": ["perplexity", "zero_fraction", "dead_fraction", "skipped_compute"]}}, True),
    ],
)
def test_compute_skipped_is_measured_where_somebody_asks(change: dict[str, Any], asked: bool) -> None:
    spec = StudySpec.from_dict({"name": "s", "regularizers": [{"name": "none"}], **change})
    usual = ("perplexity", "zero_fraction", "dead_fraction")
    assert spec.measured.names == ((*usual, "skipped_compute") if asked else usual)
    assert spec.measured.model_copy(update={"names": ()}) == spec.measures.model_copy(update={"names": ()})


def test_measurements_are_read_back() -> None:
    given_ = measured(3, 0.5, sparsity(a=None, b=0.5))
    assert Measurement.from_dict(json.loads(json.dumps(given_.to_dict()))) == given_
    assert dataclasses.asdict(given_) == given_.to_dict()


# Names and seeds


@pytest.mark.parametrize(
    ("layers", "short"),
    [
        ([], []),
        (["relu"], ["relu"]),
        (["features.conv1", "classifier.dense1"], ["conv1", "dense1"]),
        (["a.b.relu", "a.c.relu", "relu"], ["b.relu", "c.relu", "relu"]),
        (["layer1.0.relu", "layer1.0.relu#2", "layer2.0.relu"], ["layer1.0.relu", "layer1.0.relu#2", "layer2.0.relu"]),
    ],
)
def test_short_names(layers: list[str], short: list[str]) -> None:
    assert short_names(layers) == dict(zip(layers, short, strict=True))


LAYERS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join), unique=True, max_size=6)


@given(LAYERS)
def test_short_names_tell_layers_apart(layers: list[str]) -> None:
    short = short_names(layers)
    assert list(short) == layers
    assert len(set(short.values())) == len(layers)
    assert all(f".{layer}".endswith(f".{name}") for layer, name in short.items())


@pytest.mark.parametrize(
    ("arm", "parameters", "label"),
    [
        ("{name: none}", "", "none"),
        ("{name: dropout, strength: 0.123456}", "", "dropout·λ0.123"),
        ("{name: weight_decay, strength: 1e-4}", "", "weight_decay·λ0.0001"),
        ("{name: dropout, strength: {features.conv1: 0.1, classifier.*: 0.25}}", "", "dropout·λ0.1/0.25"),
        (
            "{name: perplexity, strength: 0.12, targets: {features.conv2: 0.352, features.conv3: 0.5}}",
            "",
            "perplexity·λ0.12·conv2 τ0.35·conv3 τ0.5",
        ),
        (
            "{name: both, combine: [{method: dropout, strength: 0.5}, {method: l1_activity, strength: 1e-3}]}",
            "training.optimizer.lr: {choice: [0.05]}, model.arguments.activation: {choice: [gelu]}",
            "both·dropout λ0.5·l1_activity λ0.001·lr 0.05·activation gelu",
        ),
    ],
)
def test_labels_of_trials(arm: str, parameters: str, label: str) -> None:
    text = f"name: t\nregularizers: [{arm}]\nsearch: {{sampler: grid, parameters: {{{parameters}}}}}\n"
    plan = resolve(parse(text))
    assert trial_label(plan.configure(0, plan.space.grid()[0], 1)) == label


def test_configurations_are_read_back() -> None:
    plan = resolve(parse("name: t\nregularizers: [{name: dropout, strength: auto}]\nsearch: {trials: 1}\n"))
    config = plan.example("dropout")
    assert TrialConfig.from_dict(json.loads(config.model_dump_json())) == config


def test_seeds_are_pinned() -> None:
    # The first 32 bits of sha256 of the parts as JSON, halved. A seed that changes is a study that is not repeatable.
    assert (
        derive_seed(0, "trial", 3) == int(hashlib.sha256(b'["0", "trial", "3"]').hexdigest()[:8], 16) // 2 == 427634158
    )
    assert derive_seed() == 665446096


@given(st.lists(st.integers() | st.text(), max_size=4), st.lists(st.integers() | st.text(), max_size=4))
def test_seeds(parts: list[Any], others: list[Any]) -> None:
    assert 0 <= derive_seed(*parts) < 2**31
    same = [str(part) for part in parts] == [str(part) for part in others]
    assert (derive_seed(*parts) == derive_seed(*others)) is same
