"""A web page that shows the most unusual rows as a heat map over rows and columns.

The page is one file that loads nothing and runs nothing, as that of `bipe-hf segments`. Each cell says its bits in
digits too, so that nothing has to be pointed at and no colour told apart. What is dark stands out in its own column:
the shade says by how many standard deviations the bits of a field lie above the mean of its column.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..reports.page import escape
from .tokens import Field


if TYPE_CHECKING:
    from .score import ScoredRow, ScoreReport

# Standard deviations above the mean from which on a field has the next shade.
SHADES = (1, 2, 3, 5, 8)
# A field that takes less than so many bits more than usual is no surprise, however regular its column is.
LEAST_SURPRISE = 1.0
# Characters of a field that are shown; the others would push the table off the screen.
SHOWN_CHARACTERS = 200

Bits = Sequence[tuple[Field, float]]


def render_page(report: "ScoreReport", rows: Sequence["ScoredRow"], bits: Sequence[Bits]) -> str:
    """The page of some rows.

    Args:
        report: of all rows, with the statistics of their columns.
        rows: to show, in their order.
        bits: the fields of these rows, of a log their words, with their bits.

    Returns:
        HTML with a table whose cells hold the fields and their bits.
    """
    several = len(report.files) > 1
    names = list(report.columns)
    usual = {name: (numbers["mean"], numbers["sd"]) for name, numbers in report.columns.items()}
    has_words = any(len({field.column for field, _ in own}) < len(own) for own in bits)
    if has_words:  # of a log
        costs = [cost for own in bits for _, cost in own]
        usual = dict.fromkeys(names, (float(np.mean(costs)), float(np.std(costs))))
    heads = "".join(f'<th scope="col">{escape(name) or "(no name)"}</th>' for name in names)
    lines = []
    for row, own in zip(rows, bits, strict=True):
        label = f"{Path(row.file).name} {row.row}" if several else str(row.row)
        cells = "".join(_cell(name, row, own, usual[name]) for name in names)
        lines.append(f'<tr><th scope="row">{escape(label)}</th><td class="sum">{row.bits:.1f}</td>{cells}</tr>')
    return _PAGE.format(
        style=_STYLE,
        files=html.escape(", ".join(Path(file).name for file in report.files)),
        model=html.escape(report.model),
        rows=f"{report.rows:,}",
        mean=f"{report.bits_per_row['mean']:.1f}",
        median=f"{report.bits_per_row['median']:.1f}",
        shown=f"all {len(rows):,} rows" if len(rows) == report.rows else f"the {len(rows):,} rows with the most bits",
        unit="of all words" if has_words else "of the column",
        legend="".join(_step(shade) for shade in range(1, len(SHADES) + 1)),
        heads=heads,
        lines="\n".join(lines),
    )


def _step(shade: int) -> str:
    return f' <span class="h{shade} sample">from {SHADES[shade - 1]}</span>'


def _cell(name: str, row: "ScoredRow", bits: Bits, usual: tuple[float, float]) -> str:
    if name not in row.bits_per_field:
        return '<td class="none">-</td>'
    own = [(field.text, cost) for field, cost in bits if field.column == name]
    if len(own) == 1:
        shade, text = _shade(own[0][1], usual), _shown(row.cells.get(name, ""))
    else:
        words = [(part.removesuffix("\n"), _shade(cost, usual)) for part, cost in own]
        shade, text = 0, "".join(f'<span class="h{each}">{_shown(word)}</span>' for word, each in words)
    return f'<td class="h{shade}">{text}<small>{row.bits_per_field[name]:.1f}</small></td>'


def _shown(text: str) -> str:
    return escape(text[:SHOWN_CHARACTERS]) + ("..." if len(text) > SHOWN_CHARACTERS else "")


def _shade(bits: float, usual: tuple[float, float]) -> int:
    """0 for what is usual, up to the number of `SHADES`."""
    mean, deviation = usual
    if bits - mean < LEAST_SURPRISE:
        return 0
    return sum(bits - mean >= shade * deviation for shade in SHADES)


# Colours: ink on each shade at a contrast of 7 or more, light and dark; one hue, darker (in the dark: brighter) with
# each step, so that order needs no colour vision.
_STYLE = """\
:root { color-scheme: light dark; --page: #ffffff; --ink: #15181c; --quiet: #4a5058; --line: #c9ced4;
  --h1: #fdeedd; --h2: #fbdcb6; --h3: #f8c285; --h4: #f5a855; --h5: #f28c28; --mark: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --ink: #f2f4f6; --quiet: #b4bbc3; --line: #3a4149;
    --h1: #2b2118; --h2: #3c2a16; --h3: #4f3413; --h4: #633e0f; --h5: #78480a; --mark: #9fd0ff; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
header { max-width: 60rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.2; }
p { margin: 0.5rem 0; }
.sample { padding: 0 0.4em; white-space: nowrap; }
.map { overflow: auto; max-height: 90vh; border: 1px solid var(--line); }
.map:focus-visible { outline: 3px solid var(--mark); }
table { width: max-content; border-collapse: separate; border-spacing: 0; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.15rem 0.5rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  min-width: 3rem; max-width: 36rem; overflow-wrap: anywhere; unicode-bidi: isolate; }
thead th { position: sticky; top: 0; z-index: 2; background: var(--page); vertical-align: bottom; }
tbody th { position: sticky; left: 0; z-index: 1; background: var(--page); white-space: nowrap; }
thead th:first-child { left: 0; z-index: 3; }
.sum { text-align: right; font-weight: bold; }
small { display: block; color: var(--quiet); }
.h1 small, .h2 small, .h3 small, .h4 small, .h5 small { color: inherit; }
.h1 { background: var(--h1); } .h2 { background: var(--h2); } .h3 { background: var(--h3); }
.h4 { background: var(--h4); } .h5 { background: var(--h5); }
.none { color: var(--quiet); }
i { font-style: normal; }
.newline::before { content: "\\21B5"; color: var(--mark); }
[data-label]::before { content: attr(data-label); color: var(--mark); font-size: 0.8em; }
@media (forced-colors: active) { .h3, .h4, .h5 { text-decoration: underline; } }"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Unusual rows of {files}</title>
<style>
{style}
</style>
</head>
<body>
<header>
<h1>Unusual rows of {files}</h1>
<p>{rows} rows under the model {model}: {mean} bits a row on average, median {median}. The less likely a field is
behind the fields before it, the more bits it takes: the small numbers.</p>
<p>Shown are {shown}. Colour: standard deviations above the mean {unit},{legend}.</p>
</header>
<main>
<div class="map" tabindex="0" role="region" aria-label="rows and columns">
<table>
<thead><tr><th scope="col">row</th><th scope="col">bits</th>{heads}</tr></thead>
<tbody>
{lines}
</tbody>
</table>
</div>
</main>
</body>
</html>
"""
