"""What the figures of the lab have in common: looks, axes, legends, files."""

import importlib.util
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ...model.errors_bipe import InputError
from .messages import install_hint


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


# Okabe and Ito's colours, which readers with any common colour vision tell apart, with grey in place of their yellow,
# which is too light for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")


MARKERS = ("o", "s", "^", "D", "v", "P", "X")


DASHES = ("-", "--", ":", "-.")


# Values that span more than this factor get a logarithmic axis.
LINEAR_RANGE = 3


def require_matplotlib(command: str) -> None:
    """A `ValueError` that names `command` and the extra to install, where there is no matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"{command} needs matplotlib, which is not installed; {install_hint('lab')}")


def pictures(output: Path) -> list[Path]:
    """The files that hold a figure, whichever of them is named."""
    return [output.with_suffix(suffix) for suffix in (".png", ".svg")]


def save_figure(figure: "Figure", output: Path) -> None:
    """Write a figure as PNG and SVG."""
    from matplotlib import rc_context

    # A fixed salt and no date: the same results give the same file.
    with rc_context({"svg.hashsalt": "bipe-hf"}):
        for target in pictures(output):
            figure.savefig(target, dpi=200, metadata={"Date": None} if target.suffix == ".svg" else None)


def line_looks(names: Iterable[Hashable]) -> dict[Hashable, dict[str, str]]:
    """Colour and marker of each name's line."""
    return {
        name: {"color": COLOURS[at % len(COLOURS)], "marker": MARKERS[at % len(MARKERS)]}
        for at, name in enumerate(dict.fromkeys(names))
    }


def new_figure(labels: Iterable[str]) -> tuple["Figure", "Axes"]:
    """A figure with room for a legend of `labels` at the right, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 + 0.09 * max(map(len, labels)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def add_legend(axes: "Axes", handles: list["Line2D"]) -> None:
    """A legend at the right of the axes."""
    legend = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in the name of a model is no formula


def mark_train_lengths(axes: "Axes", lengths: Sequence[int]) -> int:
    """A vertical line at each length, labelled above the axes; returns the height of the labels in points."""
    for row, length in enumerate(lengths):
        axes.axvline(length, color="0.45", linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        axes.annotate(
            f"train length {length}",
            (length, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 4 + 12 * row),
            textcoords="offset points",
            ha="center",
            color="0.25",
            fontsize=9,
        )
    return 12 * len(lengths)


def label_lengths(axes: "Axes", lengths: Sequence[int]) -> None:
    """A logarithmic axis with a label at each length."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    ratios = [after / before for before, after in pairwise(lengths)]
    if len(lengths) > 8 or min(ratios, default=2) < 1.4:
        axes.tick_params(axis="x", labelrotation=90)


def label_values(axes: "Axes", values: Sequence[float]) -> None:
    """Plain numbers, on a logarithmic axis where the values span a wide range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    span = max(values) / min(values)
    if span <= LINEAR_RANGE:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
        return
    axes.set_yscale("log")
    # As many labels as fit without crowding, at round numbers.
    subs = (1, 1.5, 2, 3, 5, 7) if span < 20 else (1, 2, 5) if span < 1000 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
