"""Style and scripts of a page. Scripts use nothing but the page's own data."""

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--paper:#fff;--tint:#f3f5f7;--line:#d5dae0;--mark:#0072b2}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--soft:#a0a9b3;--paper:#15181c;--tint:#1f242a;--line:#39414a;
--mark:#56b4e9}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px 20px 64px}
h1{margin:0 0 4px;font-size:1.8rem;overflow-wrap:anywhere}
h2{margin:40px 0 8px;font-size:1.25rem}
h3{margin:28px 0 8px;font-size:1.05rem}
p{margin:0 0 10px;max-width:80ch;overflow-wrap:anywhere}
.question{color:var(--soft);font-size:1.1rem}
.answer{background:var(--tint);border-left:4px solid var(--mark);padding:14px 18px 6px;margin:16px 0}
.answer .first{font-size:1.15rem;font-weight:600}
.answer .caution{border-top:1px solid var(--line);padding-top:10px}
.counts{display:flex;flex-wrap:wrap;gap:8px 24px;list-style:none;padding:0;margin:12px 0;color:var(--soft)}
.counts b{color:var(--ink)}
.scroll{overflow-x:auto;margin:8px 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:5px 14px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}
.verdicts{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));margin:12px 0}
.verdict{border:2px solid var(--line);border-radius:6px;padding:12px 14px;min-width:0}
.verdict.undecided{border-style:dashed}
.verdict h3{margin:6px 0;font-size:1rem}
.verdict p{margin:0 0 6px;font-size:.9rem}
.status{display:inline-block;font-weight:700;padding:1px 10px 2px;border-radius:4px;color:#fff;background:#5b6570}
.supported .status{background:#00704f}
.refuted .status{background:#b04a00}
.undecided .status{background:none;color:var(--soft);border:1px dashed var(--soft)}
.supported{border-color:#009e73}
.refuted{border-color:#d55e00}
.verdict svg{display:block;width:100%;height:34px;margin:6px 0 2px}
.how{color:var(--soft);font-size:.92rem}
.how b{color:var(--ink)}
.cannot{border-left:4px solid var(--line);padding:2px 0 2px 12px;color:var(--soft)}
.broad>*{min-width:var(--least,0)}
.long td:last-child{overflow-wrap:anywhere;min-width:8rem;font-size:.8rem}
.tools{display:flex;flex-wrap:wrap;gap:8px 12px;align-items:center;margin:8px 0;font-size:.9rem;color:var(--soft)}
.tools input{font:inherit;padding:4px 8px;width:15rem;max-width:100%;color:var(--ink);background:var(--paper);
border:1px solid var(--line);border-radius:4px}
button{font:inherit;color:var(--mark);background:none;border:1px solid var(--line);border-radius:4px;padding:3px 10px;
cursor:pointer}
button:disabled{opacity:.45;cursor:default}
th button{border:0;padding:0;font-weight:600;text-align:left}
a{color:var(--mark)}
.arm{white-space:nowrap;border-left:10px solid;padding-left:6px}
td{min-width:3.5rem}
.target{color:var(--soft);white-space:nowrap}
.message.target{white-space:normal}
.message{overflow-wrap:anywhere;display:block;min-width:16rem}
figure{margin:8px 0;min-width:0}
figcaption{font-size:.9rem;color:var(--soft);overflow-wrap:anywhere}
.wide,.small,.tiny{display:grid;gap:12px 24px;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr))}
.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr))}
.tiny{grid-template-columns:repeat(auto-fill,minmax(min(100%,230px),1fr))}
pre{background:var(--tint);padding:10px 12px;overflow-x:auto;font-size:.85rem;margin:4px 0 12px}
dt{font-weight:600}dd{margin:0}
summary{cursor:pointer;color:var(--mark)}
@media(max-width:600px){main{padding:16px 12px 48px}h1{font-size:1.4rem}}
"""

FIGURES = """
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const ink = () => getComputedStyle(document.body).color;
const mouse = matchMedia("(hover: hover)").matches;
const names = Object.keys(figures);
const draw = (from) => {
  if (from === names.length) return;
  const {data, layout} = figures[names[from]];
  layout.font = {...layout.font, color: ink()};
  layout.dragmode = mouse ? "zoom" : false;  // A finger on a figure scrolls the page.
  Plotly.newPlot("plot-" + names[from], data, layout, {responsive: true, displayModeBar: false});
  setTimeout(draw, 0, from + 1);  // One by one, so that the page can be read meanwhile.
};
draw(0);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(plot, {"font.color": ink()});
});
"""

TABLES = """
"use strict";
const tables = JSON.parse(document.getElementById("tables").textContent);
const PAGE = 25;
const make = (tag, text) => Object.assign(document.createElement(tag), {textContent: text});
const fill = (cell, kind, value) => {
  if (value === null) cell.textContent = "\u2013";
  else if (kind === "share") cell.textContent = (100 * value).toFixed(2) + " %";
  else if (kind === "number" && typeof value === "number") cell.textContent = String(Number(value.toPrecision(4)));
  else if (kind === "link" && /^https?:\\/\\//.test(value)) {
    cell.append(Object.assign(make("a", "run"), {href: value, rel: "noreferrer noopener"}));
  } else cell.textContent = value;
};
const compare = (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null);  // What is absent comes last either way.
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
};
const leaf = (name) => {
  const {columns, rows} = tables[name], place = document.getElementById("table-" + name);
  const body = place.querySelector("tbody"), heads = place.querySelectorAll("th");
  let by = -1, way = 1, from = 0, found = rows;
  const tools = document.createElement("div"), box = make("input", ""), said = make("span", "");
  const back = make("button", "back"), on = make("button", "on");
  tools.className = "tools";
  Object.assign(box, {type: "search", placeholder: "show only rows with this text"});
  box.setAttribute("aria-label", "show only rows with this text");
  tools.append(box, back, said, on);
  place.querySelectorAll("p").forEach((note) => note.remove());
  place.prepend(tools);
  const show = () => {
    body.replaceChildren(...found.slice(from, from + PAGE).map((row) => {
      const line = document.createElement("tr");
      row.forEach((value, i) => fill(line.appendChild(document.createElement("td")), columns[i][1], value));
      return line;
    }));
    const last = Math.min(from + PAGE, found.length);
    said.textContent = found.length ? (from + 1) + " to " + last + " of " + found.length : "no such row";
    back.disabled = from === 0;
    on.disabled = last === found.length;
  };
  const sift = () => {
    const wanted = box.value.trim().toLowerCase();
    found = wanted ? rows.filter((row) => row.some((v) => String(v).toLowerCase().includes(wanted))) : [...rows];
    if (by >= 0) {
      const sign = (a, b) => a[by] === null || b[by] === null ? 1 : way;
      found.sort((a, b) => sign(a, b) * compare(a[by], b[by]));
    }
    from = 0;
    show();
  };
  heads.forEach((head, i) => {
    const button = make("button", head.textContent);
    button.addEventListener("click", () => {
      way = by === i ? -way : 1;
      by = i;
      heads.forEach((other, j) => {
        other.setAttribute("aria-sort", j !== i ? "none" : way > 0 ? "ascending" : "descending");
        other.firstChild.textContent = columns[j][0] + (j !== i ? "" : way > 0 ? " \u2191" : " \u2193");
      });
      sift();
    });
    head.replaceChildren(button);
  });
  box.addEventListener("input", sift);
  back.addEventListener("click", () => { from = Math.max(0, from - PAGE); show(); });
  on.addEventListener("click", () => { from += PAGE; show(); });
  show();
};
Object.keys(tables).forEach(leaf);
"""
