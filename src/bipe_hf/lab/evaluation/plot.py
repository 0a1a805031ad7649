"""Perplexity, or bits per byte, against test length, drawn from the files that `bipe-hf evaluate` writes."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from ...model.errors_bipe import InputError, InputExistsError, InputNotFoundError
from ..common.figures import (
    DASHES,
    add_legend,
    label_lengths,
    label_values,
    line_looks,
    mark_train_lengths,
    new_figure,
    pictures,
    require_matplotlib,
    save_figure,
)
from .results import Evaluation, Result, comparability_note


if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        raise InputError(f"output: {output} must end in .png or .svg (both are written)")
    for target in pictures(output):
        if target.exists() and not overwrite:
            raise InputExistsError(f"output: {target} exists (--overwrite replaces it)")
    if not output.parent.is_dir():
        raise InputNotFoundError(f"output: there is no folder {output.parent}")
    results, data = _read(files)
    if title is None:
        title = f"{Path(data['source']).name}, {data['split']} split"
    save_figure(draw(results, title, bits_per_byte=bits_per_byte), output)
    return pictures(output), None if bits_per_byte else comparability_note(results)


def _read(files: Sequence[str | Path]) -> tuple[list[Result], dict]:
    """The rows of all files and what data they measure."""
    origin, measured, results = {}, {}, []
    for file in files:
        evaluation = Evaluation.load(file)
        data = {key: evaluation.data[key] for key in ("source", "split")}
        for earlier, other in measured.items():
            if other != data:
                raise InputError(f"{earlier} and {file} measure different texts: {other} and {data}")
        measured[file] = data
        for result in evaluation.results:
            if result.measurement in origin:
                what = f"{result.name}, {result.protocol} at length {result.length}"
                raise InputError(f"{what} is in both {origin[result.measurement]} and {file}")
            origin[result.measurement] = file
            results.append(result)
    if not results:
        raise InputError(f"there are no results in {', '.join(map(str, files))}")
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


def _protocol_name(protocol: str, stride: int | None) -> str:
    return protocol if stride is None else f"{protocol} (stride {stride})"
