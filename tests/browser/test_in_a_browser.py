"""Pages in a real browser: nothing fails, everything is drawn, nothing sticks out, and the table can be worked."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsestudy.analysis.report import write_relation_page, write_report
from tests.analysis.findings.made import findings_of, fitted, with_arms
from tests.analysis.odd_studies import ODD
from tests.analysis.test_report import make_spec, make_study
from tests.chromium import Browser, browser

pytestmark = pytest.mark.browser
WIDTHS = (1280, 390)
WIDEST = """
(() => {
  const place = (e) => e.closest(".scroll") || e.closest(".plot");
  const out = [...document.querySelectorAll("main *")].filter((e) => !place(e.parentElement || e)
    && e.getBoundingClientRect().right > innerWidth + 1);
  return [document.documentElement.scrollWidth - document.documentElement.clientWidth,
    out.slice(0, 3).map((e) => e.outerHTML.slice(0, 80))];
})()
"""
DRAWN = """
[...document.querySelectorAll(".plot")].map((plot) => [plot.id, plot.querySelectorAll(".main-svg").length,
  plot.querySelectorAll(".trace, .hm, .points path, .lines path, .barlayer path, .imagelayer image").length])
"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def problems(tab: Browser, path: Path) -> list[str]:
    """What is wrong with a page at either width."""
    found = []
    for width in WIDTHS:
        tab.open(path, width=width)
        found += [f"{width}: {error}" for error in tab.errors]
        beyond, elements = tab.run(WIDEST)
        found += [f"{width}: {beyond} pixels too wide"] * (beyond > 0)
        found += [f"{width}: sticks out: {element}" for element in elements]
        found += [
            f"{width}: {name} is not drawn" for name, sheets, traces in tab.run(DRAWN) if not sheets or not traces
        ]
    return found


def test_page_of_a_study_with_findings(tab: Browser, tmp_path: Path) -> None:
    spec, path = make_spec(), tmp_path / "report.html"
    write_report(path, spec, *make_study(spec), commands={"Run": "sparsestudy run s.yaml"}, findings=findings_of())
    assert problems(tab, path) == []
    assert len(tab.run(DRAWN)) > 30


def test_page_of_many_arms_in_the_dark(tab: Browser, tmp_path: Path) -> None:
    path = tmp_path / "relation.html"
    write_relation_page(path, with_arms(findings_of(), 39), title="x" * 120, commands={"Again": "y" * 300})
    assert problems(tab, path) == []
    tab.open(path, width=1280, dark=True)
    assert tab.run("getComputedStyle(document.querySelector('.xtick text')).fill") == "rgb(228, 231, 234)"


@pytest.mark.parametrize("name", ["0 trials", "2 trials", "constant gap"])
def test_pages_of_odd_studies(tab: Browser, tmp_path: Path, name: str) -> None:
    path = tmp_path / "relation.html"
    write_relation_page(path, fitted(ODD[name]), title=name, commands={})
    assert problems(tab, path) == []


def test_table_of_trials_sorts_sifts_and_leafs(tab: Browser, tmp_path: Path) -> None:
    path, found = tmp_path / "relation.html", findings_of()
    runs = {("simulated", 0): "http://h/1", ("simulated", 1): "javascript:alert(1)"}
    write_relation_page(path, found, title="t", commands={}, runs=runs)
    tab.open(path, width=1280)
    rows = "[...document.querySelectorAll('#table-trials tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    said = "document.querySelector('#table-trials .tools span').textContent"
    assert [row[0] for row in tab.run(rows)] == [str(n) for n in range(25)]
    assert tab.run(said) == "1 to 25 of 60"
    links = "[...document.querySelectorAll('#table-trials a')].map((a) => a.href)"
    assert tab.run(links) == ["http://h/1"]
    head = "document.querySelectorAll('#table-trials th button')[{}].click()"
    titles = tab.run("[...document.querySelectorAll('#table-trials th')].map((h) => h.textContent)")
    gap = titles.index("Gap in loss")
    expected = sorted(float(v) for v in found.evidence.gap())
    tab.run(head.format(gap))
    assert float(tab.run(rows)[0][gap]) == pytest.approx(expected[0], rel=1e-3)
    tab.run(head.format(gap))
    assert float(tab.run(rows)[0][gap]) == pytest.approx(expected[-1], rel=1e-3)
    tab.run("document.querySelectorAll('#table-trials .tools button')[1].click()")
    assert tab.run(said) == "26 to 50 of 60"
    sift = "(() => {{ const box = document.querySelector('#table-trials input'); box.value = '{}';"
    sift += " box.dispatchEvent(new Event('input')); }})()"
    tab.run(sift.format("BOTH"))
    assert {row[titles.index("Arm")] for row in tab.run(rows)} == {"both"}
    assert tab.run(said) == "1 to 25 of 30"
    tab.run(sift.format("nowhere"))
    assert tab.run(said) == "no such row"
    assert tab.errors == []


def test_what_is_wrong_with_a_page_is_noticed(tab: Browser, tmp_path: Path) -> None:
    path = tmp_path / "relation.html"
    write_relation_page(path, fitted(ODD["2 trials"]), title="t", commands={})
    page = path.read_text(encoding="utf-8")
    wrong = {
        "too wide": page.replace("<main>", '<main><div style="width:2000px">wide</div>'),
        "Content Security Policy": page.replace("</main>", "</main><script>alert(1)</script>"),
        "is not drawn": page.replace('"mode":"markers"', '"visible":false,"mode":"markers"').replace(
            '"mode":"lines"', '"visible":false,"mode":"lines"'
        ),
    }
    for what, changed in wrong.items():
        assert changed != page
        path.write_text(changed, encoding="utf-8")
        assert any(what in problem for problem in problems(tab, path)), what
