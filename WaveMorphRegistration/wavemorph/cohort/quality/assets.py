"""Style and script of the quality page."""

STYLE = """
:root{color-scheme:light dark;--text:#1b1f24;--dim:#5b6470;--line:#d9dee4;--page:#fff;--panel:#f5f7f9;--accent:#0b5cad;
--good:#1a7f37;--check:#8a5a00;--distrust:#b3261e;--failed:#5b2c83}
@media (prefers-color-scheme:dark){:root{--text:#e6e9ed;--dim:#9aa4b0;--line:#333a42;--page:#14171a;--panel:#1d2126;
--accent:#7db8f5;--good:#5fd07d;--check:#e8b339;--distrust:#ff8a80;--failed:#cfa6f5}}
*{box-sizing:border-box}
body{margin:0;padding:0 20px 40px;font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--text);
background:var(--page)}
header{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:baseline;padding:14px 0 10px}
h1{font-size:20px;margin:0;overflow-wrap:anywhere}
.program,figcaption,.files,dl,output,caption{color:var(--dim)}
.program{margin:0}
.summary{display:grid;grid-template-columns:minmax(250px,1fr) minmax(300px,1.3fr) minmax(300px,1.3fr);gap:12px 24px;
align-items:start}
.counts{display:grid;grid-template-columns:1fr 1fr;gap:8px}
button{font:inherit;color:inherit}
.count{display:flex;gap:8px;align-items:baseline;border:1px solid var(--line);border-left-width:5px;border-radius:6px;
background:var(--panel);padding:6px 10px;cursor:pointer;text-align:left}
.count b{font-size:20px;font-variant-numeric:tabular-nums}
.count[aria-pressed=true]{outline:2px solid var(--accent)}
.good{--kind:var(--good)}.check{--kind:var(--check)}.distrust{--kind:var(--distrust)}.failed{--kind:var(--failed)}
.count{border-left-color:var(--kind)}
.count .sign{color:var(--kind);font-weight:700;width:1em;text-align:center}
figure{margin:0}
figcaption{font-size:12px;margin-bottom:4px}
svg{width:100%;height:auto;display:block}
svg text{font-size:11px;fill:var(--dim)}
svg a{fill:var(--kind);cursor:pointer}
svg a:hover,svg a:focus{stroke:var(--text);stroke-width:.4}
.axis{stroke:var(--dim);fill:none}
.explanation{margin-top:10px;font-size:13px}
.explanation summary{cursor:pointer;color:var(--accent)}
.explanation ul{padding-left:18px;margin:6px 0}
.controls{display:none;flex-wrap:wrap;gap:6px 18px;align-items:center;margin-top:12px;padding:8px 0;
border-top:1px solid var(--line)}
.js .controls{display:flex}
.controls input[type=search]{font:inherit;padding:3px 8px;width:230px}
output{margin-left:auto}
.legend{display:flex;flex-wrap:wrap;gap:4px 10px;align-items:center;font-size:12px;color:var(--dim);padding-bottom:8px}
.scale{display:inline-block;width:220px}
.bar{display:block;height:10px;border:1px solid var(--line)}
.ticks{display:flex;justify-content:space-between;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
thead{position:sticky;top:0;background:var(--panel);z-index:2}
thead th{padding:2px 6px;font-size:12px;font-weight:600;text-align:left;vertical-align:bottom;
border-bottom:1px solid var(--line)}
thead th[scope=colgroup]{color:var(--dim);font-weight:500;border-left:1px solid var(--line);text-align:right}
thead th.number{text-align:right}
thead button{border:0;background:none;padding:2px 0;font-weight:inherit;font-size:inherit;white-space:nowrap;
text-decoration:underline dotted;cursor:pointer}
thead [aria-sort] button::after{content:" \\2191"}
thead [aria-sort=descending] button::after{content:" \\2193"}
tbody{border-bottom:1px solid var(--line)}
tbody th,tbody td{padding:7px 6px;text-align:left;vertical-align:top}
tbody th{overflow-wrap:anywhere;min-width:120px;max-width:220px}
td.number{text-align:right;white-space:nowrap}
.verdict{color:var(--kind);font-weight:600;white-space:nowrap}
tbody:target{background:var(--panel)}
tbody{scroll-margin-top:60px}
.details>td{padding:0 6px 12px}
.subject{display:flex;flex-wrap:wrap;gap:8px 16px}
.pictures{display:flex;flex-wrap:wrap;gap:8px;max-width:100%;align-items:flex-start}
.pictures:empty{display:none}
.picture{position:relative;width:calc(470px*var(--size,1));max-width:100%;background:#000}
.template .picture{width:100%}
.picture img{display:block;width:100%;height:auto}
.picture::after{content:"";position:absolute;inset:0;background:var(--outlines) 0 0/100% 100%}
.jacobian::after{filter:brightness(0);opacity:.45}
.volume{background:#000 var(--template) 0 0/100% 100%}
.words{flex:1 1 200px;overflow-wrap:anywhere;font-size:13px}
.words p{margin:0 0 6px;max-width:75ch}
dl{display:flex;flex-wrap:wrap;gap:2px 6px;margin:0 0 6px}
dt::after{content:":"}
dd{margin:0 8px 0 0;color:var(--text)}
a{color:var(--accent)}
:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
.no-pictures tbody .pictures,.no-outlines .picture::after{display:none}
.show-template tbody .volume img{visibility:hidden}
.large{--size:1.8}
[hidden]{display:none!important}
@media (max-width:1100px){.minor{display:none}.summary{grid-template-columns:1fr 1fr}.template{grid-column:1/-1;
max-width:520px}.picture{width:calc(410px*var(--size,1))}}
@media print{.controls{display:none!important}thead{position:static}tbody{break-inside:avoid}}
"""

SCRIPT = """
"use strict";
(() => {
  const root = document.documentElement, table = document.querySelector("table");
  const bodies = [...table.tBodies], shown = document.getElementById("shown"), find = document.getElementById("find");
  const counts = [...document.querySelectorAll("button.count")];
  root.classList.add("js");

  const valueOf = (body, column) => {
    const text = body.rows[0].cells[column].dataset.value;
    return text === "" ? null : column === 0 ? text : Number(text);
  };
  const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
  const sortBy = (button) => {
    const title = button.closest("th"), column = Number(button.dataset.sort);
    const order = title.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    table.querySelectorAll("[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
    title.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    bodies.sort((first, second) => {
      const a = valueOf(first, column), b = valueOf(second, column);
      return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b);
    });
    table.append(...bodies);
  };
  const filter = () => {
    const words = find.value.toLowerCase(), pressed = counts.filter((each) => each.ariaPressed === "true");
    let visible = 0;
    for (const body of bodies) {
      const wanted = !pressed.length || pressed.some((each) => each.dataset.verdict === body.dataset.verdict);
      body.hidden = !(wanted && body.textContent.toLowerCase().includes(words));
      visible += !body.hidden;
    }
    shown.textContent = visible === bodies.length ? "" : `${visible} of ${bodies.length} shown`;
  };
  const narrow = window.matchMedia("(max-width:1100px)");
  const fit = () => table.querySelectorAll("[data-narrow]").forEach((each) => {
    each.dataset.wide ||= each.colSpan;
    each.colSpan = narrow.matches ? each.dataset.narrow : each.dataset.wide;
  });

  table.querySelectorAll("[data-sort]").forEach((each) => each.addEventListener("click", () => sortBy(each)));
  counts.forEach((each) => each.addEventListener("click", () => {
    each.ariaPressed = each.ariaPressed !== "true";
    filter();
  }));
  find.addEventListener("input", filter);
  document.querySelectorAll("[data-toggle]").forEach((box) => {
    const apply = () => root.classList.toggle(box.dataset.toggle, box.checked !== box.dataset.toggle.startsWith("no-"));
    box.addEventListener("change", apply);
    apply();
  });
  narrow.addEventListener("change", fit);
  fit();
  filter();
})();
"""
