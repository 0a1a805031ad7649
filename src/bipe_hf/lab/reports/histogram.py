"""A picture of how many tokens segments have, and of how many units and tokens there are at each level."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.figures import COLOURS, add_legend, new_panels
from .inputs import Level
from .statistics import Units


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# At most so many bars up to the 99th percentile; the few longer ones share one more.
BARS = 50


@dataclass(frozen=True)
class _Panel:
    """One histogram: `counts` (int64, `(n,)`), what they count, of what, and the rows of a table that limit them."""

    counts: np.ndarray
    counted: str
    of: str
    limits: dict[str, int]

    @property
    def width(self) -> int:
        """Of a bar."""
        return max(1, int(np.ceil(np.percentile(self.counts, 99) / BARS)))

    @property
    def edges(self) -> np.ndarray:
        """Of the bars; whole numbers lie inside them."""
        return np.arange(0, np.percentile(self.counts, 99) + self.width, self.width) + 0.5

    def marks(self) -> dict[str, tuple[float, dict[str, Any]]]:
        """The lines that lie in the picture, by their labels: place and look."""
        marks = {
            "median": (float(np.median(self.counts)), {"linestyle": "-", "color": "0"}),
            "mean": (float(self.counts.mean()), {"linestyle": "--", "color": COLOURS[1]}),
            "95th percentile": (float(np.percentile(self.counts, 95)), {"linestyle": ":", "color": COLOURS[2]}),
        }
        for name, rows in self.limits.items():
            marks[name] = (float(rows), {"linestyle": "-.", "color": COLOURS[3]})
        return {
            f"{name} {value:g}" if value == int(value) else f"{name} {value:.1f}": (value, look)
            for name, (value, look) in marks.items()
            if value <= self.edges[-1]
        }

    def draw(self, axes: "Axes") -> None:
        from matplotlib.ticker import PercentFormatter

        width, edges, marks = self.width, self.edges, self.marks()
        counts, _ = np.histogram(self.counts, edges)
        end = edges[-1]
        longer = int((self.counts > end).sum())
        axes.bar(edges[:-1], counts / len(self.counts), width, align="edge", color=COLOURS[0], edgecolor="white")
        if longer:
            axes.bar(end + width, longer / len(self.counts), width, align="edge", color="0.55", edgecolor="white")
            axes.annotate(
                f"> {int(end)}",
                (end + 1.5 * width, longer / len(self.counts)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        for value, look in marks.values():
            axes.axvline(value, **look)
        add_legend(axes, [(label, look) for label, (_, look) in marks.items()])
        axes.set_xlim(0, end + 3 * width if longer else end)
        axes.set_xlabel(self.counted + (f", {width} to a bar" if width > 1 else ""))
        axes.set_ylabel(f"share of {self.of}")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))


def draw_histogram(tokens_per_segment: np.ndarray, max_segment_length: int, title: str) -> "Figure":
    """The share of segments of each length, with mean, median and 95th percentile marked.

    Args:
        tokens_per_segment (`numpy.ndarray` of shape `(segments,)`): as `level_units` returns it.
        max_segment_length: marked where it lies in the picture.
        title: heading.

    Returns:
        `matplotlib.figure.Figure`
    """
    limits = {"max_segment_length": max_segment_length}
    return _draw([_Panel(tokens_per_segment, "tokens in a segment", "segments", limits)], title)


def draw_levels(
    levels: Sequence[Level], units: Sequence[Units], max_segment_length: int, max_inner_index: int, title: str
) -> "Figure":
    """For each level the share of units of each length, and of parents with each number of units.

    Args:
        levels: as `open_segmentation` returns them.
        units: as `level_units` returns them.
        max_segment_length: marked in the panel of tokens in an innermost unit.
        max_inner_index: marked in the panels of units in a parent.
        title: heading.
    """
    from matplotlib.ticker import MaxNLocator

    panels: list[_Panel] = []
    for at, (level, each) in enumerate(zip(levels, units, strict=True)):
        if each.per_parent is not None:
            parent = levels[at - 1].unit
            counted = f"{level.unit}s per {parent}"
            panels.append(_Panel(each.per_parent, counted, f"{parent}s", {"max_inner_index": max_inner_index}))
        limits = {"max_segment_length": max_segment_length} if at == len(levels) - 1 else {}
        panels.append(_Panel(each.tokens, f"tokens per {level.unit}", f"{level.unit}s", limits))
    figure = _draw(panels, title)
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # where there are few units, not at halves
    return figure


def _draw(panels: Sequence[_Panel], title: str) -> "Figure":
    figure, all_axes = new_panels([list(panel.marks()) for panel in panels])
    for panel, axes in zip(panels, all_axes, strict=True):
        panel.draw(axes)
    all_axes[0].set_title(title, parse_math=False)  # a $ in the name of a file is no formula
    return figure
