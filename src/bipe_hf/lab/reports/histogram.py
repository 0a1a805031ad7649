"""A picture of how many tokens segments have."""

from typing import TYPE_CHECKING

import numpy as np

from ..common.figures import COLOURS, add_legend, new_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# At most so many bars up to the 99th percentile; the few longer segments share one more.
BARS = 50


def draw_histogram(tokens_per_segment: np.ndarray, max_segment_length: int, title: str) -> "Figure":
    """The share of segments of each length, with mean, median and 95th percentile marked.

    Args:
        tokens_per_segment (`numpy.ndarray` of shape `(segments,)`): as `segment_lengths` returns it.
        max_segment_length: marked where it lies in the picture.
        title: heading.

    Returns:
        `matplotlib.figure.Figure`
    """
    from matplotlib.ticker import PercentFormatter

    reach = np.percentile(tokens_per_segment, 99)
    width = max(1, int(np.ceil(reach / BARS)))
    edges = np.arange(0, reach + width, width) + 0.5  # whole numbers lie inside the bars
    counts, _ = np.histogram(tokens_per_segment, edges)
    end = edges[-1]
    longer = int((tokens_per_segment > end).sum())

    marks = {
        "median": (float(np.median(tokens_per_segment)), {"linestyle": "-", "color": "0"}),
        "mean": (float(tokens_per_segment.mean()), {"linestyle": "--", "color": COLOURS[1]}),
        "95th percentile": (float(np.percentile(tokens_per_segment, 95)), {"linestyle": ":", "color": COLOURS[2]}),
        "max_segment_length": (float(max_segment_length), {"linestyle": "-.", "color": COLOURS[3]}),
    }
    marks = {
        f"{name} {value:g}" if value == int(value) else f"{name} {value:.1f}": (value, look)
        for name, (value, look) in marks.items()
        if value <= end
    }
    figure, axes = new_figure(list(marks))
    axes.bar(edges[:-1], counts / len(tokens_per_segment), width, align="edge", color=COLOURS[0], edgecolor="white")
    if longer:
        axes.bar(end + width, longer / len(tokens_per_segment), width, align="edge", color="0.55", edgecolor="white")
        axes.annotate(
            f"> {int(end)}",
            (end + 1.5 * width, longer / len(tokens_per_segment)),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    for value, look in marks.values():
        axes.axvline(value, **look)
    add_legend(axes, [(label, look) for label, (_, look) in marks.items()])
    axes.set_xlim(0, end + 3 * width if longer else end)
    axes.set_xlabel("tokens in a segment" + (f", {width} to a bar" if width > 1 else ""))
    axes.set_ylabel("share of segments")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
    axes.set_title(title, parse_math=False)  # a $ in the name of a file is no formula
    return figure
