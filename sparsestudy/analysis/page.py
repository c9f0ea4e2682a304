"""The sheet a page is written on: figures, tables, style, and the policy that lets nothing else run.

Everything a person wrote (names, questions, messages of errors) is escaped; the page's policy lets only its own
scripts run, by their hashes, and nothing be fetched. Figures and long tables are data; Plotly, which draws the figures,
stands in the file once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeAlias

from plotly.offline import get_plotlyjs

from sparsestudy.analysis.assets import FIGURES, STYLE, TABLES
from sparsestudy.analysis.summary import ABSENT

Cell: TypeAlias = str | float | int | None
STATIC_ROWS = 25
"""Rows of a long table that stand in the page itself, for readers without scripts; the script shows all."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a long table.

    Attributes:
        title: Its head.
        kind: How cells are shown: ``text`` as they are, ``number`` with four digits, ``share`` in per cent, ``link``
            as a link where they are an address of a server.
    """

    title: str
    kind: Literal["text", "number", "share", "link"] = "text"


class Sheet:
    """Collects what a page draws while its text is written."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.tables: dict[str, Any] = {}

    def figure(self, name: str, figure: Any, caption: str = "") -> str:
        """Put a Plotly figure on the page; the HTML of its place, as high as its layout says."""
        self.figures[name] = json.loads(figure.to_json())
        height = self.figures[name]["layout"]["height"]
        text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return f'<figure>{text}<div class="plot" id="plot-{name}" style="height:{height}px"></div></figure>'

    def long_table(self, name: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
        """A table of any length that can be sorted, filtered and leafed through.

        Args:
            name: Unique on the page.
            columns: Its columns.
            rows: Cells by column; None is shown as absent.
        """
        self.tables[name] = {"columns": [[c.title, c.kind] for c in columns], "rows": [[*row] for row in rows]}
        first = [[_cell(c.kind, v) for c, v in zip(columns, row, strict=True)] for row in rows[:STATIC_ROWS]]
        more = f"<p>The first {STATIC_ROWS} of {len(rows)} rows; the rest takes scripts.</p>" * (len(rows) > len(first))
        return f'<div class="long" id="table-{name}">{table([escape(c.title) for c in columns], first)}{more}</div>'

    def write(self, path: Path, title: str, body: str) -> None:
        """Write the page; an existing file is replaced at once, folders are made.

        Raises:
            OSError: The file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.part")
        # What a worker printed may hold halves of characters, which no file can.
        draft.write_text(self.html(title, body), encoding="utf-8", errors="replace")
        draft.replace(path)

    def html(self, title: str, body: str) -> str:
        """The whole page."""
        scripts = [get_plotlyjs(), FIGURES] * bool(self.figures) + [TABLES] * bool(self.tables)
        hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
        policy = f"default-src 'none'; script-src {hashes or chr(39) + 'none' + chr(39)}; "
        policy += "style-src 'unsafe-inline'; img-src data: blob:; form-action 'none'; base-uri 'none'"
        return "\n".join(
            [
                '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>",
                _data("figures", self.figures),
                _data("tables", self.tables),
                *(f"<script>{script}</script>" for script in scripts),
                "</body>\n</html>\n",
            ]
        )


def _data(name: str, content: Mapping[str, Any]) -> str:
    if not content:
        return ""
    # A closing tag inside the data would end it early; JSON may spell any character by its number.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _cell(kind: str, value: Cell) -> str:
    """A cell of a long table as HTML, as the script writes it too."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ABSENT
    if kind == "share":
        return f"{100 * float(value):.2f} %"
    if kind == "link" and is_address(str(value)):
        return f'<a href="{escape(str(value))}" rel="noreferrer noopener">run</a>'
    return f"{value:.4g}" if kind == "number" and not isinstance(value, str) else escape(str(value))


def is_address(text: str) -> bool:
    """Whether a text is the address of a page on a server, which is the only kind of link a page has."""
    return text.startswith(("http://", "https://"))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A short table. Cells are HTML already; the wrapper scrolls sideways on a narrow screen."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
