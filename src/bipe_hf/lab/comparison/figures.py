"""The figures of a comparison: the measured value against size, and loss against position in the text."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from ..common.figures import (
    add_legend,
    label_lengths,
    label_values,
    line_looks,
    mark_train_lengths,
    new_figure,
    save_figure,
)
from .tables import Rows


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .entries import Comparison
    from .results import ComparisonResults


def draw_figures(results: "ComparisonResults", comparison: "Comparison", folder: Path) -> None:
    """Write the figures of what is measured, as PNG and SVG: `perplexity` and `loss_by_position`, or `accuracy`."""
    rows = Rows(results, comparison)
    if comparison.task == "text":
        save_figure(draw_perplexity(rows, results.text["source"]), folder / "perplexity.png")
        save_figure(draw_loss_by_position(rows, results.text["source"]), folder / "loss_by_position.png")
    else:
        save_figure(draw_accuracy(rows, comparison.task), folder / "accuracy.png")


def draw_perplexity(rows: Rows, title: str) -> "Figure":
    """Perplexity against test length: the mean over seeds, in a band of one standard deviation to each side."""
    figure = _draw_lines(rows, 1, title)
    (axes,) = figure.axes
    label_lengths(axes, rows.sizes)
    label_values(axes, [row.value for cells in rows.cells.values() for row in cells])
    height = mark_train_lengths(axes, sorted({rows.first(entry)["train_length"] for entry in rows.entries}))
    axes.set_title(axes.get_title(), pad=8 + height, parse_math=False)
    axes.set_xlabel("test length (tokens)")
    axes.set_ylabel("perplexity (per token)")
    return figure


def draw_accuracy(rows: Rows, title: str) -> "Figure":
    """Right answers in percent against the number of operators, as in [`draw_perplexity`]."""
    figure = _draw_lines(rows, 100, title)
    (axes,) = figure.axes
    axes.set_xticks(rows.sizes)
    axes.set_ylim(0, 102)
    axes.set_xlabel("operators")
    axes.set_ylabel("right answers (%)")
    return figure


def draw_loss_by_position(rows: Rows, title: str) -> "Figure":
    """Mean loss of the tokens at positions 1, 2 to 3, 4 to 7, ... of the longest blocks, over all seeds."""
    from matplotlib.lines import Line2D

    length = rows.sizes[-1]
    lines = {}
    for entry in rows.entries:
        bins = rows.values(entry, length, lambda row: row.measured["loss_by_position"])
        if bins:
            firsts = [each["first"] for each in bins[0]]
            lines[entry.name] = firsts, [fmean(each["nll"] for each in seeds) for seeds in zip(*bins, strict=True)]
    looks = line_looks(entry.name for entry in rows.entries)
    figure, axes = new_figure(lines)
    for name, (firsts, means) in lines.items():
        axes.plot(firsts, means, **looks[name])
    order = sorted(lines, key=lambda name: -lines[name][1][-1])
    add_legend(axes, [Line2D([], [], label=name, **looks[name]) for name in order])
    label_lengths(axes, sorted({first for firsts, _ in lines.values() for first in firsts}))
    lengths = sorted({rows.first(entry)["train_length"] for entry in rows.entries})
    height = mark_train_lengths(axes, [each for each in lengths if each < length])
    axes.set_xlabel(f"position in a block of {length} tokens (from here to the next)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(title, pad=8 + height, parse_math=False)
    return figure


def _draw_lines(rows: Rows, factor: float, title: str) -> "Figure":
    """A line for each entry through its means, in a band of one standard deviation to each side."""
    from matplotlib.lines import Line2D

    looks = line_looks(entry.name for entry in rows.entries)
    figure, axes = new_figure(looks)
    ends = {}
    for entry in rows.entries:
        values = {size: [factor * value for value in rows.values(entry, size)] for size in rows.sizes}
        sizes = [size for size, found in values.items() if found]
        means = [fmean(values[size]) for size in sizes]
        spreads = [_spread(values[size]) for size in sizes]
        ends[entry.name] = means[-1]
        axes.plot(sizes, means, **looks[entry.name])
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(sizes, low, high, color=looks[entry.name]["color"], alpha=0.2, linewidth=0)
    order = sorted(ends, key=lambda name: -ends[name])
    add_legend(axes, [Line2D([], [], label=name, **looks[name]) for name in order])
    axes.set_title(title, parse_math=False)
    return figure


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
