// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does the report look? One style sheet: day and night, two columns on a screen and one on a
// phone; wide tables scroll inside themselves.

#include <string_view>

namespace command {

inline constexpr std::string_view page_style = R"(
:root { color-scheme: light dark; --paper: #faf9f6; --card: #ffffff; --ink: #1d1b18; --soft: #6c675f;
  --line: #e3dfd7; --s0: #2f6fb0; --s1: #cf5f2e; --s2: #3d8f72; --s3: #8a58b0; --faint: #a9a297; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #131316; --card: #1c1c21; --ink: #ebe8e2; --soft: #a19b92; --line: #33323a;
    --s0: #6ea8e6; --s1: #f08a58; --s2: #64c19e; --s3: #bb90e0; --faint: #7d776e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 40px 20px 72px; }
header h1 { font-size: clamp(1.5rem, 4.5vw, 2.3rem); line-height: 1.15; margin: 0;
  letter-spacing: -0.02em; overflow-wrap: anywhere; }
.kicker { margin: 0 0 6px; color: var(--s1); font-weight: 600; font-size: 0.85rem;
  letter-spacing: 0.06em; }
.what { margin: 8px 0 0; color: var(--soft); font-size: 1.1rem; }
.what b { color: var(--ink); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 10px;
  margin: 26px 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px; display: flex; flex-direction: column; }
.card strong { font-size: 1.35rem; font-weight: 650; letter-spacing: -0.01em;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.card span { color: var(--soft); font-size: 0.82rem; line-height: 1.3; }
section { margin-top: 52px; }
h2 { font-size: 1.3rem; letter-spacing: -0.01em; margin: 0 0 4px; }
section > p { color: var(--soft); max-width: 46rem; margin: 0 0 16px; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 28px; align-items: start; }
.many { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 22px; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 22px; }
.heat { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px 8px; margin-bottom: 18px; }
.heat h3 { margin: 0 0 8px; font-size: 1.05rem; }
.heat h3 small { font-weight: 400; color: var(--soft); font-size: 0.85rem; margin-left: 6px; }
.side p { margin: 0 0 6px; font-weight: 600; font-size: 0.9rem; }
.side p span { font-weight: 400; color: var(--soft); margin-left: 4px; }
.scale { max-width: 480px; margin: 6px 0 0; }
figcaption { font-size: 0.85rem; color: var(--soft); margin-top: 4px; }
figcaption b { color: var(--ink); font-weight: 600; }
.key { display: inline-flex; align-items: center; margin: 0 14px 2px 0; white-space: nowrap; }
.key i { width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
.keys { font-size: 0.85rem; }
.notes { margin: 0; padding: 0 0 0 18px; font-size: 0.93rem; }
.notes li { margin-bottom: 6px; }
.warn { color: var(--s1); font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums;
  min-width: 100%; }
th, td { padding: 6px 12px 6px 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { color: var(--soft); font-size: 0.78rem; vertical-align: bottom; }
tbody th, thead th:first-child { text-align: left; }
tbody th { font-weight: 600; }
td i { color: var(--soft); font-style: normal; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--s0); font-size: 0.9rem; margin-bottom: 8px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 0;
  padding: 14px 16px; font: 0.82rem/1.6 ui-monospace, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0;
  font-size: 0.88rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.p0 { fill: var(--s0); background: var(--s0); } .p1 { fill: var(--s1); background: var(--s1); }
.p2 { fill: var(--s2); background: var(--s2); } .p3 { fill: var(--s3); background: var(--s3); }
.p4 { fill: var(--faint); background: var(--faint); }
.p5 { fill: var(--soft); background: var(--soft); }
@media (max-width: 760px) { main { padding: 26px 14px 56px; } .heat { padding: 12px 12px 6px; }
  .pair, .sides { grid-template-columns: 1fr; gap: 16px; } section { margin-top: 40px; } }
)";

}  // namespace command
