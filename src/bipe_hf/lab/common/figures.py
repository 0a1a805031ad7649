"""What the figures of the lab have in common: looks, axes, legends, files."""

import textwrap
import warnings
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...model.travel_bipe import whole_file
from .extras import require


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colours, which readers with any common colour vision tell apart, with grey in place of their yellow,
# which is too light for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
# Their number and that of the colours have no common factor: 56 lines differ in colour and marker alone.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Values that span more than this factor get a logarithmic axis.
LINEAR_RANGE = 3


def require_matplotlib(command: str) -> None:
    """Raises `ValueError`, which names `command` and the extra to install, where there is no matplotlib."""
    require("matplotlib", "lab", command)


def pictures(output: Path) -> list[Path]:
    """The files that hold a figure, whichever of them is named."""
    return [output.with_suffix(suffix) for suffix in (".png", ".svg")]


def save_figure(figure: "Figure", output: Path) -> None:
    """Writes a figure as PNG and SVG, each as a whole or not at all.

    Args:
        figure: of matplotlib.
        output: path of either.
    """
    from matplotlib import rc_context

    use_fonts_of_all_scripts(figure)
    # A fixed salt and no date: the same results give the same file.
    with rc_context({"svg.hashsalt": "bipe-hf"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # that is said already, once
        for target in pictures(output):
            kind = target.suffix.removeprefix(".")
            with whole_file(target) as partial:
                figure.savefig(partial, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)


def use_fonts_of_all_scripts(figure: "Figure") -> None:
    """Adds to the font of a figure's texts installed ones that have the characters which it lacks.

    A warning names the characters that no installed font has.
    """
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    default = findfont(FontProperties())
    missing = {each for text in texts for each in text.get_text() if not each.isspace()}
    missing -= set(map(chr, get_font(default).get_charmap()))
    if not missing:
        return
    families = [get_font(default).family_name]
    fonts = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight != 400, font.name))
    for font in fonts:
        if not missing or font.name.startswith("Last Resort"):  # which has a box for every character
            continue
        found = missing & set(map(chr, get_font(font.fname).get_charmap()))
        if found:
            missing -= found
            families.append(font.name)
    for text in texts:
        text.set_fontfamily(families)
    if missing:
        warnings.warn(
            f"no installed font has {''.join(sorted(missing))}: boxes stand in the figure for them (fonts of Noto have"
            " all scripts)",
            stacklevel=3,
        )


def line_looks(names: Iterable[Hashable]) -> dict[Hashable, dict[str, Any]]:
    """The colour, marker and line style of each name's line: no two alike, neighbours in different colours.

    The first lines are solid, and each time that the colours start again the style is another one.
    """
    return {
        name: {
            "color": COLOURS[at % len(COLOURS)],
            "marker": MARKERS[at % len(MARKERS)],
            "linestyle": dash(at // len(COLOURS)),
        }
        for at, name in enumerate(dict.fromkeys(names))
    }


def dash(at: int) -> str | tuple[int, tuple[int, ...]]:
    """The line style of index `at`: those that have a name, then dashes with more and more dots between them."""
    named = ("-", "--", ":", "-.")
    return named[at] if at < len(named) else (0, (6, 2) + (1, 2) * (at - 2))


def new_figure(labels: Sequence[str]) -> tuple["Figure", "Axes"]:
    """A figure with room for `labels` at the right, and its axes."""
    figure, (axes,) = new_panels([labels])
    return figure, axes


def new_panels(labels: Sequence[Sequence[str]]) -> tuple["Figure", list["Axes"]]:
    """A figure of panels, one below the other, each with room for its `labels` at the right, and their axes."""
    from matplotlib.figure import Figure

    lines = [[line for label in each for line in short_lines(label).splitlines()] for each in labels]
    least = 4.5 if len(labels) == 1 else 3
    height = sum(max(least, 1.5 + 0.22 * len(each)) for each in lines)
    longest = max((len(line) for each in lines for line in each), default=0)
    figure = Figure(figsize=(6 + 0.09 * longest, height), layout="constrained")
    panels = [figure.add_subplot(len(labels), 1, at) for at in range(1, len(labels) + 1)]
    for axes in panels:
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def short_lines(label: str) -> str:
    """A label of any length in lines that leave room for the figure."""
    return textwrap.fill(label, 40)


def add_legend(axes: "Axes", entries: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Puts a legend at the right of the axes.

    Args:
        axes: of a figure.
        entries: labels, each with its look.
    """
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=short_lines(label), **look) for label, look in entries]
    legend = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in the name of a model is no formula


def mark_train_lengths(axes: "Axes", lengths: Sequence[int]) -> int:
    """Draws a vertical line at each length, labelled above the axes.

    Args:
        axes: of a figure.
        lengths: in tokens.

    Returns:
        The height of the labels in points.
    """
    for row, length in enumerate(lengths):
        axes.axvline(length, color="0.45", linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        axes.annotate(
            f"train length {length}",
            (length, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 6 + 12 * row),
            textcoords="offset points",
            ha="center",
            color="0.25",
            fontsize=9,
        )
    return 12 * len(lengths) + 2


def label_lengths(axes: "Axes", lengths: Sequence[int]) -> None:
    """Makes the horizontal axis logarithmic, with a label at each length.

    Args:
        axes: of a figure.
        lengths: in tokens.
    """
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    if are_crowded(lengths):
        axes.tick_params(axis="x", labelrotation=90)


def are_crowded(lengths: Sequence[int]) -> bool:
    """Whether labels at these lengths, on a logarithmic axis, only fit upright."""
    return len(lengths) > 8 or any(after < 1.4 * before for before, after in pairwise(lengths))


def label_values(axes: "Axes", values: Sequence[float]) -> None:
    """Writes plain numbers at the vertical axis, which is logarithmic where the values span a wide range.

    Args:
        axes: of a figure.
        values: that are drawn.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    span = max(values) / min(values) if min(values) > 0 else 1
    if span <= LINEAR_RANGE:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
        return
    axes.set_yscale("log")
    # As many labels as fit without crowding, at round numbers.
    subs = (1, 1.5, 2, 3, 5, 7) if span < 20 else (1, 2, 5) if span < 1000 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
