import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from sparsestudy.analysis.heatmap import best_epoch, heatmap_png
from sparsestudy.analysis.plots import (
    PALETTE,
    arm_colours,
    arms_figure,
    heatmap_figure,
    loss_figure,
    sparsity_figure,
    thin,
    value_figures,
)
from sparsestudy.study import StudySpec
from sparsestudy.trial import Measurement, Trial, TrialConfig, TrialState

EVIL = "<b onclick=x>$\\frac$ 漢 %{x}"


def make_trajectory(epochs=30, layers=4, *, level=0.5, turn=10, every=1, undefined=()):
    found = []
    for e in range(epochs):
        values = {
            f"block.{i}.relu": {"perplexity": None if (i, e) in undefined else min(1, level + 0.01 * i)}
            for i in range(layers)
        }
        found.append(
            Measurement(
                epoch=e, train_loss=2 * math.exp(-e / 6), train_accuracy=0.9,
                validation_loss=0.5 + 0.01 * (e - turn) ** 2, validation_accuracy=0.8, penalty=0.0, learning_rate=0.1,
                seconds=1.0, timestamp=e,
                statistics={"validation": values} if layers and e % every == 0 else {},
            )
        )  # fmt: skip
    return found


def make_spec(*names, **parameters):
    arms = [{"name": name, "strength": {"log_uniform": [0.001, 1]}} for name in names or ("none", "l1")]
    return StudySpec.model_validate_json(
        json.dumps({"name": "s", "regularizers": arms, "search": {"parameters": parameters}})
    )


def make_trial(number, value, arm="none", state=TrialState.COMPLETE, **parameters):
    spec = make_spec()
    config = TrialConfig(
        study="s", number=number, arm=arm, parameters={"arm": arm, **parameters}, methods=({"method": arm},), seed=1,
        data=spec.data, model=spec.model, training=spec.training, measures=spec.measures,
    )  # fmt: skip
    return Trial(number=number, config=config, state=state, values=(value,))


def picture(*arguments, title="t", **options):
    """Pixels ``[height, width, 4]`` in [0, 1] of the picture of a trajectory."""
    found = heatmap_png(make_trajectory(*arguments, **options), "perplexity", title=title)
    assert found.startswith(b"\x89PNG\r\n\x1a\n")
    return imread(BytesIO(found), format="png")


def share_near(pixels, colour):
    return float((np.abs(pixels[..., :3] - np.array(matplotlib.colors.to_rgb(colour))).max(axis=-1) < 0.03).mean())


@pytest.mark.parametrize(("epochs", "layers"), [(30, 4), (1, 1), (1, 0), (0, 0), (2, 60), (500, 3)], ids=str)
def test_picture_has_its_size(epochs, layers):
    assert picture(epochs, layers).shape == (500, 800, 4)


def test_cells_have_the_colour_of_the_measure():
    low, high = (matplotlib.colormaps["viridis"](v) for v in (0.0, 1.0))
    assert share_near(picture(30, 1, level=0.0), low) > 0.35
    assert share_near(picture(30, 1, level=1.0), high) > 0.35
    assert share_near(picture(30, 1, level=0.0), high) < 0.02


def test_undefined_cells_are_grey():
    whole = picture(30, 4)
    gaps = picture(30, 4, undefined={(2, e) for e in range(30)})
    assert share_near(whole, "#b8b8b8") < 0.01
    assert share_near(gaps, "#b8b8b8") > 0.05


def test_picture_follows_loss_and_title():
    assert not np.array_equal(picture(turn=10), picture(turn=20))
    assert not np.array_equal(picture(title="one"), picture(title="two"))
    np.testing.assert_array_equal(picture(turn=10), picture(turn=10))


def test_line_stands_at_the_lowest_validation_loss():
    pixels = picture(31, 4, turn=15)[60:275]  # The middle of 31 epochs is the middle of the axes.
    columns = np.flatnonzero(
        (np.abs(pixels[..., :3] - [0xD5 / 255, 0x5E / 255, 0]).max(axis=-1) < 0.3).sum(axis=0) > 60
    )
    left, right = (round(share * 800) for share in (0.09, 0.89))
    assert len(columns) in (1, 2)
    assert abs(columns.mean() - (left + right) / 2) < 12


def test_measured_epochs_fill_the_ones_between():
    assert share_near(picture(30, 4, every=5, level=0.97), "#b8b8b8") < 0.06


def test_picture_of_losses_that_are_not_finite():
    odd = [Measurement.from_dict({**m.to_dict(), "validation_loss": math.nan, "train_loss": math.inf})
           for m in make_trajectory(3)]  # fmt: skip
    assert best_epoch(odd) is None
    assert imread(BytesIO(heatmap_png(odd, "perplexity", title="t")), format="png").shape == (500, 800, 4)


def test_odd_text_is_drawn_as_it_stands():
    picture(title=EVIL * 20)
    odd = [Measurement.from_dict({**m.to_dict(), "statistics": {"validation": {EVIL: {EVIL: 0.5}}}})
           for m in make_trajectory(3)]  # fmt: skip
    assert len(heatmap_png(odd, EVIL, title="")) > 1000


def test_picture_is_the_same_from_several_threads_and_leaves_pyplot_alone():
    before = dict(matplotlib.rcParams)
    one = heatmap_png(make_trajectory(), "perplexity", title="t")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: heatmap_png(make_trajectory(), "perplexity", title="t"), range(8)))
    assert set(found) == {one}
    assert dict(matplotlib.rcParams) == before


def test_arms_have_one_colour_each():
    spec = make_spec("none", "l1", "hoyer")
    assert arm_colours(spec) == {"none": PALETTE[0], "l1": PALETTE[1], "hoyer": PALETTE[2]}
    trials = [make_trial(0, 0.5), make_trial(1, 0.75, "l1")]
    boxes = {box.name: box for box in arms_figure(spec, trials).data}
    assert {name: box.marker.color for name, box in boxes.items()} == arm_colours(spec)
    curves = loss_figure(spec, {"l1": trials[1]}, {1: make_trajectory(3)}).data
    assert {curve.line.color for curve in curves} == {PALETTE[1]}
    many = make_spec(*(f"a{i}" for i in range(10)))
    points = {box.name: box.marker for box in arms_figure(many, []).data}
    assert points["a0"].color == points["a8"].color
    assert points["a0"].symbol != points["a8"].symbol


def test_arms_figure_has_a_point_a_complete_trial():
    trials = [
        make_trial(0, 0.5),
        make_trial(1, 0.75),
        make_trial(2, 0.25, state=TrialState.PRUNED),
        make_trial(3, 1, "l1"),
    ]
    boxes = {box.name: box for box in arms_figure(make_spec(), trials).data}
    assert list(boxes["none"].x) == [0.75, 0.5]
    assert list(boxes["none"].text) == ["trial 1: none", "trial 0: none"]
    assert list(boxes["l1"].x) == [1]


def test_loss_figure_has_two_curves_an_arm():
    best = {"none": make_trial(0, 0.5), "l1": make_trial(1, 0.75, "l1")}
    figure = loss_figure(make_spec(), best, {0: make_trajectory(3, turn=1)})
    assert [curve.name for curve in figure.data] == ["none, validation", "none, train"]
    assert list(figure.data[0].y) == [0.51, 0.5, 0.51]
    assert figure.data[1].line.dash == "dot"


def test_sparsity_figure_has_a_curve_a_layer_and_a_line_at_the_minimum():
    figure = sparsity_figure(make_spec(), make_trial(0, 0.5), make_trajectory(30, 2, turn=12, undefined={(1, 3)}))
    layers = [curve for curve in figure.data if curve.yaxis == "y2"]
    assert [curve.name for curve in layers] == ["0.relu", "1.relu"]
    assert layers[1].y[2:5] == (0.51, None, 0.51)
    assert [shape.x0 for shape in figure.layout.shapes] == [12]


def test_heatmap_figure_has_a_row_a_layer_and_gaps_where_undefined():
    figure = heatmap_figure(make_spec(), make_trajectory(5, 2, every=2, undefined={(0, 2)}))
    assert [list(row) for row in figure.data[0].z] == [[0.5, None, 0.5], [0.51, 0.51, 0.51]]
    assert list(figure.data[0].x) == [0, 2, 4]
    assert list(figure.layout.yaxis.ticktext) == ["0.relu", "1.relu"]


def test_value_figures_are_logarithmic_where_the_search_was():
    spec = make_spec(
        "none", "l1", **{"training.batch_size": {"int": [16, 64]}, "model.arguments.norm": {"choice": ["a", "b"]}}
    )
    trials = [
        make_trial(0, 0.5, "l1", **{"l1/strength": 0.01, "training.batch_size": 16, "model.arguments.norm": "a"}),
        make_trial(1, 0.75, "l1", **{"l1/strength": 0.02, "training.batch_size": 32, "model.arguments.norm": "b"}),
        make_trial(2, 0.25, **{"training.batch_size": 64, "model.arguments.norm": "b", "auto/strength": 1e-4}),
        make_trial(3, 0.25, **{"training.batch_size": 64, "model.arguments.norm": "b", "auto/strength": 1.0}),
        make_trial(4, 0.25, state=TrialState.FAIL, **{"none/strength": 0.1}),
    ]
    figures = value_figures(spec, trials)
    kinds = {name: figure.layout.xaxis.type for name, figure in figures.items()}
    assert kinds == {
        "training.batch_size": "linear", "model.arguments.norm": "category", "l1/strength": "log",
        "auto/strength": "log",
    }  # fmt: skip
    points = {trace.name: trace for trace in figures["training.batch_size"].data}
    assert list(points["l1"].x) == [16, 32]
    assert list(points["l1"].y) == [0.5, 0.75]
    assert points["none"].marker.color == PALETTE[0]


def test_labels_are_escaped():
    spec = make_spec(EVIL.replace("/", "|"), "none")
    trial = make_trial(0, 0.5, EVIL)
    odd = [Measurement.from_dict({**m.to_dict(), "statistics": {"validation": {EVIL: {"perplexity": 0.5}}}})
           for m in make_trajectory(3)]  # fmt: skip
    figures = [
        arms_figure(spec, [trial]),
        loss_figure(spec, {EVIL: trial}, {0: odd}),
        sparsity_figure(spec, trial, odd),
        heatmap_figure(spec, odd),
        *value_figures(spec, [make_trial(n, 0.5, EVIL, **{EVIL: EVIL + str(n)}) for n in range(2)]).values(),
    ]
    assert len(figures) == 5
    for figure in figures:
        text = json.dumps(figure.to_plotly_json(), default=str)
        assert "&lt;b onclick" in text
        assert "<b onclick" not in text


def test_thin_keeps_the_ends_and_the_best():
    trajectory = make_trajectory(1000, 0, turn=300)
    epochs = [m.epoch for m in thin(trajectory, 10)]
    assert epochs[0] == 0
    assert epochs[-1] == 999
    assert 300 in epochs
    assert len(epochs) <= 11
    assert thin(trajectory[:10], 10) == trajectory[:10]
    assert thin([]) == []


def on_numbers(trial):
    return replace(trial, config=trial.config.model_copy(update={"task": "regression"}))


@pytest.mark.parametrize(
    ("task", "loss", "score"),
    [("classification", "loss (nats)", "accuracy"), ("regression", "loss (mean squared error)", "R²")],
)
def test_axes_say_what_is_predicted(task, loss, score):
    spec = make_spec()
    trials = [make_trial(n, 0.5, **{"none/strength": 0.1 * (n + 1)}) for n in range(2)]
    trials = [on_numbers(trial) for trial in trials] if task == "regression" else trials
    curves = loss_figure(spec, {"none": trials[0]}, {0: make_trajectory(3)})
    layers = sparsity_figure(spec, trials[0], make_trajectory(3))
    assert [figure.layout.yaxis.title.text for figure in (curves, layers)] == [loss, loss]
    assert arms_figure(spec, trials).layout.xaxis.title.text == f"best/validation/{score}"
    (figure,) = value_figures(spec, trials).values()
    assert figure.layout.yaxis.title.text == f"validation/{score}"


def test_picture_says_what_the_loss_is():
    names = []

    def keep(self, text, **options):
        names.append(text)
        return set_ylabel(self, text, **options)

    set_ylabel = Axes.set_ylabel
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "set_ylabel", keep)
        for task in ("classification", "regression"):
            heatmap_png(make_trajectory(3), "perplexity", title="t", task=task)
    assert [name for name in names if "loss" in name] == ["loss (nats)", "loss (mean squared error)"]


def test_a_loss_beyond_all_numbers_costs_no_picture():
    """Such as a network has whose validation examples overflow: the record has the largest number there is."""
    beyond = [replace(m, validation_loss=sys.float_info.max) for m in make_trajectory()]
    assert len(heatmap_png(beyond, "perplexity", title="t")) > 1000
