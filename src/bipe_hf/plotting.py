"""Perplexity, or bits per byte, against test length, drawn from the files that `bipe-hf evaluate` writes."""

import importlib.util
from collections.abc import Hashable, Iterable, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from .evaluation.results import Evaluation, Result, comparability_note


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


def plot(
    files: Sequence[str | Path],
    output: str | Path = "perplexity.png",
    *,
    bits_per_byte: bool = False,
    title: str | None = None,
    overwrite: bool = False,
) -> tuple[list[Path], str | None]:
    """Draw every model and protocol in results files as a line over test length.

    Args:
        files: written by `bipe-hf evaluate`, all on the same data and split.
        output: `.png` or `.svg`; both are written.
        bits_per_byte: draw bits per byte, which compare across tokenizers, instead of perplexity.
        title: None names the data.
        overwrite: replace existing pictures.

    Returns the two paths, and a note where the perplexities drawn do not compare with each other. Raises `ValueError`,
    `FileNotFoundError` or `FileExistsError` for files or arguments that do not fit, `ValueError` without matplotlib.
    """
    require_matplotlib("plot")
    output = Path(output)
    if output.suffix not in (".png", ".svg"):
        raise ValueError(f"output: {output} must end in .png or .svg (both are written)")
    for target in pictures(output):
        if target.exists() and not overwrite:
            raise FileExistsError(f"output: {target} exists (--overwrite replaces it)")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"output: there is no folder {output.parent}")
    results, data = _read(files)
    if title is None:
        title = f"{Path(data['source']).name}, {data['split']} split"
    save_figure(draw(results, title, bits_per_byte=bits_per_byte), output)
    return pictures(output), None if bits_per_byte else comparability_note(results)


def require_matplotlib(command: str) -> None:
    """A `ValueError` that names `command` and the extra to install, where there is no matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"{command} needs matplotlib, which is not installed: pip install 'bipe-hf[plot]'")


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


def _read(files: Sequence[str | Path]) -> tuple[list[Result], dict]:
    """The rows of all files and what data they measure."""
    origin, measured, results = {}, {}, []
    for file in files:
        evaluation = Evaluation.load(file)
        data = {key: evaluation.data[key] for key in ("source", "split")}
        for earlier, other in measured.items():
            if other != data:
                raise ValueError(f"{earlier} and {file} measure different texts: {other} and {data}")
        measured[file] = data
        for result in evaluation.results:
            if result.measurement in origin:
                what = f"{result.name}, {result.protocol} at length {result.length}"
                raise ValueError(f"{what} is in both {origin[result.measurement]} and {file}")
            origin[result.measurement] = file
            results.append(result)
    if not results:
        raise ValueError(f"there are no results in {', '.join(map(str, files))}")
    return results, data


def draw(results: Sequence[Result], title: str, *, bits_per_byte: bool = False) -> "Figure":
    """The picture that `plot` saves, as a `matplotlib.figure.Figure`."""
    from matplotlib.lines import Line2D

    def value(result: Result) -> float:
        return result.bits_per_byte if bits_per_byte else result.perplexity

    lines: dict[tuple, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.length):
        lines.setdefault((result.subject, result.protocol, result.stride), []).append(result)
    looks = line_looks(result.subject for result in results)
    protocols = list(dict.fromkeys((result.protocol, result.stride) for result in results))
    dashes = dict(zip(protocols, cycle(DASHES), strict=False))

    labels = {result.subject: f"{result.name} ({result.encoding})" for result in results}
    figure, axes = new_figure(labels.values())
    legend = {}
    # The legend lists the models in the order in which their lines end at the right.
    for (model, *protocol), line in sorted(lines.items(), key=lambda item: -value(item[1][-1])):
        lengths = [result.length for result in line]
        axes.plot(lengths, list(map(value, line)), linestyle=dashes[tuple(protocol)], **looks[model])
        legend.setdefault(model, Line2D([], [], label=labels[model], **looks[model]))
    if len(protocols) > 1:
        for protocol in protocols:
            name = _protocol_name(*protocol)
            legend[protocol] = Line2D([], [], label=name, color="0.35", linestyle=dashes[protocol])
    else:
        title = f"{title}, protocol {_protocol_name(*protocols[0])}"
    add_legend(axes, list(legend.values()))
    label_lengths(axes, sorted({result.length for result in results}))
    label_values(axes, list(map(value, results)))
    height = mark_train_lengths(axes, sorted({result.train_length for result in results} - {None}))
    axes.set_xlabel("test length (tokens)")
    axes.set_ylabel("bits per byte" if bits_per_byte else "perplexity (per token)")
    axes.set_title(title, pad=8 + height, parse_math=False)
    return figure


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


def _protocol_name(protocol: str, stride: int | None) -> str:
    return protocol if stride is None else f"{protocol} (stride {stride})"


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
