"""Plans: layers of real networks, patterns and ranges expanded, configurations, and the size of what is recorded."""

from __future__ import annotations

import pytest
from sklearn.datasets import load_diabetes

from sparsestudy.planning import Plan, resolve, single_point
from sparsestudy.space import ARM, Integer, Uniform
from sparsestudy.specfile import dump_yaml, parse
from sparsestudy.tracking.mlflow_names import epoch_metrics
from sparsestudy.training.loop import Trainer
from sparsestudy.trial import headlines

IMAGES = "data: {name: synthetic, arguments: {shape: [3, 32, 32], examples: 100, classes: 4}}"
CONVNET = ["features.conv1", "features.conv2", "features.conv3", "classifier.dense1"]


def planned(*sections: str, arms: str = "{name: none}", search: str = "trials: 2") -> Plan:
    lines = ["name: t", *sections, f"regularizers: [{arms}]", f"search: {{{search}}}"]
    return resolve(parse("\n".join(lines)))


# Layers and weights; shapes follow from the networks' definitions


def test_convnet_on_digits() -> None:
    plan = planned()
    shapes = [(16, 8, 8), (32, 4, 4), (32, 2, 2), (64,)]  # 8x8 images, halved after the first two blocks
    assert [(layer.name, layer.shape) for layer in plan.layers] == list(zip(CONVNET, shapes, strict=True))
    convolutions = (1 * 9 + 1) * 16 + (16 * 9 + 1) * 32 + (32 * 9 + 1) * 32
    assert plan.weights == convolutions + (32 * 2 * 2 + 1) * 64 + (64 + 1) * 10
    assert (plan.classes, plan.input_shape) == (10, (1, 8, 8))
    # 1797 digits, three times a fifth, and what is left.
    assert plan.sizes == {"train": 720, "search": 359, "selection": 359, "test": 359}


def test_mlp() -> None:
    plan = planned(IMAGES, "model: {name: mlp, arguments: {hidden: [5, 7]}}")
    assert [(layer.name, layer.shape) for layer in plan.layers] == [
        ("features.dense1", (5,)),
        ("features.dense2", (7,)),
    ]
    assert plan.weights == (3072 + 1) * 5 + (5 + 1) * 7 + (7 + 1) * 4


def test_resnet18_uses_each_rectifier_of_a_block_twice() -> None:
    plan = planned(IMAGES, 'model: {name: "torchvision:resnet18"}')
    blocks = [f"layer{stage}.{block}.relu{use}" for stage in (1, 2, 3, 4) for block in (0, 1) for use in ("", "#2")]
    assert [layer.name for layer in plan.layers] == ["relu", *blocks]
    sides = [32, *[32] * 4, *[16] * 4, *[8] * 4, *[4] * 4]  # the stem is adapted to small images
    assert [layer.shape[1:] for layer in plan.layers] == [(side, side) for side in sides]
    assert [layer.shape[0] for layer in plan.layers] == [64, *[64] * 4, *[128] * 4, *[256] * 4, *[512] * 4]


def test_numbers_to_predict() -> None:
    diabetes = "data: {name: diabetes, splits: {search: 2, selection: 2, test: 2}}"
    plan = planned(diabetes, "model: {name: mlp, arguments: {hidden: [5]}}")
    assert (plan.task, plan.classes, plan.input_shape) == ("regression", 0, (10,))
    assert plan.weights == (10 + 1) * 5 + (5 + 1) * 1
    # All but six of the 442 patients: leaving those out moves either by at most 6 / 436 of the range, 321.
    _, labels = load_diabetes(return_X_y=True)
    assert (plan.label_mean, plan.label_std) == pytest.approx((labels.mean(), labels.std()), abs=4.5)
    config = plan.example("none")
    assert config.task == "regression"
    again = resolve(parse(dump_yaml(single_point(plan.spec, config, "t-best"))))
    assert again.example("none").task == "regression"
    assert (planned().task, planned().example("none").task) == ("classification", "classification")


# Patterns, ranges, strengths


def test_one_parameter_for_every_matching_layer() -> None:
    plan = planned(arms="{name: perplexity, strength: 0.5, targets: {'features.*': {uniform: [0.3, 0.8]}}}")
    domain = Uniform(low=0.3, high=0.8)
    assert [(p.name, p.domain, p.arm) for p in plan.space.parameters] == [
        (f"perplexity/targets/{layer}", domain, "perplexity") for layer in CONVNET[:3]
    ]
    point = {ARM: "perplexity", **{f"perplexity/targets/{layer}": 0.3 + i / 10 for i, layer in enumerate(CONVNET[:3])}}
    config = plan.configure(7, point, 42)
    assert config.methods == (
        {
            "method": "perplexity",
            "strength": 0.5,
            "targets": {"features.conv1": 0.3, "features.conv2": 0.4, "features.conv3": 0.5},
        },
    )
    assert (config.number, config.seed, config.arm, config.parameters) == (7, 42, "perplexity", point)


def test_exact_name_wins_over_a_pattern() -> None:
    plan = planned(arms="{name: perplexity, targets: {'*': 0.25, features.conv2: {choice: [0.5, 0.75]}}}")
    assert [p.name for p in plan.space.parameters] == ["perplexity/targets/features.conv2"]
    targets = plan.configure(0, {ARM: "perplexity", "perplexity/targets/features.conv2": 0.75}, 1).methods[0]["targets"]
    assert targets == {
        "features.conv1": 0.25,
        "features.conv2": 0.75,
        "features.conv3": 0.25,
        "classifier.dense1": 0.25,
    }
    assert list(targets) == CONVNET


def test_auto_is_what_the_method_recommends() -> None:
    plan = planned(
        arms="{name: perplexity, strength: auto, targets: {features.conv1: auto}}, {name: dropout, strength: auto},"
        "{name: weight_decay, strength: auto}, {name: l1_activity, strength: {classifier.*: auto}}"
    )
    assert {p.name: p.domain for p in plan.space.parameters} == {
        "perplexity/strength": Uniform(low=1e-3, high=10.0, log=True),
        "perplexity/targets/features.conv1": Uniform(low=0.2, high=0.8),
        "dropout/strength": Uniform(low=0.05, high=0.7),
        "weight_decay/strength": Uniform(low=1e-5, high=1e-1, log=True),
        "l1_activity/strength/classifier.dense1": Uniform(low=1e-6, high=1e-2, log=True),
    }


def test_a_strength_for_each_layer_and_chosen_layers() -> None:
    plan = planned(
        arms="{name: dropout, strength: {'features.*': 0.1, classifier.dense1: {choice: [0.5]}}},"
        "{name: l1_activity, strength: 0.5, layers: 'features.conv[12]'}",
    )
    dropout = plan.configure(0, {ARM: "dropout", "dropout/strength/classifier.dense1": 0.5}, 1)
    strengths = {"features.conv1": 0.1, "features.conv2": 0.1, "features.conv3": 0.1, "classifier.dense1": 0.5}
    assert dropout.methods == ({"method": "dropout", "strength": strengths},)
    l1 = plan.configure(0, {ARM: "l1_activity"}, 1)
    assert l1.methods == ({"method": "l1_activity", "strength": 0.5, "layers": ["features.conv1", "features.conv2"]},)


def test_combinations_and_shared_parameters() -> None:
    plan = planned(
        "resources: {cpus: 2}",
        arms="{name: both, combine: [{method: dropout, strength: auto}, {method: weight_decay, strength: auto}]},"
        "{name: none}",
        search="trials: 2, parameters: {training.epochs: {int: [5, 9]}, model.arguments.dense: {choice: [8, 16]}}",
    )
    assert [(p.name, p.arm) for p in plan.space.parameters] == [
        ("training.epochs", None),
        ("model.arguments.dense", None),
        ("both/dropout/strength", "both"),
        ("both/weight_decay/strength", "both"),
    ]
    assert plan.space.parameters[0].domain == Integer(low=5, high=9)
    point = {
        ARM: "both",
        "training.epochs": 6,
        "model.arguments.dense": 16,
        "both/dropout/strength": 0.25,
        "both/weight_decay/strength": 0.01,
    }
    config = plan.configure(0, point, 1)
    assert config.methods == (
        {"method": "dropout", "strength": 0.25},
        {"method": "weight_decay", "strength": 0.01},
    )
    assert (config.training.epochs, config.model.arguments, config.threads) == (6, {"dense": 16}, 2)
    assert plan.spec.training.epochs == 50
    assert plan.spec.model.arguments == {}
    example = plan.example("both")
    assert example.parameters == {
        ARM: "both",
        "training.epochs": 5,
        "model.arguments.dense": 8,
        "both/dropout/strength": 0.05,
        "both/weight_decay/strength": 1e-5,
    }


def test_an_arm_may_bear_another_name_than_its_method() -> None:
    plan = planned(arms="{name: light, method: dropout, strength: 0.1}, {name: heavy, method: dropout, strength: 0.5}")
    assert [plan.configure(0, {ARM: arm}, 1).methods for arm in ("light", "heavy")] == [
        ({"method": "dropout", "strength": 0.1},),
        ({"method": "dropout", "strength": 0.5},),
    ]


def test_number_of_trials() -> None:
    arms = "{name: none}, {name: dropout, strength: {choice: [0.1, 0.2, 0.3]}}"
    parameters = "parameters: {training.seed: {int: [0, 4]}}"
    assert planned(arms=arms, search=f"sampler: grid, {parameters}").trials == (1 + 3) * 5
    assert planned(arms=arms, search=f"sampler: grid, trials: 20, {parameters}").trials == 20
    assert planned(arms=arms, search="trials: 7").trials == 7


def test_notes() -> None:
    arms = "{name: none}, {name: dropout, strength: auto}"
    (note,) = planned(arms=arms, search="trials: 2, sampler: cmaes").notes()
    assert note == "cmaes models what all arms share; the arm and its own parameters are drawn independently"
    assert planned(arms="{name: dropout, strength: auto}", search="trials: 2, sampler: gp").notes() == []
    assert planned(arms=arms).notes() == []


# Rows in MLflow


@pytest.mark.parametrize(
    ("epochs", "every", "layers", "rows"),
    [
        # trials * (epochs * (7 scalars + learning rate) + measured epochs * layers
        #           + 2 * (epoch + 7 scalars + mean + layers))
        (5, 1, '["*"]', 3 * (5 * 8 + 5 * 4 + 2 * (9 + 4))),
        (5, 2, '["*"]', 3 * (5 * 8 + 3 * 4 + 2 * (9 + 4))),  # epochs 0, 2, 4
        (6, 2, '["*"]', 3 * (6 * 8 + 4 * 4 + 2 * (9 + 4))),  # epochs 0, 2, 4, 5: the last one always
        (6, 9, '["features.conv[23]"]', 3 * (6 * 8 + 2 * 2 + 2 * (9 + 2))),  # epochs 0 and 5
        (1, 1, "classifier.dense1", 3 * (1 * 8 + 1 * 1 + 2 * (9 + 1))),
    ],
)
def test_rows_by_hand(epochs: int, every: int, layers: str, rows: int) -> None:
    plan = planned(
        f"training: {{epochs: {epochs}}}", f"measures: {{every: {every}, layers: {layers}}}", search="trials: 3"
    )
    assert plan.mlflow_rows() == rows


@pytest.mark.parametrize(
    "names",
    [
        "[perplexity, zero_fraction]",
        "[perplexity, weight_norms, hyperspherical_energy, margins, path_norm, sharpness]",
        "[perplexity, skipped_compute]",
    ],
)
def test_rows_of_a_trial_that_is_trained(names: str) -> None:
    plan = planned(
        "data: {train_size: 40}",
        "training: {epochs: 4}",
        f"measures: {{every: 3, layers: features.*, probe_size: 16, names: {names}}}",
        search="trials: 1",
    )
    assert_rows_of(plan)


def test_rows_of_an_objective_that_has_to_be_measured() -> None:
    plan = planned(
        "data: {train_size: 40}",
        "training: {epochs: 3}",
        search="trials: 1, objectives: [{metric: final/compute/skipped}]",
    )
    assert "skipped_compute" not in plan.spec.measures.names
    assert_rows_of(plan)


def assert_rows_of(plan: Plan) -> None:
    """As many as a trial that is trained here has."""
    config = plan.example("none")
    trajectory = list(Trainer(config))
    rows = sum(len(epoch_metrics(m, config.measures.main)) for m in trajectory)
    assert rows + len(headlines(trajectory, config.measures.main)) == plan.mlflow_rows()
