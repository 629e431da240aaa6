"""How pages look: light and dark by the reader's preference, in one column that fits a phone."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  --ground: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d5dae0; --quiet: #eef1f4;
  --good: #0f7b45; --warn: #8a5a00; --bad: #b3261e; --way: #0067a5; --cloud: #e8eef6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0d1117; --card: #161b22; --ink: #e6edf3; --soft: #9aa4af; --line: #30363d; --quiet: #21262d;
    --good: #56d364; --warn: #e3b341; --bad: #ff7b72; --way: #58a6ff; --cloud: #1c2a3c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink); line-height: 1.45; -webkit-text-size-adjust: 100%;
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif; overflow-wrap: anywhere;
}
main { max-width: 1180px; margin: 0 auto; padding: 24px 16px 40px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 1.1rem; margin: 30px 0 10px; }
p { margin: 0 0 10px; }
code, .mono { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .88em; }
.soft, footer { color: var(--soft); }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; margin: 0 0 12px;
}
footer { margin-top: 28px; font-size: .85rem; }

.tall, .wide, .bar { display: block; width: 100%; height: auto; }
.tall { max-width: 400px; margin: 0 auto; }
.wide { display: none; }
@media (min-width: 1100px) { .wide { display: block; } .tall { display: none; } }
svg text { fill: var(--ink); font-size: 13px; }
svg .name { font-size: 14px; font-weight: 600; }
svg .small { font-size: 12px; fill: var(--soft); }
svg .where { font-size: 12px; font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
svg .middle { text-anchor: middle; }
.host { fill: var(--card); stroke: var(--ink); stroke-width: 1.5; }
.nat { fill: var(--quiet); stroke: var(--soft); stroke-width: 1.5; }
.server { fill: var(--cloud); stroke: var(--line); stroke-width: 1.5; }
.chosen { stroke: var(--way); stroke-width: 2.5; }
.signal { fill: none; stroke: var(--soft); stroke-width: 1.3; stroke-dasharray: 2 5; stroke-linecap: round; }
.way { fill: none; stroke: var(--way); stroke-width: 4; stroke-linecap: round; }
.gap { fill: none; stroke: var(--bad); stroke-width: 2.5; stroke-dasharray: 7 6; }
.cross { fill: none; stroke: var(--bad); stroke-width: 3.5; stroke-linecap: round; }
svg .say { fill: var(--way); font-weight: 600; } svg .no { fill: var(--bad); font-weight: 600; }
.halo { paint-order: stroke; stroke: var(--card); stroke-width: 5px; stroke-linejoin: round; }

.row { border-top: 1px solid var(--line); padding: 10px 0; }
.row:first-of-type { border-top: 0; }
.head { display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; }
.head b { font-size: 1rem; }
.badge { font-size: .78rem; font-weight: 600; border: 1px solid currentColor; border-radius: 99px; padding: 0 8px; }
.why { flex-basis: 100%; color: var(--soft); font-size: .92rem; }
.bar { height: 16px; margin: 6px 0 2px; }
.track { fill: var(--quiet); } .tick { stroke: var(--ink); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.grid { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.scale { position: relative; height: 1.2rem; font-size: .75rem; color: var(--soft); }
.scale span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.scale span:first-child { transform: none; } .scale span:last-child { transform: translateX(-100%); }
details { margin-top: 4px; font-size: .9rem; }
summary { cursor: pointer; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td { padding: 3px 10px 3px 0; text-align: left; vertical-align: top; }
td.short { white-space: nowrap; }
td.at { white-space: nowrap; text-align: right; width: 5.5em; color: var(--soft); font-variant-numeric: tabular-nums; }
dl { margin: 0; display: grid; grid-template-columns: minmax(7em, auto) 1fr; gap: 4px 14px; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; }
.two { display: grid; gap: 12px; } @media (min-width: 860px) { .two { grid-template-columns: 1fr 1fr; } }

.findings h2 { font-size: 1rem; margin: 4px 0; }
.findings ul { list-style: none; margin: 0; padding: 0; }
.findings li { padding: 3px 0 3px 26px; position: relative; }
@media (min-width: 700px) { .findings { display: grid; grid-template-columns: 9em 1fr; } }
.mark { position: absolute; left: 2px; top: 3px; font-weight: 700; }
@media print { body { background: none; } .card { break-inside: avoid; } }
"""
