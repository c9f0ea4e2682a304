import pytest

from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.findings.marks import SOFT, Bar, bar_of, clipped, confidence, forest, telling


def marks(figure):
    """Row label, fill and symbol of each mark, in the order drawn."""
    marker = figure.data[0].marker
    return list(zip(figure.data[0].y, marker.color, marker.symbol, marker.line.color, strict=True))


def drawn_lines(figure):
    return {t.line.color: [v for v in t.x if v is not None] for t in figure.data if t.mode == "lines" and t.x}


def test_what_is_undecided_looks_undecided():
    bars = [
        Bar(row="decided", value=2.0, low=1.0, high=3.0),
        Bar(row="undecided", value=2.0, low=-1.0, high=5.0),
        Bar(row="without", value=2.0),
    ]
    figure, beyond = forest(bars, title="t")
    assert [(y, symbol) for y, _, symbol, _ in marks(figure)] == [(0, "circle"), (1, "circle"), (2, "x-thin")]
    assert [fill for _, fill, _, _ in marks(figure)] == ["#0072b2", "rgba(128,128,128,0.25)", "rgba(128,128,128,0.25)"]
    assert drawn_lines(figure) == {"#0072b2": [1.0, 3.0], SOFT: [-1.0, 5.0]}
    assert beyond == 0


def test_a_bar_is_held_against_its_own_reference():
    bars = [Bar(row="a", value=0.9, low=0.6, high=1.0, reference=0.95), Bar(row="b", value=0.9, low=0.6, high=1.0)]
    fills = [fill for _, fill, _, _ in marks(forest(bars, title="t", reference=0.5)[0])]
    assert fills == ["rgba(128,128,128,0.25)", "#0072b2"]


def test_one_runaway_interval_does_not_flatten_the_others():
    bars = [Bar(row=str(i), value=float(i), low=i - 1.0, high=i + 1.0) for i in range(5)]
    figure, beyond = forest([*bars, Bar(row="wild", value=2.0, low=-1e6, high=1e6)], title="t")
    low, high = figure.layout.xaxis.range
    # All ends of the five, -1 to 5, and 6 % of that on either side.
    assert (low, high) == (pytest.approx(-1 - 0.36), pytest.approx(5 + 0.36))
    assert beyond == 1
    assert clipped(beyond) == " 1 interval runs out of the picture."
    assert clipped(0) == ""


def test_series_stand_side_by_side_in_a_row():
    bars = [Bar(row="r", value=1.0, series="one"), Bar(row="r", value=2.0, series="two")]
    figure, _ = forest(bars, title="t", colours={"one": "#111111", "two": "#222222"})
    named = {t.name: t for t in figure.data if t.mode == "markers"}
    assert named["one"].y[0] < named["two"].y[0]
    assert all(t.showlegend for t in named.values())
    assert list(figure.layout.yaxis.ticktext) == ["r"]


def test_labels_are_inert_and_short():
    figure, _ = forest([Bar(row="<b>%{x}" + "x" * 40 + "\nsmall & low", value=1.0)], title="<i>t")
    text = figure.layout.yaxis.ticktext[0]
    assert text.startswith("&lt;b&gt;% {x}")
    assert text.endswith('…<br><span style="font-size:10px">small &amp; low</span>')
    assert figure.layout.xaxis.title.text == "&lt;i&gt;t"


def test_bars_of_estimates():
    assert bar_of("r", Estimate(estimate=1.0, low=0.0, high=2.0)) == Bar(row="r", value=1.0, low=0.0, high=2.0)
    assert bar_of("r", None).value is None
    assert confidence(Estimate(estimate=3.0, low=1.0, high=5.0)) == 1.5
    assert confidence(Estimate(estimate=3.0, reason="few")) == -1.0


def test_the_most_telling_keep_their_order():
    strength = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0}
    assert telling(list("abcd"), strength.__getitem__, 3) == ["b", "c", "d"]
    assert telling(list("abcd"), strength.__getitem__, 1) == ["b"]
    assert telling([], strength.__getitem__, 3) == []
