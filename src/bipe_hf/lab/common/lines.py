"""Lines over sizes: drawn by their rank, kept in sight of each other, named where they end."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf, isfinite
from statistics import fmean, median_high
from typing import TYPE_CHECKING, Any, NamedTuple

from .figures import are_crowded, label_values, short_lines
from .tables import plain_number


if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Values above so many times what is usual are off scale: the others would share the rest of the axis.
OFF_SCALE = 2
# Points from one line of text to the next.
TEXT_LINE = 13
# Where names begin, in widths of the axes.
NAMES_AT = 1.04


class Line(NamedTuple):
    """A line through values at sizes, in a band.

    Args:
        label: its name.
        look: what `line_looks` gives.
        sizes: rising.
        values: one at each size.
        spreads: half the height of the band at each size.
        rank: what has a higher one is drawn on top; what has one above 0 is drawn strongly.
    """

    label: str
    look: dict[str, Any]
    sizes: Sequence[int]
    values: Sequence[float]
    spreads: Sequence[float]
    rank: int = 0

    @property
    def end(self) -> float:
        """Where it ends at the right; what is no number counts as the highest."""
        return self.values[-1] if self.values[-1] < inf else inf

    @property
    def bands(self) -> list[tuple[float, float]]:
        """The lower and the upper edge at each size."""
        return [(value - spread, value + spread) for value, spread in zip(self.values, self.spreads, strict=True)]


def draw_lines(axes: "Axes", lines: Sequence[Line]) -> None:
    """Draws each line through its values, in its band.

    Args:
        axes: of a figure.
        lines: with their looks.
    """
    for line in lines:
        strength = {"linewidth": 2.6, "markersize": 8} if line.rank else {"linewidth": 1.4, "markersize": 5.5}
        axes.update_datalim([(size, 0) for size in line.sizes], updatey=False)  # even where there is no number
        axes.plot(line.sizes, line.values, zorder=3 + line.rank, **strength, **line.look)
        if any(line.spreads):
            low, high = zip(*line.bands, strict=True)
            axes.fill_between(line.sizes, low, high, color=line.look["color"], alpha=0.2, linewidth=0, zorder=2)


def fit_values(axes: "Axes", lines: Sequence[Line], above: float = 0) -> float:
    """Fits the value axis to what is usual, and writes what is off scale over it.

    Usual is the median of the lines' highest values. A line that goes beyond `OFF_SCALE` times that leaves the axes at
    their top, and has a row of its own there: its marker, with the value, at each size where it lies off scale, and
    its name at the right. What is no finite number is written there too.

    Args:
        axes: with the lines drawn.
        lines: the same.
        above: points that are taken over the axes.

    Returns:
        The points that are taken now.
    """
    highest = [max(filter(isfinite, line.values)) for line in lines if any(map(isfinite, line.values))]
    if highest:
        limit = OFF_SCALE * median_high(highest)
        pairs = [pair for line in lines for pair in zip(line.values, line.bands, strict=True) if pair[0] <= limit]
        label_values(axes, [value for value, _ in pairs])
        _set_limits(axes, [edge for _, band in pairs for edge in band])
    upright = are_crowded(sorted({size for line in lines for size in line.sizes}))
    below = above
    for line in reversed(by_end(lines)):
        if not all(_is_on_scale(axes, value) for value in line.values):
            _write_row(axes, line, above, upright)
            above += max(_name_height(line), 64 if upright else 0)
    _make_taller(axes, above - below)
    return above


def name_lines(axes: "Axes", lines: Sequence[Line]) -> None:
    """Writes the name of each line at its end, connected to it; lines that end off scale have one already.

    To be called when nothing else changes the height of the axes. Where the names need more, the figure gets taller.

    Args:
        axes: with the lines drawn.
        lines: the same.
    """
    lines = [line for line in by_end(lines) if _is_on_scale(axes, line.end)]
    if not lines:
        return
    heights = list(map(_name_height, lines))
    room = _height(axes)
    if sum(heights) > room:
        _make_taller(axes, sum(heights) - room)
        room = _height(axes)
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [room * to_axes.transform((line.sizes[-1], line.end))[1] for line in lines]
    for line, place in zip(lines, spread_out(wanted, heights, room), strict=True):
        connection = {"arrowstyle": "-", "color": line.look["color"], "linewidth": 0.8, "relpos": (0, 0.5)}
        _write_name(
            axes,
            line,
            (line.sizes[-1], line.end),
            xytext=(NAMES_AT, place / room),
            textcoords="axes fraction",
            arrowprops=connection | {"linestyle": (0, (2, 1.5)), "shrinkA": 1, "shrinkB": 6},
        )


def by_end(lines: Sequence[Line]) -> list[Line]:
    """The lines in the order of their right ends, the highest first."""
    return sorted(lines, key=lambda line: -line.end)


def spread_out(wanted: Sequence[float], heights: Sequence[float], room: float) -> list[float]:
    """The centres of texts that do not overlap, as near as possible (in squares) to those wanted.

    Args:
        wanted: centres, from the top down.
        heights: of the texts.
        room: they lie between 0 and here, which is no less than the sum of the heights.
    """
    # Less the room for the texts above it, each centre may lie anywhere below the one before: a monotone regression.
    offsets = list(accumulate(((above + below) / 2 for above, below in pairwise(heights)), initial=0))
    pools: list[list[float]] = []
    for centre, offset in zip(wanted, offsets, strict=True):
        pools.append([centre + offset])
        while len(pools) > 1 and fmean(pools[-2]) < fmean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    places = [fmean(pool) for pool in pools for _ in pool]
    return [
        min(max(place, offsets[-1] + heights[-1] / 2), room - heights[0] / 2) - offset
        for place, offset in zip(places, offsets, strict=True)
    ]


def _is_on_scale(axes: "Axes", value: float) -> bool:
    low, high = axes.get_ylim()
    return low <= value <= high


def _write_row(axes: "Axes", line: Line, above: float, upright: bool) -> None:
    """What of a line is off scale, `above` points over the axes."""
    from matplotlib.transforms import ScaledTranslation

    over_axes = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "fontsize": 8}
    centre = above + 9
    to_row = axes.get_xaxis_transform() + ScaledTranslation(0, centre / 72, axes.get_figure().dpi_scale_trans)
    for size, value in zip(line.sizes, line.values, strict=True):
        if _is_on_scale(axes, value):
            continue
        look = {"color": line.look["color"], "marker": line.look["marker"]}
        axes.scatter([size], [1], s=20, transform=to_row, clip_on=False, zorder=3, **look)
        number = plain_number(value) if 1000 <= value < inf else f"{value:.3g}"
        text = f"↑ {number}" if value <= inf else number
        if upright:
            axes.annotate(text, (size, 1), xytext=(0, centre + 5), ha="center", va="bottom", rotation=90, **over_axes)
        else:
            axes.annotate(text, (size, 1), xytext=(-5, centre), ha="right", va="center_baseline", **over_axes)
    where = {"xycoords": "axes fraction", "xytext": (0, centre), "textcoords": "offset points"}
    _write_name(axes, line, (NAMES_AT, 1), **where)


def _write_name(axes: "Axes", line: Line, xy: tuple[float, float], **where: Any) -> None:
    weight = "bold" if line.rank else "normal"
    text = short_lines(line.label)
    # A $ in a name is no formula.
    axes.annotate(text, xy, va="center", weight=weight, parse_math=False, annotation_clip=False, **where)


def _name_height(line: Line) -> float:
    """Points that the name of a line takes."""
    return TEXT_LINE * (1 + short_lines(line.label).count("\n"))


def _height(axes: "Axes") -> float:
    """Of the axes as they are laid out now, in points."""
    figure = axes.get_figure()
    figure.draw_without_rendering()
    return axes.get_window_extent().height * 72 / figure.dpi


def _make_taller(axes: "Axes", points: float) -> None:
    figure = axes.get_figure()
    figure.set_figheight(figure.get_figheight() + points / 72)


def _set_limits(axes: "Axes", values: Sequence[float]) -> None:
    """Limits with a margin around `values`, which are finite."""
    if axes.get_yscale() == "log":
        values = [value for value in values if value > 0]
        margin = (max(values) / min(values)) ** 0.05
        axes.set_ylim(min(values) / margin, max(values) * margin)
    else:
        margin = 0.05 * (max(values) - min(values) or abs(max(values)) or 1)
        axes.set_ylim(min(values) - margin, max(values) + margin)
