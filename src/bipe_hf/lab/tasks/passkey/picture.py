"""A heat map of passkey retrieval."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...common.figures import COLOURS
from ..results import TaskResult


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_heat_map(results: Sequence[TaskResult]) -> "Figure":
    """The share of keys that one model found, by length and depth, on a scale from 0 to 100 %.

    Args:
        results: of one model. A place that was not measured stays empty.

    Returns:
        `matplotlib.figure.Figure`
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    lengths = sorted({result.part["length"] for result in results})
    depths = sorted({result.part["depth"] for result in results})
    shares = np.full((len(depths), len(lengths)), np.nan)
    for result in results:
        shares[depths.index(result.part["depth"]), lengths.index(result.part["length"])] = result.value

    figure = Figure(figsize=(3.2 + 0.8 * max(3, len(lengths)), 1.8 + 0.5 * max(3, len(depths))), layout="constrained")
    axes = figure.add_subplot()
    colours = LinearSegmentedColormap.from_list("share", ["white", COLOURS[0]])
    image = axes.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(~np.isnan(shares)).tolist():
        share = shares[row, column]
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", color="white" if share > 0.9 else "black")
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths], rotation=90 if len(lengths) > 8 else 0)
    axes.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths])
    axes.set_xlabel("length of the prompt (tokens)")
    axes.set_ylabel("depth of the key")
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(xmax=1, symbol=" %"))
    bar.set_label(f"keys found, of {results[0].samples}")
    first = results[0]
    trained = "" if first.train_length is None else f", train length {first.train_length}"
    title = f"{first.name} ({first.encoding}){trained}"
    axes.set_title(title, fontsize=11, parse_math=False)  # a $ in the name of a model is no formula
    return figure
