"""The report's style sheet: one accent, system fonts, light and dark by the reader's setting."""

CSS = """
:root { color-scheme: light dark; --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --page: #fff; --panel: #f5f6f7; --ink: #1b1f23; --quiet: #59636d; --line: #dfe3e6; --rule: #eceef0;
  --accent: #0a6b63; --bad: #a53f0c; --s0: #0a6b63; --s1: #9a5b00; --s2: #6a4aa5; --s3: #4a5560; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --panel: #1c2024; --ink: #e6e9eb; --quiet: #9da7b0; --line: #343b41;
  --rule: #262b30; --accent: #63c7b8; --bad: #f29a66; --s0: #63c7b8; --s1: #e0ac5c; --s2: #b59dec; --s3: #a7b2bc; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--page); color: var(--ink); font: 16px/1.5 var(--font); max-width: 1232px; margin: 0 auto;
  padding: clamp(24px, 5vw, 56px) clamp(18px, 3vw, 32px) 72px; -webkit-text-size-adjust: 100%; }
h1 { font-size: clamp(1.6rem, 1.2rem + 1.9vw, 2.4rem); line-height: 1.2; font-weight: 650; letter-spacing: -.015em;
  max-width: 26em; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; font-weight: 650; }
h3 { font-size: 1rem; font-weight: 600; }
section { margin-top: 56px; }
.title, .lead, .note { color: var(--quiet); overflow-wrap: anywhere; }
.title { margin-bottom: 10px; }
.lead { margin-top: 14px; font-size: 1.08rem; max-width: 46em; }
.note { font-size: .92rem; max-width: 46em; margin-top: 2px; }
.facts { display: flex; flex-wrap: wrap; gap: 20px 40px; margin-top: 30px; padding-top: 22px; border-top: 1px solid var(--line); }
.facts div { max-width: 15em; }
.facts dt { color: var(--quiet); font-size: .92rem; }
.facts dd { font-size: 1.45rem; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.facts dd.note { font-size: .85rem; font-weight: 400; line-height: 1.4; margin-top: 2px; }

.grids { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 48px; align-items: start; }
.grids > section { margin-top: 0; min-width: 0; }
.grids > section, .curves figure { display: grid; grid-row: span 3; grid-template-rows: subgrid; row-gap: 0; align-items: start; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 264px), 1fr)); gap: 28px 24px; margin-top: 18px; }
.pairs.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; }
.pair img { display: block; width: 100%; height: auto; box-shadow: 0 0 0 1px var(--line); background: var(--panel); }
.pair img.pixels { image-rendering: pixelated; }
.pair .under { display: flex; flex-wrap: wrap; gap: 0 .6em; margin-top: 4px; padding-top: 3px; border-top: 3px solid transparent;
  font-size: .85rem; color: var(--quiet); font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.pair .wins .under { border-top-color: var(--accent); }
.pair .wins .under b { color: var(--ink); font-weight: 650; }
.pair .under b { font-weight: 400; }
.pair figcaption { font-size: .92rem; line-height: 1.4; margin-top: 3px; overflow-wrap: anywhere; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

details { margin-top: 22px; }
summary { cursor: pointer; color: var(--accent); width: fit-content; padding: 6px 2px; font-weight: 550; border-radius: 4px; }
summary:hover { text-decoration: underline; text-underline-offset: 3px; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }

.intervals { list-style: none; padding: 0; margin-top: 18px; border-top: 1px solid var(--line); }
.intervals li { display: grid; grid-template-columns: minmax(12em, 1fr) minmax(0, 1.7fr) 11.5em; column-gap: 24px;
  align-items: stretch; border-bottom: 1px solid var(--line); }
.intervals li > div { padding: 11px 0; align-self: center; }
.intervals li.scale { border: 0; }
.intervals .name { font-weight: 550; line-height: 1.35; }
.intervals .value { font-variant-numeric: tabular-nums; text-align: right; line-height: 1.35; }
.intervals .value b { font-size: 1.1rem; font-weight: 650; }
.intervals .value span { color: var(--quiet); font-size: .92rem; white-space: nowrap; }
.intervals .check { font-size: .85rem; color: var(--accent); }
.intervals .fails .check { color: var(--bad); font-weight: 600; }
.intervals .track { height: 100%; min-height: 44px; }
.intervals .track, .intervals .axis { display: block; overflow: visible; }
.track .whisker { stroke: var(--quiet); stroke-width: 1.75; }
.track .dot { fill: var(--quiet); stroke: var(--page); stroke-width: 1.5; }
.holds .track .whisker { stroke: var(--accent); } .holds .track .dot { fill: var(--accent); }
.fails .track .whisker { stroke: var(--bad); } .fails .track .dot { fill: var(--bad); }
.track .half { stroke: var(--ink); stroke-width: 1.25; stroke-dasharray: 3 3; }
.rule { stroke: var(--rule); stroke-width: 1; }
svg text { fill: var(--quiet); font: 12px var(--font); font-variant-numeric: tabular-nums; }

.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 40px 32px; }
.curves figure { max-width: 480px; }
.plot { display: block; width: 100%; height: auto; margin-top: 8px; overflow: visible; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); }
.point { fill: var(--page); stroke-width: 2; }
.plot .mark { stroke: var(--quiet); stroke-width: 1.25; stroke-dasharray: 2 3; }
.plot .name { fill: var(--ink); paint-order: stroke; stroke: var(--page); stroke-width: 4px; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: .88rem; color: var(--quiet); margin-top: 6px; }
.legend span { display: inline-flex; align-items: center; gap: 7px; }

.provenance dl { display: grid; grid-template-columns: minmax(6em, max-content) minmax(0, 1fr); gap: 6px 24px; margin-top: 10px;
  font-size: .92rem; }
.provenance dt { color: var(--quiet); }
.provenance dd, .provenance pre { overflow-wrap: anywhere; white-space: pre-wrap; }
.provenance dd, .provenance pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .85rem; }

@media (max-width: 720px) {
  section { margin-top: 44px; }
  .facts { display: grid; grid-template-columns: 1fr 1fr; gap: 18px 20px; }
  .intervals li { grid-template-columns: minmax(0, 1fr) max-content; }
  .intervals li > svg { grid-row: 2; grid-column: 1 / -1; margin-top: 4px; }
  .intervals li.scale > div { display: none; }
  .intervals li > div { padding: 10px 0 0; align-self: start; }
  .intervals .value span { display: block; }
  .provenance dl { grid-template-columns: 1fr; gap: 0; } .provenance dd { margin-bottom: 8px; }
}
@media print { .pair, .curves figure { break-inside: avoid; } }
"""
