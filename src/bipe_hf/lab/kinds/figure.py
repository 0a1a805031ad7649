"""The figure of the map: a heat map for each length."""

from typing import TYPE_CHECKING

import numpy as np

from ..common.figures import COLOURS, short_lines
from .map import Map
from .tables import heading


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Percent behind the best from which on the colour is the same.
DARKEST = 100
# Roots of percentages: a few percent are seen beside a hundred.
EXPONENT = 0.5


def draw_map_figure(found: Map) -> "Figure":
    """How many percent the perplexity of each encoding is above the lowest of its kind of text, a panel a length.

    The best of a row has a frame. A number in brackets is no difference: its interval holds 0.
    """
    from matplotlib.figure import Figure

    rows, columns, panels = len(found.kinds), len(found.entries), len(found.lengths)
    figure = Figure(figsize=(2.2 + panels * (0.4 + 0.62 * columns), 2.6 + 0.36 * max(rows, 5)), layout="constrained")
    all_axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axes, length in zip(all_axes, found.lengths, strict=True):
        image = _draw_panel(axes, found, length)
    all_axes[0].set_yticks(range(rows), [kind.name for kind in found.kinds])
    bar = figure.colorbar(image, ax=list(all_axes), extend="max", ticks=[0, 1, 5, 10, 25, 50, 100], pad=0.01)
    bar.set_label("% above the lowest perplexity of the row")
    figure.suptitle("How far each encoding is behind the best (framed); in brackets: no difference", fontsize=11)
    return figure


def _draw_panel(axes: "Axes", found: Map, length: int) -> "AxesImage":
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm
    from matplotlib.patches import Rectangle

    percent = np.full((len(found.kinds), len(found.entries)), np.nan)
    colours = LinearSegmentedColormap.from_list("behind", ["white", COLOURS[0]])
    norm = PowerNorm(EXPONENT, vmin=0, vmax=DARKEST, clip=True)
    for row, kind in enumerate(found.kinds):
        for column, entry in enumerate(found.entries):
            cell = kind.cells.get((entry, length))
            if cell is None:
                continue
            percent[row, column] = cell.percent
            text = "best" if cell.is_best else _number(cell.percent)
            if not (cell.is_best or cell.behind.is_difference):
                text = f"({text})"
            dark = norm(cell.percent) > 0.9
            look = {"color": "white" if dark else "black", "weight": "bold" if cell.is_best else "normal"}
            axes.text(column, row, text, ha="center", va="center", fontsize=8, **look)
            if cell.is_best:
                corner = (column - 0.46, row - 0.46)
                axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=COLOURS[1], linewidth=2))
    image = axes.imshow(percent, cmap=colours, norm=norm, aspect="auto")
    names = [short_lines(entry) for entry in found.entries]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.tick_params(length=0)
    axes.set_title(heading(found, length), fontsize=10)
    return image


def _number(percent: float) -> str:
    return f"{percent:.1f}" if percent < 99.95 else f"{percent:.0f}"
