"""The table of the map, in Markdown."""

from collections.abc import Callable

from ..common.results import in_words
from ..common.tables import markdown, plain_number
from ..comparison.paired import CONFIDENCE, FEWEST_UNITS, RESAMPLES
from .map import Cell, Map


HOW_TO_READ = f"""\
Perplexities are means over seeds (± their standard deviation where there are several) of all tokens of the validation
text, in blocks of each length. The lowest of a row is bold.

How far another one is behind is its perplexity divided by that of the best, in percent, with an interval of
{CONFIDENCE:.0%} confidence: {RESAMPLES:,} resamples of the units of the text, drawn with replacement, the same for all
entries. A unit is a document, or a part of a long one. Where an entry has several seeds, they are drawn with
replacement, too, and entries with the same seeds draw the same; with one seed the interval says nothing of how another
seed would do. `*` stands where the interval excludes 0: only this is called a difference. Below {FEWEST_UNITS} units
there is no interval. Nothing is corrected for the number of comparisons, nor for the choice of the best by the same
text."""


def markdown_map(found: Map) -> str:
    """All tables: what was measured on, then for each length the perplexities and how far each is behind the best."""
    parts = ["# Where each encoding wins", *_calls(found), _texts(found), HOW_TO_READ]
    for length in found.lengths:
        parts.append(f"## {heading(found, length)}")
        parts.append("Perplexity · bits per byte:\n\n" + _table(found, length, _perplexity))
        parts.append("Behind the best, in percent of its perplexity:\n\n" + _table(found, length, _behind))
    return "\n\n".join(parts) + "\n"


def heading(found: Map, length: int) -> str:
    """A length in words: how many times the train length of all kinds it is, where they have the same."""
    train_lengths = {kind.train_length for kind in found.kinds}
    times = length / train_lengths.pop() if len(train_lengths) == 1 else None
    return f"{length} tokens" + ("" if times is None else f", {times:g} times the train length")


def _calls(found: Map) -> list[str]:
    calls = [call for kind in found.kinds for call in kind.calls]
    lines = dict.fromkeys(f"`{call['command']}`, with {in_words(call['environment'])}  " for call in calls)
    return ["\n".join(lines).rstrip()]


def _texts(found: Map) -> str:
    table = [["kind", "measured on", "documents", "units", "tokens"]]
    for kind in found.kinds:
        counts = [f"{number:,}" for number in (kind.text["documents"], kind.units, kind.text["tokens"])]
        table.append([kind.name, kind.text["source"], *counts])
    return markdown(table)


def _table(found: Map, length: int, show: Callable[[Cell], str]) -> str:
    table = [["kind", "best", *found.entries]]
    for kind in found.kinds:
        cells = {entry: kind.cells.get((entry, length)) for entry in found.entries}
        best = next((entry for entry, cell in cells.items() if cell is not None and cell.is_best), "-")
        table.append([kind.name, best, *("-" if cell is None else show(cell) for cell in cells.values())])
    return markdown(table)


def _perplexity(cell: Cell) -> str:
    spread = "" if cell.spread is None else f" ± {plain_number(cell.spread)}"
    text = f"{plain_number(cell.perplexity)}{spread} · {cell.bits_per_byte:.4f}"
    return f"**{text}**" if cell.is_best else text


def _behind(cell: Cell) -> str:
    if cell.is_best:
        return "**best**"
    low, high = (100 * (edge - 1) for edge in (cell.behind.low, cell.behind.high))
    interval = "" if high == float("inf") else f" ({low:.1f} to {high:.1f})"
    return f"{cell.percent:.1f}{interval}{' *' if cell.behind.is_difference else ''}"
