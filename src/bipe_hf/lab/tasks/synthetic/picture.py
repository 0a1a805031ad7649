"""A figure of right answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...common.figures import new_figure
from ...common.lines import Line, draw_lines, name_lines


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_accuracy(lines: Sequence[Line], sizes: Sequence[int], title: str) -> "Figure":
    """Right answers in percent against the number of operators.

    Args:
        lines: their values in percent.
        sizes: numbers of operators that the axis names.
        title: above the axes.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, axes = new_figure([line.label for line in lines])
    draw_lines(axes, lines)
    axes.set_xticks(sizes)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("operators")
    axes.set_ylabel("right answers (%)")
    axes.set_title(title, parse_math=False)
    name_lines(axes, lines)
    return figure
