"""What the evaluation page adds to the report's style sheet: checks, tables, the viewer."""

from diffalign.eval.pages.style import CSS

PAGE_CSS = (
    CSS
    + """
body { padding-top: clamp(20px, 4vw, 44px); }
main > section { margin-top: 48px; }
.title { margin-bottom: 8px; }
[hidden] { display: none !important; }
.notices { list-style: none; padding: 0; margin-top: 14px; max-width: 46em; }
.notices li { border-left: 3px solid var(--bad); padding: 2px 0 2px 12px; overflow-wrap: anywhere; }
.notices li + li { margin-top: 6px; }

main > .checks { margin-top: 24px; }
.checks.alarm { border: 1px solid var(--bad); border-radius: 8px; padding: 14px 20px 12px; }
.checks.alarm h2 { color: var(--bad); font-size: 1.05rem; }
.checks.quiet { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 14px; color: var(--quiet); font-size: .95rem; }
.checks.quiet h2 { display: none; } .checks details { margin-top: 6px; } .checks.quiet details { margin: 0; }
.checks.quiet details[open] { flex-basis: 100%; }
.checks .note { font-size: .88rem; }
.findings { list-style: none; padding: 0; margin-top: 6px; font-size: .95rem; }
.findings li { display: grid; grid-template-columns: minmax(9em, 15em) 11em minmax(0, 1fr); column-gap: 24px; padding: 7px 0;
  border-top: 1px solid var(--rule); color: var(--ink); }
.findings li:first-child { border-top: 0; }
.findings .name { font-weight: 600; overflow-wrap: anywhere; }
.findings .value { font-variant-numeric: tabular-nums; }
.findings .value span { color: var(--quiet); font-size: .88rem; }

table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 550; }
thead th { color: var(--quiet); font-weight: 400; font-size: .85rem; vertical-align: bottom; padding-bottom: 6px; }
.rates { width: 100%; margin-top: 16px; }
.rates th, .rates td { padding: 2px 16px 2px 0; }
.rates tbody tr, .measures tbody tr { border-top: 1px solid var(--line); }
.rates tbody:last-of-type tr:last-child { border-bottom: 1px solid var(--line); }
.rates tbody th { min-width: 8em; overflow-wrap: anywhere; }
.rates .group th { padding: 18px 0 6px; font-weight: 650; } .rates tbody:first-of-type .group th { padding-top: 6px; }
.rates .drawn { width: 34%; min-width: 180px; }
.rates.few { max-width: 820px; } .rates.few .drawn { width: 52%; }
.rates td { font-size: .92rem; white-space: nowrap; }
.rates td:last-child { padding-right: 0; }
.rates .value b { font-size: 1.05rem; font-weight: 650; }
.rates .value span { color: var(--quiet); margin-left: 4px; } .rates .value em { display: none; }
.better .value em, .worse .value em { display: block; font-style: normal; font-size: .85rem; line-height: 1.2; color: var(--accent); }
.rates .worse .value em { color: var(--bad); }
.better .track .whisker { stroke: var(--accent); } .better .track .dot { fill: var(--accent); }
.worse .track .whisker { stroke: var(--bad); } .worse .track .dot { fill: var(--bad); }
.track, .axis { display: block; overflow: visible; }
.mark { font-size: .78rem; font-weight: 400; color: var(--quiet); border: 1px solid var(--line); border-radius: 4px; padding: 0 5px;
  white-space: nowrap; }
.scroll { overflow-x: auto; margin-top: 14px; }
.measures th, .measures td { padding: 7px 28px 7px 0; vertical-align: top; font-size: .95rem; }
.measures tbody th { min-width: 9em; } .measures td { min-width: 7em; } .measures td b { font-weight: 550; }
.measures td span { color: var(--quiet); font-size: .85rem; margin-left: 4px; white-space: nowrap; }
.measures .note { font-size: .85rem; max-width: 22em; }

button, select, input { font: inherit; font-size: .92rem; color: inherit; }
button, select, [type="search"] { min-height: 36px; padding: 5px 12px; background: var(--page); border: 1px solid var(--line);
  border-radius: 6px; }
button { cursor: pointer; } button:hover:enabled { border-color: var(--quiet); }
button:disabled { color: var(--quiet); opacity: .55; cursor: default; }
.segments { display: inline-flex; }
.segments button { border-radius: 0; margin-left: -1px; }
.segments button:first-child { border-radius: 6px 0 0 6px; margin-left: 0; } .segments button:last-child { border-radius: 0 6px 6px 0; }
.segments [aria-pressed="true"] { background: var(--accent); border-color: var(--accent); color: var(--page); position: relative; }
.controls { display: flex; flex-wrap: wrap; align-items: end; gap: 12px 16px; margin-top: 16px; }
.controls label { display: grid; gap: 2px; font-size: .85rem; color: var(--quiet); min-width: 0; }
.controls select, .controls input { color: var(--ink); max-width: 14em; }
.controls .search { flex: 1 1 12em; } .controls .search input { max-width: none; width: 100%; }
#count { margin-top: 10px; }
.desk { display: grid; grid-template-columns: minmax(0, 1.75fr) minmax(280px, 1fr); gap: 32px; margin-top: 12px; }
#stage { min-width: 0; border-radius: 4px; }
.bar { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 8px; margin-bottom: 12px; }
.steps { display: inline-flex; gap: 8px; } .steps button { min-width: 48px; }
#frames { --cut: 50%; display: grid; grid-template-columns: 1fr 1fr; gap: 12px; cursor: pointer; touch-action: pan-y; }
#frames figure { min-width: 0; }
#frames .box { position: relative; background: var(--panel); box-shadow: 0 0 0 1px var(--line); }
#frames img { display: block; width: 100%; max-height: 68vh; min-height: 40px; object-fit: contain; user-select: none; }
img.pixels { image-rendering: pixelated; }
#frames figcaption { display: flex; justify-content: space-between; gap: 12px; padding-top: 4px; font-size: .88rem; }
#frames figcaption b { font-weight: 600; overflow-wrap: anywhere; } #frames a { color: var(--quiet); white-space: nowrap; }
#frames[data-view="toggle"], #frames[data-view="slider"] { grid-template-columns: min(100%, 64vh, 560px); }
[data-view="toggle"] figure, [data-view="slider"] figure { grid-area: 1 / 1; }
[data-view="toggle"][data-front="theirs"] .ours, [data-view="toggle"][data-front="ours"] .theirs { visibility: hidden; }
[data-view="toggle"] .ours b { color: var(--accent); }
#frames[data-view="slider"] { cursor: ew-resize; }
#frames[data-view="slider"] .ours .box { background: none; box-shadow: none; }
[data-view="slider"] .ours img { clip-path: inset(0 0 0 var(--cut)); }
[data-view="slider"] .ours .box::after { content: ""; position: absolute; inset: 0 auto 0 var(--cut); width: 2px; margin-left: -1px;
  background: var(--page); box-shadow: 0 0 0 1px var(--ink); }
[data-view="slider"] .ours figcaption { flex-direction: row-reverse; } [data-view="slider"] figcaption a { display: none; }
#cut { display: block; width: min(100%, 64vh, 560px); margin-top: 6px; accent-color: var(--accent); }
.missing::before { content: "No picture at " attr(data-path); position: absolute; inset: 0; padding: 12px; font-size: .85rem;
  color: var(--quiet); overflow-wrap: anywhere; }
#prompt { margin-top: 12px; font-size: 1.05rem; line-height: 1.4; overflow-wrap: anywhere; }
#scores { margin-top: 10px; font-size: .92rem; } #scores th, #scores td { padding: 3px 24px 3px 0; }
#scores tr + tr { border-top: 1px solid var(--rule); }
#scores tr:first-child th { color: var(--quiet); font-weight: 400; font-size: .85rem; }
#keys { margin-top: 12px; font-size: .85rem; }
.list { position: relative; min-height: 460px; }
#scroll { position: absolute; inset: -3px; padding: 3px; overflow-y: auto; }
#more { width: 100%; margin-top: 8px; }
#thumbs { list-style: none; padding: 0; display: grid; gap: 4px; }
#thumbs button { display: grid; grid-template-columns: 56px 56px minmax(0, 1fr); gap: 6px; width: 100%; padding: 5px; text-align: left;
  align-items: start; border-color: transparent; }
#thumbs button[aria-current="true"] { border-color: var(--accent); background: var(--panel); }
#thumbs img { width: 56px; height: 56px; object-fit: cover; background: var(--panel); }
.words { display: grid; padding-left: 6px; line-height: 1.3; }
.clamp { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; overflow-wrap: anywhere; }
.told { font-size: .85rem; color: var(--quiet); font-variant-numeric: tabular-nums; }
.told.win { color: var(--accent); } .told.loss { color: var(--bad); }
#static h3 { margin-top: 32px; }

@media (max-width: 900px) {
  .desk { grid-template-columns: minmax(0, 1fr); } .list { min-height: 0; } #scroll { position: static; padding: 0; } }
@media (min-width: 721px) and (max-width: 1080px) {
  .rates, .rates tbody { display: block; } .rates thead, .rates tfoot { display: none; }
  .rates tbody tr { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); padding: 8px 0; }
  .rates tbody .group { display: block; padding: 0; }
  .rates tbody th, .rates td { min-width: 0; width: auto; padding: 0 12px 0 0; align-self: center; } .rates td.drawn { grid-column: 2 / 4; }
  .rates td.drawn { width: auto; min-width: 0; }
  .rates td[data-name]::before { content: attr(data-name); display: block; color: var(--quiet); font-size: .85rem; }
  .rates td[data-name] { white-space: normal; } .rates td[data-name]:empty { display: none; }
}
@media (max-width: 720px) {
  .lead { font-size: 1rem; }
  .findings li { grid-template-columns: minmax(0, 1fr) max-content; row-gap: 2px; } .findings li > div { grid-column: 1 / -1; }
  .rates, .rates tbody { display: block; } .rates thead, .rates tfoot { display: none; }
  .rates tbody tr { display: grid; grid-template-columns: minmax(0, 1fr) max-content; padding: 10px 0; }
  .rates tbody .group { display: block; padding: 0; }
  .rates tbody th, .rates tbody td, .rates td.drawn { padding: 0; width: auto; min-width: 0; }
  .rates .drawn { grid-row: 2; grid-column: 1 / -1; } .rates .value { text-align: right; }
  .rates td[data-name] { grid-column: 1 / -1; display: flex; justify-content: space-between; gap: 12px; color: var(--quiet); }
  .rates td[data-name]:empty { display: none; } .rates td[data-name]::before { content: attr(data-name); }
  .better .value em, .worse .value em { display: inline; margin-left: 4px; }
  .controls { display: grid; grid-template-columns: 1fr 1fr; } .segments, .controls .search { grid-column: 1 / -1; }
  .controls .segments button { flex: 1 1 0; padding: 5px 4px; } .controls select { width: 100%; max-width: none; }
  .bar { gap: 8px 4px; } .bar button { padding: 5px 9px; } .steps button { min-width: 40px; }
  #frames { gap: 8px; } #scores th, #scores td { padding-right: 14px; }
}
@media print { .controls, .bar, #keys, #cut, .list, #count { display: none !important; } .desk { display: block; }
  .rates tr, #stage { break-inside: avoid; } }
"""
)
