"""The figures of a comparison: the measured value against size, loss against position in the text, learning curves."""

from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from ..common.figures import label_lengths, line_looks, mark_train_lengths, new_figure, save_figure
from ..common.lines import Line, draw_lines, fit_values, name_lines
from ..tasks.synthetic.picture import draw_accuracy
from .curves import draw_learning_curves, has_curves
from .tables import Rows


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .entries import Comparison
    from .results import ComparisonResults


def figure_names(results: "ComparisonResults", comparison: "Comparison") -> list[str]:
    """The figures that a comparison has."""
    names = ["perplexity", "loss_by_position"] if comparison.task == "text" else ["accuracy"]
    return [*names, "learning_curves"] if has_curves(results) else names


def draw_figures(results: "ComparisonResults", comparison: "Comparison", folder: Path) -> None:
    """Writes the figures of what is measured, as PNG and SVG."""
    rows = Rows(results, comparison)
    title = results.text["source"] if comparison.task == "text" else comparison.task
    draw = {
        "perplexity": draw_perplexity,
        "loss_by_position": draw_loss_by_position,
        "learning_curves": lambda rows, title: draw_learning_curves(results, comparison, title),
        "accuracy": lambda rows, title: draw_accuracy(_lines(rows, 100), rows.sizes, title),
    }
    for name in figure_names(results, comparison):
        save_figure(draw[name](rows, title), folder / f"{name}.png")


def draw_perplexity(rows: Rows, title: str) -> "Figure":
    """Perplexity against test length: the mean over seeds, in a band of one standard deviation to each side.

    The first entry is drawn on top and the reference below it, both more strongly than the others.
    """
    lines = _lines(rows, 1)
    figure, axes = new_figure([line.label for line in lines])
    draw_lines(axes, lines)
    label_lengths(axes, rows.sizes)
    height = mark_train_lengths(axes, sorted({rows.first(entry)["train_length"] for entry in rows.entries}))
    height = fit_values(axes, lines, height)
    axes.set_xlabel("test length (tokens)")
    axes.set_ylabel("perplexity (per token)")
    axes.set_title(title, pad=8 + height, parse_math=False)
    name_lines(axes, lines)
    return figure


def draw_loss_by_position(rows: Rows, title: str) -> "Figure":
    """Mean loss of the tokens at positions 1, 2 to 3, 4 to 7, ... of the longest blocks, over all seeds."""
    length = rows.sizes[-1]
    lines = []
    for entry in rows.entries:
        bins = rows.values(entry, length, lambda row: row.measured["loss_by_position"])
        if bins:
            firsts = [each["first"] for each in bins[0]]
            means = [fmean(each["nll"] for each in seeds) for seeds in zip(*bins, strict=True)]
            lines.append(_line(rows, entry.name, firsts, means, [0.0] * len(means)))
    figure, axes = new_figure([line.label for line in lines])
    draw_lines(axes, lines)
    label_lengths(axes, sorted({first for line in lines for first in line.sizes}))
    lengths = sorted({rows.first(entry)["train_length"] for entry in rows.entries})
    height = mark_train_lengths(axes, [each for each in lengths if each < length])
    axes.set_xlabel(f"position in a block of {length} tokens (from here to the next)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(title, pad=8 + height, parse_math=False)
    name_lines(axes, lines)
    return figure


def _lines(rows: Rows, factor: float) -> list[Line]:
    """A line for each entry through its means over seeds, `factor` times as high."""
    lines = []
    for entry in rows.entries:
        found = {size: [factor * value for value in rows.values(entry, size)] for size in rows.sizes}
        sizes = [size for size, values in found.items() if values]
        means = [fmean(found[size]) for size in sizes]
        spreads = [stdev(found[size]) if len(found[size]) > 1 else 0.0 for size in sizes]
        lines.append(_line(rows, entry.name, sizes, means, spreads))
    return lines


def _line(rows: Rows, name: str, sizes: list[int], means: list[float], spreads: list[float]) -> Line:
    """The line of an entry, which looks the same in every figure, whatever else is measured by then."""
    names = list(rows.comparison.entries)
    rank = 2 if name == names[0] else 1 if name == rows.comparison.reference else 0
    return Line(name, line_looks(names)[name], sizes, means, spreads, rank)
