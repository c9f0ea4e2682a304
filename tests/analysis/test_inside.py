"""The three views of a network: numbers, words and pixels worked out by hand from a snapshot made by hand."""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from sparsestudy.analysis.heatmap import GREY
from sparsestudy.analysis.inside.figures import correlation_figure, histogram_figure, maps_figure
from sparsestudy.analysis.inside.pictures import correlation_png, histogram_png, maps_png, pictures
from sparsestudy.analysis.inside.section import inside_section
from sparsestudy.analysis.inside.tiles import GAP, answers, columns, heads, mosaic
from sparsestudy.analysis.inside.views import (
    alike,
    correlation_caption,
    drawn,
    histogram_caption,
    layer_note,
    maps_caption,
    matrix_note,
    mean_correlation,
    means,
    shares,
)
from sparsestudy.snapshot import FilterMaps
from tests.analysis.test_plots import make_trial, share_near
from tests.test_snapshot import make_layer, make_maps, make_snapshot

EVIL = "<b onclick=x>$\\frac$ 漢 %{x}"
NAN = float("nan")
BLACK, WHITE, CLEAR = [0, 0, 0, 255], [255, 255, 255, 255], [0, 0, 0, 0]


def silent(name="features.conv1", filters=4):
    """A layer without any response."""
    nothing = np.full((min(filters, 64), min(filters, 64)), NAN)
    return make_layer(
        name,
        filters,
        sparsity={split: np.full(4, NAN) for split in ("train", "validation")},
        dead=dict.fromkeys(("train", "validation"), filters),
        correlation=nothing,
        sparsest=make_maps((), 2),
        densest=make_maps((), 2),
    )


def resnet18():
    """Seventeen layers with as many filters as that network has."""
    blocks = [f"layer{s}.{b}.relu{use}" for s in (1, 2, 3, 4) for b in (0, 1) for use in ("", "#2")]
    widths = [64, *(64 * 2 ** (s - 1) for s in (1, 2, 3, 4) for _ in range(4))]
    return make_snapshot(*(make_layer(n, w) for n, w in zip(["relu", *blocks], widths, strict=True)))


def pixels(png):
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return imread(BytesIO(png), format="png")


# Numbers and words


def test_shares_and_means_by_hand():
    layer = make_layer()
    found = shares(layer)
    assert np.flatnonzero(found["train"]).tolist() == [50]
    assert found["train"][50] == 1
    # Four validation images: one in the bar from .25, two in the one from .75, one silent.
    assert {int(i): float(found["validation"][i]) for i in np.flatnonzero(found["validation"])} == {25: 0.25, 75: 0.5}
    assert means(layer) == {"train": 0.5, "validation": pytest.approx(1.75 / 3)}
    assert all(math.isnan(v) for v in means(silent()).values())
    assert means(make_layer(sparsity={"validation": np.array([0.5])}, dead={"validation": 0}))["validation"] == 0.5


def test_correlations_by_hand():
    matrix = np.array([[1, 0.5, NAN], [0.5, 1, NAN], [NAN, NAN, NAN]])
    assert mean_correlation(matrix) == 0.5
    assert mean_correlation(np.array([[1, 0.1, -0.3], [0.1, 1, 0.8], [-0.3, 0.8, 1]])) == pytest.approx(0.4)
    assert math.isnan(mean_correlation(np.ones((1, 1))))
    order, found = alike(matrix)
    assert (sorted(order[:2].tolist()), order[2]) == ([0, 1], 2)
    np.testing.assert_array_equal(found, matrix[np.ix_(order, order)])


def test_filters_that_behave_alike_stand_together():
    # Three pairs, of which one opposes itself, shuffled.
    pairs = np.array([0, 1, 2, 0, 1, 2])
    matrix = np.where(pairs[:, None] == pairs[None, :], 0.9, 0.0)
    matrix[1, 4] = matrix[4, 1] = -0.9
    np.fill_diagonal(matrix, 1)
    order, _ = alike(matrix)
    assert sorted(order.tolist()) == list(range(6))
    assert [pairs[order[i]] == pairs[order[i + 1]] for i in (0, 2, 4)] == [True] * 3


def test_words_say_measure_split_and_number_of_images():
    found = make_snapshot()
    assert histogram_caption(found).startswith(
        "Perplexity sparsity of all units of a layer on each of 4 training and 4 "
    )
    assert "4 validation examples" in correlation_caption(found)
    assert "(intra) on 4 validation examples" in maps_caption(found)
    assert layer_note(found.layers[0]) == "1 of 4 dead, 1 silent example"
    assert matrix_note(make_layer(filters=100)) == ("mean |r| 0.00, 64 of 100 filters", "1 constant")
    assert matrix_note(silent(filters=1)) == ("mean |r| –, 1 filter", "1 constant")
    many = make_snapshot(*(make_layer(f"block.{i}.relu") for i in range(40)))
    names = [layer.name for layer in drawn(many)]
    assert (len(names), names[0], names[-1]) == (24, "block.0.relu", "block.39.relu")
    for caption in (histogram_caption, correlation_caption, maps_caption):
        assert "; 24 of 40 layers" in caption(many)
        assert "layers" not in caption(found).replace("layers of", "")


# Maps, pixel by pixel


def test_mosaic_pixel_by_pixel():
    """Two pixels a map pixel: an image, filters 0 and 1 as the sparsest, filter 2 as the densest, free places."""
    found = make_snapshot()
    side = 4
    canvas = mosaic(found, found.layers[0], side)
    starts = columns(found, side)
    assert starts == [0, 12, 18, 24, 30, 42, 48, 54, 60]  # gaps of 8 between groups, of 2 within
    assert canvas.shape == (2 * side + GAP, 64, 4)
    assert canvas[:4, :4].reshape(-1, 4).tolist() == [BLACK] * 16
    assert canvas[6:, :4].reshape(-1, 4).tolist() == [WHITE] * 16
    top = [int(255 * c) for c in matplotlib.colormaps["magma"](1.0)]
    for left in (starts[1], starts[2], starts[5]):
        tile = canvas[:4, left : left + 4]
        assert tile[2:, 2:].reshape(-1, 4).tolist() == [top] * 4
        assert (tile[:2, :, :3] <= 4).all()
        assert (tile[..., 3] == 255).all()
    for left in (starts[3], starts[8]):
        assert canvas[:, left : left + 4].reshape(-1, 4).tolist() == [CLEAR] * 40
    assert canvas[4, :].tolist() == [CLEAR] * 64


def test_each_filter_has_its_own_scale_from_zero():
    maps = np.array([[[[0, 1], [2, 4]], [[-2, 0], [2, NAN]], [[1, 1], [1, 2]]]], dtype=np.float32)
    group = FilterMaps(filters=np.arange(3), sparsity=np.full(3, 0.5), maps=maps)
    found = replace(make_snapshot(), layers=(), examples=np.array([0]), images=np.empty((0, 1, 1, 1), np.uint8),
                    labels=np.empty(0, int), predictions=np.empty(0, int))  # fmt: skip
    canvas = mosaic(found, make_layer(sparsest=group, densest=make_maps((), 1), examples=1), 2)
    magma = matplotlib.colormaps["magma"]
    scaled = [[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.5], [1.0, None]], [[0.5, 0.5], [0.5, 1.0]]
    for left, tile in zip(columns(found, 2), scaled, strict=False):
        for row, column in np.ndindex(2, 2):
            share = tile[row][column]
            colour = matplotlib.colors.to_rgba(GREY) if share is None else magma(share)
            assert canvas[row, left + column].tolist() == pytest.approx([255 * c for c in colour], abs=1)


def test_maps_that_are_not_square_keep_their_form():
    wide = FilterMaps(filters=np.array([0]), sparsity=np.array([0.5]), maps=np.ones((2, 1, 1, 8), dtype=np.float32))
    found = make_snapshot()
    canvas = mosaic(found, make_layer(sparsest=wide), 16)
    tile = canvas[:16, columns(found, 16)[1] :][:, :16]
    assert (tile[..., 3] == 255).all(axis=1).tolist() == [True] * 4 + [False] * 12  # a line becomes a bar of a quarter


def test_heads_and_answers():
    found = make_snapshot()
    assert heads(found, found.layers[0]) == [
        ("input", ""), ("#0", "0.75"), ("#1", "0.74"), ("", ""), ("", ""),
        ("#2", "0.73"), ("", ""), ("", ""), ("", ""),
    ]  # fmt: skip
    assert answers(found) == [("class 7", ""), ("class 1", "taken for 2")]
    numbers = replace(found, labels=np.empty(0, int), predictions=np.empty(0, int))
    assert answers(numbers) == [("example 0", ""), ("example 3", "")]


# Figures


def test_histogram_figure_has_a_row_a_layer():
    found = make_snapshot(make_layer("a.conv1"), make_layer("a.conv2"))
    training, at_training, validation, at_validation = histogram_figure(found).data
    assert list(training.x) == [0.505, 0.505]
    assert list(training.base) == [0, -1]
    assert list(training.y) == [0.88, 0.88]  # the row's highest bar
    assert list(validation.x) == [0.255, 0.755] * 2
    assert list(validation.y) == pytest.approx([0.22, 0.44] * 2)
    assert [list(d) for d in validation.customdata[:2]] == [["conv1", "25.0%"], ["conv1", "50.0%"]]
    assert (list(at_training.x), list(at_validation.x)) == ([0.5, 0.5], [0.5833, 0.5833])
    labels = histogram_figure(found).layout.yaxis.ticktext
    assert list(labels) == [f"{name}<br>1 of 4 dead, 1 silent example" for name in ("conv1", "conv2")]


def test_correlation_figure_names_its_filters():
    layer = make_layer(correlation=np.array([[1, 0, 0.9, NAN], [0, 1, 0, NAN], [0.9, 0, 1, NAN], [NAN] * 4]))
    (cells,) = correlation_figure(layer).data
    at = {name: i for i, name in enumerate(cells.x)}
    assert set(at) == {f"filter {i}" for i in range(4)}
    assert list(cells.x) == list(cells.y)
    assert cells.z[at["filter 0"]][at["filter 2"]] == 0.9
    assert cells.z[at["filter 0"]][at["filter 1"]] == 0
    assert abs(at["filter 0"] - at["filter 2"]) == 1
    assert at["filter 3"] == 3
    assert set(cells.z[3]) == {None}


def test_maps_figure_holds_the_mosaic():
    found = make_snapshot()
    figure = maps_figure(found, found.layers[0])
    assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", figure.data[0].source)
    assert list(figure.layout.xaxis.ticktext) == ["input<br>", "#0<br>0.75", "#1<br>0.74", "#2<br>0.73"]
    assert list(figure.layout.yaxis.ticktext) == ["class 7", "class 1<br>taken for 2"]
    assert [note.text for note in figure.layout.annotations] == ["most sparse", "least sparse"]


SNAPSHOTS = {
    "one": make_snapshot(),
    "resnet18": resnet18(),
    "silent": make_snapshot(silent(), silent("dense", 2)),
    "mixed": make_snapshot(silent(), make_layer("b")),
    "filter": make_snapshot(make_layer(filters=1)),
    "colour": make_snapshot(channels=3),
    "nothing": replace(make_snapshot(), layers=()),
    "odd": make_snapshot(make_layer(EVIL), make_layer(EVIL * 9)),
}


@pytest.mark.parametrize("case", SNAPSHOTS)
def test_views_of_any_network(case):
    found = SNAPSHOTS[case]
    drawings = pictures(found, title=EVIL * 20)
    assert set(drawings) == {"inside-sparsity.png", "inside-correlation.png", "inside-maps.png"}
    for png in drawings.values():
        height, width, _ = pixels(png).shape
        assert width == 800
        assert 90 < height < 2500
    layers = found.layers[:2]
    figures = [histogram_figure(found), *map(correlation_figure, layers), *(maps_figure(found, v) for v in layers)]
    for figure in figures:
        text = json.dumps(json.loads(figure.to_json()), allow_nan=False)
        assert "<b onclick" not in text
        assert "%{x} 漢" not in text.replace("% {", "")


def test_pictures_show_what_they_should():
    blue = np.array([115, 177, 213]) / 255  # #0072b2 at an opacity of .55 on white
    histogram = pixels(histogram_png(make_snapshot(), title=""))[100:, 136:577, :3]  # the axes' 440 pixels
    seen = np.flatnonzero((np.abs(histogram - blue).max(axis=-1) < 0.01).any(axis=0))
    left, right = seen[seen < 220], seen[seen >= 220]
    assert (len(left), len(right)) == pytest.approx((4.4, 4.4), abs=1.5)
    assert (left.mean(), right.mean()) == pytest.approx((0.255 * 440, 0.755 * 440), abs=1.5)
    whole = make_layer(correlation=np.ones((4, 4)))
    red, grey = matplotlib.colormaps["RdBu_r"](1.0), GREY
    of_ones, of_none = (pixels(correlation_png(make_snapshot(v), title="")) for v in (whole, silent()))
    square = 160 * 160 / (800 * of_ones.shape[0])
    assert share_near(of_ones, red) == pytest.approx(square, rel=0.05)
    assert share_near(of_none, grey) == pytest.approx(square, rel=0.05)
    found = make_snapshot()
    maps = pixels(maps_png(found, title=""))
    tiles = mosaic(found, found.layers[0], 64)
    placed = maps[64 + 44 :, 10 + 72 :][: tiles.shape[0], : tiles.shape[1]]  # below title and heads, beside the classes
    np.testing.assert_allclose(placed[tiles[..., 3] > 0], tiles[tiles[..., 3] > 0] / 255, atol=0.01)
    assert share_near(maps, matplotlib.colormaps["magma"](1.0)) == pytest.approx(
        6 * 32 * 32 / maps[..., 0].size, rel=0.05
    )


def test_pictures_are_the_same_from_several_threads_and_leave_pyplot_alone():
    before = dict(matplotlib.rcParams)
    one = pictures(make_snapshot(), title="t")
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: pictures(make_snapshot(), title="t"), range(2)))
    assert found == [one] * 2
    assert dict(matplotlib.rcParams) == before


# The section of the page


def drawing(figures):
    def draw(name, figure, caption):
        figures[name] = caption
        return f"[{name}]"

    return draw


def test_section_has_every_view_of_every_layer():
    figures = {}
    text = inside_section(make_trial(7, 0.5), make_snapshot(make_layer("a.conv1"), silent("a.conv2")), drawing(figures))
    assert set(figures) == {"images", "correlation0", "correlation1", "maps0"}
    assert figures["correlation1"] == "conv2: mean |r| –, 4 filters, 4 constant"
    assert "Trial 7, none, after its last epoch." in text
    assert all(f"[{name}]" in text for name in figures)


@pytest.mark.parametrize("found", [None, SNAPSHOTS["nothing"]], ids=["absent", "without layers"])
def test_section_says_that_there_is_nothing_to_show(found):
    figures = {}
    text = inside_section(make_trial(7, 0.5, EVIL), found, drawing(figures))
    assert figures == {}
    assert "there is no snapshot of it that can be read, so its inside cannot be shown" in text
    assert "<b onclick" not in text
