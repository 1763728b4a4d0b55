# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the page of a fleet looks. Data alone.

The colours of words have a contrast of at least 4.5 to 1 on the ground and in boxes (WCAG 2.2, 1.4.3), those of shapes
and of the borders of what can be touched at least 3 to 1 (1.4.11). The unit tests compute it.
"""

from __future__ import annotations

__all__ = ["DARK", "LIGHT", "STYLE", "WORDS"]

LIGHT = {
    "ground": "#fbfaf8",
    "box": "#f2f0eb",
    "ink": "#1b1a18",
    "soft": "#5b5853",
    "line": "#dcd8d0",
    "strong": "#8a857c",
    "link": "#1c4f8c",
    "fine": "#22643a",
    "critical": "#a0132b",
    "error": "#a34109",
    "warning": "#795700",
    "info": "#3a5a80",
}
DARK = {
    "ground": "#131312",
    "box": "#1e1d1b",
    "ink": "#ebe9e4",
    "soft": "#a6a29a",
    "line": "#33312d",
    "strong": "#7d796f",
    "link": "#92bdf5",
    "fine": "#86c897",
    "critical": "#ff8592",
    "error": "#f39e63",
    "warning": "#dcb94e",
    "info": "#9bbbe0",
}
# What is written in these colours, on the ground and in boxes.
WORDS = ("ink", "soft", "link", "fine", "critical", "error", "warning", "info")


def _tokens(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_RULES = """
*, *::before, *::after { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 1rem }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 400 1rem/1.5 Inter,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
main, header, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem }
header { padding-top: 2.5rem }
footer { padding-top: 4rem; padding-bottom: 3rem; color: var(--soft); font-size: .875rem }
h1, h2, h3, p, dl, dd, ul, pre { margin: 0 }
h1 {
  font-size: clamp(1.75rem,1.2rem + 2.4vw,2.75rem); line-height: 1.12; letter-spacing: -.022em;
  font-weight: 650; max-width: 24ch;
}
h2 { font-size: 1.25rem; line-height: 1.3; letter-spacing: -.012em; font-weight: 650 }
a { color: var(--link); text-underline-offset: .18em; text-decoration-thickness: 1px }
a:hover { text-decoration-thickness: 2px }
code, pre, .code {
  font-family: "JetBrains Mono",ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
  font-size: .8125rem; font-variant-ligatures: none;
}
pre { white-space: pre-wrap; line-height: 1.55 }
svg.sign { width: 1em; height: 1em; flex: none; fill: currentColor; vertical-align: -.125em }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; border-radius: 2px }
[hidden] { display: none!important }
.aside {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap;
}
.skip:focus {
  position: fixed; left: 1rem; top: 1rem; width: auto; height: auto; clip-path: none;
  background: var(--ground); padding: .5rem 1rem; z-index: 9;
}
.soft { color: var(--soft) }
.fine { color: var(--fine) }
.critical { color: var(--critical) }
.error { color: var(--error) }
.warning { color: var(--warning) }
.info { color: var(--info) }
.top {
  display: flex; justify-content: space-between; align-items: baseline; gap: 1rem; margin-bottom: 1.25rem;
  font-size: .875rem;
}
.totals { display: flex; flex-wrap: wrap; gap: .375rem 3.5rem; margin-top: 1.25rem }
.totals ul { display: flex; flex-wrap: wrap; gap: .375rem 1.5rem; padding: 0; list-style: none }
.totals li { display: flex; align-items: center; gap: .5rem }
.totals .none { color: var(--soft) }
.drift { margin-top: 1.5rem }
.drift dl, .body dl {
  display: grid; grid-template-columns: max-content minmax(0,1fr); gap: .5rem 1.25rem; align-items: baseline;
}
.drift dl { padding: .75rem 0 0 1.5rem; font-size: .9375rem }
button, input { font: inherit; color: inherit }
button {
  background: none; white-space: nowrap; flex: none; border: 1px solid var(--strong); border-radius: 4px;
  padding: .25rem .75rem; cursor: pointer; font-size: .875rem; line-height: 1.5;
}
button:hover { border-color: var(--ink) }
button[aria-pressed=true] { background: var(--ink); border-color: var(--ink); color: var(--ground) }
input {
  background: none; border: 1px solid var(--strong); border-radius: 4px; padding: .25rem .75rem; width: 16rem;
  max-width: 100%; font-size: .875rem; line-height: 1.5;
}
input::placeholder { color: var(--soft); opacity: 1 }
.tools { display: flex; flex-wrap: wrap; gap: .75rem; align-items: center; margin-top: 2.25rem }
table { width: 100%; border-collapse: collapse; margin-top: 1.25rem; font-size: .9375rem }
caption { text-align: left }
th, td { text-align: left; vertical-align: top; padding: .75rem 1.25rem .75rem 0; font-weight: 400 }
th:last-child, td:last-child { padding-right: 0 }
thead th {
  position: sticky; top: 0; z-index: 1; background: var(--ground); box-shadow: inset 0 -1px var(--ink);
  padding-top: .375rem; padding-bottom: .375rem; font-size: .8125rem; color: var(--soft); white-space: nowrap;
}
thead button {
  border: 0; padding: 0; font-size: inherit; color: inherit; display: inline-flex; gap: .375rem;
  align-items: center;
}
thead button:hover, thead [aria-sort] button { color: var(--ink) }
thead button::after {
  content: ""; width: .5em; height: .5em; border: solid transparent; border-width: 0 1.5px 1.5px 0;
  transform: rotate(45deg) translate(-.1em,-.1em);
}
thead [aria-sort=ascending] button::after {
  border-color: currentColor; transform: rotate(225deg) translate(-.15em,-.15em);
}
thead [aria-sort=descending] button::after { border-color: currentColor }
thead button:hover::after { border-color: currentColor }
tbody tr { border-bottom: 1px solid var(--line) }
tbody th a { font-weight: 600; color: inherit }
tbody th .plain { font-weight: 600 }
tbody small { display: block; font-size: .8125rem; color: var(--soft); line-height: 1.45 }
.state { display: inline-flex; gap: .5rem; align-items: baseline; white-space: nowrap }
.state svg, .severity svg { align-self: center }
td.bar { width: 14rem }
svg.units { display: block; width: 100%; height: 1rem; overflow: visible }
svg.units .critical { fill: var(--critical) }
svg.units .error { fill: var(--error) }
svg.units .warning { fill: var(--warning) }
svg.units .info { fill: var(--info) }
svg.units .base { fill: var(--line) }
td.bar small { margin-top: .25rem }
.number { white-space: nowrap }
td .wide { display: inline-block; min-width: 8.25rem }
td .code.wide { min-width: 7.5rem }
.host { border-top: 1px solid var(--ink); margin-top: 3rem; padding-top: 1rem }
.host>header {
  max-width: none; margin: 0; padding: 0 0 .75rem; display: flex; flex-wrap: wrap; gap: .125rem 1rem;
  align-items: baseline;
}
.host>header .state { font-size: .9375rem }
.message { padding: .25rem 0 .75rem; max-width: 80ch }
details.finding, details.more { border-top: 1px solid var(--line) }
summary {
  cursor: pointer; list-style: none; display: grid; grid-template-columns: 1rem 7.5rem minmax(0,1fr);
  gap: .625rem; padding: .75rem 0; align-items: baseline;
}
summary::-webkit-details-marker { display: none }
summary::before {
  content: ""; width: .5rem; height: .5rem; border: solid var(--soft); border-width: 0 1.5px 1.5px 0;
  transform: rotate(-45deg); align-self: start; margin-top: .5rem; justify-self: center;
}
details[open]>summary::before { transform: rotate(45deg); margin-top: .375rem }
summary:hover .what {
  text-decoration: underline; text-underline-offset: .18em; text-decoration-thickness: 1px;
}
details[open]>summary .what { font-weight: 600 }
.severity { display: inline-flex; gap: .5rem; align-items: baseline; font-weight: 600; font-size: .9375rem }
.more>summary, .drift>summary { grid-template-columns: 1rem minmax(0,1fr) }
.drift>summary { padding: 0 }
.more>summary { color: var(--soft); font-size: .9375rem }
.body { padding: .25rem 0 1.25rem 9.75rem; font-size: .9375rem }
.more .body { padding-left: 1.625rem }
.more ul { padding: 0; list-style: none; display: grid; gap: .5rem }
.more li { display: flex; gap: .625rem; align-items: baseline }
.body dt { color: var(--soft) }
.body dd { min-width: 0; max-width: 84ch }
.typed {
  background: var(--box); border-radius: 4px; padding: .625rem .75rem; display: flex; gap: .75rem;
  justify-content: space-between; align-items: flex-start;
}
.typed pre { min-width: 0; flex: 1 }
pre.prose { font: inherit }
.typed+.soft { margin-top: .375rem }
.copy {
  background: var(--ground); padding: .0625rem .5rem; font-size: .8125rem; flex: none; min-width: 4.25rem;
}
.known { display: grid; gap: .75rem; padding: 0; list-style: none }
.known li { display: grid; grid-template-columns: 7.5rem minmax(0,1fr); gap: .625rem; align-items: baseline }
@media (max-width:52rem) {
  main, header, footer { padding-left: 1rem; padding-right: 1rem }
  header { padding-top: 1.5rem }
  table, tbody, thead, tr, th, td, caption { display: block }
  thead tr { display: flex; flex-wrap: wrap; gap: .375rem; align-items: center }
  thead.idle { display: none }
  thead tr::before { content: "Sort by"; font-size: .8125rem; color: var(--soft); margin-right: .25rem }
  thead th, thead th:last-child { position: static; box-shadow: none; padding: 0 }
  thead button { border: 1px solid var(--strong); border-radius: 4px; padding: .3125rem .625rem }
  thead [aria-sort] button { border-color: var(--ink) }
  thead button::after { display: none }
  thead [aria-sort] button::after { display: block }
  tbody { border-top: 1px solid var(--ink); margin-top: 1rem }
  tbody tr {
    display: grid; grid-template-columns: minmax(0,1fr) minmax(0,1fr); gap: .375rem 1rem; padding: .875rem 0;
  }
  th, td, th:last-child, td:last-child { padding: 0 }
  tbody th, td.bar { grid-column: 1/-1 }
  td.bar { width: auto }
  td.state-of { grid-column: 1/-1 }
  td.empty, td.quiet { display: none }
  td[data-label]::before {
    content: attr(data-label); display: block; font-size: .75rem; color: var(--soft); line-height: 1.4;
  }
  summary { grid-template-columns: 1rem minmax(0,1fr); gap: .125rem .5rem }
  summary .what { grid-column: 2 }
  .body, .more .body { padding-left: 1.5rem }
  .drift dl, .body dl { grid-template-columns: minmax(0,1fr); gap: .125rem }
  .body dd, .drift dd { margin-bottom: .625rem }
  .typed { flex-direction: column }
  .typed pre { width: 100% }
  .copy { padding: .25rem .75rem }
  .known li { grid-template-columns: minmax(0,1fr); gap: .125rem }
}
@media print {
  .tools, .copy, .skip { display: none!important }
  body { font-size: 10pt }
  .host, details { break-inside: avoid }
}
"""

STYLE = (
    f":root{{color-scheme:light;{_tokens(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{_tokens(DARK)}}}}}"
    f":root[data-theme=dark]{{color-scheme:dark;{_tokens(DARK)}}}"
    f"{_RULES}"
)
